//! Metrics for OpenTelemetry collectors: the semantic conventions, the last push, and collectors that do not answer.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

use crate::support::otlp::{Collector, value};
use crate::support::{Backend, Client, Gateway, eventually, get, raw};

fn gateway(flags: &[String], more: &[&str], routes: &str) -> Gateway {
    let all: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Gateway::with(&all, routes)
}

/// Returns the series of a histogram in the last message that has it.
fn histogram(collector: &Collector, name: &str) -> Vec<HistogramDataPoint> {
    let messages = collector.metrics();
    let metrics = messages.iter().rev().flat_map(|message| &message.scope_metrics);
    let mut metrics = metrics.flat_map(|scope| &scope.metrics).filter(|metric| metric.name == name);
    match metrics.next().map(|metric| (metric.unit.as_str(), &metric.data)) {
        Some(("s", Some(Data::Histogram(histogram)))) => histogram.data_points.clone(),
        None => Vec::new(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn durations_follow_the_semantic_conventions() {
    let (collector, backend) = (Collector::start(false), Backend::echo("a"));
    let flags = ["--metrics.otlp.pushInterval=100ms"];
    let routes = Gateway::one_service(&backend.url());
    let gateway = gateway(&collector.flags_of("metrics", false), &flags, &routes);
    for host in ["a.test", "b.test"] {
        get(gateway.web(), host, "/");
    }
    raw(gateway.web(), "BREW / HTTP/1.0\r\nhost: h\r\n\r\n").unwrap();
    let count = |name: &str| histogram(&collector, name).iter().map(|point| point.count).sum::<u64>();
    for name in ["http.server.request.duration", "http.client.request.duration"] {
        eventually("three requests are pushed", || count(name) == 3);
        let mut points = histogram(&collector, name);
        points.sort_by_key(|point| value(&point.attributes, "http.request.method"));
        assert_eq!(points.len(), 2, "hosts add no series");
        for (point, (method, version, count)) in points.iter().zip([("GET", "1.1", 2), ("_OTHER", "1.0", 1)])
        {
            assert_eq!(point.count, count);
            assert_eq!(point.explicit_bounds.len(), 14, "explicitBoundaries");
            let mut expected = vec![
                ("http.request.method", method.to_owned()),
                ("http.response.status_code", "200".to_owned()),
                ("network.protocol.name", format!("http/{version}")),
                ("network.protocol.version", version.to_owned()),
                ("url.scheme", "http".to_owned()),
            ];
            if name.contains("client") {
                expected.insert(4, ("server.address", backend.address.to_string()));
                expected.insert(5, ("server.port", backend.address.port().to_string()));
            }
            let found = point.attributes.iter().map(|attribute| attribute.key.as_str());
            let found: Vec<_> = found.map(|key| (key, value(&point.attributes, key))).collect();
            assert_eq!(found, expected);
        }
    }
    // An error has a type, and the server that could not be reached has one as well.
    gateway.write("routes.yml", &Gateway::one_service("http://127.0.0.1:9"));
    eventually("the other server is used", || get(gateway.web(), "a.test", "/").status == 502);
    for name in ["http.server.request.duration", "http.client.request.duration"] {
        eventually("the failure is pushed", || {
            let points = histogram(&collector, name);
            points.iter().any(|point| value(&point.attributes, "error.type") == "502")
        });
    }
    eventually("the server that is gone has no series", || {
        let points = histogram(&collector, "http.client.request.duration");
        points.iter().all(|point| value(&point.attributes, "server.address") == "127.0.0.1:9")
    });
}

#[test]
fn what_was_counted_last_is_pushed_when_the_gateway_stops() {
    for grpc in [false, true] {
        let (collector, backend) = (Collector::start(grpc), Backend::echo("a"));
        let flags = ["--metrics.otlp.pushInterval=1h"];
        let routes = Gateway::one_service(&backend.url());
        let gateway = gateway(&collector.flags_of("metrics", grpc), &flags, &routes);
        let mut client = Client::connect(gateway.web());
        client.send("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        assert_eq!(client.read().unwrap().status, 200);
        assert!(client.is_closed());
        assert!(collector.metrics().is_empty());
        gateway.shutdown();
        let points = histogram(&collector, "http.server.request.duration");
        assert_eq!(points.iter().map(|point| point.count).collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn a_collector_that_does_not_answer_delays_the_end_by_a_second() {
    // Connections are accepted by the system, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = silent.local_addr().unwrap();
    let signals = ["tracing", "metrics", "accessLog"];
    let mut flags: Vec<String> =
        signals.iter().map(|signal| format!("--{signal}.otlp.http.endpoint=http://{endpoint}")).collect();
    flags.push("--experimental.otlpLogs=true".into());
    let backend = Backend::echo("a");
    let gateway = gateway(&flags, &[], &Gateway::one_service(&backend.url()));
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    let begun = Instant::now();
    gateway.shutdown();
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}");
}

#[test]
fn dropped_spans_and_records_are_counted() {
    // An answer that is not worth a retry.
    let collector = Backend::bytes("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let backend = Backend::echo("a");
    let mut flags: Vec<String> = ["tracing", "accessLog"]
        .map(|signal| format!("--{signal}.otlp.http.endpoint={}", collector.url()))
        .into();
    flags.extend(["--experimental.otlpLogs=true".into(), "--metrics.prometheus=true".into()]);
    let gateway = gateway(&flags, &[], &Gateway::one_service(&backend.url()));
    let dropped = |signal: &str| {
        let text = get(gateway.address("traefik"), "h", "/metrics").text();
        let start = format!("tidegate_otlp_dropped_items_total{{signal=\"{signal}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start))?;
        line.parse::<u64>().ok()
    };
    assert_eq!((dropped("traces"), dropped("logs")), (Some(0), Some(0)));
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    // Two spans, the client's and the server's, and one line.
    eventually("they are dropped", || (dropped("traces"), dropped("logs")) == (Some(2), Some(1)));
}
