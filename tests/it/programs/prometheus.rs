//! Metrics, read by a real Prometheus: native histograms, exemplars, and `promtool`.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::support::backend::unused_address;
use crate::support::otlp::Collector;
use crate::support::outside::{Running, program};
use crate::support::{Backend, Gateway, eventually, get, get_with};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const FLAGS: &[&str] =
    &["--metrics.prometheus.addRoutersLabels=true", "--metrics.prometheus.nativeHistograms=true"];

/// Starts a Prometheus that scrapes a gateway each second.
fn prometheus(folder: &std::path::Path, gateway: SocketAddr, features: &str) -> (Running, SocketAddr) {
    let settings = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
         scrape_configs: [{{job_name: gateway, static_configs: [{{targets: ['{gateway}']}}]}}]\n"
    );
    std::fs::write(folder.join("prometheus.yml"), settings).unwrap();
    let address = unused_address();
    let mut command = Command::new(program("prometheus"));
    command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
    command.arg(format!("--web.listen-address={address}")).arg(format!("--enable-feature={features}"));
    command.current_dir(folder);
    (Running::start(&mut command, folder), address)
}

/// Returns the result of a query as JSON.
fn query(prometheus: SocketAddr, path: &str) -> serde_json::Value {
    let Ok(answer) = std::panic::catch_unwind(|| get(prometheus, "h", path)) else {
        return serde_json::Value::Null;
    };
    serde_json::from_str(&answer.text()).unwrap_or_default()
}

#[test]
#[ignore = "needs prometheus"]
fn prometheus_reads_native_histograms_and_exemplars() {
    let (collector, backend) = (Collector::start(true), Backend::echo("a"));
    let flags = collector.flags(true);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(FLAGS.iter().copied()).collect();
    let gateway = Gateway::with(&flags, &Gateway::one_service(&backend.url()));
    for _ in 0..5 {
        get_with(gateway.web(), "h", "/", &format!("traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"));
    }
    for (features, is_native) in [("native-histograms,exemplar-storage", true), ("exemplar-storage", false)] {
        let folder = tempfile::tempdir().unwrap();
        let (_running, prometheus) = prometheus(folder.path(), gateway.address("traefik"), features);
        let number = |expression: &str| {
            let found = query(prometheus, &format!("/api/v1/query?query={expression}"));
            found["data"]["result"][0]["value"][1].as_str().and_then(|text| text.parse::<f64>().ok())
        };
        let count = "histogram_count(traefik_router_request_duration_seconds)";
        let quantile = "histogram_quantile(0.5,traefik_router_request_duration_seconds)";
        let classic = "traefik_router_request_duration_seconds_count";
        eventually("the requests are scraped", || {
            number(if is_native { count } else { classic }) == Some(5.0)
        });
        if is_native {
            let half = number(quantile).unwrap();
            assert!(half > 0.0 && half < 0.1, "{half}: finer than the lowest classic bucket");
        }
        let metric = if is_native { "" } else { "_bucket" };
        let exemplars = format!(
            "/api/v1/query_exemplars?query=traefik_router_request_duration_seconds{metric}&start=0&end=9999999999"
        );
        eventually("there is an exemplar", || query(prometheus, &exemplars).to_string().contains(TRACE));
        assert_eq!(number("up"), Some(1.0));
    }
}

#[test]
#[ignore = "needs promtool"]
fn promtool_finds_nothing_wrong() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(FLAGS, &Gateway::one_service(&backend.url()));
    get(gateway.web(), "h", "/");
    eventually("the request is counted", || {
        get(gateway.address("traefik"), "h", "/metrics").text().contains("traefik_router_requests_total{")
    });
    let text = get(gateway.address("traefik"), "h", "/metrics").text();
    let mut tool = Command::new(program("promtool"));
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().unwrap();
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
