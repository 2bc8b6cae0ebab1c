//! From a header block to the head of a request (RFC 9114 section 4.3).

use http::header::{CONTENT_LENGTH, HOST, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, request};
use hyper::ext::Protocol;

use super::super::target::{MAX_TARGET, escape_of, must_be_escaped};
use super::qpack::{self, Broken};

/// Fields that speak of one connection, which HTTP/3 has no use for (RFC 9114 section 4.2).
const OF_CONNECTIONS: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Why there is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The block cannot be read, and so no later one.
    Block,
    /// The fields pass the limit.
    TooLarge,
    /// The target is longer than we can hold.
    TargetTooLong,
    /// It is not a request.
    Malformed(&'static str),
}

impl From<Broken> for Refusal {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Block => Self::Block,
            Broken::TooLarge => Self::TooLarge,
        }
    }
}

/// Reads the head of a request. `limit` is for all its fields together, in bytes.
pub(super) fn request(block: &[u8], limit: usize) -> Result<request::Parts, Refusal> {
    let mut pseudo = Pseudo::default();
    let mut headers = HeaderMap::new();
    qpack::read(block, limit, |name, value| match name.strip_prefix(b":") {
        Some(name) if headers.is_empty() => pseudo.set(name, value),
        Some(_) => Err(Refusal::Malformed("a pseudo-header behind a header")),
        None => add(&mut headers, name, value),
    })?;
    if let Some(te) = headers.get(TE)
        && !te.as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        return Err(Refusal::Malformed("a `te` other than `trailers`"));
    }
    let (mut head, ()) = http::Request::new(()).into_parts();
    let protocol = pseudo.protocol.take();
    (head.method, head.uri) = pseudo.target(&headers, protocol.is_some())?;
    if protocol.is_some_and(|protocol| *protocol == *b"websocket") {
        head.extensions.insert(Protocol::from_static("websocket"));
    }
    head.version = Version::HTTP_3;
    head.headers = headers;
    Ok(head)
}

/// Reads trailers. `limit` is for all fields together, in bytes.
pub(super) fn trailers(block: &[u8], limit: usize) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::new();
    qpack::read(block, limit, |name, value| add(&mut headers, name, value))?;
    Ok(headers)
}

/// The length that a request announces for its body, in bytes.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let malformed = Refusal::Malformed("a `content-length` that is no length");
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let digits = first.as_bytes();
    if values.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    first.to_str().ok().and_then(|digits| digits.parse().ok()).map(Some).ok_or(malformed)
}

fn add(headers: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
    let name =
        HeaderName::from_lowercase(name).map_err(|_| Refusal::Malformed("a name that is not a name"))?;
    if OF_CONNECTIONS.contains(&name.as_str()) {
        return Err(Refusal::Malformed("a header that speaks of one connection"));
    }
    let padded = [value.first(), value.last()].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'));
    let value = HeaderValue::from_bytes(value)
        .ok()
        .filter(|_| !padded)
        .ok_or(Refusal::Malformed("a value that is no value"))?;
    headers.try_append(name, value).map_err(|_| Refusal::TooLarge)?;
    Ok(())
}

/// What stands before the headers.
#[derive(Default)]
struct Pseudo {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    /// What a CONNECT is for (RFC 9220).
    protocol: Option<Box<[u8]>>,
}

impl Pseudo {
    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match name {
            b"method" => put(&mut self.method, Method::from_bytes(value).ok()),
            b"scheme" => put(&mut self.scheme, Scheme::try_from(value).ok()),
            b"authority" => put(&mut self.authority, Authority::try_from(value).ok()),
            b"path" => put(&mut self.path, Some(path(value)?)),
            b"protocol" => put(&mut self.protocol, Some(value.into())),
            _ => Err(Refusal::Malformed("an unknown pseudo-header")),
        }
    }

    /// Method and target. `extended`: a CONNECT has a target as others have.
    fn target(self, headers: &HeaderMap, extended: bool) -> Result<(Method, Uri), Refusal> {
        let method = self.method.ok_or(Refusal::Malformed("no `:method`"))?;
        let malformed = Refusal::Malformed("a target that is no target");
        if extended && method != Method::CONNECT {
            return Err(Refusal::Malformed("a `:protocol` of a request other than CONNECT"));
        }
        if method == Method::CONNECT && !extended {
            // It is refused behind, whatever it asks for.
            let authority = self.authority.ok_or(malformed)?;
            return Uri::builder()
                .authority(authority)
                .build()
                .map(|uri| (method, uri))
                .map_err(|_| malformed);
        }
        let scheme = self.scheme.ok_or(Refusal::Malformed("no `:scheme`"))?;
        let path = self.path.ok_or(Refusal::Malformed("no `:path`"))?;
        let authority = match (self.authority, headers.get(HOST)) {
            (Some(authority), _) => authority,
            (None, Some(host)) => Authority::try_from(host.as_bytes()).map_err(|_| malformed)?,
            (None, None) => return Err(Refusal::Malformed("no `:authority`")),
        };
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
        uri.map(|uri| (method, uri)).map_err(|_| malformed)
    }
}

const INVALID_PSEUDO: Refusal =
    Refusal::Malformed("a pseudo-header that is twice there, or has no valid value");

/// Sets what may be set once.
fn put<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), Refusal> {
    if place.is_some() || value.is_none() {
        return Err(INVALID_PSEUDO);
    }
    *place = value;
    Ok(())
}

/// A path, or the `*` of OPTIONS. A fragment is no part of a target.
fn path(value: &[u8]) -> Result<PathAndQuery, Refusal> {
    let fine = (value.first() == Some(&b'/') || value == b"*") && !value.contains(&b'#');
    if !fine {
        return Err(INVALID_PSEUDO);
    }
    let path = PathAndQuery::try_from(value).or_else(|_| PathAndQuery::try_from(escaped(value)));
    path.map_err(|_| if value.len() > MAX_TARGET { Refusal::TargetTooLong } else { INVALID_PSEUDO })
}

/// Escapes the characters that [`PathAndQuery`] refuses and real clients send.
fn escaped(target: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(target.len() + 16);
    let mut in_query = false;
    for &byte in target {
        in_query |= byte == b'?';
        match must_be_escaped(byte, in_query) {
            true => escaped.extend_from_slice(&escape_of(byte)),
            false => escaped.push(byte),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    /// A block of literal fields, each `name: value`.
    fn block(fields: &[&str]) -> Vec<u8> {
        let mut block = BytesMut::from(&[0, 0][..]);
        for field in fields {
            let (name, value) = field.rsplit_once(": ").unwrap();
            assert!(name.len() < 7 + 128 && value.len() < 127);
            if name.len() < 7 {
                block.put_u8(0x20 | name.len() as u8);
            } else {
                block.put_slice(&[0x27, (name.len() - 7) as u8]);
            }
            block.put_slice(name.as_bytes());
            block.put_u8(value.len() as u8);
            block.put_slice(value.as_bytes());
        }
        block.to_vec()
    }

    const LINE: [&str; 4] = [":method: GET", ":scheme: https", ":authority: a.test", ":path: /p?q"];

    fn with(more: &[&str]) -> Result<request::Parts, Refusal> {
        request(&block(&[&LINE[..], more].concat()), 1000)
    }

    fn without(index: usize, more: &[&str]) -> Result<request::Parts, Refusal> {
        let mut line = LINE.to_vec();
        line.remove(index);
        request(&block(&[&line[..], more].concat()), 1000)
    }

    #[test]
    fn a_request() {
        let head = with(&["accept: */*", "te: trailers", "cookie: a", "cookie: b"]).unwrap();
        assert_eq!((head.method, head.version), (Method::GET, Version::HTTP_3));
        assert_eq!(head.uri.to_string(), "https://a.test/p?q");
        assert_eq!(head.headers.get_all("cookie").iter().count(), 2);
        assert_eq!(without(2, &["host: b.test"]).unwrap().uri.authority().unwrap(), "b.test");
    }

    #[test]
    fn malformed_requests() {
        for more in [
            ":method: GET",
            ":path: /",
            ":status: 200",
            ":protocol: websocket",
            "connection: close",
            "transfer-encoding: chunked",
            "te: gzip",
            "X-Upper: 1",
            "a b: c",
            "x: a\nb",
            "x:  a",
        ] {
            assert!(matches!(with(&[more]), Err(Refusal::Malformed(_))), "{more}");
        }
        assert!(matches!(with(&["x: y", ":path: /"]), Err(Refusal::Malformed(_))));
        for missing in 0..4 {
            assert!(matches!(without(missing, &[]), Err(Refusal::Malformed(_))), "{missing}");
        }
        for path in [":path: p", ":path: /a b", ":path: ", ":path: /a#b", ":path: http://a/"] {
            assert!(
                matches!(
                    request(&block(&[LINE[0], LINE[1], LINE[2], path]), 1000),
                    Err(Refusal::Malformed(_))
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn a_connect_may_say_what_for() {
        let connect = |protocol: &str, rest: &[&str]| {
            request(&block(&[&[":method: CONNECT", protocol], rest].concat()), 1000)
        };
        let rest = &LINE[1..];
        let head = connect(":protocol: websocket", rest).unwrap();
        assert_eq!((head.method, head.uri.to_string().as_str()), (Method::CONNECT, "https://a.test/p?q"));
        assert_eq!(head.extensions.get::<Protocol>().unwrap().as_str(), "websocket");
        let head = connect(":protocol: connect-udp", rest).unwrap();
        assert!(head.method == Method::CONNECT && head.extensions.get::<Protocol>().is_none());
        for missing in 0..3 {
            let mut rest = rest.to_vec();
            rest.remove(missing);
            assert!(connect(":protocol: websocket", &rest).is_err(), "{missing}");
        }
    }

    #[test]
    fn limits() {
        assert_eq!(request(&block(&LINE), 100).unwrap_err(), Refusal::TooLarge);
        let many: Vec<String> = (0..40_000).map(|number| format!("{number}: x")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        // More than a map of headers can hold.
        assert_eq!(request(&block(&many), usize::MAX).unwrap_err(), Refusal::TooLarge);
        assert_eq!(trailers(b"\x00\x00\x80", 100).unwrap_err(), Refusal::Block);
    }

    #[test]
    fn lengths() {
        let of = |fields: &[&str]| content_length(&trailers(&block(fields), 1000).unwrap());
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["content-length: 12"]), Ok(Some(12)));
        for wrong in ["-1", "+1", "1,1", "", "99999999999999999999"] {
            assert!(of(&[&format!("content-length: {wrong}")]).is_err(), "{wrong}");
        }
        assert!(of(&["content-length: 1", "content-length: 1"]).is_err());
    }
}
