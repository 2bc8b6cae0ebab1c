//! Orders that fail at every step, by an authority that says what the test dictates.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::jws::{PublicKey, Signed};
use crate::support::pebble::routes;
use crate::support::{Backend, Gateway, eventually, repeat_for};

/// One step that goes wrong.
struct Case {
    /// The path, and from which visit on.
    at: (&'static str, usize),
    status: &'static str,
    headers: &'static str,
    body: &'static str,
    /// What must be told.
    told: &'static str,
    /// Most orders within three seconds.
    orders: usize,
}

const fn case(path: &'static str, status: &'static str, body: &'static str, told: &'static str) -> Case {
    Case { at: (path, 1), status, headers: "", body, told, orders: 1 }
}

/// Every step: what is refused is not tried again soon, what may be a passing trouble a little later.
const CASES: &[Case] = &[
    case(
        "/o",
        "403 Forbidden",
        r#"{"type": "urn:ietf:params:acme:error:unauthorized", "detail": "no orders from you"}"#,
        "no orders from you",
    ),
    case(
        "/o",
        "400 Bad Request",
        r#"{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "policy forbids it"}"#,
        "policy forbids it",
    ),
    Case {
        at: ("/o", 1),
        status: "429 Too Many Requests",
        headers: "Retry-After: 7200\r\n",
        body: r#"{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many orders"}"#,
        told: "too many orders",
        orders: 1,
    },
    Case {
        orders: 3,
        ..case(
            "/o",
            "500 Internal Server Error",
            r#"{"type": "urn:ietf:params:acme:error:serverInternal", "detail": "on fire"}"#,
            "on fire",
        )
    },
    Case { orders: 3, ..case("/o", "201 Created", "[nonsense", "new order") },
    case(
        "/z",
        "200 OK",
        r#"{"status": "pending", "identifier": {"type": "dns", "value": "a.test"}, "challenges": [{"type": "dns-01", "url": "/c", "token": "t"}]}"#,
        "does not offer http-01",
    ),
    case(
        "/z",
        "200 OK",
        r#"{"status": "deactivated", "identifier": {"type": "dns", "value": "a.test"}}"#,
        "deactivated",
    ),
    case(
        "/c",
        "400 Bad Request",
        r#"{"type": "urn:ietf:params:acme:error:malformed", "detail": "odd challenge"}"#,
        "odd challenge",
    ),
    Case {
        at: ("/z", 2),
        ..case(
            "/z",
            "200 OK",
            r#"{"status": "invalid", "identifier": {"type": "dns", "value": "a.test"}, "challenges": [{"type": "http-01", "url": "/c", "token": "t", "error": {"type": "urn:ietf:params:acme:error:caa", "detail": "CAA forbids it"}}]}"#,
            "CAA forbids it",
        )
    },
    Case {
        at: ("/z", 2),
        ..case(
            "/z",
            "200 OK",
            r#"{"status": "invalid", "identifier": {"type": "dns", "value": "a.test"}, "challenges": [{"type": "http-01", "url": "/c", "token": "t", "error": {"type": "urn:ietf:params:acme:error:dns", "detail": "NXDOMAIN looking up a.test"}}]}"#,
            "NXDOMAIN",
        )
    },
    case(
        "/order",
        "200 OK",
        r#"{"status": "invalid", "finalize": "/f", "error": {"type": "urn:ietf:params:acme:error:unauthorized", "detail": "order gone bad"}}"#,
        "order gone bad",
    ),
    case(
        "/f",
        "400 Bad Request",
        r#"{"type": "urn:ietf:params:acme:error:badCSR", "detail": "weak key"}"#,
        "weak key",
    ),
    Case {
        at: ("/order", 2),
        ..case(
            "/order",
            "200 OK",
            r#"{"status": "invalid", "finalize": "/f", "error": {"type": "urn:ietf:params:acme:error:caa", "detail": "too late a CAA"}}"#,
            "too late a CAA",
        )
    },
    Case {
        at: ("/order", 2),
        ..case(
            "/order",
            "200 OK",
            r#"{"status": "processing", "finalize": "/f"}"#,
            "waited in vain for the certificate",
        )
    },
    Case {
        at: ("/order", 2),
        ..case("/order", "200 OK", r#"{"status": "valid", "finalize": "/f"}"#, "without a certificate")
    },
    case(
        "/cert",
        "404 Not Found",
        r#"{"type": "urn:ietf:params:acme:error:malformed", "detail": "no such certificate"}"#,
        "no such certificate",
    ),
    case("/cert", "200 OK", "not PEM at all", "no PEM"),
    case(
        "/cert",
        "200 OK",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "cannot be read",
    ),
];

/// An authority that does everything right but for one step.
fn authority(case: &'static Case) -> Backend {
    let visits = AtomicUsize::new(0);
    stand_in(move |path, _| {
        let is_now = path == case.at.0 && visits.fetch_add(1, Ordering::SeqCst) + 1 >= case.at.1;
        is_now.then(|| (case.status, case.headers.to_owned(), case.body.to_owned()))
    })
}

/// A status, header lines and a body.
type Told = (&'static str, String, String);

/// An authority that does everything right, except at the paths for which the function returns another answer. The
/// header lines of that come on top. The function also gets the authority's URL.
fn stand_in(other: impl Fn(&str, &str) -> Option<Told> + Send + Sync + 'static) -> Backend {
    let finalised = AtomicBool::new(false);
    let proven = AtomicBool::new(false);
    Backend::with(move |seen, stream| {
        let base = format!("http://{}", seen.header("host").unwrap());
        let path = seen.target();
        let (mut status, mut more, mut body) = match path {
            "/dir" => (
                "200 OK",
                String::new(),
                format!(r#"{{"newNonce": "{base}/n", "newAccount": "{base}/a", "newOrder": "{base}/o"}}"#),
            ),
            "/a" => ("201 Created", format!("Location: {base}/acct\r\n"), "{}".to_owned()),
            "/o" => {
                proven.store(false, Ordering::SeqCst);
                finalised.store(false, Ordering::SeqCst);
                (
                    "201 Created",
                    format!("Location: {base}/order\r\n"),
                    format!(
                        r#"{{"status": "pending", "authorizations": ["{base}/z"], "finalize": "{base}/f"}}"#
                    ),
                )
            }
            "/z" => {
                let status = if proven.load(Ordering::SeqCst) { "valid" } else { "pending" };
                (
                    "200 OK",
                    String::new(),
                    format!(
                        r#"{{"status": "{status}", "identifier": {{"type": "dns", "value": "a.test"}}, "challenges": [{{"type": "http-01", "url": "{base}/c", "token": "t"}}]}}"#
                    ),
                )
            }
            "/c" => {
                proven.store(true, Ordering::SeqCst);
                ("200 OK", String::new(), "{}".to_owned())
            }
            "/order" | "/f" => {
                let done = finalised.fetch_or(path == "/f", Ordering::SeqCst);
                let status = if done { "valid" } else { "ready" };
                (
                    "200 OK",
                    String::new(),
                    format!(
                        r#"{{"status": "{status}", "finalize": "{base}/f", "certificate": "{base}/cert"}}"#
                    ),
                )
            }
            _ => ("200 OK", String::new(), String::new()),
        };
        if let Some((other_status, headers, other_body)) = other(path, &base) {
            (status, body) = (other_status, other_body);
            more.push_str(&headers);
        }
        if seen.head.starts_with("HEAD ") {
            body.clear();
        }
        write!(
            stream,
            "HTTP/1.1 {status}\r\nReplay-Nonce: n{}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            seen.head.len(),
            body.len()
        )
        .is_ok()
    })
}

/// A storage with an account at this authority, so that none has to be made.
fn storage(folder: &std::path::Path, authority: &Backend) -> String {
    let text = include_str!("../../acme/src/fixtures/traefik-acme.json");
    let mut whole: serde_json::Value = serde_json::from_str(text).unwrap();
    whole["le"]["Account"]["Registration"]["uri"] = format!("{}/acct", authority.url()).into();
    whole["le"]["Certificates"] = serde_json::Value::Null;
    let path = folder.join("acme.json");
    std::fs::write(&path, whole.to_string()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// A gateway that orders there.
fn gateway(authority: &Backend, storage: &str, rule: &str) -> Gateway {
    let le = "--certificatesResolvers.le.acme";
    let flags = [
        format!("{le}.caServer={}/dir", authority.url()),
        format!("{le}.storage={storage}"),
        format!("{le}.keyType=EC256"),
        format!("{le}.certificateTimeout=1s"),
        format!("{le}.httpChallenge.entryPoint=web"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Gateway::with(&flags, &routes(&[rule], "http://127.0.0.1:1"))
}

fn fails(case: &'static Case) {
    let authority = authority(case);
    let folder = tempfile::tempdir().unwrap();
    let gateway = gateway(&authority, &storage(folder.path(), &authority), "Host(`a.test`)");
    let rows = || -> Vec<serde_json::Value> {
        serde_json::from_str(&gateway.api("/api/certificates/resolvers")).unwrap_or_default()
    };
    let told = || rows().iter().any(|row| row["error"].as_str().is_some_and(|text| text.contains(case.told)));
    eventually(case.told, told);
    let orders = || authority.seen().iter().filter(|seen| seen.target() == "/o").count();
    eventually("an order is placed", || orders() > 0);
    repeat_for(Duration::from_secs(3), || {
        assert!(orders() <= case.orders, "{}: {} orders", case.told, orders());
    });
    if !case.headers.is_empty() {
        // As long as the authority says.
        let next = rows()[0]["next"].as_str().unwrap().to_owned();
        let in_an_hour = std::time::SystemTime::now() + Duration::from_secs(3600);
        let in_an_hour = as_in_the_api(in_an_hour);
        assert!(next > in_an_hour, "{next} is before {in_an_hour}");
    }
}

/// A time as the API writes it.
fn as_in_the_api(at: std::time::SystemTime) -> String {
    let seconds = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let at = x509_parser::time::ASN1Time::from_timestamp(i64::try_from(seconds).unwrap()).unwrap();
    let at = at.to_datetime();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[test]
fn orders_that_fail_at_any_step_are_reported_and_not_repeated() {
    for some in CASES.chunks(6) {
        std::thread::scope(|scope| {
            let running: Vec<_> =
                some.iter().map(|case| (case.told, scope.spawn(move || fails(case)))).collect();
            for (told, one) in running {
                assert!(one.join().is_ok(), "{told}");
            }
        });
    }
}

/// An authority whose certificate cannot be read, so that every request of an order is made.
fn up_to_the_certificate() -> Backend {
    stand_in(|path, _| {
        (path == "/cert").then(|| ("200 OK", String::new(), "-----BEGIN CERTIFICATE-----".to_owned()))
    })
}

#[test]
fn only_the_key_of_traefiks_account_signs_requests() {
    let authority = up_to_the_certificate();
    let folder = tempfile::tempdir().unwrap();
    let storage = storage(folder.path(), &authority);
    let _gateway = gateway(&authority, &storage, "Host(`a.test`)");
    eventually("the certificate is asked for", || authority.seen().iter().any(|s| s.target() == "/cert"));
    let key = PublicKey::stored(storage.as_ref());
    let signed = Signed::all(&authority.seen());
    let account = format!("{}/acct", authority.url());
    for one in &signed {
        key.check(one);
        assert_eq!((one.header["kid"].as_str(), one.header["jwk"].is_null()), (Some(&*account), true));
        assert!(one.header["nonce"].as_str().is_some_and(|nonce| nonce.starts_with('n')), "{}", one.header);
    }
    for path in ["/o", "/z", "/c", "/order", "/f", "/cert"] {
        let url = format!("{}{path}", authority.url());
        assert!(signed.iter().any(|one| one.header["url"] == url), "{path} was not asked for");
    }
}

#[test]
fn an_authority_that_says_odd_things_about_a_replaced_certificate_gets_one_order() {
    // It does not repeat which certificate the order replaces, and wants to be left alone for ages.
    let ages = "Retry-After: 18446744073709551615\r\n";
    let authority = stand_in(move |path, base| match path {
        "/dir" => Some((
            "200 OK",
            String::new(),
            format!(
                r#"{{"newNonce": "{base}/n", "newAccount": "{base}/a", "newOrder": "{base}/o", "renewalInfo": "{base}/ari/"}}"#
            ),
        )),
        _ if path.starts_with("/ari/") => Some((
            "200 OK",
            ages.to_owned(),
            r#"{"suggestedWindow": {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}}"#
                .to_owned(),
        )),
        "/order" => Some((
            "200 OK",
            ages.to_owned(),
            format!(r#"{{"status": "processing", "finalize": "{base}/f"}}"#),
        )),
        _ => None,
    });
    let folder = tempfile::tempdir().unwrap();
    let storage = storage(folder.path(), &authority);
    // A certificate of Traefik's, for four.test.
    let text = include_str!("../../acme/src/fixtures/traefik-acme.json");
    let known: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut whole: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&storage).unwrap()).unwrap();
    whole["le"]["Certificates"] = known["le"]["Certificates"].clone();
    std::fs::write(&storage, whole.to_string()).unwrap();
    let gateway = gateway(&authority, &storage, "Host(`four.test`)");
    let asked = |path: &str| authority.seen().iter().filter(|seen| seen.target() == path).count();
    eventually("the order goes on", || asked("/order") >= 3);
    assert_eq!(asked("/o"), 1);
    let signed = Signed::all(&authority.seen());
    let order = signed.iter().find(|one| one.payload.get("identifiers").is_some()).unwrap();
    assert!(order.payload["replaces"].as_str().is_some_and(|id| id.contains('.')), "{}", order.payload);
    assert_eq!(gateway.problems(), Vec::<String>::new());
}
