//! `crowdsec` against stand-ins of CrowdSec's local API and AppSec, under its own name and as the plug-in.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::backend::unused_address;
use crate::support::{Answer, Backend, Gateway, eventually, get, get_with, raw};

const KEY: &str = "bouncer-key-of-tests";
const MODULE: &str = "github.com/maxlerebourg/crowdsec-bouncer-traefik-plugin";

/// The decisions of a stand-in: kind and value. A stream is answered with what has changed since the last answer.
#[derive(Default)]
struct Decisions {
    now: BTreeMap<String, (String, String)>,
    told: BTreeMap<String, (String, String)>,
    asked: Vec<String>,
}

#[derive(Clone, Default)]
struct CrowdSec(Arc<Mutex<Decisions>>);

fn decision((value, (kind, duration)): (&String, &(String, String))) -> Value {
    let scope = if value.contains('/') { "Range" } else { "Ip" };
    json!({"id": 1, "origin": "cscli", "type": kind, "scope": scope, "value": value, "duration": duration, "scenario": "t"})
}

impl CrowdSec {
    fn add(&self, kind: &str, value: &str, duration: &str) {
        self.0.lock().unwrap().now.insert(value.to_owned(), (kind.to_owned(), duration.to_owned()));
    }

    fn remove(&self, value: &str) {
        self.0.lock().unwrap().now.remove(value);
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    /// Answers as documented: the stream, and the decisions about one address.
    fn answer(&self, target: &str) -> String {
        let mut decisions = self.0.lock().unwrap();
        decisions.asked.push(target.to_owned());
        if let Some(address) = target.strip_prefix("/v1/decisions?ip=") {
            let found: Vec<Value> =
                decisions.now.iter().filter(|(value, _)| *value == address).map(decision).collect();
            return if found.is_empty() { "null".into() } else { json!(found).to_string() };
        }
        if target.ends_with("startup=true") {
            decisions.told.clear();
        }
        let new: Vec<Value> = decisions
            .now
            .iter()
            .filter(|(value, _)| !decisions.told.contains_key(*value))
            .map(decision)
            .collect();
        let deleted: Vec<Value> = decisions
            .told
            .iter()
            .filter(|(value, _)| !decisions.now.contains_key(*value))
            .map(decision)
            .collect();
        decisions.told = decisions.now.clone();
        json!({"new": new, "deleted": deleted}).to_string()
    }

    fn on(&self, listener: TcpListener) -> Backend {
        let crowdsec = self.clone();
        Backend::on(listener, move |seen, stream| {
            let (status, body) = match seen.header("x-api-key") {
                Some(KEY) => ("200 OK", crowdsec.answer(seen.target())),
                _ => ("403 Forbidden", r#"{"message":"access forbidden"}"#.to_owned()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).is_ok()
        })
    }

    fn serve(&self) -> Backend {
        self.on(TcpListener::bind("127.0.0.1:0").unwrap())
    }
}

/// Returns routes with this middleware in front of everything.
fn routes(service: &Backend, middleware: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [guard]}}
  middlewares:
    guard: {middleware}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        service.url()
    )
}

fn options(lapi: impl std::fmt::Display, more: &str) -> String {
    format!("{{crowdsec: {{crowdsecLapiHost: '{lapi}', crowdsecLapiKey: {KEY}, {more}}}}}")
}

/// Believes what this machine says about clients.
const PROXY: &str = "--entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.1";

fn from(gateway: &Gateway, client: &str) -> u16 {
    get_with(gateway.web(), "h", "/", &format!("x-forwarded-for: {client}\r\n")).status
}

#[test]
fn a_stream_bans_addresses_and_ranges_until_they_are_deleted_or_end() {
    let (service, crowdsec) = (Backend::echo("a"), CrowdSec::default());
    crowdsec.add("ban", "192.0.2.1", "4h");
    crowdsec.add("ban", "198.51.100.0/24", "4h");
    crowdsec.add("ban", "2001:db8::/32", "4h");
    crowdsec.add("captcha", "192.0.2.3", "4h");
    crowdsec.add("ban", "192.0.2.4", "3s");
    let lapi = crowdsec.serve();
    let more = "crowdsecMode: stream, updateIntervalSeconds: 1, remediationHeadersCustomName: X-Crowdsec";
    let gateway = Gateway::with(&[PROXY], &routes(&service, &options(lapi.address, more)));
    // The first request waits for the first list.
    for (client, expected) in [
        ("192.0.2.1", 403),
        ("192.0.2.2", 200),
        ("192.0.2.3", 403),
        ("198.51.100.200", 403),
        ("198.51.101.200", 200),
        ("2001:db8::1", 403),
        ("2001:db9::1", 200),
    ] {
        assert_eq!(from(&gateway, client), expected, "{client}");
    }
    let banned = get_with(gateway.web(), "h", "/", "x-forwarded-for: 192.0.2.1\r\n");
    assert_eq!(banned.header("x-crowdsec"), Some("ban"));
    crowdsec.remove("192.0.2.1");
    crowdsec.add("ban", "192.0.2.2", "1h");
    eventually("the change is known", || {
        from(&gateway, "192.0.2.1") == 200 && from(&gateway, "192.0.2.2") == 403
    });
    eventually("a decision ends", || from(&gateway, "192.0.2.4") == 200);
    assert_eq!(from(&gateway, "198.51.100.1"), 403, "what is not deleted stays");
    let asked = crowdsec.asked();
    let startups = asked.iter().filter(|target| target.ends_with("stream?startup=true")).count();
    assert_eq!((startups, asked[0].as_str()), (1, "/v1/decisions/stream?startup=true"));
    assert!(
        !gateway.api("/api/http/middlewares").contains(KEY) && !gateway.api("/api/rawdata").contains(KEY)
    );
}

#[test]
fn a_local_api_that_is_down_at_the_start_closes_or_opens_as_configured() {
    let (service, crowdsec) = (Backend::echo("a"), CrowdSec::default());
    crowdsec.add("ban", "192.0.2.1", "4h");
    let (one, other) = (unused_address(), unused_address());
    let stream = "crowdsecMode: stream, updateIntervalSeconds: 1";
    let closed = Gateway::with(&[PROXY], &routes(&service, &options(one, stream)));
    let open = format!("{stream}, updateMaxFailure: -1");
    let open = Gateway::with(&[PROXY], &routes(&service, &options(other, &open)));
    assert_eq!((from(&closed, "192.0.2.2"), from(&open, "192.0.2.1")), (503, 200));
    let lapis = [one, other].map(|address| crowdsec.on(TcpListener::bind(address).unwrap()));
    for gateway in [&closed, &open] {
        eventually("the list is known", || {
            from(gateway, "192.0.2.2") == 200 && from(gateway, "192.0.2.1") == 403
        });
    }
    drop(lapis);
}

#[test]
fn an_outage_keeps_bans_and_closes_unless_it_is_tolerated() {
    let service = Backend::echo("a");
    let is_down = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let down = is_down.clone();
    let lapi = Backend::with(move |_, stream| {
        let body =
            r#"{"new":[{"type":"ban","scope":"Ip","value":"192.0.2.1","duration":"4h"}],"deleted":[]}"#;
        let answer = match down.load(std::sync::atomic::Ordering::SeqCst) {
            true => "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n".to_owned(),
            false => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        };
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let stream = "crowdsecMode: stream, updateIntervalSeconds: 1";
    let closed = Gateway::with(&[PROXY], &routes(&service, &options(lapi.address, stream)));
    let open = format!("{stream}, updateMaxFailure: -1");
    let open = Gateway::with(&[PROXY], &routes(&service, &options(lapi.address, &open)));
    assert_eq!((from(&closed, "192.0.2.2"), from(&open, "192.0.2.2")), (200, 200));
    is_down.store(true, std::sync::atomic::Ordering::SeqCst);
    eventually("the outage closes", || from(&closed, "192.0.2.2") == 503);
    assert_eq!(
        (from(&closed, "192.0.2.1"), from(&open, "192.0.2.1"), from(&open, "192.0.2.2")),
        (403, 403, 200)
    );
    is_down.store(false, std::sync::atomic::Ordering::SeqCst);
    eventually("it is over", || from(&closed, "192.0.2.2") == 200);
}

#[test]
fn live_mode_asks_once_per_address_and_a_spoofed_header_is_not_believed() {
    let (service, crowdsec) = (Backend::echo("a"), CrowdSec::default());
    crowdsec.add("ban", "127.0.0.1", "4h");
    let lapi = crowdsec.serve();
    let middleware = options(lapi.address, "");
    let trusting = options(lapi.address, "forwardedHeadersTrustedIPs: [10.0.0.0/8]");
    let custom = options(lapi.address, "forwardedHeadersCustomName: CF-Connecting-IP");
    let insecure = "--entryPoints.web.forwardedHeaders.insecure=true";
    for (flags, middleware) in [(&[][..], middleware), (&[insecure][..], trusting), (&[][..], custom)] {
        let gateway = Gateway::with(flags, &routes(&service, &middleware));
        let before = crowdsec.asked().len();
        for _ in 0..3 {
            let more =
                "x-forwarded-for: 192.0.2.9\r\nx-real-ip: 192.0.2.9\r\ncf-connecting-ip: 192.0.2.9\r\n";
            assert_eq!(get_with(gateway.web(), "h", "/", more).status, 403, "{middleware}");
        }
        assert_eq!(crowdsec.asked()[before..], ["/v1/decisions?ip=127.0.0.1"]);
    }
    let trusted = options(lapi.address, "clientTrustedIPs: [127.0.0.0/8]");
    assert_eq!(get(Gateway::serve(&routes(&service, &trusted)).web(), "h", "/").status, 200);
    let wrong = options(lapi.address, "").replace(KEY, "another");
    assert_eq!(get(Gateway::serve(&routes(&service, &wrong)).web(), "h", "/").status, 503);
}

#[test]
fn appsec_inspects_the_beginning_of_a_body_and_the_service_gets_all_of_it() {
    let service = Backend::echo("a");
    let appsec = Backend::with(|seen, stream| {
        let attack = seen.body.windows(6).any(|part| part == b"attack") || seen.head.contains("/.env");
        let (status, body) = match attack {
            true => ("403 Forbidden", r#"{"action":"ban","http_status":403}"#),
            false => ("200 OK", r#"{"action":"allow"}"#),
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let middleware = format!(
        "{{crowdsec: {{crowdsecMode: appsec, crowdsecAppsecHost: '{}', crowdsecAppsecKey: {KEY}, crowdsecAppsecBodyLimit: 10000}}}}",
        appsec.address
    );
    let gateway = Gateway::serve(&routes(&service, &middleware));
    let post = |body: &str| -> Answer {
        let head = format!(
            "POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        raw(gateway.web(), format!("{head}{body}")).unwrap()
    };
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    assert_eq!(get(gateway.web(), "h", "/.env").status, 403);
    assert_eq!(post("an attack").status, 403);
    let long = format!("{}{}", "x".repeat(100_000), "attack");
    assert_eq!(post(&long).status, 200, "beyond the limit");
    assert_eq!(appsec.last().body.len(), 10_000);
    assert_eq!(service.last().body, long.as_bytes());
    assert_eq!(appsec.last().header("x-crowdsec-appsec-api-key"), Some(KEY));
    assert_eq!(appsec.last().header("x-crowdsec-appsec-uri"), Some("/a"));
    assert_eq!(service.last().header("x-crowdsec-appsec-api-key"), None);
    let gone = middleware.replace(&appsec.address.to_string(), &unused_address().to_string());
    assert_eq!(get(Gateway::serve(&routes(&service, &gone)).web(), "h", "/").status, 503);
    let open = gone.replace("crowdsecMode", "crowdsecAppsecUnreachableBlock: false, crowdsecMode");
    assert_eq!(get(Gateway::serve(&routes(&service, &open)).web(), "h", "/").status, 200);
}

#[test]
fn the_plug_in_runs_unchanged_and_another_one_still_fails_closed() {
    let (service, crowdsec) = (Backend::echo("a"), CrowdSec::default());
    crowdsec.add("ban", "192.0.2.1", "4h");
    let lapi = crowdsec.serve();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, format!("{KEY}\n")).unwrap();
    let routes = format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [crowdsec]}}
    idle: {{rule: 'PathPrefix(`/idle`)', service: a, middlewares: [idle]}}
    foreign: {{rule: 'PathPrefix(`/foreign`)', service: a, middlewares: [foreign]}}
  middlewares:
    crowdsec:
      plugin:
        bouncer:
          enabled: true
          logLevel: DEBUG
          crowdsecMode: live
          crowdsecLapiKeyFile: {}
          crowdsecLapiHost: '{}'
          crowdsecLapiScheme: http
          crowdsecLapiTLSInsecureVerify: false
          redisCacheEnabled: false
          updateIntervalSeconds: '60'
          forwardedHeadersTrustedIPs: [127.0.0.0/8]
    idle: {{plugin: {{bouncer: {{crowdsecLapiKey: none}}}}}}
    foreign: {{plugin: {{other: {{key: value}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        key.display(),
        lapi.address,
        service.url()
    );
    let bouncer = format!("--experimental.plugins.bouncer.moduleName={MODULE}");
    let version = "--experimental.plugins.bouncer.version=v1.4.5";
    let gateway = Gateway::with(&[PROXY, &bouncer, version], &routes);
    assert_eq!((from(&gateway, "192.0.2.1"), from(&gateway, "192.0.2.2")), (403, 200));
    assert_eq!(get(gateway.web(), "h", "/idle").status, 200, "it is not enabled");
    assert_eq!(get(gateway.web(), "h", "/foreign").status, 503);
    let problems = gateway.api("/api/problems");
    assert!(!problems.contains("experimental"), "{problems}");
    assert!(problems.contains("the settings name no plug-in `other`"), "{problems}");
    // With another module beside it, the settings are reported, and this plug-in still runs.
    let other = "--experimental.plugins.other.moduleName=github.com/x/other";
    let gateway = Gateway::with(&[PROXY, &bouncer, version, other], &routes);
    assert_eq!((from(&gateway, "192.0.2.1"), get(gateway.web(), "h", "/foreign").status), (403, 503));
    assert!(gateway.api("/api/problems").contains("experimental is a Traefik option"));
}
