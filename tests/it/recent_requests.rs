//! Recent requests: `/api/requests`, `tidegate why` and `tail`, and the reasons of the access log.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tidegate_core::Reason;

use crate::support::backend::unused_address;
use crate::support::{Backend, Client, Gateway, eventually, get, get_with, raw};

/// Returns the recent requests that a query selects, newest first.
fn list(gateway: &Gateway, query: &str) -> Vec<Value> {
    let text = gateway.api(&format!("/api/requests{query}"));
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

/// Waits for a request with this path, and describes it.
fn request(gateway: &Gateway, path: &str) -> Value {
    let path = path.replace('%', "%25");
    let query = format!("?search={path}&filter=entryPoint%20%3D%3D%20%22web%22");
    eventually("the request is recorded", || !list(gateway, &query).is_empty());
    let id = list(gateway, &query)[0]["id"].as_str().unwrap().to_owned();
    serde_json::from_str(&gateway.api(&format!("/api/requests/{id}"))).unwrap()
}

fn tidegate(gateway: &Gateway, arguments: &[&str]) -> Output {
    let api = format!("http://{}", gateway.address("traefik"));
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .args(["--api", &api])
        .env_clear()
        .output()
        .unwrap()
}

/// Returns what `tidegate why` prints about a request.
pub fn why(gateway: &Gateway, id: &str) -> String {
    let Output { status, stdout, stderr } = tidegate(gateway, &["why", id]);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn routes(url: &str) -> String {
    let gone = unused_address();
    format!(
        "http:
  routers:
    ok: {{rule: 'PathPrefix(`/ok`)', service: a, middlewares: [header, late]}}
    denied: {{rule: 'PathPrefix(`/denied`)', service: a, middlewares: [header, deny, late]}}
    login: {{rule: 'PathPrefix(`/login`)', service: a, middlewares: [auth]}}
    limited: {{rule: 'PathPrefix(`/limited`)', service: a, middlewares: [limit]}}
    busy: {{rule: 'PathPrefix(`/busy`)', service: a, middlewares: [busy]}}
    moved: {{rule: 'PathPrefix(`/moved`)', service: a, middlewares: [move]}}
    large: {{rule: 'PathPrefix(`/large`)', service: a, middlewares: [small]}}
    long: {{rule: 'PathPrefix(`/long`)', service: a, middlewares: [whole, header]}}
    refused: {{rule: 'PathPrefix(`/refused`)', service: gone}}
    retried: {{rule: 'PathPrefix(`/retried`)', service: gone, middlewares: [again]}}
    empty: {{rule: 'PathPrefix(`/empty`)', service: none}}
    broken: {{rule: 'PathPrefix(`/broken`)', service: missing}}
    silent: {{rule: 'PathPrefix(`/silent`)', service: a, timeouts: {{response: 100ms}}}}
  middlewares:
    header: {{headers: {{customRequestHeaders: {{x-a: b}}}}}}
    late: {{headers: {{customRequestHeaders: {{x-b: b}}}}}}
    deny: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}
    auth: {{basicAuth: {{users: ['ann:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}
    limit: {{rateLimit: {{average: 1, period: 1h, burst: 1}}}}
    busy: {{inFlightReq: {{amount: 0}}}}
    move: {{redirectScheme: {{scheme: https}}}}
    small: {{bodyLimit: {{maxRequestBodyBytes: 1}}}}
    whole: {{buffering: {{maxResponseBodyBytes: 1}}}}
    again: {{retry: {{attempts: 3}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
    none: {{loadBalancer: {{servers: []}}}}
    gone: {{loadBalancer: {{servers: [{{url: 'http://{gone}'}}]}}}}
"
    )
}

/// A backend that answers, except for some paths.
fn backend() -> Backend {
    Backend::with(|seen, stream| {
        use std::io::Write as _;
        let answer: &[u8] = match seen.target() {
            "/silent" => {
                crate::support::pause_for(std::time::Duration::from_millis(500));
                b""
            }
            "/ok/lost" => b"",
            "/ok/malformed" => b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
            "/ok/cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        };
        stream.write_all(answer).is_ok() && answer.ends_with(b"hi")
    })
}

#[test]
fn each_reason_is_found_in_log_api_and_why() {
    let backend = backend();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let flags = [
        format!("--accessLog.filePath={}", log.display()),
        "--accessLog.format=json".to_owned(),
        "--accessLog.addInternals=true".to_owned(),
        "--entryPoints.web.http.encodedCharacters.allowEncodedSlash=false".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes(&backend.url()));
    get(gateway.web(), "h", "/limited/first");
    for (path, reason, origin) in [
        ("/nowhere", "no_router", "gateway"),
        ("/denied/1", "address_denied", "middleware:deny@file"),
        ("/login/1", "unauthenticated", "middleware:auth@file"),
        ("/limited/1", "rate_limited", "middleware:limit@file"),
        ("/busy/1", "too_many_in_flight", "middleware:busy@file"),
        ("/moved/1", "redirect", "middleware:move@file"),
        ("/long/1", "response_too_large", "middleware:whole@file"),
        ("/refused/1", "connect_failed", "gateway"),
        ("/empty/1", "no_server", "gateway"),
        ("/broken/1", "router_broken", "gateway"),
        ("/ok/lost", "connection_lost", "gateway"),
        ("/ok/malformed", "malformed_response", "gateway"),
        ("/silent", "router_timeout", "gateway"),
        ("/ok/a%2Fb", "encoded_characters", "gateway"),
    ] {
        get(gateway.web(), "h", path);
        let known = Reason::ALL.iter().find(|known| known.name() == reason).unwrap();
        let recorded = request(&gateway, path);
        assert_eq!(
            (recorded["reason"].as_str(), recorded["origin"].as_str()),
            (Some(reason), Some(origin)),
            "{recorded}"
        );
        let explained = why(&gateway, recorded["id"].as_str().unwrap());
        assert!(explained.contains(&format!("{reason}: {}", known.description())), "{explained}");
        assert!(explained.contains(&format!("answered by  {origin}")), "{explained}");
        let line = || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.into_iter().find(|line| line["RequestPath"] == path)
        };
        eventually("the line is written", || line().is_some());
        let line = line().unwrap();
        assert_eq!(
            (line["Reason"].as_str(), line["Origin"].as_str()),
            (Some(reason), Some(origin)),
            "{line}"
        );
    }
    get(gateway.web(), "h", "/ok/fine");
    let fine = request(&gateway, "/ok/fine");
    assert!(fine.get("reason").is_none(), "{fine}");
    assert_eq!(fine["origin"], format!("server:{}", backend.url()));
}

#[test]
fn requests_that_no_router_sees_are_recorded_too() {
    let gateway = Gateway::serve("http: {}\n");
    for (head, path, reason) in [
        ("GET /exp HTTP/1.1\r\nhost: h\r\nexpect: much\r\n", "/exp", "expectation_failed"),
        ("OPTIONS * HTTP/1.1\r\nhost: star\r\n", "star", "server_options"),
    ] {
        raw(gateway.web(), format!("{head}connection: close\r\n\r\n")).unwrap();
        assert_eq!(request(&gateway, path)["reason"], reason);
    }
}

#[test]
fn a_record_has_the_way_of_the_request() {
    let backend = backend();
    let gateway = Gateway::serve(&routes(&backend.url()));
    get_with(gateway.web(), "h", "/ok/1?q=1", "cookie: secret\r\nauthorization: secret\r\n");
    let ok = request(&gateway, "/ok/1");
    assert_eq!((ok["router"].as_str(), ok["service"].as_str()), (Some("ok@file"), Some("a@file")));
    assert_eq!(ok["path"], "/ok/1?q=1");
    assert!(!ok.to_string().contains("secret"), "{ok}");
    assert_eq!(ok["attempts"][0]["status"], 200);
    assert!(ok["attempts"][0]["connectMs"].is_number(), "a new connection: {ok}");
    for time in ["routedMs", "sentToServerMs", "responseStartedMs", "endedMs"] {
        assert!(ok["timings"][time].is_number(), "{time}: {ok}");
    }
    get(gateway.web(), "h", "/denied/1");
    let denied = request(&gateway, "/denied/1");
    let reached: Vec<bool> =
        denied["middlewares"].as_array().unwrap().iter().map(|one| one["reached"] == true).collect();
    assert_eq!((reached, &denied["reachedService"]), (vec![true, true, false], &Value::Bool(false)));
    get(gateway.web(), "h", "/retried/1");
    let retried = request(&gateway, "/retried/1");
    assert_eq!(retried["attempts"].as_array().unwrap().len(), 3, "{retried}");
    assert_eq!(retried["retries"], 2);
    get(gateway.web(), "h", "/ok/cut");
    assert_eq!(request(&gateway, "/ok/cut")["abortedBy"], "server");
}

#[test]
fn lists_are_filtered_and_paged() {
    let backend = backend();
    let gateway = Gateway::serve(&routes(&backend.url()));
    for path in ["/ok/1", "/ok/2", "/nowhere"] {
        get(gateway.web(), "a.test", path);
        request(&gateway, path);
    }
    let paths = |query: &str| -> Vec<String> {
        list(&gateway, query).iter().map(|one| one["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(paths(""), ["/nowhere", "/ok/2", "/ok/1"]);
    assert_eq!(paths("?page=2&per_page=1"), ["/ok/2"]);
    assert_eq!(paths("?filter=status%20%3E%3D%20400%20%26%26%20host%20%3D%3D%20%22a.test%22"), ["/nowhere"]);
    assert_eq!(paths("?filter=Reason%20%3D%3D%20%60no_router%60"), ["/nowhere"]);
    assert_eq!(paths("?filter=router%20%3D%3D%20%22ok%40file%22%20%26%26%20Duration%20%3C%201h").len(), 2);
    let first = list(&gateway, "?search=ok/1")[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(paths(&format!("?after={first}")), ["/nowhere", "/ok/2"]);
    for (filter, told) in [("stats%20%3E%201", "did you mean"), ("Path(%60/%60)", "needs the request itself")]
    {
        let answer = get(gateway.address("traefik"), "h", &format!("/api/requests?filter={filter}"));
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains(told), "{}", answer.text());
    }
    assert_eq!(get(gateway.address("traefik"), "h", "/api/requests/none").status, 404);
}

#[test]
fn requests_can_be_switched_off() {
    let gateway = Gateway::with(&["--api.requests.size=0"], "http: {}\n");
    get(gateway.web(), "h", "/");
    let answer = get(gateway.address("traefik"), "h", "/api/requests");
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("api.requests.size"), "{}", answer.text());
}

#[test]
fn tail_prints_requests_as_they_end() {
    let backend = backend();
    let gateway = Gateway::serve(&routes(&backend.url()));
    let api = format!("http://{}", gateway.address("traefik"));
    let mut tail = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["tail", "status >= 400 && host == \"a.test\"", "--count=2", "--json", "--api", &api])
        .env_clear()
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let (sender, received) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || lines.for_each(|line| sender.send(line.unwrap()).unwrap()));
    let mut printed = Vec::new();
    eventually("two requests are printed", || {
        let mut client = Client::connect(gateway.web());
        for (host, path) in [("a.test", "/ok/1"), ("b.test", "/nowhere"), ("a.test", "/nowhere")] {
            client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            client.read().unwrap();
        }
        printed.extend(received.try_iter());
        printed.len() == 2
    });
    assert!(tail.wait().unwrap().success());
    reader.join().unwrap();
    for line in printed {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((line["host"].as_str(), line["path"].as_str()), (Some("a.test"), Some("/nowhere")));
    }
}

/// Asks for a stream, and returns the connection after the head of the response, with the head.
fn stream(gateway: &Gateway, query: &str, headers: &str) -> (Client, String) {
    let mut client = Client::connect(gateway.address("traefik"));
    client.send(format!("GET /api/requests/stream?{query} HTTP/1.1\r\nhost: h\r\n{headers}\r\n"));
    let head = client.head().unwrap();
    (client, head)
}

#[test]
fn requests_are_streamed_until_the_gateway_stops() {
    let backend = backend();
    let gateway = Gateway::serve(&routes(&backend.url()));
    let (mut lines, head) = stream(&gateway, "filter=status%20%3E%3D%20400", "");
    assert!(head.contains("200 OK") && head.contains("application/x-ndjson"), "{head}");
    let (mut events, head) = stream(&gateway, "rate=5", "accept: text/event-stream\r\n");
    assert!(head.contains("content-type: text/event-stream") && head.contains("no-store"), "{head}");
    for path in ["/ok/1", "/nowhere", "/ok/2"] {
        get(gateway.web(), "h", path);
    }
    let until = |client: &mut Client, end: &str| {
        let mut text = String::new();
        while !text.contains(end) {
            text.push_str(&String::from_utf8(client.take(1).unwrap()).unwrap());
        }
        text
    };
    let seen = until(&mut events, "/ok/2");
    assert!(seen.contains("data: {\"id\":") && seen.contains("/ok/1") && seen.contains("/nowhere"), "{seen}");
    let seen = until(&mut lines, "/nowhere");
    assert!(!seen.contains("/ok/1"), "{seen}");
    gateway.shutdown();
    let rest = String::from_utf8(lines.rest()).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream ends in order: {rest}");
}

#[test]
fn streams_refuse_invalid_queries() {
    let gateway = Gateway::serve("http: {}\n");
    for (query, message) in [
        ("filter=status%20%3E", "invalid filter: column 9: expected"),
        ("filter=stats%20%3E%201", "column 1: stats is not a field"),
        ("filter=Path(%60/%60)", "needs the request itself"),
        ("rate=0", "invalid rate `0`: expected a number from 1 to 10000"),
    ] {
        let answer = get(gateway.address("traefik"), "h", &format!("/api/requests/stream?{query}"));
        assert!(answer.status == 400 && answer.text().contains(message), "{}", answer.text());
    }
}

#[test]
fn commands_say_why_the_api_does_not_answer() {
    let gateway = Gateway::serve("http: {}\n");
    let Output { status, stderr, .. } = tidegate(&gateway, &["why", "none"]);
    assert!(!status.success() && String::from_utf8_lossy(&stderr).contains("request not found: none"));
    let Output { status, stderr, .. } = tidegate(&gateway, &["tail", "stats > 1"]);
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(!status.success() && stderr.contains("invalid filter"), "{stderr}");
    let nobody = format!("http://{}", unused_address());
    let command = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["why", "1", "--api", &nobody]).output();
    let stderr = String::from_utf8(command.unwrap().stderr).unwrap();
    assert!(stderr.contains("cannot reach the API"), "{stderr}");
}

#[test]
fn every_reason_is_documented() {
    let page = std::fs::read_to_string(crate::docs::root().join("docs/observability/requests.md")).unwrap();
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} | {} |", reason.name(), reason.origin().name(), reason.description());
        assert!(page.contains(&row), "expected in docs/observability/requests.md: {row}");
    }
}
