//! Each reason for a response that is not from a server: provoked by a request, and found in the access log, the metrics,
//! the trace and the API.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use http::Request;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};
use tidegate_core::Reason;

use crate::recent_requests::why;
use crate::support::backend::unused_address;
use crate::support::frames::{Frames, Outcome};
use crate::support::http3::{Http3, runtime};
use crate::support::keys::Key;
use crate::support::otlp::{Collector, value};
use crate::support::pki::{Authority, Open, Owned, client};
use crate::support::time::wait_until;
use crate::support::tls::{ask_for, client_config};
use crate::support::tokens::{OWN, SECRET, signed_by};
use crate::support::{Backend, Client, Gateway, eventually, get, get_with, raw};

/// A user of basicAuth: ann, with the password test.
const USER: &str = "ann:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/";

/// A target that is too long for a server with a long path.
const LONG: &str = "/long/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// The servers that requests are sent to.
struct Servers {
    backend: Backend,
    /// Speaks no TLS.
    plain: SocketAddr,
    /// Accepts no connection, because its queue is full.
    full: TcpListener,
    _queue: Vec<TcpStream>,
    /// Ends the responses that are held back.
    _release: Sender<()>,
}

impl Servers {
    fn start() -> Self {
        let (release, held) = channel::<()>();
        let held = std::sync::Mutex::new(held);
        let backend = Backend::with(move |seen, stream| {
            let answer: &[u8] = match seen.target().split('?').next().unwrap_or("") {
                "/held" | "/late" | "/gone" => {
                    // Until the test is over.
                    let _ = held.lock().unwrap().recv();
                    b""
                }
                "/cached" => b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nhi",
                "/lost" => b"",
                "/malformed" => b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
                "/broken-body" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
                "/banned/v1/decisions" => {
                    b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n\
                    [{\"type\":\"ban\",\"value\":\"127.0.0.1\",\"duration\":\"4h\",\"id\":12}]"
                }
                "/puzzle/v1/decisions" => {
                    b"HTTP/1.1 200 OK\r\nContent-Length: 57\r\n\r\n\
                    [{\"type\":\"captcha\",\"value\":\"127.0.0.1\",\"duration\":\"14h\"}]"
                }
                "/no" | "/waf/" => b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
                "/v1/data/a/b" => b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"result\": 1} ",
                _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            };
            stream.write_all(answer).is_ok() && answer.ends_with(b"hi")
        });
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let plain_address = plain.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in plain.incoming().flatten() {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
        });
        let full = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = full.local_addr().unwrap();
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let queue = std::iter::from_fn(connect).collect();
        Self { backend, plain: plain_address, full, _queue: queue, _release: release }
    }

    fn full(&self) -> SocketAddr {
        self.full.local_addr().unwrap()
    }
}

fn routes(servers: &Servers) -> String {
    let (url, gone, full) = (servers.backend.url(), unused_address(), servers.full());
    let (tls, host) = (servers.plain, servers.backend.address);
    // With a target of any length, longer than what a URL can be.
    let long = "x".repeat(65_500);
    let secret = String::from_utf8_lossy(SECRET);
    let consumer = |(index, (_, options)): (usize, &(Reason, &str))| {
        KEYS.get(index).map(|key| key.consumer(&format!("c{index}"), options))
    };
    let of_plan = |name: &str, plan: &str, key: &Key| {
        format!("    {name}: {{plan: {plan}, credentials: {{apiKeys: [{{{key}}}]}}}}\n")
    };
    let planned = of_plan("small", "small", &PLANNED) + &of_plan("lost", "missing", &PLANLESS);
    let authority = AUTHORITY.certificate();
    let list = AUTHORITY.file("crl.pem");
    std::fs::write(&list, AUTHORITY.list()).unwrap();
    let list = list.display();
    let usage = USAGE.path().join("usage.log").display().to_string();
    let consumers: String = KEY_OPTIONS.iter().enumerate().filter_map(consumer).collect();
    format!(
        "http:
  routers:
    all: {{rule: 'PathRegexp(`^/(lost|malformed|gone|slow-client|a%2Fb)`)', service: a}}
    broken: {{rule: 'Path(`/router-broken`)', service: missing}}
    closed: {{rule: 'Path(`/maintenance`)', service: a, maintenance: true}}
    held: {{rule: 'Path(`/held`)', service: a, timeouts: {{response: 100ms}}}}
    late: {{rule: 'Path(`/late`)', service: impatient}}
    moved: {{rule: 'Path(`/moved`)', service: a, middlewares: [move]}}
    login: {{rule: 'Path(`/login`)', service: a, middlewares: [auth]}}
    asked: {{rule: 'Path(`/asked`)', service: a, middlewares: [ask]}}
    unasked: {{rule: 'Path(`/unasked`)', service: a, middlewares: [nobody]}}
    keys: {{rule: 'PathPrefix(`/key-`)', service: a, middlewares: [keys]}}
    denied: {{rule: 'Path(`/denied`)', service: a, middlewares: [deny]}}
    session: {{rule: 'PathPrefix(`/sign-`)', service: a, middlewares: [session]}}
    banned: {{rule: 'Path(`/banned`)', service: a, middlewares: [banned]}}
    puzzle: {{rule: 'Path(`/puzzle`)', service: a, middlewares: [puzzle]}}
    waf: {{rule: 'Path(`/waf`)', service: a, middlewares: [waf]}}
    undecided: {{rule: 'Path(`/undecided`)', service: a, middlewares: [undecided]}}
    policy: {{rule: 'Path(`/policy`)', service: a, middlewares: [policy]}}
    policy-failed: {{rule: 'Path(`/policy-failed`)', service: a, middlewares: [policy-failed]}}
    policy-gone: {{rule: 'Path(`/policy-gone`)', service: a, middlewares: [policy-gone]}}
    hosts: {{rule: 'Path(`/hosts`)', service: a, middlewares: [hosts]}}
    misconfigured: {{rule: 'Path(`/misconfigured`)', service: a, middlewares: [keys-of-plans]}}
    used-up: {{rule: 'Path(`/used-up`)', service: a, middlewares: [keys-of-plans, plan]}}
    limited: {{rule: 'Path(`/limited`)', service: a, middlewares: [limit]}}
    shared: {{rule: 'Path(`/shared`)', service: a, middlewares: [shared]}}
    busy: {{rule: 'Path(`/busy`)', service: a, middlewares: [busy]}}
    open: {{rule: 'Path(`/open`)', service: gone, middlewares: [breaker]}}
    large: {{rule: 'Path(`/large`)', service: a, middlewares: [small]}}
    answer: {{rule: 'Path(`/answer`)', service: a, middlewares: [small]}}
    cut: {{rule: 'Path(`/broken-body`)', service: a, middlewares: [buffer]}}
    cors: {{rule: 'Path(`/cors`)', service: a, middlewares: [cors]}}
    configured: {{rule: 'PathPrefix(`/configured`)', service: noop@internal, middlewares: [configured]}}
    cached: {{rule: 'Path(`/cached`) || Path(`/not-cached`)', service: a, middlewares: [cache]}}
    path: {{rule: 'PathPrefix(`/path`)', service: a, middlewares: [replace]}}
    page: {{rule: 'Path(`/no`)', service: a, middlewares: [page]}}
    empty: {{rule: 'Path(`/empty`)', service: none}}
    refused: {{rule: 'Path(`/refused`)', service: gone}}
    full: {{rule: 'Path(`/full`)', service: full}}
    plain: {{rule: 'Path(`/plain`)', service: plain}}
    long: {{rule: 'PathPrefix(`/long`)', service: long}}
    token: {{rule: 'Path(`/forbidden`)', service: a, middlewares: [token]}}
    required: {{rule: 'Path(`/certificate-required`)', service: a, middlewares: [certificate]}}
    known: {{rule: 'Host(`known.test`)', service: a, tls: {{options: known}}, middlewares: [consumer]}}
    revoked: {{rule: 'Host(`revoked.test`)', service: a, tls: {{options: revoked}}}}
    expiring: {{rule: 'Host(`expiring.test`)', service: a, tls: {{options: expiring}}}}
    unverified: {{rule: 'Host(`unverified.test`)', service: a, tls: {{options: unverified}}}}
    one: {{rule: 'Host(`one.test`)', service: a, tls: {{options: one}}}}
    two: {{rule: 'Host(`two.test`) || Host(`many.test`)', service: a, tls: {{}}}}
  middlewares:
    session: {{oidc: {{issuer: 'http://{gone}', clientId: c, redirectUrl: /sign-in, logoutUrl: /sign-out}}}}
    move: {{redirectScheme: {{scheme: https}}}}
    auth: {{basicAuth: {{users: ['{USER}']}}}}
    ask: {{forwardAuth: {{address: '{url}/no'}}}}
    nobody: {{forwardAuth: {{address: 'http://{gone}'}}}}
    keys: {{apiKey: {{scopes: [write]}}}}
    keys-of-plans: {{apiKey: {{}}}}
    plan: {{plan: {{file: '{usage}'}}}}
    certificate: {{clientCertificate: {{}}}}
    consumer: {{clientCertificate: {{requireConsumer: true}}}}
    deny: {{ipAllowList: {{sourceRange: [192.0.2.1]}}}}
    banned: {{crowdsec: {{crowdsecLapiHost: '{host}', crowdsecLapiPath: /banned/, crowdsecLapiKey: k}}}}
    puzzle: {{crowdsec: {{crowdsecLapiHost: '{host}', crowdsecLapiPath: /puzzle/, crowdsecLapiKey: k,
      captchaProvider: turnstile, captchaSiteKey: s, captchaSecretKey: s}}}}
    waf: {{crowdsec: {{crowdsecMode: appsec, crowdsecAppsecHost: '{host}', crowdsecAppsecPath: /waf/}}}}
    undecided: {{crowdsec: {{crowdsecLapiHost: '{gone}', crowdsecLapiKey: k}}}}
    policy: {{opa: {{policy: \"package a\\nallow := false\"}}}}
    policy-failed: {{opa: {{url: '{url}', decision: a/b}}}}
    policy-gone: {{opa: {{url: 'http://{gone}', decision: a/b}}}}
    hosts: {{headers: {{allowedHosts: [other.test]}}}}
    limit: {{rateLimit: {{average: 1, period: 1h, burst: 1}}}}
    shared: {{rateLimit: {{average: 1, redis: {{endpoints: ['{gone}']}}}}}}
    busy: {{inFlightReq: {{amount: 0}}}}
    breaker: {{circuitBreaker: {{expression: 'NetworkErrorRatio() > 0.1', checkPeriod: 10ms}}}}
    small: {{buffering: {{maxRequestBodyBytes: 1, maxResponseBodyBytes: 1}}}}
    buffer: {{buffering: {{maxResponseBodyBytes: 1000}}}}
    cors: {{headers: {{accessControlAllowMethods: [GET], accessControlAllowOriginList: ['*']}}}}
    configured: {{respond: {{status: 503, body: closed}}}}
    cache: {{cache: {{}}}}
    replace: {{replacePathRegex: {{regex: '^/path', replacement: '/x/../'}}}}
    token: {{jwt: {{signingSecret: {secret}, claims: 'Equals(`sub`, `ann`)', requireExpiration: false}}}}
    page: {{errors: {{status: ['403'], service: a, query: '/<{{url}}'}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
    impatient: {{loadBalancer: {{servers: [{{url: '{url}'}}], serversTransport: short}}}}
    long: {{loadBalancer: {{servers: [{{url: '{url}/{long}', preservePath: true}}]}}}}
    none: {{loadBalancer: {{servers: []}}}}
    gone: {{loadBalancer: {{servers: [{{url: 'http://{gone}'}}]}}}}
    full: {{loadBalancer: {{servers: [{{url: 'http://{full}'}}], serversTransport: short}}}}
    plain: {{loadBalancer: {{servers: [{{url: 'https://{tls}'}}]}}}}
  serversTransports:
    short: {{forwardingTimeouts: {{dialTimeout: 100ms, responseHeaderTimeout: 100ms}}}}
  consumers:
{consumers}{planned}  plans:
    small: {{quota: {{limit: 1, period: month}}}}
tls:
  options:
    one: {{minVersion: VersionTLS13}}
    known: {{clientAuth: {{caFiles: ['{authority}']}}}}
    revoked: {{clientAuth: {{caFiles: ['{authority}'], revocation: {{crlFiles: ['{list}']}}}}}}
    expiring: {{clientAuth: {{caFiles: ['{authority}'], revocation: {{}}}}}}
    unverified: {{clientAuth: {{caFiles: ['{authority}'], revocation: {{ocsp: {{mode: strict, url: 'http://{gone}'}}}}}}}}
"
    )
}

/// A request that provokes a reason.
struct Case {
    reason: Reason,
    /// Its target, which no other request has.
    target: &'static str,
    provoke: fn(&Gateway, &Servers, &str),
}

fn simple(gateway: &Gateway, _: &Servers, target: &str) {
    get(gateway.web(), "h", target);
}

/// The reason for refusing each of these keys, and its options.
const KEY_OPTIONS: &[(Reason, &str)] = &[
    (Reason::ApiKeyNotYetValid, ", notBefore: 2199-01-01"),
    (Reason::ApiKeyExpired, ", expires: 2020-01-01"),
    (Reason::ApiKeyRevoked, ", state: revoked"),
    (Reason::ApiKeyAddress, ", allowedCIDRs: [192.0.2.0/24]"),
    (Reason::ApiKeyScope, ", scopes: [read]"),
];
/// The key of a consumer with a quota of one request.
static PLANNED: LazyLock<Key> = LazyLock::new(Key::new);
/// A key of a consumer whose plan is not defined.
static PLANLESS: LazyLock<Key> = LazyLock::new(Key::new);
static USAGE: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| KEY_OPTIONS.iter().map(|_| Key::new()).collect());

/// Issues the certificates of clients.
static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("Root"));
/// Sends a request with a client certificate. Returns its status.
fn with_certificate(gateway: &Gateway, own: &Owned, name: &str, target: &str) -> u16 {
    Open::connect(gateway.web(), &client(own), name).unwrap().get(target).unwrap().status
}

/// Sends the key that is refused for the reason which the target names.
fn with_key(gateway: &Gateway, _: &Servers, target: &str) {
    let name = target.replacen("/key-", "api_key_", 1);
    let found = KEY_OPTIONS.iter().zip(KEYS.iter()).find(|((reason, _), _)| reason.name() == name);
    let header = match (&*name, found) {
        (_, Some((_, key))) => key.header(),
        ("api_key_unknown", None) => Key::new().header(),
        _ => "X-API-Key: one\r\nX-API-Key: two\r\n".to_owned(),
    };
    get_with(gateway.web(), "h", target, &header);
}

fn case(reason: Reason, target: &'static str, provoke: fn(&Gateway, &Servers, &str)) -> Case {
    Case { reason, target, provoke }
}

/// Reasons of requests that have a route or none. Each has a line in the access log and a span.
fn routed() -> Vec<Case> {
    use Reason::*;
    vec![
        case(NoRouter, "/nowhere", simple),
        case(RouterBroken, "/router-broken", simple),
        case(Maintenance, "/maintenance", simple),
        case(EncodedCharacters, "/a%2Fb", simple),
        case(Redirect, "/moved", simple),
        case(OwnService, "/ping", |gateway, _, target| drop(get(gateway.address("traefik"), "h", target))),
        case(RouterTimeout, "/held", simple),
        case(Unauthenticated, "/login", simple),
        case(ApiKeyMalformed, "/key-malformed", with_key),
        case(ApiKeyUnknown, "/key-unknown", with_key),
        case(ApiKeyNotYetValid, "/key-not_yet_valid", with_key),
        case(ApiKeyExpired, "/key-expired", with_key),
        case(ApiKeyRevoked, "/key-revoked", with_key),
        case(ApiKeyAddress, "/key-address", with_key),
        case(ApiKeyScope, "/key-scope", with_key),
        case(CertificateRequired, "/certificate-required", simple),
        case(CertificateUnknown, "/certificate-unknown", |gateway, _, target| {
            assert_eq!(with_certificate(gateway, &AUTHORITY.issue("own"), "known.test", target), 403);
        }),
        case(CertificateRevoked, "/certificate-revoked", |gateway, _, target| {
            let own = AUTHORITY.issue("revoked");
            let mut open = Open::connect(gateway.web(), &client(&own), "revoked.test").unwrap();
            AUTHORITY.revoke(own.serial);
            std::fs::write(AUTHORITY.file("crl.pem"), AUTHORITY.list()).unwrap();
            eventually("the list counts", || open.get(target).unwrap().status == 403);
        }),
        case(CertificateUnverified, "/certificate-unverified", |gateway, _, target| {
            assert_eq!(with_certificate(gateway, &AUTHORITY.issue("own"), "unverified.test", target), 503);
        }),
        case(CertificateInvalid, "/certificate-invalid", |gateway, _, target| {
            let own = AUTHORITY.short_lived("short", 4);
            let mut open = Open::connect(gateway.web(), &client(&own), "expiring.test").unwrap();
            eventually("it expires", || open.get(target).unwrap().status == 403);
        }),
        case(SignIn, "/sign-out", simple),
        case(SignInRefused, "/sign-in", simple),
        case(AuthenticationAnswer, "/asked", simple),
        case(AuthenticationUnavailable, "/unasked", simple),
        case(Forbidden, "/forbidden", |gateway, _, target| {
            let token = signed_by(&OWN, "HS256", &json!({"alg": "HS256"}), &json!({"sub": "bob"}));
            get_with(gateway.web(), "h", target, &format!("authorization: Bearer {token}\r\n"));
        }),
        case(InternalError, LONG, simple),
        case(AddressDenied, "/denied", simple),
        case(AddressBanned, "/banned", simple),
        case(Captcha, "/puzzle", simple),
        case(AppsecBlocked, "/waf", simple),
        case(DecisionUnavailable, "/undecided", simple),
        case(PolicyDenied, "/policy", simple),
        case(PolicyFailed, "/policy-failed", simple),
        case(PolicyUnavailable, "/policy-gone", simple),
        case(HostDenied, "/hosts", simple),
        case(RateLimited, "/limited", |gateway, _, target| {
            for _ in 0..2 {
                get(gateway.web(), "h", target);
            }
        }),
        case(LimitUnavailable, "/shared", simple),
        case(ConsumerBroken, "/misconfigured", |gateway, _, target| {
            get_with(gateway.web(), "h", target, &PLANLESS.header());
        }),
        case(QuotaExceeded, "/used-up", |gateway, _, target| {
            for _ in 0..2 {
                get_with(gateway.web(), "h", target, &PLANNED.header());
            }
        }),
        case(TooManyInFlight, "/busy", simple),
        case(CircuitOpen, "/open", |gateway, _, target| {
            eventually("the breaker is open", || get(gateway.web(), "h", target).status == 503);
        }),
        case(RequestTooLarge, "/large", |gateway, _, target| {
            raw(gateway.web(), format!("POST {target} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nhi"))
                .unwrap();
        }),
        case(ResponseTooLarge, "/answer", simple),
        case(ResponseBroken, "/broken-body", simple),
        case(Preflight, "/cors", |gateway, _, target| {
            let more = "origin: http://o.test\r\naccess-control-request-method: GET\r\nconnection: close\r\n";
            raw(gateway.web(), format!("OPTIONS {target} HTTP/1.1\r\nhost: h\r\n{more}\r\n")).unwrap();
        }),
        case(Cached, "/cached", |gateway, _, target| {
            for _ in 0..2 {
                get(gateway.web(), "h", target);
            }
        }),
        case(NotCached, "/not-cached", |gateway, _, target| {
            get_with(gateway.web(), "h", target, "cache-control: only-if-cached\r\n");
        }),
        case(PathRefused, "/path", simple),
        case(Configured, "/configured", simple),
        case(ErrorPage, "/no", simple),
        case(NoServer, "/empty", simple),
        case(ConnectFailed, "/refused", simple),
        case(ConnectTimeout, "/full", simple),
        case(TlsFailed, "/plain", simple),
        case(ConnectionLost, "/lost", simple),
        case(ResponseTimeout, "/late", simple),
        case(MalformedResponse, "/malformed", simple),
        case(ClientGone, "/gone", |gateway, servers, target| {
            let mut client = Client::connect(gateway.web());
            client.send(format!("GET {target} HTTP/1.1\r\nhost: h\r\n\r\n"));
            eventually("the server has the request", || {
                servers.backend.seen().iter().any(|seen| seen.target() == target)
            });
            drop(client);
        }),
        case(ClientTimeout, "/slow-client", |gateway, _, target| {
            let head = format!("POST {target} HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nbegun");
            let mut client = Client::connect(gateway.web());
            client.send(head);
            client.rest();
        }),
    ]
}

/// Reasons of requests that are refused before they are routed. As in Traefik, the access log does not have them.
fn refused() -> Vec<Case> {
    use Reason::*;
    vec![
        case(ExpectationFailed, "/expect", |gateway, _, target| {
            get_with(gateway.web(), "h", target, "expect: much\r\n");
        }),
        case(ServerOptions, "*", |gateway, _, target| {
            raw(gateway.web(), format!("OPTIONS {target} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"))
                .unwrap();
        }),
        case(MalformedRequest, "*", |gateway, _, target| {
            let fields = [(":method", "GET"), (":scheme", "http"), (":path", target), (":authority", "h")];
            let mut client = Frames::connect(gateway.web());
            client.request(1, &fields);
            assert_eq!(client.outcome(1), Outcome::Status(400));
        }),
        case(Misdirected, "/misdirected", |gateway, _, target| {
            let config = std::sync::Arc::new(client_config(&[], None));
            let answer = ask_for(gateway.web(), &config, "two.test", "one.test", target).unwrap();
            assert_eq!(answer.status(), 421);
        }),
        case(HeadTooLarge, "/many", |gateway, _, target| {
            let mut request = Request::get(format!("https://many.test{target}"));
            for number in 0..1100 {
                request = request.header(format!("x-{number}"), "v");
            }
            runtime().block_on(async {
                let client = Http3::connect(gateway.web(), "many.test").await;
                client.send(request.body(()).unwrap(), b"").await.unwrap();
            });
        }),
    ]
}

/// Returns the recent request with this target and reason.
fn recorded(gateway: &Gateway, target: &str, reason: &str) -> Option<Value> {
    let search = target.replace('%', "%25");
    let query = format!("?filter=reason%20%3D%3D%20%60{reason}%60%20%26%26%20path%20%3D%3D%20%60{search}%60");
    let text = gateway.api(&format!("/api/requests{query}"));
    let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    all.into_iter().next()
}

#[test]
fn each_reason_is_found_in_log_metrics_trace_and_api() {
    let (servers, collector) = (Servers::start(), Collector::start(true));
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let mut flags = collector.flags(true);
    flags.push(format!("--accessLog.filePath={}", log.display()));
    for flag in [
        "accessLog.format=json",
        "accessLog.addInternals=true",
        "tracing.addInternals=true",
        "api.requests.size=100000",
        "api.requests.maxMemory=200000000",
        "metrics.prometheus=true",
        "metrics.addInternals=true",
        "entryPoints.web.http3=true",
        "entryPoints.web.http.encodedCharacters.allowEncodedSlash=false",
        "entryPoints.web.transport.respondingTimeouts.readTimeout=1s",
    ] {
        flags.push(format!("--{flag}"));
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes(&servers));
    let (routed, refused) = (routed(), refused());
    for case in routed.iter().chain(&refused) {
        (case.provoke)(&gateway, &servers, case.target);
    }
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let missing = || {
        let metrics = get(gateway.address("traefik"), "h", "/metrics").text();
        let (lines, spans) = (lines(), collector.spans());
        let mut missing = Vec::new();
        for (index, Case { reason, target, .. }) in routed.iter().chain(&refused).enumerate() {
            let (name, origin) = (reason.name(), reason.origin().name());
            let labels = format!("origin=\"{origin}\",reason=\"{name}\"}}");
            let is_line = |line: &Value| line["RequestPath"] == *target && line["Reason"] == name;
            let is_span = |span: &Span| {
                value(&span.attributes, "url.path") == *target
                    && value(&span.attributes, "tidegate.reason") == name
            };
            let is_refused = index >= routed.len();
            for (place, is_found) in [
                ("api", recorded(&gateway, target, name).is_some()),
                ("metrics", metrics.contains(&labels)),
                ("log", is_refused || lines.iter().any(is_line)),
                ("trace", is_refused || spans.iter().any(is_span)),
            ] {
                if !is_found {
                    missing.push(format!("{name} in {place}"));
                }
            }
        }
        missing
    };
    let mut last = Vec::new();
    let found = wait_until(Duration::from_secs(60), || {
        last = missing();
        last.is_empty()
    });
    assert!(found.is_some(), "missing: {last:?}");
    for Case { reason, target, .. } in routed.iter().chain(&refused) {
        let (name, origin) = (reason.name(), reason.origin().name());
        let one = recorded(&gateway, target, name).unwrap();
        assert!(one["origin"].as_str().unwrap().starts_with(origin), "{one}");
        let explained = why(&gateway, one["id"].as_str().unwrap());
        assert!(explained.contains(&format!("{name}: {}", reason.description())), "{explained}");
    }
    let tested: Vec<Reason> = routed.iter().chain(&refused).map(|case| case.reason).collect();
    let untested: Vec<&Reason> = Reason::ALL.iter().filter(|reason| !tested.contains(reason)).collect();
    // The one is tested below, the other with a disk that hangs (programs/hung_disk.rs).
    assert_eq!(untested, [&Reason::TargetTooLong, &Reason::FilesBusy]);
}

#[test]
fn heads_that_are_refused_by_the_parser_are_counted() {
    let gateway = Gateway::with(&["--metrics.prometheus=true"], "http: {}\n");
    let long = "a".repeat(1 << 20);
    for (reason, head) in [
        ("malformed_request", "GET / HTTP/1.1\r\nhost : h\r\n\r\n".to_owned()),
        ("target_too_long", format!("GET /{long} HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("head_too_large", format!("GET / HTTP/1.1\r\nhost: h\r\nx: {long}{long}\r\n\r\n")),
    ] {
        let answer = raw(gateway.web(), head).unwrap();
        assert!((400..500).contains(&answer.status), "{reason}: {answer:?}");
        let line = format!(
            "tidegate_entrypoint_responses_total{{entrypoint=\"web\",origin=\"gateway\",reason=\"{reason}\"}} 1"
        );
        eventually(&format!("{reason} is counted"), || {
            get(gateway.address("traefik"), "h", "/metrics").text().contains(&line)
        });
    }
}
