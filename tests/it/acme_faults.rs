//! Authorities that answer nonsense: they are left in peace, and what they said is reported.

use std::io::Write;
use std::time::Duration;

use crate::support::pebble::routes;
use crate::support::{Backend, Gateway, eventually, repeat_for, wait_until};

/// Waits longer than [`eventually`].
pub fn within(seconds: u64, what: &str, condition: impl FnMut() -> bool) -> Duration {
    wait_until(Duration::from_secs(seconds), condition)
        .unwrap_or_else(|| panic!("waited {seconds} s in vain: {what}"))
}

/// An authority of which only the directory is sound, and everything else answers this.
fn broken_authority(answer: &'static str) -> Backend {
    Backend::with(move |seen, stream| {
        let text = match seen.target() {
            "/dir" => {
                let url = format!("http://{}", seen.header("host").unwrap());
                let body =
                    format!(r#"{{"newNonce": "{url}/n", "newAccount": "{url}/a", "newOrder": "{url}/o"}}"#);
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            }
            _ => answer.to_owned(),
        };
        stream.write_all(text.as_bytes()).is_ok()
    })
}

#[test]
fn an_authority_with_invalid_responses_is_retried_rarely() {
    for (answer, told) in [
        ("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n", "503"),
        ("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n", "429"),
    ] {
        let authority = broken_authority(answer);
        let folder = tempfile::tempdir().unwrap();
        let le = "--certificatesResolvers.le.acme";
        let flags = [
            format!("{le}.caServer={}/dir", authority.url()),
            format!("{le}.storage={}", folder.path().join("acme.json").display()),
            format!("{le}.tlsChallenge=true"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let gateway = Gateway::with(&flags, &routes(&["Host(`a.test`)"], "http://127.0.0.1:1"));
        within(90, told, || gateway.api("/api/certificates/resolvers").contains(told));
        let asked = authority.seen().len();
        repeat_for(Duration::from_secs(2), || {
            assert!(authority.seen().len() <= asked + 4, "a storm of requests");
        });
    }
}

#[test]
fn an_authority_without_a_directory_is_asked_now_and_then() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    ] {
        let authority = Backend::bytes(answer);
        let folder = tempfile::tempdir().unwrap();
        let le = "--certificatesResolvers.le.acme";
        let flags = [
            format!("{le}.caServer={}/dir", authority.url()),
            format!("{le}.storage={}", folder.path().join("acme.json").display()),
            format!("{le}.tlsChallenge=true"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let gateway = Gateway::with(&flags, &routes(&["Host(`a.test`)"], "http://127.0.0.1:1"));
        eventually("it is told", || gateway.api("/api/certificates/resolvers").contains("/dir"));
        repeat_for(Duration::from_secs(3), || {
            let asked = authority.seen().len();
            assert!((1..=3).contains(&asked), "{asked} requests");
        });
    }
}
