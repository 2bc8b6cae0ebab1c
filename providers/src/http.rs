//! Configuration fetched by HTTP (Traefik's `providers.http`).
//!
//! The endpoint is polled with the validators of the last response (`ETag`, `Last-Modified`), so that an
//! unchanged configuration is not transferred again. While the endpoint does not respond, or its response is
//! invalid, the last configuration stays in force. A response with errors beyond single objects is rejected
//! as a whole: otherwise an error page would be a configuration without routes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Uri;
use http::{Method, Response, StatusCode};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use tidegate_clients::OptionError;
use tidegate_clients::connect::{Connector, Syntax, Tls};
use tidegate_clients::http::{HttpClient, HttpError, Limits, basic, request};
use tidegate_config::decode::decode_config;
use tidegate_config::{Origin, Problem, Provided, formats};
use tidegate_core::values::{self, Secret};

use crate::{Describe, Error, Provider, Session};

/// Syntax of endpoints.
const SYNTAX: Syntax = Syntax {
    option: "endpoint",
    plain: &["http"],
    secure: &["https"],
    otherwise: "http",
    ports: (80, 443),
    example: "http://127.0.0.1:9000/routes",
};
/// Default of `maxResponseBodySize` in bytes.
const DEFAULT_MAX_SIZE: usize = 32 << 20;

/// The sections of a configuration.
const SECTIONS: [&str; 4] = ["http", "tcp", "udp", "tls"];

/// Options of `providers.http`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// URL of the configuration, as JSON or YAML.
    pub endpoint: String,
    /// Poll interval.
    pub poll_interval: values::Duration,
    /// Timeout for a response.
    pub poll_timeout: values::Duration,
    /// Request headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// TLS options for the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Maximum size of a response in bytes; -1 means 32 MiB.
    pub max_response_body_size: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            poll_interval: values::Duration::from_secs(5),
            poll_timeout: values::Duration::from_secs(5),
            headers: BTreeMap::new(),
            tls: None,
            max_response_body_size: -1,
        }
    }
}

impl Describe for Options {
    fn place(&self) -> String {
        shown(&self.endpoint)
    }
}

/// Builds the provider.
pub fn build(options: Options) -> Result<Http, Error> {
    let bad = |option: &'static str, message: &str| Error::from(OptionError::new(option, message));
    let url: Uri = options.endpoint.parse().map_err(|error| {
        bad("endpoint", &format!("expected a URL, such as `{}`: {error}", SYNTAX.example))
    })?;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err(bad("endpoint", &format!("expected a URL, such as `{}`", SYNTAX.example)));
    };
    if options.poll_interval.is_zero() {
        return Err(bad("pollInterval", "expected more than 0"));
    }
    if options.poll_timeout.is_zero() {
        return Err(bad("pollTimeout", "expected more than 0"));
    }
    let size = match usize::try_from(options.max_response_body_size) {
        Ok(size) => size,
        Err(_) => DEFAULT_MAX_SIZE,
    };
    let tls = options.tls.as_ref().filter(|_| scheme == "https");
    let connector = Connector::new(&SYNTAX, &format!("{scheme}://{authority}"), tls)?;
    let headers = headers(&options, authority.as_str())?;
    Ok(Http {
        client: HttpClient::new(connector, headers, "endpoint")?,
        target: url.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        shown: shown(&options.endpoint),
        interval: options.poll_interval.into(),
        limits: Limits { head: options.poll_timeout.into(), time: options.poll_timeout.into(), size },
        known: Mutex::default(),
    })
}

fn headers(options: &Options, authority: &str) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    if let Some((user, _)) = authority.rsplit_once('@') {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        headers.extend(
            basic(&decode(name), &decode(password).as_str().into()).map(|it| (header::AUTHORIZATION, it)),
        );
    }
    for (name, value) in &options.headers {
        let bad = || OptionError::new("headers", format!("invalid header `{name}` or value"));
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?, value);
    }
    Ok(headers)
}

/// Returns a URL without credentials.
fn shown(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://{rest}"),
        None => url.to_owned(),
    }
}

/// The HTTP provider.
pub struct Http {
    client: HttpClient,
    /// Path and query.
    target: String,
    /// The URL, as shown in messages.
    shown: String,
    interval: Duration,
    limits: Limits,
    known: Mutex<Known>,
}

/// The last response.
#[derive(Default)]
struct Known {
    body: Bytes,
    /// `If-None-Match` and `If-Modified-Since` of the next request.
    conditions: HeaderMap,
    state: Option<Provided>,
}

/// Why there is no new configuration.
#[derive(Clone, PartialEq)]
enum FetchError {
    /// No response, or one without a configuration.
    Away(Problem),
    /// The response cannot be decoded.
    Unreadable(Problem),
}

impl Provider for Http {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        self.poll(session).boxed()
    }
}

impl Http {
    async fn poll(&self, mut session: Session) -> Result<(), Error> {
        let mut complaint = None;
        loop {
            match self.fetch().await {
                Ok(state) => {
                    complaint = None;
                    session.deliver(state).await?;
                }
                Err(wrong) if complaint.as_ref() == Some(&wrong) => {}
                Err(wrong) => {
                    match wrong.clone() {
                        FetchError::Away(problem) => session.unavailable(problem).await?,
                        FetchError::Unreadable(problem) => session.unreadable(problem).await?,
                    }
                    complaint = Some(wrong);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval.mul_f64(0.95 + fastrand::f64() * 0.1)) => {}
                () = session.reload_asked() => self.known.lock().conditions.clear(),
            }
        }
    }

    /// Fetches the current configuration.
    async fn fetch(&self) -> Result<Provided, FetchError> {
        let away = |error: HttpError| FetchError::Away(self.problem(error.to_string()));
        let mut question = request(Method::GET, &self.target, Bytes::new()).map_err(away)?;
        *question.headers_mut() = self.known.lock().conditions.clone();
        let answer = self.client.send(question, self.limits).await.map_err(away)?;
        let mut known = self.known.lock();
        match (answer.status(), &known.state) {
            (StatusCode::NOT_MODIFIED, Some(state)) => return Ok(state.clone()),
            (StatusCode::OK, Some(state)) if known.body == *answer.body() => {
                let state = state.clone();
                known.conditions = conditions(&answer);
                return Ok(state);
            }
            (StatusCode::OK, _) => {}
            (status, _) => {
                return Err(FetchError::Away(self.problem(format!("expected the status 200, got {status}"))));
            }
        }
        let mut state = self.read(answer.body()).map_err(FetchError::Unreadable)?;
        if let Some(earlier) = &known.state {
            state.keep_last_good(earlier);
        }
        known.conditions = conditions(&answer);
        known.body = answer.into_body();
        known.state = Some(state.clone());
        Ok(state)
    }

    /// Decodes a response. Problems beyond single objects make it invalid, except unknown keys beside known
    /// sections.
    fn read(&self, body: &[u8]) -> Result<Provided, Problem> {
        let mut node = formats::yaml::read(&self.shown, body)?;
        let state = decode_config(&node);
        let useless =
            |state: &Provided| state.problems.iter().find(|problem| problem.object.is_none()).cloned();
        let mut found = useless(&state);
        if found.is_some() {
            let keys: Vec<String> = node
                .as_table()
                .into_iter()
                .flat_map(|table| table.iter())
                .map(|(key, _)| key.to_owned())
                .collect();
            let (sections, strays): (Vec<_>, Vec<_>) =
                keys.iter().partition(|key| SECTIONS.iter().any(|section| key.eq_ignore_ascii_case(section)));
            if !sections.is_empty() {
                for stray in strays {
                    node.remove(&[stray]);
                }
                found = useless(&decode_config(&node));
            }
        }
        match found {
            Some(problem) => {
                let message = format!("{}: the answer is refused as a whole", problem.message);
                Err(Problem { message, ..problem })
            }
            None => Ok(state),
        }
    }

    fn problem(&self, message: String) -> Problem {
        let origin = Origin::File { path: self.shown.as_str().into(), line: 0, column: 0 };
        Problem { origin, object: None, message, excerpt: None }
    }
}

/// Returns the validators for the next request.
fn conditions(answer: &Response<Bytes>) -> HeaderMap {
    let pairs = [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
    let found = pairs.into_iter().filter_map(|(from, to)| Some((to, answer.headers().get(from)?.clone())));
    found.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{Reply, Running, Server, eventually, urls};

    struct Fake {
        server: Server,
        reply: Arc<Mutex<Reply>>,
    }

    impl Fake {
        async fn start() -> Self {
            let reply: Arc<Mutex<Reply>> = Arc::new(Mutex::new((503, Vec::new(), String::new())));
            let answered = reply.clone();
            let server = Server::start(move |request| {
                let (status, headers, body) = answered.lock().clone();
                let etag = headers.iter().find(|(name, _)| *name == "ETag").map(|(_, value)| value);
                let same = etag.is_some() && request.headers.get("if-none-match") == etag;
                let reply = if same { (304, headers, String::new()) } else { (status, headers, body) };
                std::future::ready(reply).boxed()
            })
            .await;
            Self { server, reply }
        }

        fn set(&self, status: u16, etag: &str, body: &str) {
            let headers = if etag.is_empty() { Vec::new() } else { vec![("ETag", etag.to_owned())] };
            *self.reply.lock() = (status, headers, body.to_owned());
        }

        fn options(&self) -> Options {
            Options {
                endpoint: format!("http://name:word@127.0.0.1:{}/routes?x=1", self.server.port),
                poll_interval: values::Duration::from_millis(10),
                headers: BTreeMap::from([("X-Key".to_owned(), "secret".into())]),
                ..Options::default()
            }
        }
    }

    fn service(url: &str) -> String {
        format!(
            r#"{{"http": {{"services": {{"s": {{"loadBalancer": {{"servers": [{{"url": "{url}"}}]}}}}}}}}}}"#
        )
    }

    #[tokio::test]
    async fn json_and_yaml_are_fetched_only_if_changed() {
        let fake = Fake::start().await;
        let mut running = Running::start(build(fake.options()).expect("valid options"));
        let first = running.next().await;
        assert!(!first.ready);
        let shown = first.state.problems[0].to_string();
        assert!(shown.contains("503") && !shown.contains("word"), "{shown}");
        fake.set(200, "\"1\"", &service("http://10.0.0.1"));
        running.until(|state| urls(state, "s") == ["http://10.0.0.1"]).await;
        eventually("it is asked with the version", || {
            fake.server.requests.lock().iter().any(|request| request.headers.contains_key("if-none-match"))
        })
        .await;
        fake.set(
            200,
            "",
            "http:\n  services:\n    s: {loadBalancer: {servers: [{url: 'http://10.0.0.2'}]}}\n",
        );
        running.until(|state| urls(state, "s") == ["http://10.0.0.2"]).await;
        let request = fake.server.requests.lock().last().cloned().expect("a request");
        assert_eq!((request.path.as_str(), request.query["x"].as_str()), ("/routes", "1"));
        assert_eq!(request.headers["x-key"], "secret");
        assert_eq!(request.headers["authorization"], "Basic bmFtZTp3b3Jk");
    }

    #[tokio::test]
    async fn invalid_responses_and_failures_keep_the_last_configuration() {
        let fake = Fake::start().await;
        fake.set(200, "", &service("http://10.0.0.1"));
        let mut running = Running::start(build(fake.options()).expect("valid options"));
        running.next().await;
        for (status, body) in [(500, "no"), (204, ""), (302, "")] {
            fake.set(status, "", body);
            let before = fake.server.requests.lock().len();
            eventually("it is asked twice", || fake.server.requests.lock().len() >= before + 2).await;
        }
        fake.server.cut();
        assert!(running.updates.try_recv().is_err());
        fake.server.mend();
        for body in [
            "{",
            "<html>\n<body>Sorry</body>\n</html>",
            "oops",
            "Service Unavailable",
            "[]",
            "\"x\"",
            r#"{"http":"x"}"#,
            r#"{"http":{"services":"x"}}"#,
            r#"{"http":{"routers":[]}}"#,
            r#"{"error":{"code":7}}"#,
        ] {
            fake.set(200, "", body);
            let state = running.until(|state| !state.problems.is_empty()).await;
            assert_eq!(urls(&state, "s"), ["http://10.0.0.1"], "{body}");
            let shown = state.problems[0].to_string();
            assert!(shown.contains("/routes") && shown.contains("provider test serves on"), "{shown}");
            fake.set(200, "", &service("http://10.0.0.1"));
            running.until(|state| state.problems.is_empty()).await;
        }
        fake.set(
            200,
            "",
            &service("http://10.0.0.2").replace("\"servers\"", "\"passHostHeader\": 7, \"servers\""),
        );
        let state = running.until(|state| !state.problems.is_empty()).await;
        assert_eq!(urls(&state, "s"), ["http://10.0.0.1"], "the last good version of the object");
        fake.set(200, "", &service("http://10.0.0.3"));
        running.until(|state| urls(state, "s") == ["http://10.0.0.3"] && state.problems.is_empty()).await;
        fake.set(200, "", &service("http://10.0.0.4").replacen('{', r#"{"version":3,"#, 1));
        let state = running.until(|state| !state.problems.is_empty()).await;
        assert_eq!(urls(&state, "s"), ["http://10.0.0.4"], "an unknown key is ignored");
    }

    #[tokio::test]
    async fn a_response_that_is_too_large_is_rejected() {
        let fake = Fake::start().await;
        fake.set(200, "", &service("http://10.0.0.1"));
        let options = Options { max_response_body_size: 10, ..fake.options() };
        let mut running = Running::start(build(options).expect("valid options"));
        assert!(!running.next().await.ready);
    }

    #[test]
    fn names_and_passwords_in_the_url_are_decoded() {
        let sent = |authority: &str| {
            let headers = headers(&Options::default(), authority).expect("headers");
            headers.get(header::AUTHORIZATION).cloned()
        };
        for (authority, name, password) in [
            ("us%40er:p%3Ass@host", "us@er", "p:ss"),
            ("onlyuser@host", "onlyuser", ""),
            ("name:@host:81", "name", ""),
        ] {
            assert_eq!(sent(authority), basic(name, &password.into()), "{authority}");
            let endpoint = format!("http://{authority}/");
            assert!(build(Options { endpoint, ..Options::default() }).is_ok());
        }
        assert_eq!(sent("host"), None);
    }

    #[test]
    fn invalid_options_are_rejected() {
        let endpoint = |text: &str| Options { endpoint: text.into(), ..Options::default() };
        for options in [
            Options::default(),
            endpoint("/path"),
            endpoint("ftp://h/"),
            Options { poll_interval: values::Duration::default(), ..endpoint("http://h/") },
            Options { headers: BTreeMap::from([("a b".to_owned(), "x".into())]), ..endpoint("http://h/") },
        ] {
            assert!(build(options.clone()).is_err(), "{options:?}");
        }
        assert!(build(endpoint("https://h/")).is_ok());
    }
}
