//! The middleware against a stand-in of CrowdSec.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tidegate_core::building::ClientTls;
use tidegate_core::{
    Body, BoxFuture, HttpClient, ManualClock, Middleware, Reason, Request, Response, UpstreamError, Verdict,
};

use super::Crowdsec;
use crate::testing::{self, Service, World, block_on};

/// Answers by the URL without its query; a missing one is unreachable.
#[derive(Default)]
struct Stand {
    answers: Mutex<HashMap<String, (u16, String)>>,
    seen: Mutex<Vec<Asked>>,
}

#[derive(Clone, Debug)]
struct Asked {
    method: String,
    url: String,
    headers: http::HeaderMap,
    body: String,
}

impl Stand {
    fn set(&self, url: &str, status: u16, body: &str) {
        self.answers.lock().unwrap().insert(url.to_owned(), (status, body.to_owned()));
    }

    fn remove(&self, url: &str) {
        self.answers.lock().unwrap().remove(url);
    }

    fn urls(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|asked| asked.url.clone()).collect()
    }

    fn last(&self) -> Asked {
        self.seen.lock().unwrap().last().cloned().unwrap()
    }
}

impl HttpClient for Stand {
    fn send(
        &self,
        request: Request,
        _: &ClientTls,
        _: Duration,
    ) -> BoxFuture<'_, Result<Response, UpstreamError>> {
        Box::pin(async move {
            let url = request.head.uri.to_string();
            let body = request.body.collect(1 << 20).await.unwrap().bytes;
            self.seen.lock().unwrap().push(Asked {
                method: request.head.method.to_string(),
                url: url.clone(),
                headers: request.head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            });
            let answer = self.answers.lock().unwrap().get(url.split('?').next().unwrap()).cloned();
            let Some((status, body)) = answer else { return Err(UpstreamError::NoServer) };
            let mut response = Response::new(Body::full(body));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(response)
        })
    }
}

const LAPI: &str = "http://crowdsec:8080/v1/decisions";
const APPSEC: &str = "http://crowdsec:7422/";
const VERIFY: &str = "https://api.hcaptcha.com/siteverify";

struct Scene {
    stand: Arc<Stand>,
    clock: Arc<ManualClock>,
    middleware: Arc<dyn Middleware>,
}

fn options() -> Crowdsec {
    Crowdsec { crowdsec_lapi_key: "the-key".into(), ..Crowdsec::default() }
}

fn world() -> (World, Arc<Stand>, Arc<ManualClock>) {
    let (mut world, clock) = World::stopped();
    let stand = Arc::new(Stand::default());
    world.client = Some(stand.clone());
    (world, stand, clock)
}

fn scene(options: Crowdsec) -> Scene {
    let (mut world, stand, clock) = world();
    world.files.insert(
        "/ban.html".into(),
        b"<b>{{ .RemediationReason }} {{ .ClientIP }}{{ if .TraceID }} {{ .TraceID }}{{ end }}</b>".to_vec(),
    );
    world.files.insert("/key".into(), b" of-file\n".to_vec());
    Scene { stand, clock, middleware: testing::build_in(&world, options).unwrap() }
}

fn decision(kind: &str, value: &str, duration: &str) -> String {
    let scope = if value.contains('/') { "Range" } else { "Ip" };
    json!([{"id": 1, "origin": "cscli", "type": kind, "scope": scope, "value": value, "duration": duration,
        "scenario": "manual"}])
    .to_string()
}

impl Scene {
    fn send(&self, request: Request) -> Response {
        let service = Service(|request: Request| {
            let body = block_in(request.body);
            Response::new(Body::full(body))
        });
        block_on(testing::run(&self.middleware, request, &service))
    }

    fn get(&self) -> Response {
        self.send(testing::get("http://h.test/a?b=c"))
    }

    fn status(&self) -> u16 {
        self.get().status().as_u16()
    }
}

/// Returns the content of a body that is complete.
fn block_in(body: Body) -> String {
    let bytes = std::thread::spawn(move || block_on(body.collect(1 << 20)).unwrap().bytes).join().unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn banned_addresses_are_refused_and_answers_are_cached() {
    let scene = scene(options());
    scene.stand.set(LAPI, 200, "null");
    assert_eq!([scene.status(), scene.status()], [200, 200]);
    assert_eq!(scene.stand.urls(), [format!("{LAPI}?ip=127.0.0.1")]);
    assert_eq!(scene.stand.last().headers["x-api-key"], "the-key");
    scene.stand.set(LAPI, 200, &decision("ban", "127.0.0.0/8", "30s"));
    scene.clock.advance(Duration::from_secs(60));
    let response = scene.get();
    assert_eq!((response.status().as_u16(), response.reason), (403, Some(Reason::AddressBanned)));
    scene.stand.set(LAPI, 200, "[]");
    assert_eq!(scene.status(), 403, "cached");
    scene.clock.advance(Duration::from_secs(30));
    assert_eq!(scene.status(), 200, "decisions are cached for at most their duration");
    assert_eq!(scene.stand.urls().len(), 3);
}

#[test]
fn mode_none_asks_each_time() {
    let scene = scene(Crowdsec { crowdsec_mode: "none".into(), ..options() });
    scene.stand.set(LAPI, 200, "null");
    assert_eq!([scene.status(), scene.status()], [200, 200]);
    assert_eq!(scene.stand.urls().len(), 2);
}

#[test]
fn without_an_answer_requests_are_refused_unless_failures_are_tolerated() {
    for (failures, expected) in [(0, 503), (5, 503), (-1, 200)] {
        let scene = scene(Crowdsec { update_max_failure: failures, ..options() });
        assert_eq!(scene.status(), expected, "{failures}");
        assert_eq!(scene.status(), expected);
        assert_eq!(scene.stand.urls().len(), 1, "not asked again at once");
        scene.clock.advance(Duration::from_secs(1));
        scene.stand.set(LAPI, 200, &decision("ban", "127.0.0.1", "4h"));
        assert_eq!(scene.status(), 403);
        for (status, body) in [(403, ""), (200, "{}"), (200, "nonsense")] {
            scene.clock.advance(Duration::from_secs(60));
            scene.stand.set(LAPI, status, body);
            let response = scene.get();
            assert_eq!(response.status().as_u16(), expected, "{status} {body}");
            assert!(expected == 200 || response.reason == Some(Reason::DecisionUnavailable));
        }
    }
}

#[test]
fn trusted_addresses_are_never_asked_about() {
    let scene = scene(Crowdsec { client_trusted_ips: vec!["127.0.0.0/8".into()], ..options() });
    assert_eq!(scene.status(), 200);
    assert!(scene.stand.urls().is_empty());
}

#[test]
fn the_page_and_the_headers_of_a_ban_are_as_configured() {
    let scene = scene(Crowdsec {
        remediation_status_code: 418,
        remediation_headers_custom_name: "X-Remediation".into(),
        trace_headers_custom_name: "X-Trace".into(),
        ban_file_path: "/ban.html".into(),
        crowdsec_lapi_key_file: "/key".into(),
        ..options()
    });
    scene.stand.set(LAPI, 200, &decision("ban", "127.0.0.1", "4h"));
    let request = http::Request::get("http://h.test/").header("x-trace", "<1>");
    let response = scene.send(testing::request(request));
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers()["x-remediation"], "ban");
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(testing::text(response), "<b>LAPI 127.0.0.1 &lt;1&gt;</b>");
    assert_eq!(scene.stand.last().headers["x-api-key"], "of-file");
    let head = scene.send(testing::request(http::Request::head("http://h.test/")));
    assert_eq!((head.status().as_u16(), &head.headers()["x-remediation"]), (418, &"ban".parse().unwrap()));
}

fn with_captcha() -> Crowdsec {
    Crowdsec {
        captcha_provider: "hcaptcha".into(),
        captcha_site_key: "site\"key".into(),
        captcha_secret_key: "captcha-secret".into(),
        captcha_grace_period_seconds: 100,
        remediation_headers_custom_name: "x-remediation".into(),
        ..options()
    }
}

fn solution(target: &str, form: &'static str) -> Request {
    let request = http::Request::post(format!("http://h.test{target}"))
        .header("content-type", "application/x-www-form-urlencoded");
    testing::with_body(request, form)
}

#[test]
fn a_solved_captcha_lets_the_client_pass_for_a_while() {
    let scene = scene(with_captcha());
    scene.stand.set(LAPI, 200, &decision("captcha", "127.0.0.1", "4h"));
    let page = scene.get();
    assert_eq!((page.status().as_u16(), page.reason), (200, Some(Reason::Captcha)));
    assert_eq!(page.headers()["x-remediation"], "captcha");
    let text = testing::text(page);
    assert!(text.contains("class=\"h-captcha\" data-sitekey=\"site&#34;key\""), "{text}");
    assert!(text.contains("https://hcaptcha.com/1/api.js") && !text.contains("captcha-secret"));

    scene.stand.set(VERIFY, 200, r#"{"success":false}"#);
    let wrong = scene.send(solution("/a", "h-captcha-response=bad"));
    assert_eq!((wrong.status().as_u16(), wrong.headers().get("set-cookie")), (200, None));
    scene.stand.remove(VERIFY);
    assert_eq!(scene.send(solution("/a", "h-captcha-response=x")).status(), 503);

    scene.stand.set(VERIFY, 200, r#"{"success":true}"#);
    let solved = scene.send(solution("//evil.test/a?b", "x=1&h-captcha-response=g%20ood"));
    assert_eq!(
        (solved.status().as_u16(), &solved.headers()["x-remediation"]),
        (302, &"solved-captcha".parse().unwrap())
    );
    assert_eq!(solved.headers()["location"], "/.//evil.test/a?b", "no open redirect");
    assert_eq!(scene.stand.last().body, "secret=captcha-secret&response=g+ood");
    let cookie = solved.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("; Path=/; Max-Age=100; HttpOnly; SameSite=Lax"), "{cookie}");
    let value = cookie.split(';').next().unwrap();

    let with = |cookie: &str| {
        let request = http::Request::get("http://h.test/").header("cookie", format!("a=b; {cookie}"));
        scene.send(testing::request(request)).reason
    };
    assert_eq!(with(value), None, "the service answers");
    let (end, tag) = value.split_once('=').unwrap().1.split_once('.').unwrap();
    let later: u64 = end.parse::<u64>().unwrap() + 1;
    assert_eq!(with(&format!("tidegate-captcha={later}.{tag}")), Some(Reason::Captcha), "forged");
    assert_eq!(with("tidegate-captcha=1"), Some(Reason::Captcha));
    scene.clock.advance(Duration::from_secs(100));
    assert_eq!(with(value), Some(Reason::Captcha), "the grace period is over");
}

#[test]
fn the_grace_is_for_one_address_and_a_ban_outweighs_it() {
    let scene = scene(with_captcha());
    scene.stand.set(LAPI, 200, &decision("captcha", "127.0.0.1", "4h"));
    scene.stand.set(VERIFY, 200, r#"{"success":true}"#);
    let solved = scene.send(solution("/", "h-captcha-response=good"));
    let cookie = solved.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let from = |address: &str| {
        let request =
            http::Request::get("http://h.test/").header("cookie", &cookie).header("x-forwarded-for", address);
        scene.send(testing::request(request)).reason
    };
    assert_eq!(from("127.0.0.1"), None);
    scene.stand.set(LAPI, 200, &decision("captcha", "192.0.2.1", "4h"));
    assert_eq!(from("192.0.2.1"), Some(Reason::Captcha));
    let both = format!(
        "[{},{}]",
        decision("captcha", "192.0.2.2", "4h").trim_matches(['[', ']']),
        decision("ban", "192.0.2.2", "1h").trim_matches(['[', ']'])
    );
    scene.stand.set(LAPI, 200, &both);
    assert_eq!(from("192.0.2.2"), Some(Reason::AddressBanned));
}

#[test]
fn without_a_provider_a_captcha_is_a_ban() {
    let scene = scene(options());
    scene.stand.set(LAPI, 200, &decision("captcha", "127.0.0.1", "4h"));
    assert_eq!(scene.get().reason, Some(Reason::AddressBanned));
}

fn with_appsec() -> Crowdsec {
    Crowdsec { crowdsec_mode: "appsec".into(), crowdsec_appsec_body_limit: 5, ..options() }
}

fn post(body: &'static str) -> Request {
    let request = http::Request::post("http://h.test/a?b=%3Cscript%3E")
        .header("user-agent", "curl")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("cookie", "a=b")
        .header("x-crowdsec-appsec-ip", "192.0.2.1")
        .header("x-crowdsec-appsec-transaction-id", "1")
        .header("content-length", body.len());
    testing::with_body(request, body)
}

#[test]
fn appsec_sees_the_request_with_a_limited_body() {
    let scene = scene(with_appsec());
    scene.stand.set(APPSEC, 200, r#"{"action":"allow"}"#);
    let response = scene.send(post("0123456789"));
    assert_eq!((response.status().as_u16(), testing::text(response)), (200, "0123456789".into()));
    let asked = scene.stand.last();
    assert_eq!((asked.method.as_str(), asked.body.as_str()), ("POST", "01234"));
    for (name, expected) in [
        ("host", "crowdsec:7422"),
        ("x-crowdsec-appsec-api-key", "the-key"),
        ("x-crowdsec-appsec-ip", "127.0.0.1"),
        ("x-crowdsec-appsec-verb", "POST"),
        ("x-crowdsec-appsec-host", "h.test"),
        ("x-crowdsec-appsec-uri", "/a?b=%3Cscript%3E"),
        ("x-crowdsec-appsec-user-agent", "curl"),
        ("x-crowdsec-appsec-http-version", "11"),
        ("cookie", "a=b"),
        ("content-length", "5"),
    ] {
        assert_eq!(asked.headers.get_all(name).iter().collect::<Vec<_>>(), [expected], "{name}");
    }
    for absent in ["x-hop", "connection", "x-crowdsec-appsec-transaction-id"] {
        assert!(!asked.headers.contains_key(absent), "{absent}");
    }
    scene.get();
    assert_eq!(scene.stand.last().method, "GET");
    assert_eq!(scene.stand.urls(), [APPSEC, APPSEC], "no question to the local API");
}

#[test]
fn appsec_refuses_and_its_failures_are_treated_as_configured() {
    let (closed, open) = (
        with_appsec(),
        Crowdsec {
            crowdsec_appsec_failure_block: false,
            crowdsec_appsec_unreachable_block: false,
            ..with_appsec()
        },
    );
    for (options, cases) in [
        (closed, [(403, 403), (500, 503), (502, 503), (401, 503), (0, 503)]),
        (open, [(403, 403), (500, 200), (502, 200), (401, 503), (0, 200)]),
    ] {
        let scene = scene(options);
        for (status, expected) in cases {
            scene.stand.remove(APPSEC);
            if status != 0 {
                scene.stand.set(APPSEC, status, r#"{"action":"ban","http_status":403}"#);
            }
            let response = scene.send(post("x"));
            assert_eq!(response.status().as_u16(), expected, "{status}");
            assert_eq!(response.reason == Some(Reason::AppsecBlocked), status == 403);
            assert_eq!(response.reason == Some(Reason::DecisionUnavailable), expected == 503);
        }
    }
}

#[test]
fn appsec_may_ask_for_a_captcha() {
    let scene = scene(Crowdsec { crowdsec_mode: "appsec".into(), ..with_captcha() });
    scene.stand.set(APPSEC, 403, r#"{"action":"captcha","http_status":403}"#);
    scene.stand.set(VERIFY, 200, r#"{"success":true}"#);
    assert_eq!(scene.get().reason, Some(Reason::Captcha));
    let solved = scene.send(solution("/", "h-captcha-response=good"));
    let cookie = solved.headers()["set-cookie"].clone();
    let request = http::Request::get("http://h.test/").header("cookie", cookie.to_str().unwrap());
    assert_eq!(scene.send(testing::request(request)).reason, None);
}

#[test]
fn a_stream_over_http2_is_not_inspected() {
    let request = || {
        let body = crate::replay::tests::pieces(&["ab", "cd"]);
        let mut request =
            testing::request(http::Request::post("http://h.test/").version(http::Version::HTTP_2));
        request.body = body;
        request
    };
    let blocking = scene(with_appsec());
    blocking.stand.set(APPSEC, 200, "");
    assert_eq!(blocking.send(request()).reason, Some(Reason::AppsecBlocked));
    let passing = scene(Crowdsec { crowdsec_appsec_unreadable_body_block: false, ..with_appsec() });
    passing.stand.set(APPSEC, 200, "");
    assert_eq!(testing::text(passing.send(request())), "abcd");
    assert_eq!(passing.stand.last().body, "");
}

#[test]
fn a_prediction_asks_nobody_and_says_who_would_be_asked() {
    let scene = scene(options());
    let predict = || {
        let prediction = scene.middleware.predict(testing::get("http://h.test/"));
        let verdict = match prediction.verdict {
            Verdict::Passes(_) => "passes".to_owned(),
            Verdict::Responds(response) => response.status().to_string(),
            Verdict::Depends(_) => "depends".to_owned(),
        };
        (verdict, prediction.notes.join("; "))
    };
    let expect = |verdict: &str, note: &str| assert_eq!(predict(), (verdict.to_owned(), note.to_owned()));
    expect("depends", "asks http://crowdsec:8080/ about `127.0.0.1`");
    assert!(scene.stand.urls().is_empty());
    scene.stand.set(LAPI, 200, "null");
    scene.get();
    expect("passes", "no decision about the address `127.0.0.1`");
    scene.clock.advance(Duration::from_secs(60));
    scene.stand.set(LAPI, 200, &decision("ban", "127.0.0.1", "4h"));
    scene.get();
    expect("403 Forbidden", "the address `127.0.0.1` is banned");
}

#[test]
fn a_disabled_one_does_nothing() {
    assert_eq!(options().as_plugin().enabled, Some(false), "the plug-in's default");
    let scene = scene(Crowdsec { crowdsec_mode: "nonsense".into(), ..options().as_plugin() });
    assert_eq!(scene.status(), 200);
    assert!(scene.stand.urls().is_empty());
}

#[test]
fn mistakes_name_their_options() {
    let (world, ..) = world();
    let error = |options| testing::build_in(&world, options).err().unwrap().to_string();
    let base = options;
    for (options, expected) in [
        (Crowdsec::default(), "no credentials: expected crowdsecLapiKey"),
        (Crowdsec { crowdsec_mode: "alone".into(), ..base() }, "crowdsecMode: `alone` is not supported"),
        (Crowdsec { crowdsec_mode: "x".into(), ..base() }, "crowdsecMode: `x` is unknown"),
        (Crowdsec { crowdsec_lapi_host: "a b".into(), ..base() }, "crowdsecLapiHost: invalid URL"),
        (Crowdsec { crowdsec_lapi_scheme: "ftp".into(), ..base() }, "crowdsecLapiHost: invalid URL `ftp://"),
        (
            Crowdsec { crowdsec_lapi_key_file: "/none".into(), ..base() },
            "crowdsecLapiKeyFile: /none: no such file",
        ),
        (Crowdsec { client_trusted_ips: vec!["x".into()], ..base() }, "clientTrustedIps: invalid address"),
        (Crowdsec { update_max_failure: -2, ..base() }, "updateMaxFailure: -2: expected -1 or more"),
        (Crowdsec { update_interval_seconds: 0, ..base() }, "updateIntervalSeconds: 0: expected 1 to"),
        (Crowdsec { remediation_status_code: 99, ..base() }, "remediationStatusCode: 99"),
        (Crowdsec { captcha_provider: "x".into(), ..base() }, "captchaProvider: `x` is unknown"),
        (
            Crowdsec { captcha_provider: "turnstile".into(), ..base() },
            "captchaSiteKey and captchaSecretKey are required",
        ),
        (Crowdsec { ban_file_path: "/none".into(), ..base() }, "banFilePath: /none: no such file"),
        (
            Crowdsec { crowdsec_lapi_tls_certificate_bouncer: "-----BEGIN".into(), ..base() },
            "crowdsecLapiScheme: crowdsecLapiTlsCertificateBouncer requires `https`",
        ),
    ] {
        let error = error(options);
        assert!(error.contains(expected), "{error}");
    }
    assert!(!format!("{:?}", base()).contains("the-key"));
    assert!(!serde_json::to_string(&with_captcha()).unwrap().contains("captcha-secret"));
}

mod streams {
    use std::sync::Arc;

    use tidegate_core::Clock;

    use super::super::lapi::Lapi;
    use super::super::stream::{Listed, Stream};
    use super::*;

    const STREAM: &str = "http://crowdsec:8080/v1/decisions/stream";

    fn lapi(stand: &Arc<Stand>, key: &str) -> Lapi {
        Lapi {
            client: stand.clone(),
            tls: ClientTls::default(),
            timeout: Duration::from_secs(10),
            base: "http://crowdsec:8080/".into(),
            key: Some(key.parse().unwrap()),
        }
    }

    #[test]
    fn changes_are_applied_and_after_a_failure_everything_is_asked_for() {
        let (_, stand, manual) = world();
        let (lapi, clock) = (lapi(&stand, "changes"), Clock::Manual(manual.clone()));
        let stream = Stream::of(&lapi);
        let find = |address: &str| stream.find(address.parse().unwrap(), &clock);
        let banned = Some(super::super::decisions::Remediation::Ban);
        assert_eq!(find("192.0.2.1"), Listed::Starting);
        block_on(stream.update(&lapi, &clock));
        assert_eq!(find("192.0.2.1"), Listed::Failing(1, None));
        let both = json!({
            "new": [
                {"type": "ban", "scope": "Ip", "value": "192.0.2.1", "duration": "1h"},
                {"type": "ban", "scope": "Range", "value": "2001:db8::/32", "duration": "1h"},
            ],
            "deleted": null,
        });
        stand.set(STREAM, 200, &both.to_string());
        block_on(stream.update(&lapi, &clock));
        assert_eq!(find("192.0.2.1"), Listed::Known(banned));
        assert_eq!(find("2001:db8::9"), Listed::Known(banned));
        let less = json!({
            "new": null,
            "deleted": [{"type": "ban", "scope": "Ip", "value": "192.0.2.1", "duration": "-5s"}],
        });
        stand.set(STREAM, 200, &less.to_string());
        block_on(stream.update(&lapi, &clock));
        assert_eq!(find("192.0.2.1"), Listed::Known(None));
        assert_eq!(find("2001:db8::9"), Listed::Known(banned));
        stand.set(STREAM, 503, "");
        block_on(stream.update(&lapi, &clock));
        assert_eq!(find("2001:db8::9"), Listed::Failing(1, banned), "known decisions stay");
        stand.set(STREAM, 200, r#"{"new": [], "deleted": []}"#);
        block_on(stream.update(&lapi, &clock));
        assert_eq!(find("2001:db8::9"), Listed::Known(None), "everything was asked for");
        let startups: Vec<bool> = stand.urls().iter().map(|url| url.ends_with("startup=true")).collect();
        assert_eq!(startups, [true, true, false, false, true]);
    }

    #[test]
    fn the_same_api_and_key_have_one_list() {
        let (_, stand, _) = world();
        let one = Stream::of(&lapi(&stand, "shared"));
        assert!(Arc::ptr_eq(&one, &Stream::of(&lapi(&stand, "shared"))));
        assert!(!Arc::ptr_eq(&one, &Stream::of(&lapi(&stand, "other"))));
    }
}
