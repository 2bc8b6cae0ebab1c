//! Logs over OTLP: which records a collector receives, and what is still written.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;

use crate::support::otlp::{Collector, value};
use crate::support::process::Process;
use crate::support::{Backend, Gateway, eventually, get, get_with};

const PARENT: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

fn body(record: &LogRecord) -> String {
    match record.body.as_ref().and_then(|body| body.value.clone()) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn gateway(flags: &[String], more: &[&str], routes: &str) -> Gateway {
    let all: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Gateway::with(&all, routes)
}

#[test]
fn a_request_is_a_record_with_its_fields_and_its_trace() {
    let (collector, server) = (Collector::start(true), Backend::echo("a"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let file = format!("--accessLog.filePath={}", path.display());
    let flags = [collector.flags(true), collector.flags_of("accessLog", true)].concat();
    let more = [
        file.as_str(),
        "--accessLog.fields.headers.names.X-Key=redact",
        "--accessLog.otlp.serviceName=edge",
        "--accessLog.otlp.resourceAttributes.zone=north",
        "--experimental.otlpLogs=true",
    ];
    let gateway = gateway(&flags, &more, &Gateway::one_service(&server.url()));
    assert!(!gateway.api("/api/problems").contains("otlp"));
    get_with(gateway.web(), "h.test", "/p?q=1", &format!("{PARENT}x-key: secret\r\n"));
    let records = collector.wait_for_logs(1);
    let spans = collector.wait_for(1);
    let span = spans.iter().find(|span| span.kind == 2).unwrap();
    let (record, resource) = &records[0];
    assert_eq!((&record.trace_id, &record.span_id), (&span.trace_id, &span.span_id));
    assert_eq!((record.severity_number, record.severity_text.as_str(), record.flags), (9, "info", 1));
    for (key, expected) in [
        ("RequestMethod", "GET"),
        ("RequestPath", "/p?q=1"),
        ("RequestHost", "h.test"),
        ("DownstreamStatus", "200"),
        ("RouterName", "all@file"),
        ("request_X-Key", "REDACTED"),
        ("TraceId", "0af7651916cd43dd8448eb211c80319c"),
        ("level", ""),
        ("time", ""),
    ] {
        assert_eq!(value(&record.attributes, key), expected, "{key}");
    }
    let number = |key: &str| value(&record.attributes, key).parse::<u64>().unwrap();
    assert_eq!(record.time_unix_nano, number("StartUTC") + number("Duration"));
    let line = body(record);
    assert!(line.starts_with("127.0.0.1 - - [") && line.contains("\"GET /p?q=1 HTTP/1.1\" 200"), "{line}");
    assert!(line.ends_with("ms"), "{line}");
    assert_eq!((value(resource, "service.name"), value(resource, "zone")), ("edge".into(), "north".into()));
    gateway.shutdown();
    assert!(!path.exists(), "lines are sent and not written");
}

#[test]
fn lines_are_also_written_with_dual_output() {
    let (collector, server) = (Collector::start(false), Backend::echo("a"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let file = format!("--accessLog.filePath={}", path.display());
    let flags = collector.flags_of("accessLog", false);
    let more = [file.as_str(), "--accessLog.dualOutput=true", "--accessLog.format=json"];
    let gateway = gateway(&flags, &more, &Gateway::one_service(&server.url()));
    for path in ["/1", "/2", "/3"] {
        get(gateway.web(), "h", path);
    }
    // What is waiting is sent when the gateway stops.
    gateway.shutdown();
    let bodies: Vec<String> = collector.logs().iter().map(|(record, _)| body(record)).collect();
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(bodies, text.lines().collect::<Vec<_>>());
    assert_eq!(bodies.len(), 3);
    let (record, _) = &collector.logs()[2];
    assert!(record.trace_id.is_empty() && record.span_id.is_empty());
    assert_eq!(value(&record.attributes, "RequestPath"), "/3");
}

#[test]
fn the_process_log_is_sent_and_written_without_the_log_of_the_client() {
    let (collector, server) = (Collector::start(true), Backend::echo("a"));
    let flags = collector.flags_of("log", true);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let more = ["--log.filter=h2=TRACE,hyper=TRACE,hyper_util=TRACE,tidegate_clients=TRACE"];
    let routes = Gateway::one_service(&server.url());
    let mut process = Process::start(&[&flags[..], &more].concat(), &routes);
    let is_ready = |(record, _): &(LogRecord, _)| body(record).contains("configuration applied");
    eventually("the start is sent", || collector.logs().iter().any(is_ready));
    process.end("TERM");
    let (records, log) = (collector.logs(), process.log());
    let (ready, resource) = records.iter().find(|record| is_ready(record)).unwrap();
    assert!(ready.severity_number >= 5 && ready.trace_id.is_empty());
    assert!(value(&ready.attributes, "caller").contains(".rs:"));
    assert_eq!(value(resource, "service.name"), "traefik");
    let listening = records.iter().find(|(record, _)| value(&record.attributes, "entry_point") == "web");
    assert_ne!(value(&listening.unwrap().0.attributes, "address"), "");
    assert!(records.iter().any(|(record, _)| body(record).starts_with("stopping")), "sent at the end");
    // The client of the collector uses HTTP/2, and nothing else does here.
    assert!(log.contains("h2-0."), "{log}");
    for (record, _) in &records {
        let caller = value(&record.attributes, "caller");
        assert!(!caller.contains("h2-0.") && !caller.contains("otlp"), "{caller}");
    }
}

#[test]
fn collectors_that_cannot_be_used_leave_logs_as_they_are() {
    let server = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let file = format!("--accessLog.filePath={}", path.display());
    let flags = [&file, "--accessLog.otlp.http.endpoint=ftp://h", "--log.otlp.grpc.tls.ca=/nowhere/ca.pem"];
    let gateway = Gateway::with(&flags, &Gateway::one_service(&server.url()));
    get(gateway.web(), "h", "/written");
    let problems = gateway.api("/api/problems");
    for expected in ["accessLog.otlp: is not usable", "log.otlp: is not usable"] {
        assert!(problems.contains(expected), "{expected} in {problems}");
    }
    gateway.shutdown();
    assert!(std::fs::read_to_string(path).unwrap().contains("/written"));
}

#[test]
fn requests_do_not_wait_for_a_collector_that_is_gone() {
    let server = Backend::echo("a");
    let collector = Collector::start(true);
    let (address, flags) = (collector.address, collector.flags_of("accessLog", true));
    let gateway = gateway(&flags, &[], &Gateway::one_service(&server.url()));
    get(gateway.web(), "h", "/before");
    collector.wait_for_logs(1);
    drop(collector);
    for _ in 0..20 {
        assert_eq!(get(gateway.web(), "h", "/during").status, 200);
    }
    let collector = Collector::on(address, true);
    let is_late = |(record, _): &&(LogRecord, _)| value(&record.attributes, "RequestPath") == "/during";
    eventually("the lines of the outage have arrived", || {
        collector.logs().iter().filter(is_late).count() == 20
    });
}
