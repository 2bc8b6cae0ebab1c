//! `requestId` through a gateway: the server, the client, errors and the access log have the same identifier.

use serde_json::Value;

use crate::support::backend::unused_address;
use crate::support::process::Process;
use crate::support::{Backend, Gateway, eventually, get_with};

/// Returns the lines of an access log in JSON.
fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn server_client_errors_and_access_log_have_the_same_identifier() {
    let server = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("access.log");
    let path = format!("--accesslog.filepath={}", file.display());
    let filter = "--accesslog.filters.expression=RequestId != `` && RequestId !~ `^hidden`";
    let routes = format!(
        "http:
  routers:
    good: {{rule: 'Path(`/good`)', service: good, middlewares: [id]}}
    dead: {{rule: 'Path(`/dead`)', service: dead, middlewares: [id]}}
    none: {{rule: 'Path(`/none`)', service: good}}
  middlewares:
    id: {{requestId: {{}}}}
  services:
    good: {{loadBalancer: {{servers: [{{url: 'http://{}'}}]}}}}
    dead: {{loadBalancer: {{servers: [{{url: 'http://{}'}}]}}}}
",
        server.address,
        unused_address()
    );
    let gateway = Gateway::with(&["--accesslog=true", "--accesslog.format=json", filter, &path], &routes);
    let ask =
        |path: &str, id: &str| get_with(gateway.web(), "h.test", path, &format!("X-Request-Id: {id}\r\n"));

    let kept = ask("/good", "abc-1");
    assert_eq!((kept.status, kept.header("x-request-id")), (200, Some("abc-1")));
    assert_eq!(server.last().headers("x-request-id"), ["abc-1"]);
    let made = ask("/good", "not valid");
    let id = made.header("x-request-id").unwrap().to_owned();
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "{id}");
    let failed = ask("/dead", "abc-2");
    assert_eq!((failed.status, failed.header("x-request-id")), (502, Some("abc-2")));
    assert_eq!(failed.text(), "Bad Gateway\nRequest ID: abc-2\n");
    assert_eq!(ask("/none", "abc-3").header("x-request-id"), None);
    assert_eq!(ask("/good", "hidden").status, 200);

    gateway.shutdown();
    let ids: Vec<String> =
        lines(&file).iter().map(|line| line["RequestId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["abc-1".to_owned(), id, "abc-2".to_owned()]);
}

#[test]
fn messages_of_the_process_log_have_the_identifier_of_their_request() {
    let server = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let routes = format!(
        "http:
  routers:
    identified: {{rule: 'Path(`/a`)', service: s, middlewares: [id, ask]}}
    other: {{rule: 'Path(`/b`)', service: s, middlewares: [ask]}}
  middlewares:
    id: {{requestId: {{}}}}
    ask: {{forwardAuth: {{address: 'http://{}'}}}}
  services:
    s: {{loadBalancer: {{servers: [{{url: 'http://{}'}}]}}}}
",
        unused_address(),
        server.address
    );
    let gateway = Process::start(&[], &routes);
    let messages = || {
        let log = gateway.log();
        let about = log.lines().filter(|line| line.contains("authentication server is unreachable"));
        about.map(|line| line.contains(" requestId=abc-1")).collect::<Vec<bool>>()
    };
    for path in ["/a", "/b"] {
        get_with(gateway.web(), "h.test", path, "X-Request-Id: abc-1\r\n");
    }
    eventually("both requests are in the log", || messages().len() == 2);
    assert_eq!(messages(), [true, false]);
}
