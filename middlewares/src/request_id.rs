//! Gives each request an identifier, which the server, the client and the logs get.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tidegate_core::current_request::within;
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Request, Response,
};
use uuid::Uuid;

/// Headers that cannot carry an identifier, since they determine how a message is read or where it goes.
const RESERVED: [HeaderName; 9] = [
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HOST,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Range of `maxLength`.
const LENGTHS: std::ops::RangeInclusive<usize> = 1..=1024;

/// Options of `requestId`. Not in Traefik.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RequestId {
    /// Header with the identifier, in requests and responses.
    pub header_name: String,
    /// Keeps the identifier of a request that has a valid one.
    pub trust_incoming: bool,
    /// Maximum length of an identifier that is kept.
    pub max_length: usize,
}

impl Default for RequestId {
    fn default() -> Self {
        Self { header_name: "X-Request-Id".into(), trust_incoming: true, max_length: 128 }
    }
}

impl Build for RequestId {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let invalid = |why: &str| BuildError::new(format!("headerName: `{}` {why}", self.header_name));
        let header = HeaderName::from_bytes(self.header_name.as_bytes())
            .map_err(|_| invalid("is not the name of a header"))?;
        if RESERVED.contains(&header) {
            return Err(invalid("cannot carry an identifier: expected a header like `X-Request-Id`"));
        }
        if !LENGTHS.contains(&self.max_length) {
            let (min, max) = (LENGTHS.start(), LENGTHS.end());
            let message = format!("maxLength: `{}` is not between {min} and {max}", self.max_length);
            return Err(BuildError::new(message));
        }
        Ok(Arc::new(Identify { header, max_length: self.trust_incoming.then_some(self.max_length) }))
    }
}

struct Identify {
    header: HeaderName,
    /// `None` if identifiers of clients are replaced.
    max_length: Option<usize>,
}

impl Identify {
    /// Returns the identifier of the request: one that it already has, or else a new one.
    fn id(&self, request: &Request) -> HeaderValue {
        // Another middleware of this kind may have determined it.
        let known = request.context.exchange.request_id().and_then(|id| HeaderValue::from_str(id).ok());
        known.or_else(|| self.incoming(&request.head.headers)).unwrap_or_else(new_id)
    }

    /// Returns the identifier that the client sent, if it is trusted and valid.
    fn incoming(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let max_length = self.max_length?;
        let mut values = headers.get_all(&self.header).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let is_valid = (1..=max_length).contains(&value.len()) && value.as_bytes().iter().all(is_allowed);
        is_valid.then(|| value.clone())
    }
}

impl Middleware for Identify {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let id = self.id(&request);
        if let Ok(text) = id.to_str() {
            request.context.exchange.set_request_id(text);
        }
        request.head.headers.insert(&self.header, id.clone());
        Box::pin(async move {
            let exchange = request.context.exchange.clone();
            let mut response = within(exchange, next.run(request)).await;
            if let Some(message) = plain_error(&response) {
                response = with_last_line(response, &message, &id);
            }
            response.headers_mut().insert(&self.header, id);
            response
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

/// Returns true for what identifiers consist of: letters, digits, and punctuation that is harmless in logs, URLs and
/// shells.
fn is_allowed(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~:/+=@".contains(byte)
}

/// Returns a new UUID of version 7 (RFC 9562, section 5.7), whose first part is the time.
fn new_id() -> HeaderValue {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let mut random = [0; 10];
    // Identifiers are unique, not secret.
    random.fill_with(|| fastrand::u8(..));
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let mut text = Uuid::encode_buffer();
    let text = uuid::Builder::from_unix_timestamp_millis(millis, &random)
        .into_uuid()
        .hyphenated()
        .encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Returns the message of an error in plain text that the gateway itself produced. `None` for all other responses.
fn plain_error(response: &Response) -> Option<Bytes> {
    let headers = response.headers();
    let is_plain = headers.get(CONTENT_TYPE).is_none_or(|value| value.as_bytes().starts_with(b"text/plain"));
    // The gateway's own messages have neither; others have been produced elsewhere or changed.
    let is_foreign = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(CONTENT_ENCODING);
    if response.reason.is_none() || response.status().as_u16() < 400 || !is_plain || is_foreign {
        return None;
    }
    response.body().as_bytes().filter(|message| !message.is_empty())
}

/// Appends a line with the identifier to the message of an error.
fn with_last_line(response: Response, message: &[u8], id: &HeaderValue) -> Response {
    let mut text = BytesMut::with_capacity(message.len() + id.len() + 16);
    text.put_slice(message);
    if !message.ends_with(b"\n") {
        text.put_u8(b'\n');
    }
    text.put_slice(b"Request ID: ");
    text.put_slice(id.as_bytes());
    text.put_u8(b'\n');
    let (length, text) = (HeaderValue::from(text.len()), text.freeze());
    // The body keeps its guards.
    let mut response = response.map(|body| body.map_data(move |_| text.clone()));
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, request, response_of};
    use http::StatusCode;
    use tidegate_core::{Body, Reason, reply};

    const NAME: &str = "x-request-id";

    /// Returns the identifiers that the server, the client and the exchange get.
    fn ids(options: RequestId, incoming: &[&str]) -> [String; 3] {
        let name = options.header_name.to_ascii_lowercase();
        let mut builder = http::Request::get("http://h.test/");
        for value in incoming {
            builder = builder.header(&name, *value);
        }
        let request = request(builder);
        let exchange = request.context.exchange.clone();
        let key = name.clone();
        let response = response_of(options, request, move |request| {
            assert_eq!(request.head.headers.get_all(&key).iter().count(), 1);
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert("x-seen", request.head.headers[&key].clone());
            // The server's own value is replaced.
            response
                .headers_mut()
                .append(HeaderName::from_bytes(key.as_bytes()).unwrap(), "other".parse().unwrap());
            response
        });
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        [header("x-seen"), header(&name), exchange.request_id().unwrap().to_owned()]
    }

    #[test]
    fn a_request_without_an_identifier_gets_a_uuid_of_version_7() {
        let [server, client, exchange] = ids(RequestId::default(), &[]);
        assert!(server == client && client == exchange, "{server} {client} {exchange}");
        let id = Uuid::parse_str(&server).unwrap();
        assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        let (seconds, _) = id.get_timestamp().unwrap().to_unix();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(now.abs_diff(seconds) < 60, "{now} {seconds}");
        assert_ne!(ids(RequestId::default(), &[])[0], server);
    }

    #[test]
    fn a_valid_identifier_is_kept_and_another_one_is_replaced() {
        let long = "a".repeat(128);
        for kept in ["a", "req-1:2/3+4=@x.y_z~", &long] {
            assert_eq!(ids(RequestId::default(), &[kept]), [kept; 3]);
        }
        let too_long = "a".repeat(129);
        for replaced in [&[""][..], &["a b"], &["a\"b"], &["a<b>"], &["é"], &[&too_long], &["a", "b"]] {
            let [server, client, exchange] = ids(RequestId::default(), replaced);
            assert!(
                Uuid::parse_str(&server).is_ok() && server == client && client == exchange,
                "{replaced:?}"
            );
        }
    }

    #[test]
    fn options_determine_the_header_and_what_is_kept() {
        let untrusting = RequestId { trust_incoming: false, ..RequestId::default() };
        assert_ne!(ids(untrusting, &["a"])[0], "a");
        let other = RequestId { header_name: "X-Correlation-ID".into(), ..RequestId::default() };
        assert_eq!(ids(other, &["a"]), ["a"; 3]);
        let short = RequestId { max_length: 2, ..RequestId::default() };
        assert_eq!(ids(short.clone(), &["ab"]), ["ab"; 3]);
        assert_ne!(ids(short, &["abc"])[0], "abc");
    }

    #[test]
    fn an_earlier_identifier_of_the_same_request_is_used() {
        let request = testing::get("http://h.test/");
        request.context.exchange.set_request_id("first");
        let response = response_of(RequestId::default(), request, |_| Response::new(Body::empty()));
        assert_eq!(response.headers()[NAME], "first");
    }

    #[test]
    fn errors_of_the_gateway_contain_the_identifier() {
        let body = |response: fn() -> Response| {
            let request = request(http::Request::get("http://h.test/").header(NAME, "id-1"));
            testing::text(response_of(RequestId::default(), request, move |_| response()))
        };
        let with_id = body(|| reply::error(StatusCode::BAD_REQUEST, "Bad Request", Reason::PathRefused));
        assert_eq!(with_id, "Bad Request\nRequest ID: id-1\n");
        let with_id = body(|| reply::status_text(StatusCode::FORBIDDEN, Reason::PathRefused));
        assert_eq!(with_id, "Forbidden\nRequest ID: id-1\n");
        assert_eq!(body(|| reply::empty(StatusCode::FORBIDDEN, Reason::PathRefused)), "");
        // What comes from a server, or is not an error in plain text, stays as it is.
        let from_server = || {
            let mut response = Response::new(Body::full("server"));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        };
        assert_eq!(body(from_server), "server");
        let html = || {
            let mut response = reply::bare(StatusCode::FORBIDDEN, "<p>", Reason::PathRefused);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            response
        };
        assert_eq!(body(html), "<p>");
    }

    #[test]
    fn invalid_options_are_refused() {
        let error = |options| {
            let built = testing::build_in(&testing::World::default(), options);
            built.err().map(|error| error.to_string()).unwrap_or_default()
        };
        let named = |name: &str| RequestId { header_name: name.into(), ..RequestId::default() };
        assert!(error(named("a b")).contains("headerName: `a b` is not the name of a header"));
        assert!(error(named("Content-Length")).contains("cannot carry an identifier"));
        for max_length in [0, 1025] {
            let options = RequestId { max_length, ..RequestId::default() };
            assert!(error(options).contains("is not between 1 and 1024"));
        }
    }
}
