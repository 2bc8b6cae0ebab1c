//! Sessions in the API, and their end by an operator.

use serde_json::{Value, json};

use crate::support::oidc::*;
use crate::support::{Answer, Backend, Gateway, eventually, get, get_with, raw};

/// `a` with the password `test`.
const LOGIN: &str = "    login: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}\n";
const OPERATOR: &str = "Authorization: Basic YTp0ZXN0\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

/// A gateway whose API needs a login, and a service that needs another.
struct Operated {
    provider: StandIn,
    gateway: Gateway,
    folder: tempfile::TempDir,
    _service: Backend,
}

impl Operated {
    fn new(flags: &[&str]) -> Self {
        let (provider, service) = (StandIn::start(), Backend::echo("a"));
        let folder = tempfile::tempdir().unwrap();
        let audit = format!("--auditLog.filePath={}", folder.path().join("audit.log").display());
        let routes = routes(&options(&provider, ""), &service.url());
        let routes = routes
            .replace("  middlewares:\n", &format!("  middlewares:\n{LOGIN}"))
            .replace("  services:\n", "    here: {ipAllowList: {sourceRange: [127.0.0.0/8]}}\n  services:\n");
        let gateway = Gateway::with(&[flags, &[&audit]].concat(), &routes);
        assert_eq!(gateway.problems(), Vec::<String>::new());
        Self { provider, gateway, folder, _service: service }
    }

    fn signed_in(&self) -> Browser {
        let mut browser = Browser::new(self.gateway.web());
        assert_eq!(browser.sign_in(&self.provider, "/").status, 200);
        browser
    }

    /// What the API shows of the middleware.
    fn sessions(&self) -> Value {
        let answer = get_with(self.gateway.address("traefik"), "gw", "/api/sessions", OPERATOR);
        let all: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
        all[0].clone()
    }

    fn end(&self, headers: &str, body: &str) -> Answer {
        let request = format!(
            "POST /api/sessions/end HTTP/1.1\r\nHost: gw\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        raw(self.gateway.address("traefik"), request).unwrap()
    }

    fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("audit.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn an_operator_ends_one_session_or_all_of_a_user() {
    let operated = Operated::new(&["--api.middlewares=login@file"]);
    let (mut one, mut two) = (operated.signed_in(), operated.signed_in());
    let shown = operated.sessions();
    assert_eq!(
        json!([shown["middleware"], shown["place"], shown["providers"], shown["hasMore"]]),
        json!(["m@file", "cookies", ["default"], false])
    );
    let sessions = shown["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2, "{shown}");
    for session in sessions {
        assert_eq!(json!([session["subject"], session["user"]]), json!(["ann", "ann"]));
        assert!(session["began"].as_str().unwrap() < session["ends"].as_str().unwrap());
    }
    // Nothing that opens anything.
    let text = shown.to_string();
    for secret in one.jar.values().chain(two.jar.values()).map(String::as_str).chain([
        SECRET,
        CLIENT_SECRET,
        "refresh",
        "access",
        "eyJ",
    ]) {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
    // The latest is first.
    let key = sessions[0]["key"].as_str().unwrap();
    let ended = operated
        .end(&format!("{OPERATOR}{JSON}"), &json!({"middleware": "m@file", "session": key}).to_string());
    assert_eq!((ended.status, ended.text().as_str()), (200, "{\"subject\":\"ann\"}\n"));
    assert_eq!([one.clone().open("/").status, two.clone().open("/").status], [200, 302]);
    assert_eq!(operated.sessions()["sessions"].as_array().unwrap().len(), 1);
    let all = json!({"middleware": "m@file", "subject": "ann"}).to_string();
    assert_eq!(operated.end(&format!("{OPERATOR}{JSON}Origin: http://gw\r\n"), &all).status, 200);
    assert_eq!(one.open("/").status, 302);
    assert_eq!(operated.sessions()["sessions"], json!([]));
    // A new one counts.
    assert_eq!(two.sign_in(&operated.provider, "/").status, 200);
    assert_eq!(two.open("/").status, 200);
    let own = |lines: &[Value]| lines.iter().filter(|line| line["event"] == "session_ended").count();
    eventually("both ends are recorded", || own(&operated.audit()) == 2);
    for line in operated.audit().iter().filter(|line| line["event"] == "session_ended") {
        assert_eq!(
            json!([line["subject"], line["identity"], line["authMethod"], line["path"]]),
            json!(["ann", "a", "basic", "/api/sessions/end"])
        );
    }
}

#[test]
fn only_an_operator_who_has_signed_in_ends_sessions_and_no_other_site() {
    let operated = Operated::new(&["--api.middlewares=login@file"]);
    let mut browser = operated.signed_in();
    let key = operated.sessions()["sessions"][0]["key"].as_str().unwrap().to_owned();
    let this = json!({"middleware": "m@file", "session": key}).to_string();
    let with = |more: &str| format!("{OPERATOR}{more}");
    for (headers, body, status) in [
        (JSON.to_owned(), this.as_str(), 401),
        (with(""), &this, 415),
        (with("Content-Type: application/x-www-form-urlencoded\r\n"), &this, 415),
        (with("Content-Type: text/plain\r\n"), &this, 415),
        (with(&format!("{JSON}Sec-Fetch-Site: cross-site\r\n")), &this, 403),
        (with(&format!("{JSON}Sec-Fetch-Site: same-site\r\nOrigin: http://gw\r\n")), &this, 403),
        (with(&format!("{JSON}Origin: http://evil\r\n")), &this, 403),
        (with(&format!("{JSON}Origin: null\r\n")), &this, 403),
        (with(JSON), "{", 400),
        (with(JSON), r#"{"middleware": "m@file"}"#, 400),
        (with(JSON), r#"{"middleware": "m@file", "session": "x", "subject": "y"}"#, 400),
        (with(JSON), r#"{"middleware": "m@file", "session": "x", "more": 1}"#, 400),
        (with(JSON), r#"{"middleware": "login@file", "session": "x"}"#, 404),
        (with(JSON), r#"{"middleware": "m@file", "session": "x"}"#, 404),
        (with(JSON), r#"{"middleware": "m@file", "subject": "ann", "provider": "other"}"#, 404),
    ] {
        assert_eq!(operated.end(&headers, body).status, status, "{headers}{body}");
    }
    let traefik = operated.gateway.address("traefik");
    assert_eq!(get_with(traefik, "gw", "/api/sessions/end", OPERATOR).status, 405);
    assert_eq!(get_with(traefik, "gw", "/api/sessionsx", OPERATOR).status, 404);
    assert_eq!(browser.open("/").status, 200, "it goes on");
}

#[test]
fn an_open_api_shows_sessions_and_ends_none() {
    for flags in [&[][..], &["--api.middlewares=here@file"]] {
        let operated = Operated::new(flags);
        let mut browser = operated.signed_in();
        let answer = get(operated.gateway.address("traefik"), "gw", "/api/sessions");
        assert!(answer.status == 200 && answer.text().contains("\"subject\":\"ann\""));
        let all = json!({"middleware": "m@file", "subject": "ann"}).to_string();
        let refused = operated.end(&format!("{OPERATOR}{JSON}"), &all);
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains("api.middlewares"), "{}", refused.text());
        assert_eq!(browser.open("/").status, 200);
    }
}
