//! The request to explain: its parts, its limits, and the entry point that would get it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Uri};
use serde_json::Value;
use tidegate_config::TestRequest;

/// Maximum length of a URL in bytes.
const MAX_URL: usize = 16 * 1024;
/// Maximum number of headers.
const MAX_HEADERS: usize = 100;
/// Maximum length of all headers in bytes.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// A request that is not sent, as it is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// The method; `GET` if empty.
    pub(crate) method: String,
    /// The absolute URL.
    pub(crate) url: String,
    /// Headers by name.
    pub(crate) headers: Vec<(String, String)>,
    /// The client's address; 127.0.0.1 if empty.
    pub(crate) from: String,
    /// Name of the entry point; chosen by the URL if empty.
    pub(crate) entry_point: String,
}

/// Why a question is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuestionError {
    /// The body is not the expected JSON.
    #[error(
        "invalid JSON: expected an object with `url` and optionally `method`, `headers`, `from`, `entryPoint`"
    )]
    Json,
    /// A key is unknown.
    #[error("unknown key `{0}`: expected `method`, `url`, `headers`, `from` or `entryPoint`")]
    Key(String),
    /// The method is invalid.
    #[error("invalid method `{0}`")]
    Method(String),
    /// The URL is invalid.
    #[error("invalid URL `{0}`: expected one like `https://app.example/path`")]
    Url(String),
    /// The URL contains credentials.
    #[error("the URL contains credentials: expected them in the header `Authorization`")]
    Credentials,
    /// A header is invalid. Its value is not shown.
    #[error("invalid header `{0}`")]
    Header(String),
    /// The address is invalid.
    #[error("invalid client address `{0}`")]
    From(String),
    /// The question is too large.
    #[error(
        "the question is too large: at most {MAX_URL} bytes of URL, {MAX_HEADERS} headers, {MAX_HEADER_BYTES} bytes of headers"
    )]
    TooLarge,
    /// The entry point is unknown, or does not accept HTTP.
    #[error("unknown entry point `{0}`: expected one of {1}")]
    EntryPoint(String, String),
    /// The settings of the entry point are invalid.
    #[error("entry point {0}: {1}")]
    Settings(String, String),
    /// No entry point accepts HTTP.
    #[error("no entry point accepts HTTP")]
    NoEntryPoint,
}

/// A question with valid parts.
pub(super) struct Asked {
    /// The request as the gateway would receive it.
    pub(super) head: http::request::Parts,
    /// Length of its body.
    pub(super) length: u64,
    pub(super) client: SocketAddr,
    pub(super) is_tls: bool,
    /// The host of the URL, in lower case and without brackets: what the client connects to.
    pub(super) host: String,
    /// The port of the URL.
    pub(super) port: u16,
    pub(super) url: String,
}

impl From<&TestRequest> for Question {
    fn from(request: &TestRequest) -> Self {
        let TestRequest { method, url, headers, from, entry_point } = request.clone();
        Self { method, url, headers: headers.into_iter().collect(), from, entry_point }
    }
}

impl Question {
    /// Reads a question from JSON. A header may have a list of values.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, QuestionError> {
        let Ok(Value::Object(members)) = serde_json::from_slice(body) else {
            return Err(QuestionError::Json);
        };
        let mut question = Self::default();
        for (key, value) in members {
            let field = match (key.as_str(), value) {
                (_, Value::Null) => continue,
                ("headers", Value::Object(headers)) => {
                    question.headers = from_members(headers)?;
                    continue;
                }
                ("method", value) => (&mut question.method, value),
                ("url", value) => (&mut question.url, value),
                ("from", value) => (&mut question.from, value),
                ("entryPoint", value) => (&mut question.entry_point, value),
                ("headers", _) => return Err(QuestionError::Json),
                _ => return Err(QuestionError::Key(key.chars().take(50).collect())),
            };
            let (field, Value::String(text)) = field else { return Err(QuestionError::Json) };
            *field = text;
        }
        Ok(question)
    }

    /// Reads a question from a query: `url=…&method=…&header=Name: value&from=…&entryPoint=…`.
    pub(crate) fn from_query(query: &str) -> Result<Self, QuestionError> {
        let mut question = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*key {
                "method" => question.method = value,
                "url" => question.url = value,
                "from" => question.from = value,
                "entryPoint" => question.entry_point = value,
                "header" => question.headers.push(header_line(&value)?),
                _ => return Err(QuestionError::Key(key.chars().take(50).collect())),
            }
        }
        Ok(question)
    }

    /// Checks the parts.
    pub(super) fn check(&self) -> Result<Asked, QuestionError> {
        let header_bytes: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if self.url.len() > MAX_URL || self.headers.len() > MAX_HEADERS || header_bytes > MAX_HEADER_BYTES {
            return Err(QuestionError::TooLarge);
        }
        let shown = || shown(&self.url);
        let url: Uri = self.url.parse().map_err(|_| QuestionError::Url(shown()))?;
        let (Some(scheme), Some(authority)) = (url.scheme(), url.authority()) else {
            return Err(QuestionError::Url(shown()));
        };
        if authority.as_str().contains('@') {
            return Err(QuestionError::Credentials);
        }
        let is_tls = match scheme.as_str() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Err(QuestionError::Url(shown())),
        };
        let usual = if is_tls { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(usual);
        let host = authority.host();
        if host.is_empty() || authority.as_str().ends_with(':') {
            return Err(QuestionError::Url(shown()));
        }
        let method = if self.method.is_empty() { "GET" } else { &self.method };
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| QuestionError::Method(method.chars().take(50).collect()))?;
        let target = url.path_and_query().map_or("/", PathAndQuery::as_str);
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let mut head = http::Request::new(()).into_parts().0;
        head.method = method;
        head.uri = target.parse().map_err(|_| QuestionError::Url(shown()))?;
        let name = if port == usual { host.to_owned() } else { authority.as_str().to_owned() };
        head.headers.insert(HOST, HeaderValue::try_from(name).map_err(|_| QuestionError::Url(shown()))?);
        self.add_headers(&mut head.headers)?;
        let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Asked {
            length: length.unwrap_or(0),
            client: SocketAddr::new(self.client()?, 0),
            is_tls,
            host: host.trim_matches(['[', ']']).to_ascii_lowercase(),
            port,
            url: without_query(scheme, authority.as_str(), &target),
            head,
        })
    }

    fn add_headers(&self, headers: &mut http::HeaderMap) -> Result<(), QuestionError> {
        for (name, value) in &self.headers {
            let wrong = || QuestionError::Header(name.chars().take(50).collect());
            let parsed = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
            let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| wrong())?;
            // The host of the URL is only the default.
            if parsed == HOST {
                headers.insert(parsed, value);
            } else {
                headers.append(parsed, value);
            }
        }
        Ok(())
    }

    fn client(&self) -> Result<IpAddr, QuestionError> {
        match self.from.as_str() {
            "" => Ok(Ipv4Addr::LOCALHOST.into()),
            text => text.parse().map_err(|_| QuestionError::From(text.chars().take(50).collect())),
        }
    }
}

/// Reads a header as it is written: `Name: value`.
pub(crate) fn header_line(line: &str) -> Result<(String, String), QuestionError> {
    let (name, value) = line.split_once(':').ok_or_else(|| {
        // What lacks a colon may be a value.
        QuestionError::Header("without a colon".to_owned())
    })?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn from_members(members: serde_json::Map<String, Value>) -> Result<Vec<(String, String)>, QuestionError> {
    let mut headers = Vec::new();
    for (name, value) in members {
        let values = match value {
            Value::Array(values) => values,
            one => vec![one],
        };
        for value in values {
            let Value::String(value) = value else { return Err(QuestionError::Header(name)) };
            headers.push((name.clone(), value));
        }
    }
    Ok(headers)
}

/// Returns an invalid URL for a message: shortened, without what may be credentials or a query.
fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let place = url[..end].rsplit_once('@').map_or(&url[..end], |(_, place)| place);
    place.chars().take(200).collect()
}

/// Returns a URL for display, without its query, which may contain secrets.
fn without_query(scheme: &Scheme, authority: &str, target: &str) -> String {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    format!("{scheme}://{authority}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(url: &str) -> Question {
        Question { url: url.to_owned(), ..Question::default() }
    }

    #[test]
    fn a_question_becomes_a_request() {
        let body = br#"{"url": "https://A.test:8443/x?q=1", "method": "POST", "from": "10.0.0.7",
            "headers": {"X-A": ["1", "2"], "Content-Length": "7"}}"#;
        let asked = Question::from_json(body).unwrap().check().unwrap();
        assert_eq!((asked.head.method.as_str(), asked.head.uri.to_string()), ("POST", "/x?q=1".to_owned()));
        assert_eq!(
            (asked.head.headers["host"].as_bytes(), asked.host.as_str()),
            (&b"A.test:8443"[..], "a.test")
        );
        assert_eq!((asked.head.headers.get_all("x-a").iter().count(), asked.length), (2, 7));
        assert_eq!((asked.client.ip().to_string(), asked.is_tls), ("10.0.0.7".to_owned(), true));
        assert_eq!(asked.url, "https://A.test:8443/x");
        let query = "url=http%3A%2F%2Fa.test%3A80&header=Host%3A%20b.test&header=X%3A%201";
        let asked = Question::from_query(query).unwrap().check().unwrap();
        assert_eq!((asked.head.headers["host"].as_bytes(), asked.port), (&b"b.test"[..], 80));
        assert_eq!((asked.head.uri.path(), asked.head.headers["x"].as_bytes()), ("/", &b"1"[..]));
    }

    #[test]
    fn invalid_and_large_questions_are_refused_without_showing_values() {
        for url in
            ["", "/x", "a.test", "ftp://a.test/", "http://", "http:///x", "http://a.test:/", "http://a b/"]
        {
            assert!(matches!(question(url).check(), Err(QuestionError::Url(_))), "{url}");
        }
        let secret = question("http://ann:secret@a.test/").check().err().unwrap();
        assert!(!secret.to_string().contains("secret"));
        for url in ["http://ann:secret@a b/", "ftp://a/?secret", "/?secret", "secret@"] {
            let wrong = question(url).check().err().unwrap().to_string();
            assert!(wrong.contains("invalid URL") && !wrong.contains("secret"), "{wrong}");
        }
        let with = |headers: Vec<(String, String)>| Question { headers, ..question("http://a.test/") };
        let wrong = with(vec![("x".into(), "sec\nret".into())]).check().err().unwrap();
        assert!(!wrong.to_string().contains("ret"), "{wrong}");
        assert_eq!(with(vec![("x".into(), String::new()); 101]).check().err(), Some(QuestionError::TooLarge));
        assert_eq!(with(vec![("x".into(), "x".repeat(40_000))]).check().err(), Some(QuestionError::TooLarge));
        assert_eq!(
            question(&format!("http://a/{}", "x".repeat(20_000))).check().err(),
            Some(QuestionError::TooLarge)
        );
        for (body, expected) in [
            (&b"[]"[..], QuestionError::Json),
            (br#"{"url": 1}"#, QuestionError::Json),
            (br#"{"uri": "x"}"#, QuestionError::Key("uri".into())),
        ] {
            assert_eq!(Question::from_json(body), Err(expected));
        }
        assert!(Question { from: "a".into(), ..question("http://a.test/") }.check().is_err());
    }
}
