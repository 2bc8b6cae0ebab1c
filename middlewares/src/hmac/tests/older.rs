//! Signatures of the older form, as Kong's clients and those of Traefik Hub make them.

use super::*;

/// Signs a request as Kong's clients do.
fn cavage(scheme: &str, algorithm: &str, lines: &[(&str, String)], more: &str) -> String {
    let base: Vec<String> = lines.iter().map(|(_, line)| line.clone()).collect();
    let names: Vec<&str> = lines.iter().map(|(name, _)| *name).collect();
    let hash = if algorithm == "hmac-sha512" { hmac::HMAC_SHA512 } else { hmac::HMAC_SHA256 };
    let signature = hmac::sign(&hmac::Key::new(hash, SECRET.as_bytes()), base.join("\n").as_bytes());
    format!(
        "{scheme} username=\"k\", algorithm=\"{algorithm}\", headers=\"{}\", signature=\"{}\"{more}",
        names.join(" "),
        BASE64_STANDARD.encode(signature)
    )
}

fn date(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

#[test]
fn signatures_of_kongs_clients_and_of_hubs_are_accepted() {
    let protected = Protected::new(options());
    let now = protected.now();
    let digest = format!("SHA-256={}", BASE64_STANDARD.encode(digest(&SHA256, BODY.as_bytes())));
    let lines = |date: &str| {
        vec![
            ("date", format!("date: {date}")),
            ("request-line", "POST /p?q=1 HTTP/1.1".into()),
            ("host", "host: h.test".into()),
            ("digest", format!("digest: {digest}")),
        ]
    };
    let send = |authorization: &str, when: &str, body| {
        let headers = [("authorization", authorization), ("date", when), ("digest", &digest)];
        protected.check(request("POST", "http://h.test/p?q=1", &headers, body)).0
    };
    let when = date(now);
    let kong = cavage("hmac", "hmac-sha256", &lines(&when), "");
    assert_eq!(send(&kong, &when, "{\"hello\": \"w0rld\"}"), 401);
    assert_eq!(send(&kong, &date(now - 1), BODY), 401, "another date");
    assert_eq!([send(&kong, &when, BODY), send(&kong, &when, BODY)], [200, 401], "once");
    assert_eq!(send(&cavage("hmac", "hmac-sha512", &lines(&when), ""), &when, BODY), 401, "the same content");
    for (age, expected) in [(299, 200), (300, 401)] {
        let old = date(now - age);
        assert_eq!(send(&cavage("hmac", "hmac-sha256", &lines(&old), ""), &old, BODY), expected);
    }
    // Traefik Hub's form, in `Proxy-Authorization`, too.
    let lines = [
        ("(request-target)", "(request-target): get /p?q=1".to_owned()),
        ("(created)", format!("(created): {now}")),
        ("(expires)", format!("(expires): {}", now + 10)),
        ("host", "host: h.test".to_owned()),
    ];
    let hub = cavage("Hmac", "hmac-sha512", &lines, &format!(", created=\"{now}\",expires=\"{}\"", now + 10));
    let hub = hub.replace("username", "keyId");
    let get = |headers: &[(&str, &str)]| protected.check(request("GET", "http://h.test/p?q=1", headers, ""));
    assert_eq!(get(&[("authorization", &hub), ("proxy-authorization", &hub)]).0, 400);
    assert_eq!(get(&[("authorization", &hub), ("authorization", "Basic YTpi")]).0, 400);
    assert_eq!(get(&[("proxy-authorization", &hub)]), (200, String::new()));
}

#[test]
fn attacks_on_the_older_form_are_refused() {
    let protected = Protected::new(options());
    let now = protected.now();
    let when = date(now);
    let all = [
        ("date", format!("date: {when}")),
        ("(request-target)", "(request-target): get /p".to_owned()),
        ("host", "host: h.test".to_owned()),
    ];
    let check = |authorization: &str| {
        let headers = [("authorization", authorization), ("date", &*when)];
        protected.check(request("GET", "http://h.test/p", &headers, ""))
    };
    for missing in 0..3 {
        let mut lines = all.to_vec();
        lines.remove(missing);
        assert_eq!(check(&cavage("hmac", "hmac-sha256", &lines, "")).0, 401, "{missing}");
    }
    let valid = cavage("hmac", "hmac-sha256", &all, "");
    for (from, to, expected) in [
        ("hmac-sha256", "hmac-sha1", 401),
        ("hmac-sha256", "none", 401),
        ("hmac-sha256", "rsa-pss-sha512", 401),
        ("hmac-sha256", "hs2019", 401),
        ("algorithm=\"hmac-sha256\", ", "", 401),
        ("date (", "x-date (", 401),
        ("username=\"k\"", "username=\"other\"", 401),
        ("username=\"k\"", "username=\"k\", username=\"other\"", 400),
        ("username=\"k\"", "username=\"k\", keyId=\"other\"", 400),
        (" host\"", " host host\"", 400),
        (" host\"", " host x\"", 401),
        ("signature=\"", "signature=\"*", 400),
        ("headers=\"date", "headers=date, x=\"", 401),
    ] {
        let changed = valid.replacen(from, to, 1);
        assert_ne!(changed, valid);
        assert_eq!(check(&changed).0, expected, "{changed}");
    }
    // A date in two fields is ambiguous, and a folded value is another value.
    let headers = [("authorization", &*valid), ("date", &when), ("date", &when)];
    assert_eq!(protected.send(request("GET", "http://h.test/p", &headers, "")).status(), 401);
    let narrow = Protected::new(Hmac { forms: vec!["rfc9421".into()], ..options() });
    let headers = [("authorization", &*valid), ("date", &when)];
    assert_eq!(narrow.send(request("GET", "http://h.test/p", &headers, "")).status(), 401);
    assert_eq!(check(&valid), (200, String::new()));
}
