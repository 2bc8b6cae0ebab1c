//! Tracing: which spans a collector receives, and which context servers receive.

use opentelemetry_proto::tonic::trace::v1::Span;

use crate::support::otlp::{Collector, value};
use crate::support::{Backend, Client, Gateway, backend, eventually, get, get_with, websocket};

const PARENT: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

fn gateway(flags: &[String], more: &[&str], routes: &str) -> Gateway {
    let all: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Gateway::with(&all, routes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the spans as `name < name of the parent`, in the order of their beginning.
fn tree(spans: &[Span]) -> Vec<String> {
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_by_key(|span| span.start_time_unix_nano);
    let parent = |span: &Span| {
        spans.iter().find(|other| other.span_id == span.parent_span_id).map_or("-", |other| &other.name)
    };
    sorted.iter().map(|span| format!("{} < {}", span.name, parent(span))).collect()
}

#[test]
fn a_request_has_a_server_span_and_one_for_each_attempt() {
    let (collector, backend) = (Collector::start(true), Backend::echo("a"));
    let flags = [
        "--tracing.safeQueryParams=a",
        "--tracing.capturedRequestHeaders=X-A,User-Agent",
        "--tracing.capturedResponseHeaders=X-Backend",
        "--tracing.serviceName=edge",
    ];
    let gateway = gateway(&collector.flags(true), &flags, &Gateway::one_service(&backend.url()));
    get_with(gateway.web(), "h.test", "/p?b=secret&a=1", &format!("{PARENT}x-a: v\r\n"));
    let spans = collector.wait_for(1);
    assert_eq!(tree(&spans), ["GET < -", "ReverseProxy < GET"]);
    let server = spans.iter().find(|span| span.kind == 2).unwrap();
    let client = spans.iter().find(|span| span.kind == 3).unwrap();
    assert_eq!(hex(&server.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&server.parent_span_id), "b7ad6b7169203331");
    let sent = format!("00-{}-{}-01", hex(&client.trace_id), hex(&client.span_id));
    assert_eq!(backend.last().header("traceparent"), Some(sent.as_str()));
    for (key, expected) in [
        ("entry_point", "web"),
        ("http.request.method", "GET"),
        ("url.path", "/p"),
        ("url.query", "a=1&b=REDACTED"),
        ("url.scheme", "http"),
        ("server.address", "h.test"),
        ("client.address", "127.0.0.1"),
        ("http.response.status_code", "200"),
        ("tidegate.origin", "server"),
    ] {
        assert_eq!(value(&server.attributes, key), expected, "{key}");
    }
    for span in [server, client] {
        assert!(value(&span.attributes, "http.request.header.x-a").contains("\"v\""));
        assert!(value(&span.attributes, "http.response.header.x-backend").contains("\"a\""));
        assert_eq!(value(&span.attributes, "http.request.header.user-agent"), "", "it has its own attribute");
    }
    let url = format!("{}/p?a=1&b=REDACTED", backend.url());
    assert_eq!(value(&client.attributes, "url.full"), url);
    assert_eq!(value(&client.attributes, "server.port"), backend.address.port().to_string());
    assert!(server.start_time_unix_nano <= client.start_time_unix_nano);
    assert!(client.end_time_unix_nano <= server.end_time_unix_nano);
    assert_eq!(value(&collector.resources()[0], "service.name"), "edge");
}

#[test]
fn detailed_traces_show_router_middlewares_and_service() {
    let (collector, server, auth) = (Collector::start(false), Backend::echo("a"), Backend::echo("auth"));
    let routes = format!(
        "http:\n  routers:\n    r: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [p, f, t], observability: {{traceVerbosity: detailed}}}}\n  middlewares:\n    p: {{addPrefix: {{prefix: /x}}}}\n    f: {{forwardAuth: {{address: '{}'}}}}\n    t: {{retry: {{attempts: 2}}}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
        auth.url(),
        server.url()
    );
    let gateway = gateway(&collector.flags(false), &[], &routes);
    get(gateway.web(), "h", "/");
    let spans = collector.wait_for(1);
    assert_eq!(
        tree(&spans),
        [
            "GET < -",
            "Router < GET",
            "AddPrefix < Router",
            "ForwardAuth < AddPrefix",
            "AuthRequest < ForwardAuth",
            "Retry < ForwardAuth",
            "Service < Retry",
            "ReverseProxy < Service",
        ]
    );
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    assert_eq!(value(&named("AddPrefix").attributes, "traefik.middleware.name"), "p@file");
    assert_eq!(value(&named("Router").attributes, "traefik.router.name"), "r@file");
    assert_eq!(value(&named("Router").attributes, "http.route"), "PathPrefix(`/`)");
    assert_eq!(value(&named("Service").attributes, "traefik.service.name"), "s@file");
    let context = auth.last().header("traceparent").unwrap().to_owned();
    assert!(context.contains(&hex(&named("AuthRequest").span_id)), "{context}");
}

#[test]
fn chains_have_the_spans_of_their_members_and_refusals_are_errors() {
    let (collector, server) = (Collector::start(true), Backend::echo("a"));
    let routes = |verbosity: &str| {
        format!(
            "http:\n  routers:\n    r: {{rule: 'PathPrefix(`/`)', service: s, middlewares: [c], observability: {{traceVerbosity: {verbosity}}}}}\n  middlewares:\n    c: {{chain: {{middlewares: [p, d]}}}}\n    p: {{addPrefix: {{prefix: /x}}}}\n    d: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
            server.url()
        )
    };
    for (verbosity, expected, failed) in [
        (
            "detailed",
            &["GET < -", "Router < GET", "AddPrefix < Router", "IPAllowLister < AddPrefix"][..],
            "IPAllowLister",
        ),
        ("minimal", &["GET < -"], "GET"),
    ] {
        let gateway = gateway(&collector.flags(true), &[], &routes(verbosity));
        let before = collector.spans().len();
        get(gateway.web(), "h", "/");
        gateway.shutdown();
        let spans = collector.spans().split_off(before);
        assert_eq!(tree(&spans), expected);
        let errors = spans.iter().filter(|span| span.status.as_ref().is_some_and(|status| status.code == 2));
        assert_eq!(errors.map(|span| span.name.as_str()).collect::<Vec<_>>(), [failed]);
    }
}

#[test]
fn failures_are_errors_with_a_reason() {
    let collector = Collector::start(true);
    let routes = Gateway::one_service(&format!("http://{}", backend::unused_address()));
    let gateway = gateway(&collector.flags(true), &[], &routes);
    get(gateway.web(), "h", "/");
    let spans = collector.wait_for(1);
    let server = spans.iter().find(|span| span.kind == 2).unwrap();
    assert_eq!(server.status.as_ref().unwrap().code, 2);
    assert_eq!(value(&server.attributes, "http.response.status_code"), "502");
    assert_eq!(value(&server.attributes, "tidegate.origin"), "gateway");
    assert_ne!(value(&server.attributes, "tidegate.reason"), "");
    let client = spans.iter().find(|span| span.kind == 3).unwrap();
    assert_eq!(client.status.as_ref().unwrap().code, 2);
}

#[test]
fn unsampled_and_untraced_requests_send_no_spans() {
    let (collector, server) = (Collector::start(true), Backend::echo("a"));
    let routes = format!(
        "http:\n  routers:\n    on: {{rule: 'PathPrefix(`/`)', service: s}}\n    off: {{rule: 'PathPrefix(`/off`)', service: s, observability: {{tracing: false}}}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
        server.url()
    );
    let gateway = gateway(&collector.flags(true), &["--tracing.sampleRate=0"], &routes);
    get(gateway.web(), "h", "/unsampled");
    assert!(server.last().header("traceparent").unwrap().ends_with("-00"));
    get(gateway.web(), "h", "/off");
    assert_eq!(server.last().header("traceparent"), None);
    get(gateway.address("traefik"), "h", "/ping");
    // A parent that is sampled decides.
    get_with(gateway.web(), "h", "/sampled", PARENT);
    let spans = collector.wait_for(1);
    gateway.shutdown();
    let paths: Vec<String> =
        collector.spans().iter().map(|span| value(&span.attributes, "url.path")).collect();
    assert_eq!(paths, ["", "/sampled"], "{spans:?}");
}

#[test]
fn websockets_have_spans_and_context() {
    let (collector, runtime) = (Collector::start(true), tokio::runtime::Runtime::new().unwrap());
    let server = websocket::echo(&runtime);
    let gateway = gateway(&collector.flags(true), &[], &Gateway::one_service(&format!("http://{server}")));
    let mut client = Client::connect(gateway.web());
    client.send("GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101"));
    drop(client);
    let spans = collector.wait_for(1);
    assert_eq!(tree(&spans), ["GET < -", "ReverseProxy < GET"]);
    let server = spans.iter().find(|span| span.kind == 2).unwrap();
    assert_eq!(value(&server.attributes, "http.response.status_code"), "101");
}

#[test]
fn the_access_log_has_the_identifiers() {
    let (collector, server) = (Collector::start(true), Backend::echo("a"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let file = format!("--accessLog.filePath={}", path.display());
    let routes = Gateway::one_service(&server.url());
    let gateway = gateway(&collector.flags(true), &[&file, "--accessLog.format=json"], &routes);
    get_with(gateway.web(), "h", "/", PARENT);
    let spans = collector.wait_for(1);
    let own = hex(&spans.iter().find(|span| span.kind == 2).unwrap().span_id);
    gateway.shutdown();
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for name in ["TraceId", "trace_id"] {
        assert_eq!(line[name], "0af7651916cd43dd8448eb211c80319c", "{name}");
    }
    assert_eq!((&line["SpanId"], &line["span_id"]), (&own.as_str().into(), &own.as_str().into()));
}

#[test]
fn requests_do_not_wait_for_a_collector_that_restarts() {
    let server = Backend::echo("a");
    let collector = Collector::start(true);
    let (address, flags) = (collector.address, collector.flags(true));
    let gateway = gateway(&flags, &[], &Gateway::one_service(&server.url()));
    get(gateway.web(), "h", "/before");
    collector.wait_for(1);
    drop(collector);
    for _ in 0..20 {
        assert_eq!(get(gateway.web(), "h", "/during").status, 200);
    }
    let collector = Collector::on(address, true);
    eventually("the spans of the outage have arrived", || {
        collector.spans().iter().filter(|span| value(&span.attributes, "url.path") == "/during").count() == 20
    });
}
