//! What `/api` answers, in Traefik's words, and what becomes of requests of broken routers.

use serde_json::{Value, json};

use crate::support::{Backend, Gateway, get};

fn routes(backend: &str) -> String {
    r"
http:
  routers:
    a: {rule: 'Host(`a.test`)', service: s, middlewares: [m], priority: 7}
    catchAll: {rule: 'PathPrefix(`/`)', service: s}
    noMiddleware: {rule: 'Host(`b.test`)', service: s, middlewares: [gone]}
    twoKinds: {rule: 'Host(`c.test`)', service: s, middlewares: [two]}
    noService: {rule: 'Host(`d.test`)', service: gone}
    typo: {rule: 'Host(`e.test`)', service: s, entrypoint: web}
    child: {rule: 'Path(`/x`)', service: s, parentRefs: [gone]}
  services:
    s: {loadBalancer: {servers: [{url: 'BACKEND'}], sticky: {cookie: {}}}}
    w: {weighted: {services: [{name: s}]}}
    unusedAndBroken: {weighted: {services: [{name: gone}]}}
  middlewares:
    m: {addPrefix: {prefix: /x}}
    two: {addPrefix: {prefix: /x}, rateLimit: {average: 3}}
"
    .replace("BACKEND", backend)
}

fn ask(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.address("traefik"), "h", path);
    serde_json::from_str(&answer.text()).unwrap_or_else(|_| panic!("{path}: {}", answer.text()))
}

#[test]
fn objects_are_shown_in_traefiks_words() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes(&backend.url()));
    let url = backend.url();
    let observability =
        json!({"accessLogs": true, "metrics": true, "tracing": true, "traceVerbosity": "minimal"});
    assert_eq!(
        ask(&gateway, "/api/http/routers/a@file"),
        json!({
            "entryPoints": ["web"], "middlewares": ["m@file"], "service": "s", "rule": "Host(`a.test`)", "priority": 7,
            "observability": observability, "status": "enabled", "using": ["web"], "name": "a@file", "provider": "file",
            "priorityStr": "7",
        })
    );
    let service = ask(&gateway, "/api/http/services/s@file");
    assert_eq!(service["loadBalancer"]["servers"], json!([{"url": url}]));
    assert_eq!(service["loadBalancer"]["strategy"], json!("wrr"));
    assert_eq!(service["loadBalancer"]["responseForwarding"], json!({"flushInterval": "100ms"}));
    let cookie = service["loadBalancer"]["sticky"]["cookie"]["name"].as_str().unwrap();
    assert!(cookie.starts_with('_') && cookie.len() == 6, "{cookie}");
    assert_eq!(service["serverStatus"][&url], json!("UP"));
    assert_eq!((&service["type"], &service["provider"]), (&json!("loadbalancer"), &json!("file")));
    assert_eq!(
        ask(&gateway, "/api/http/services/w@file"),
        json!({
            "weighted": {"services": [{"name": "s", "weight": 1}]}, "status": "enabled", "name": "w@file",
            "provider": "file", "type": "weighted",
        })
    );
    assert_eq!(
        ask(&gateway, "/api/http/middlewares/two@file"),
        json!({
            "addPrefix": {"prefix": "/x"}, "rateLimit": {"average": 3, "period": "1s", "burst": 1},
            "error": ["cannot create middleware: multi-types middleware not supported, consider declaring two different pieces of middleware instead"],
            "status": "disabled", "usedBy": ["twoKinds@file"], "name": "two@file", "provider": "file", "type": "addprefix",
        })
    );
    assert_eq!(
        ask(&gateway, "/api/http/routers/child@file")["error"],
        json!(["parent router \"gone@file\" does not exist", "router is not reachable"])
    );
    assert_eq!(ask(&gateway, "/api/http/services/unusedAndBroken@file")["status"], json!("disabled"));
}

#[test]
fn lists_are_searched_sorted_and_paged() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes(&backend.url()));
    let names = |path: &str| -> Vec<String> {
        let list = ask(&gateway, path);
        list.as_array().unwrap().iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("/api/http/routers?search=.TEST&status=enabled"), ["a@file"]);
    assert_eq!(names("/api/http/routers?middlewareName=m@file"), ["a@file"]);
    assert_eq!(names("/api/http/services?search=%40file&sortBy=servers&direction=desc"), ["s@file", "w@file", "unusedAndBroken@file"]);
    let answer = get(gateway.address("traefik"), "h", "/api/http/routers?per_page=2");
    assert_eq!((answer.status, answer.header("x-next-page")), (200, Some("2")));
    let answer = get(gateway.address("traefik"), "h", "/api/http/routers?page=99");
    assert_eq!(
        (answer.status, answer.header("content-type"), answer.text().as_str()),
        (400, Some("text/plain; charset=utf-8"), "{\"message\":\"invalid request: page: 99, per_page: 100\"}\n")
    );
    let answer = get(gateway.address("traefik"), "h", "/api/http/routers/gone@file");
    assert_eq!((answer.status, answer.text().as_str()), (404, "{\"message\":\"router not found: gone@file\"}\n"));
    let overview = ask(&gateway, "/api/overview");
    assert_eq!(overview["http"]["services"]["errors"], json!(1));
    assert_eq!(overview["http"]["middlewares"], json!({"total": 4, "warnings": 0, "errors": 1}));
    assert_eq!(overview["features"], json!({"tracing": "", "metrics": "", "accessLog": false}));
    assert_eq!(overview["providers"], json!(["File"]));
}

#[test]
fn a_broken_router_answers_503_and_never_falls_through() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes(&backend.url()));
    for host in ["b.test", "c.test", "d.test", "e.test"] {
        let answer = get(gateway.web(), host, "/");
        assert_eq!((answer.status, answer.text().as_str()), (503, "Service Unavailable"), "{host}");
    }
    assert_eq!(backend.seen().len(), 0);
    assert_eq!(get(gateway.web(), "other.test", "/").status, 200);
    assert_eq!(get(gateway.web(), "a.test", "/y").status, 200);
    assert_eq!(backend.last().target(), "/x/y");
}

#[test]
fn certificates_are_listed_by_fingerprint() {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let routes = json!({"tls": {"certificates": [{"certFile": certificate, "keyFile": key}]}}).to_string();
    let gateway = Gateway::serve(&routes);
    let list = ask(&gateway, "/api/certificates");
    let name = list[0]["name"].as_str().unwrap();
    assert_eq!((&list[0]["sans"], &list[0]["keyType"]), (&json!(["a.test"]), &json!("ECDSA")));
    assert_eq!(ask(&gateway, &format!("/api/certificates/{name}")), list[0]);
    assert_eq!(ask(&gateway, "/api/certificates/gone"), json!({"message": "certificate not found: gone"}));
    assert_eq!(ask(&gateway, "/api/overview")["certificates"]["total"], json!(1));
}
