//! `/metrics` for Prometheus: which series there are, and what they count.

use std::net::UdpSocket;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    HistogramDataPoint, NumberDataPoint, ResourceMetrics, number_data_point,
};

use crate::support::otlp::{Collector, value};
use crate::support::streams::{Server, connect, say, take};
use crate::support::{Backend, Client, Gateway, eventually, get, get_with, raw};

pub const ALL: &[&str] = &["--metrics.prometheus.addRoutersLabels=true"];

/// Returns the samples whose name begins with this.
pub fn samples(gateway: &Gateway, name: &str) -> Vec<String> {
    let text = get(gateway.address("traefik"), "h", "/metrics").text();
    text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
}

/// Returns the value of a sample.
fn last(line: &str) -> u64 {
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap()
}

pub fn routes(router: &str, url: &str) -> String {
    format!(
        "http:\n  routers:\n    {router}: {{rule: 'PathPrefix(`/`)', service: {router}}}\n  services:\n    {router}: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"
    )
}

#[test]
fn requests_are_counted_by_entry_point_router_and_service() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(ALL, &routes("a", &backend.url()));
    for _ in 0..3 {
        get(gateway.web(), "h", "/");
    }
    raw(gateway.web(), "BREW / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    eventually("four requests have ended", || {
        samples(&gateway, "traefik_service_requests_total").len() == 2
            && samples(&gateway, "traefik_service_requests_total").concat().contains("} 3")
    });
    for (name, labels) in [
        (
            "traefik_entrypoint_requests_total",
            r#"code="200",entrypoint="web",method="METHOD",protocol="http""#,
        ),
        (
            "traefik_router_requests_total",
            r#"code="200",method="METHOD",protocol="http",router="a@file",service="a@file""#,
        ),
        ("traefik_service_requests_total", r#"code="200",method="METHOD",protocol="http",service="a@file""#),
    ] {
        let line =
            |method: &str, count: u64| format!("{name}{{{}}} {count}", labels.replace("METHOD", method));
        let mut found = samples(&gateway, name);
        found.sort();
        assert_eq!(found, [line("EXTENSION_METHOD", 1), line("GET", 3)]);
    }
    let buckets = samples(&gateway, "traefik_router_request_duration_seconds_bucket");
    let bounds: Vec<&str> = buckets.iter().filter_map(|line| line.split("le=\"").nth(1)).collect();
    assert_eq!(bounds.len(), 10, "{buckets:?}");
    assert!(bounds[4].starts_with("+Inf\"} "), "{buckets:?}");
    assert!(samples(&gateway, "traefik_entrypoint_requests_tls_total").is_empty());
}

#[test]
fn responses_are_counted_by_who_responded_and_why() {
    let backend = Backend::echo("a");
    let routes = routes("a", &backend.url()).replace("PathPrefix(`/`)", "Path(`/a`)");
    let gateway = Gateway::with(ALL, &routes);
    for path in ["/a", "/a", "/other"] {
        get(gateway.web(), "h", path);
    }
    // Refused before it is routed.
    get_with(gateway.web(), "h", "/a", "expect: much\r\n");
    let line = |origin: &str, reason: &str, count: u64| {
        let labels = format!("entrypoint=\"web\",origin=\"{origin}\",reason=\"{reason}\"");
        format!("tidegate_entrypoint_responses_total{{{labels}}} {count}")
    };
    let expected =
        [line("gateway", "expectation_failed", 1), line("gateway", "no_router", 1), line("server", "", 2)];
    eventually("four responses are counted", || {
        let mut found = samples(&gateway, "tidegate_entrypoint_responses_total");
        found.sort();
        found == expected
    });
}

#[test]
fn problems_are_counted_by_kind_of_object() {
    let routes =
        "http:\n  routers:\n    a: {rule: 'Host(`', service: a}\n    b: {rule: 'Path(`/`)', service: none}\n";
    let gateway = Gateway::with(ALL, routes);
    let number = |kind: &str| {
        let start = format!("tidegate_config_problems{{kind=\"{kind}\"}} ");
        let found = samples(&gateway, &start);
        found.first().and_then(|line| line[start.len()..].parse::<u32>().ok())
    };
    eventually("both routers have problems", || number("router").is_some_and(|number| number >= 2));
    let problems: Vec<serde_json::Value> = serde_json::from_str(&gateway.api("/api/problems")).unwrap();
    let sum: u64 = samples(&gateway, "tidegate_config_problems{").iter().map(|line| last(line)).sum();
    assert_eq!(sum, problems.len() as u64);
    assert!(number("").is_some());
    gateway.write("routes.yml", "http: {}\n");
    eventually("they are gone", || number("router").is_none());
}

#[test]
fn providers_report_their_updates() {
    let gateway = Gateway::with(ALL, "http: {}\n");
    let value = |name: &str| {
        let found = samples(&gateway, &format!("tidegate_provider_{name}{{provider=\"file\"}} "));
        found.first().map(|line| last(line))
    };
    assert_eq!((value("ready"), value("problems")), (Some(1), Some(0)));
    let first = value("last_update_timestamp_seconds").unwrap();
    assert!(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() >= first);
    gateway.write("routes.yml", "http:\n  routers:\n    a: {rulez: 'Path(`/`)', service: none}\n");
    eventually("it has found a problem", || value("problems").is_some_and(|number| number > 0));
    gateway.write("routes.yml", "http: {}\n");
    let mut number = 0;
    eventually("a later update is recorded", || {
        number += 1;
        gateway.write("routes.yml", &routes(&format!("r{number}"), "http://127.0.0.1:1"));
        value("last_update_timestamp_seconds").unwrap() > first && value("problems") == Some(0)
    });
}

#[test]
fn tcp_connections_and_their_bytes_are_counted() {
    let server = Server::greeter("mail");
    let routes = |router: &str| {
        format!(
            "tcp:\n  routers:\n    {router}: {{entryPoints: [web], rule: 'HostSNI(`*`)', service: s}}\n  \
             services:\n    s: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}\n",
            server.address
        )
    };
    let gateway = Gateway::with(ALL, &routes("a"));
    let values = |object: &str, labels: &str| -> Vec<Option<u64>> {
        let names = ["connections_total", "open_connections", "received_bytes_total", "sent_bytes_total"];
        let value = |name: &&str| {
            let start = format!("tidegate_tcp_{object}_{name}{{{labels}}} ");
            samples(&gateway, &start).first().map(|line| last(line))
        };
        names.iter().map(value).collect()
    };
    let (router, service) = (r#"router="a@file",service="s@file""#, r#"service="s@file""#);
    let both = |connections: u64, open: u64, received: u64, sent: u64| {
        let expected = [connections, open, received, sent].map(Some);
        values("router", router) == expected && values("service", service) == expected
    };
    assert!(both(0, 0, 0, 0));
    let mut client = connect(gateway.web());
    assert_eq!(take(&mut client, 16), "hello from mail\n");
    assert_eq!(say(&mut client, "echo"), "echo");
    // While the connection is open: the greeting has 16 bytes.
    eventually("bytes are counted", || both(1, 1, 4, 20));
    drop(client);
    eventually("it is closed", || both(1, 0, 4, 20));
    gateway.write("routes.yml", &routes("b"));
    eventually("the router has gone, and its service has not lost its counts", || {
        values("router", router)[0].is_none() && values("service", service)[0] == Some(1)
    });
}

#[test]
fn failures_of_certificate_resolvers_are_counted() {
    let authority = Backend::bytes("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--metrics.prometheus=true".to_owned(),
        format!("--certificatesResolvers.le.acme.caServer={}/dir", authority.url()),
        format!("--certificatesResolvers.le.acme.storage={}", folder.path().join("acme.json").display()),
        "--certificatesResolvers.le.acme.tlsChallenge=true".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let routes = "http:\n  routers:\n    a: {rule: 'Host(`a.test`)', service: api@internal, tls: {certResolver: le}}\n";
    let gateway = Gateway::with(&flags, routes);
    let value = |name: &str| {
        let found = samples(&gateway, &format!("tidegate_acme_{name}"));
        found.first().map_or(0, |line| last(line))
    };
    eventually("the authority has refused", || value("failures_total{resolver=\"le\"}") > 0);
    eventually("the certificate is missing", || {
        value("certificates{resolver=\"le\",state=\"missing\"}") == 1
    });
    assert_eq!(value("certificates{resolver=\"le\",state=\"held\"}"), 0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let last = value("last_failure_timestamp_seconds{resolver=\"le\"}");
    assert!(last > 0 && last <= now, "{last} {now}");
}

#[test]
fn internal_requests_are_counted_on_demand() {
    for (flags, counted) in [(&[][..], false), (&["--metrics.addInternals=true"], true)] {
        let gateway = Gateway::with(&[ALL, flags].concat(), "http: {}\n");
        get(gateway.address("traefik"), "h", "/ping");
        let found = || samples(&gateway, "traefik_router_requests_total").concat();
        if counted {
            eventually("the ping is counted", || found().contains("ping@internal"));
        } else {
            assert_eq!(found(), "");
        }
    }
}

#[test]
fn removed_objects_are_shown_once_more() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(ALL, &routes("a", &backend.url()));
    get(gateway.web(), "h", "/");
    eventually("the request has ended", || samples(&gateway, "traefik_router_requests_total").len() == 1);
    gateway.write("routes.yml", &routes("b", &backend.url()));
    eventually("the configuration has changed", || {
        get(gateway.web(), "h", "/").status == 200 && {
            gateway.config().http.routers.keys().any(|name| name == "b@file")
        }
    });
    assert!(samples(&gateway, "traefik_router_requests_total").concat().contains("a@file"));
    let later = samples(&gateway, "traefik_router_requests_total").concat();
    assert!(!later.contains("a@file"), "{later}");
}

#[test]
fn counts_outlive_changes_of_an_object() {
    let (one, other) = (Backend::echo("a"), Backend::echo("b"));
    let gateway = Gateway::with(ALL, &routes("a", &one.url()));
    get(gateway.web(), "h", "/");
    gateway.write("routes.yml", &routes("a", &other.url()));
    eventually("the other server is used", || get(gateway.web(), "h", "/").header("x-backend") == Some("b"));
    eventually("no request is lost", || {
        let total = samples(&gateway, "traefik_service_requests_total");
        total.len() == 1 && !total[0].ends_with(" 1")
    });
}

#[test]
fn strangers_add_no_series() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(ALL, &routes("a", &backend.url()));
    let series = |number: u32| {
        for host in 0..number {
            let method = format!("M{host}");
            let head = format!(
                "{method} /{host} HTTP/1.1\r\nhost: h{host}\r\naccept: a/{host}\r\nconnection: close\r\n\r\n"
            );
            raw(gateway.web(), head).unwrap();
        }
        samples(&gateway, "traefik_").len()
    };
    series(2);
    eventually("two requests have ended", || !samples(&gateway, "traefik_service_requests_total").is_empty());
    let before = series(0);
    assert_eq!(series(50), before);
}

#[test]
fn headers_become_labels_if_configured() {
    let backend = Backend::echo("a");
    let flags = ["--metrics.prometheus.headerLabels.agent=User-Agent"];
    let gateway = Gateway::with(&flags, &routes("a", &backend.url()));
    get_with(gateway.web(), "h", "/", "user-agent: a\"b\r\n");
    eventually("the request has ended", || {
        samples(&gateway, "traefik_service_requests_total")
            .concat()
            .starts_with(r#"traefik_service_requests_total{agent="a\"b",code="200""#)
    });
    assert!(!samples(&gateway, "traefik_service_responses_bytes_total").concat().contains("agent"));
}

#[test]
fn routers_and_entry_points_can_be_left_out() {
    let backend = Backend::echo("a");
    let routes =
        routes("a", &backend.url()).replace("service: a}", "service: a, observability: {metrics: false}}");
    let gateway = Gateway::with(&["--entryPoints.web.observability.metrics=false"], &routes);
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    assert!(
        samples(&gateway, "traefik_entrypoint").is_empty()
            && samples(&gateway, "traefik_service_req").is_empty()
    );
}

#[test]
fn scrapers_choose_the_format() {
    let gateway = Gateway::with(ALL, "http: {}\n");
    let address = gateway.address("traefik");
    let plain = get(address, "h", "/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(plain.text().contains("# TYPE traefik_config_reloads_total counter\n"), "{}", plain.text());
    let open = get_with(
        address,
        "h",
        "/metrics",
        "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n",
    );
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(
        open.text().contains("# TYPE traefik_config_reloads counter\n") && open.text().ends_with("# EOF\n")
    );
    assert!(open.text().contains("\nprocess_resident_memory_bytes "));
}

#[test]
fn sampled_traces_are_exemplars() {
    const OPEN: &str = "accept: application/openmetrics-text;version=1.0.0\r\n";
    const PROTOBUF: &str = "accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n";
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let (collector, backend) = (Collector::start(true), Backend::echo("a"));
    let mut flags = collector.flags(true);
    flags.extend(ALL.iter().map(|flag| (*flag).to_owned()));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes("a", &backend.url()));
    let scrape = |accept: &str| get_with(gateway.address("traefik"), "h", "/metrics", accept);
    let parent = |sampled: &str| format!("traceparent: 00-{TRACE}-b7ad6b7169203331-{sampled}\r\n");
    get_with(gateway.web(), "h", "/", &parent("00"));
    let buckets = |level: &str| -> Vec<String> {
        let name = format!("traefik_{level}_request_duration_seconds_bucket");
        let text = scrape(OPEN).text();
        text.lines().filter(|line| line.starts_with(&name)).map(str::to_owned).collect()
    };
    eventually("the request is counted", || !buckets("service").is_empty());
    assert!(buckets("service").iter().all(|line| !line.contains(" # ")), "it is not sampled");
    get_with(gateway.web(), "h", "/", &parent("01"));
    for level in ["entrypoint", "router", "service"] {
        let exemplar = format!(" # {{trace_id=\"{TRACE}\"}} ");
        let with =
            || -> Vec<String> { buckets(level).into_iter().filter(|line| line.contains(" # ")).collect() };
        eventually("it has an exemplar", || with().len() == 1);
        let line = with().remove(0);
        let (bucket, rest) = line.split_once(&exemplar).unwrap();
        assert!(bucket.contains("le=\"0.1\"}") && bucket.ends_with(" 2"), "{line}");
        let numbers: Vec<f64> = rest.split(' ').map(|number| number.parse().unwrap()).collect();
        assert!(numbers[0] > 0.0 && numbers[0] <= 0.1 && numbers[1] > 1.7e9, "{line}");
    }
    assert!(!scrape("").text().contains(TRACE), "the plain format has none");
    let messages = scrape(PROTOBUF);
    assert!(messages.header("content-type").unwrap().starts_with("application/vnd.google.protobuf"));
    assert!(messages.body.windows(TRACE.len()).any(|part| part == TRACE.as_bytes()));
}

#[test]
fn open_connections_go_up_and_down() {
    let gateway = Gateway::with(ALL, "http: {}\n");
    let open = |count: u32| {
        let wanted = format!("traefik_open_connections{{entrypoint=\"web\",protocol=\"TCP\"}} {count}");
        samples(&gateway, "traefik_open_connections").contains(&wanted)
    };
    let connection = Client::connect(gateway.web());
    eventually("a connection is open", || open(1));
    drop(connection);
    eventually("it is closed", || open(0));
}

#[test]
fn requests_for_pages_and_mirrors_are_counted_for_their_services() {
    let backend = Backend::echo("a");
    let url = backend.url();
    let routes = format!(
        "http:\n  routers:\n    \
         paged: {{rule: 'Path(`/paged`)', service: none, middlewares: [pages]}}\n    \
         mirrored: {{rule: 'Path(`/mirrored`)', service: mirrored}}\n  middlewares:\n    \
         pages: {{errors: {{status: ['500-599'], service: pages, query: /}}}}\n  services:\n    \
         none: {{loadBalancer: {{servers: []}}}}\n    \
         pages: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n    \
         main: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n    \
         copy: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n    \
         mirrored: {{mirroring: {{service: main, mirrors: [{{name: copy, percent: 100}}]}}}}\n"
    );
    let gateway = Gateway::with(ALL, &routes);
    let post = "POST /paged HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nconnection: close\r\n\r\nab";
    raw(gateway.web(), post).unwrap();
    get(gateway.web(), "h", "/mirrored");
    let line = |code: u32, method: &str, service: &str| {
        format!(
            "traefik_service_requests_total{{code=\"{code}\",method=\"{method}\",protocol=\"http\",service=\"{service}@file\"}} 1"
        )
    };
    let mut expected = vec![
        line(503, "POST", "none"),
        line(200, "GET", "pages"),
        line(200, "GET", "main"),
        line(200, "GET", "copy"),
    ];
    expected.sort();
    eventually("all four are counted", || {
        let mut found = samples(&gateway, "traefik_service_requests_total");
        found.sort();
        found == expected
    });
}

#[test]
fn metrics_are_pushed_to_statsd_datadog_and_influxdb() {
    let (statsd, datadog) =
        (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    for socket in [&statsd, &datadog] {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let influx = Backend::echo("influx");
    let backend = Backend::echo("a");
    let flags = [
        format!("--metrics.statsD.address={}", statsd.local_addr().unwrap()),
        "--metrics.statsD.pushInterval=100ms".into(),
        format!("--metrics.datadog.address={}", datadog.local_addr().unwrap()),
        "--metrics.datadog.pushInterval=100ms".into(),
        "--metrics.datadog.prefix=gate".into(),
        format!("--metrics.influxDB2.address={}", influx.url()),
        format!("--metrics.influxDB2.token={}", token.display()),
        "--metrics.influxDB2.pushInterval=100ms".into(),
        "--metrics.prometheus=true".into(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes("a", &backend.url()));
    get(gateway.web(), "h", "/");
    let next = |socket: &UdpSocket, wanted: &str| {
        let mut packet = [0; 2048];
        loop {
            let length = socket.recv(&mut packet).unwrap();
            let text = String::from_utf8(packet[..length].to_vec()).unwrap();
            if let Some(line) = text.lines().find(|line| line.starts_with(wanted)) {
                return line.to_owned();
            }
        }
    };
    assert_eq!(next(&statsd, "traefik.service.request.total"), "traefik.service.request.total:1.000000|c");
    assert_eq!(
        next(&datadog, "gate.service.request.total"),
        "gate.service.request.total:1.000000|c|#code:200,method:GET,protocol:http,service:a@file"
    );
    // What InfluxDB accepts is not lost.
    let lost = |system: &str, count: u32| {
        let line = format!("tidegate_metrics_lost_pushes_total{{system=\"{system}\"}} {count}");
        samples(&gateway, "tidegate_metrics_lost_pushes_total").contains(&line)
    };
    assert!(lost("influxDB2", 0) && lost("datadog", 0));
    drop(statsd);
    eventually("a receiver that is away is counted", || !lost("statsD", 0));
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
}

/// The metrics of a message with this name.
fn named<'a>(message: &'a ResourceMetrics, name: &str) -> Option<&'a Data> {
    let metrics = message.scope_metrics.iter().flat_map(|scope| &scope.metrics);
    metrics.filter(|metric| metric.name == name).find_map(|metric| metric.data.as_ref())
}

fn number(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(number_data_point::Value::AsDouble(number)) => number,
        ref other => panic!("{other:?}"),
    }
}

/// Returns the last message in which the service has this number of requests, with its series.
fn counted(collector: &Collector, requests: f64) -> Option<(ResourceMetrics, NumberDataPoint)> {
    let message = collector.metrics().pop()?;
    let Some(Data::Sum(sum)) = named(&message, "traefik_service_requests_total") else { return None };
    assert!(sum.is_monotonic && sum.aggregation_temporality == 2 && sum.data_points.len() == 1);
    let point = sum.data_points[0].clone();
    (number(&point) == requests).then_some((message, point))
}

#[test]
fn collectors_get_totals_over_http_and_grpc() {
    for grpc in [false, true] {
        let (collector, backend) = (Collector::start(grpc), Backend::echo("a"));
        let mut flags = collector.flags_of("metrics", grpc);
        flags.extend(
            [
                "--metrics.otlp.pushInterval=100ms",
                "--metrics.otlp.explicitBoundaries=0.000001,60",
                "--metrics.otlp.serviceName=edge",
                "--metrics.otlp.resourceAttributes.zone=a",
                "--metrics.otlp.addRoutersLabels=true",
                "--metrics.otlp.addEntryPointsLabels=false",
            ]
            .map(String::from),
        );
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let gateway = Gateway::with(&flags, &routes("a", &backend.url()));
        get(gateway.web(), "h", "/");
        let mut first = None;
        eventually("the first request is counted", || {
            first = counted(&collector, 1.0);
            first.is_some()
        });
        for _ in 0..2 {
            get(gateway.web(), "h", "/");
        }
        let mut last = None;
        eventually("three requests are counted", || {
            last = counted(&collector, 3.0);
            last.is_some()
        });
        let ((_, before), (message, now)) = (first.unwrap(), last.unwrap());
        for (label, expected) in
            [("code", "200"), ("method", "GET"), ("protocol", "http"), ("service", "a@file")]
        {
            assert_eq!(value(&now.attributes, label), expected, "{label}");
        }
        assert_eq!(now.start_time_unix_nano, before.start_time_unix_nano);
        assert!(
            now.time_unix_nano > before.time_unix_nano && before.time_unix_nano > before.start_time_unix_nano
        );
        let resource = &message.resource.as_ref().unwrap().attributes;
        assert_eq!((value(resource, "service.name"), value(resource, "zone")), ("edge".into(), "a".into()));
        let Some(Data::Histogram(durations)) = named(&message, "traefik_router_request_duration_seconds")
        else {
            panic!("{message:?}")
        };
        let [HistogramDataPoint { count, sum, bucket_counts, explicit_bounds, .. }] = &*durations.data_points
        else {
            panic!("{durations:?}")
        };
        assert_eq!(
            (*count, &bucket_counts[..], &explicit_bounds[..]),
            (3, &[0, 3, 0][..], &[1e-6, 60.0][..])
        );
        assert!(sum.is_some_and(|sum| sum > 3e-6) && durations.aggregation_temporality == 2);
        let Some(Data::Gauge(open)) = named(&message, "traefik_open_connections") else {
            panic!("{message:?}")
        };
        assert!(open.data_points.iter().any(|point| value(&point.attributes, "entrypoint") == "web"));
        assert!(named(&message, "traefik_entrypoint_requests_total").is_none());
    }
}

#[test]
fn a_collector_that_is_away_costs_only_its_pushes() {
    let (collector, backend) = (Collector::start(false), Backend::echo("a"));
    let address = collector.address;
    let mut flags = collector.flags_of("metrics", false);
    flags.extend(["--metrics.otlp.pushInterval=100ms".into(), "--metrics.prometheus=true".into()]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes("a", &backend.url()));
    let lost = || samples(&gateway, "tidegate_metrics_lost_pushes_total{system=\"otlp\"}").concat();
    get(gateway.web(), "h", "/");
    eventually("a push has arrived", || counted(&collector, 1.0).is_some());
    assert!(lost().ends_with(" 0"), "{}", lost());
    drop(collector);
    eventually("lost pushes are counted", || !lost().ends_with(" 0"));
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    let collector = Collector::on(address, false);
    eventually("the total has nothing missing", || counted(&collector, 2.0).is_some());
    // Prometheus has buckets of its own.
    let buckets = samples(&gateway, "traefik_service_request_duration_seconds_bucket");
    let bounds: Vec<_> =
        buckets.iter().map(|line| line.contains("le=\"0.1\"") || line.contains("le=\"+Inf\"")).collect();
    assert_eq!(bounds, [true, false, false, false, true], "{buckets:?}");
}
