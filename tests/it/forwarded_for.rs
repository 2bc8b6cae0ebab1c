//! Everybody who reads the client's address from `X-Forwarded-For` takes it in the forms in which proxies write it.

use crate::support::{Backend, Gateway, eventually, get_with};

/// One client as several proxies write it: Azure adds the port, others brackets, a zone or what RFC 7239 has.
const V4: [&str; 5] = [
    "203.0.113.1",
    "203.0.113.1:5000",
    "203.0.113.1:5001",
    "[::ffff:203.0.113.1]:5002",
    "for=\"203.0.113.1:5003\";proto=https",
];
const V6: [&str; 5] = [
    "2001:db8::1",
    "[2001:DB8::1]",
    "[2001:db8:0::1]:5000",
    "2001:db8::1%eth0",
    "For=\"[2001:db8::1%25e]:1\"",
];

#[test]
fn limits_lists_and_the_access_log_recognise_all_forms_of_an_address() {
    let backend = Backend::echo("a");
    let log = tempfile::NamedTempFile::new().unwrap();
    let gateway = Gateway::with(
        &[
            "--entryPoints.web.forwardedHeaders.insecure=true",
            "--accessLog.format=json",
            &format!("--accessLog.filePath={}", log.path().display()),
        ],
        &format!(
            "http:
  routers:
    rate: {{rule: 'PathPrefix(`/rate`)', service: a, middlewares: [rate]}}
    past: {{rule: 'PathPrefix(`/past`)', service: a, middlewares: [past]}}
    header: {{rule: 'PathPrefix(`/header`)', service: a, middlewares: [header]}}
    list: {{rule: 'PathPrefix(`/list`)', service: a, middlewares: [list]}}
    any: {{rule: 'PathPrefix(`/any`)', service: a, middlewares: [any]}}
  middlewares:
    rate: {{rateLimit: {{average: 1, period: 1h, burst: 1, sourceCriterion: {{ipStrategy: {{depth: 1}}}}}}}}
    past: {{rateLimit: {{average: 1, period: 1h, burst: 1, sourceCriterion: {{ipStrategy: {{excludedIPs: [10.0.0.0/8]}}}}}}}}
    header: {{rateLimit: {{average: 1, period: 1h, burst: 1, sourceCriterion: {{requestHeaderName: X-Forwarded-For}}}}}}
    list: {{ipAllowList: {{sourceRange: [203.0.113.1, '2001:db8::/64'], ipStrategy: {{depth: 1}}}}}}
    none: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}
    any: {{anyOf: {{middlewares: [none, list]}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            backend.url()
        ),
    );
    let status = |path: &str, forwarded: &str| {
        get_with(gateway.web(), "h", path, &format!("X-Forwarded-For: {forwarded}\r\n")).status
    };
    for forms in [V4, V6] {
        for (number, form) in forms.iter().enumerate() {
            let expected = if number == 0 { 200 } else { 429 };
            assert_eq!(status("/rate", form), expected, "{form}");
            assert_eq!(
                status("/past", &format!("{form}, 10.0.0.1:80, [::ffff:10.0.0.2]")),
                expected,
                "{form}"
            );
            assert_eq!(status("/header", form), expected, "{form}");
            assert_eq!(status("/list", form), 200, "{form}");
            assert_eq!(status("/any", form), 200, "{form}");
        }
    }
    for stranger in ["203.0.113.2:5000", "203.0.113.1:x", "_203.0.113.1", "unknown", "[203.0.113.1]", ""] {
        assert_eq!(status("/list", stranger), 403, "{stranger}");
        assert_eq!(status("/any", stranger), 403, "{stranger}");
    }
    // A line that is not text does not make room for one that a client wrote.
    let lines = "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-For: \u{e9}, 198.51.100.9\r\n";
    assert_eq!(get_with(gateway.web(), "h", "/list", lines).status, 403);
    let hosts = || -> Vec<String> {
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["ClientHost"].as_str().unwrap().to_owned()).collect()
    };
    eventually("all lines are written", || hosts().len() == 2 * 5 * 5 + 6 * 2 + 1);
    assert!(hosts()[..25].iter().all(|host| host == "203.0.113.1"), "{:?}", hosts());
    assert!(hosts()[25..50].iter().all(|host| host == "2001:db8::1"), "{:?}", hosts());
    assert!(hosts().contains(&"unknown".to_owned()));
}
