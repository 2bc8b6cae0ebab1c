//! Heads and trailers of HTTP/3 requests: parses and validates header blocks (RFC 9114 sections 4.2 and 4.3).

use http::header::{CONTENT_LENGTH, HOST, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, request};

use super::frame::{Fault, code};
use super::qpack;
use crate::target::{MAX_TARGET, escape_of, must_be_escaped};

/// Hop-by-hop fields, which are not allowed in HTTP/3 (RFC 9114 section 4.2).
const HOP_BY_HOP: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// Initial capacity of the fields of a request, so that most need only one allocation.
const FIELDS: usize = 12;

/// Why a block is not a valid head or trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The block is invalid.
    #[error("invalid header block")]
    Block,
    /// The fields exceed the limit.
    #[error("too many fields")]
    TooLarge,
    /// The target is longer than [`MAX_TARGET`].
    #[error("the target is too long")]
    TargetTooLong,
    /// It violates the rules.
    #[error("{0}")]
    Malformed(&'static str),
}

impl From<qpack::Error> for HeadError {
    fn from(error: qpack::Error) -> Self {
        match error {
            qpack::Error::Malformed => Self::Block,
            qpack::Error::TooLarge => Self::TooLarge,
        }
    }
}

/// Converts an invalid block into the error for its stream.
impl From<HeadError> for Fault {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Block => Self::fatal(code::QPACK_DECOMPRESSION_FAILED, "invalid header block"),
            HeadError::TooLarge | HeadError::TargetTooLong => {
                Self::stream(code::EXCESSIVE_LOAD, "too many fields")
            }
            HeadError::Malformed(what) => Self::stream(code::MESSAGE_ERROR, what),
        }
    }
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target, version and headers.
    pub parts: request::Parts,
    /// The protocol of a CONNECT request (RFC 9220 section 3), such as `websocket`.
    pub protocol: Option<Box<[u8]>>,
}

/// Parses the head of a request. `limit` is the maximum size of all fields in bytes.
///
/// # Errors
/// [`HeadError`] if it is invalid, exceeds the limit, or violates RFC 9114 sections 4.2 and 4.3.
pub fn request(block: &[u8], limit: usize) -> Result<RequestHead, HeadError> {
    let mut pseudo = Pseudo::default();
    let mut headers = HeaderMap::with_capacity(FIELDS);
    qpack::read(block, limit, |name, value| match name.strip_prefix(b":") {
        Some(name) if headers.is_empty() => pseudo.set(name, value),
        Some(_) => Err(HeadError::Malformed("pseudo-header after a header")),
        None => add(&mut headers, name, value),
    })?;
    if let Some(te) = headers.get(TE)
        && !te.as_bytes().eq_ignore_ascii_case(b"trailers")
    {
        return Err(HeadError::Malformed("invalid `te`: expected `trailers`"));
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    let protocol = pseudo.protocol.take();
    (parts.method, parts.uri) = pseudo.target(&headers, protocol.is_some())?;
    parts.version = Version::HTTP_3;
    parts.headers = headers;
    Ok(RequestHead { parts, protocol })
}

/// Parses trailers. `limit` is the maximum size of all fields in bytes.
///
/// # Errors
/// [`HeadError`] if they are invalid, exceed the limit, or contain pseudo-headers.
pub fn trailers(block: &[u8], limit: usize) -> Result<HeaderMap, HeadError> {
    let mut headers = HeaderMap::new();
    qpack::read(block, limit, |name, value| add(&mut headers, name, value))?;
    Ok(headers)
}

/// Returns the declared length of a request's body in bytes.
///
/// # Errors
/// [`HeadError::Malformed`] if there are several, or one that is not a number.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, HeadError> {
    let malformed = HeadError::Malformed("invalid `content-length`");
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let digits = first.as_bytes();
    if values.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    first.to_str().ok().and_then(|digits| digits.parse().ok()).map(Some).ok_or(malformed)
}

fn add(headers: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
    let name = HeaderName::from_lowercase(name).map_err(|_| HeadError::Malformed("invalid header name"))?;
    if HOP_BY_HOP.contains(&name.as_str()) {
        return Err(HeadError::Malformed("hop-by-hop header"));
    }
    let padded = [value.first(), value.last()].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'));
    let value = HeaderValue::from_bytes(value)
        .ok()
        .filter(|_| !padded)
        .ok_or(HeadError::Malformed("invalid header value"))?;
    headers.try_append(name, value).map_err(|_| HeadError::TooLarge)?;
    Ok(())
}

/// The pseudo-headers.
#[derive(Default)]
struct Pseudo {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
    /// The protocol of a CONNECT request (RFC 9220).
    protocol: Option<Box<[u8]>>,
}

impl Pseudo {
    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        match name {
            b"method" => put(&mut self.method, Method::from_bytes(value).ok()),
            b"scheme" => put(&mut self.scheme, Scheme::try_from(value).ok()),
            b"authority" => put(&mut self.authority, Authority::try_from(value).ok()),
            b"path" => put(&mut self.path, Some(path(value)?)),
            b"protocol" => put(&mut self.protocol, Some(value.into())),
            _ => Err(HeadError::Malformed("unknown pseudo-header")),
        }
    }

    /// Returns method and target. An `extended` CONNECT has a target like other requests.
    fn target(self, headers: &HeaderMap, extended: bool) -> Result<(Method, Uri), HeadError> {
        let method = self.method.ok_or(HeadError::Malformed("missing `:method`"))?;
        let malformed = HeadError::Malformed("invalid target");
        if extended && method != Method::CONNECT {
            return Err(HeadError::Malformed("`:protocol` without CONNECT"));
        }
        if method == Method::CONNECT && !extended {
            // Refused later, whatever its target.
            let authority = self.authority.ok_or(malformed)?;
            return Uri::builder()
                .authority(authority)
                .build()
                .map(|uri| (method, uri))
                .map_err(|_| malformed);
        }
        let scheme = self.scheme.ok_or(HeadError::Malformed("no `:scheme`"))?;
        let path = self.path.ok_or(HeadError::Malformed("no `:path`"))?;
        let authority = match (self.authority, headers.get(HOST)) {
            (Some(authority), _) => authority,
            (None, Some(host)) => Authority::try_from(host.as_bytes()).map_err(|_| malformed)?,
            (None, None) => return Err(HeadError::Malformed("no `:authority`")),
        };
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
        uri.map(|uri| (method, uri)).map_err(|_| malformed)
    }
}

const INVALID_PSEUDO: HeadError = HeadError::Malformed("duplicate or invalid pseudo-header");

/// Sets a value that may be set only once.
fn put<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), HeadError> {
    if place.is_some() || value.is_none() {
        return Err(INVALID_PSEUDO);
    }
    *place = value;
    Ok(())
}

/// Parses a path, or the `*` of OPTIONS. Fragments are not allowed in a target.
fn path(value: &[u8]) -> Result<PathAndQuery, HeadError> {
    let fine = (value.first() == Some(&b'/') || value == b"*") && !value.contains(&b'#');
    if !fine {
        return Err(INVALID_PSEUDO);
    }
    let path = PathAndQuery::try_from(value).or_else(|_| PathAndQuery::try_from(escaped(value)));
    path.map_err(|_| if value.len() > MAX_TARGET { HeadError::TargetTooLong } else { INVALID_PSEUDO })
}

/// Escapes characters that [`PathAndQuery`] rejects but real clients send.
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

    /// Encodes literal fields, each written as `name: value`.
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

    fn with(more: &[&str]) -> Result<request::Parts, HeadError> {
        request(&block(&[&LINE[..], more].concat()), 1000).map(|head| head.parts)
    }

    fn without(index: usize, more: &[&str]) -> Result<request::Parts, HeadError> {
        let mut line = LINE.to_vec();
        line.remove(index);
        request(&block(&[&line[..], more].concat()), 1000).map(|head| head.parts)
    }

    #[test]
    fn requests_are_parsed() {
        let head = with(&["accept: */*", "te: trailers", "cookie: a", "cookie: b"]).unwrap();
        assert_eq!((head.method, head.version), (Method::GET, Version::HTTP_3));
        assert_eq!(head.uri.to_string(), "https://a.test/p?q");
        assert_eq!(head.headers.get_all("cookie").iter().count(), 2);
        assert_eq!(without(2, &["host: b.test"]).unwrap().uri.authority().unwrap(), "b.test");
    }

    #[test]
    fn malformed_requests_are_refused() {
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
            assert!(matches!(with(&[more]), Err(HeadError::Malformed(_))), "{more}");
        }
        assert!(matches!(with(&["x: y", ":path: /"]), Err(HeadError::Malformed(_))));
        for missing in 0..4 {
            assert!(matches!(without(missing, &[]), Err(HeadError::Malformed(_))), "{missing}");
        }
        for path in [":path: p", ":path: /a b", ":path: ", ":path: /a#b", ":path: http://a/"] {
            assert!(
                matches!(
                    request(&block(&[LINE[0], LINE[1], LINE[2], path]), 1000),
                    Err(HeadError::Malformed(_))
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn extended_connect_has_a_protocol() {
        let connect = |protocol: &str, rest: &[&str]| {
            request(&block(&[&[":method: CONNECT", protocol], rest].concat()), 1000)
        };
        let rest = &LINE[1..];
        let head = connect(":protocol: websocket", rest).unwrap();
        assert_eq!(head.protocol.as_deref(), Some(&b"websocket"[..]));
        let parts = head.parts;
        assert_eq!((parts.method, parts.uri.to_string().as_str()), (Method::CONNECT, "https://a.test/p?q"));
        for missing in 0..3 {
            let mut rest = rest.to_vec();
            rest.remove(missing);
            assert!(connect(":protocol: websocket", &rest).is_err(), "{missing}");
        }
    }

    #[test]
    fn limits_are_enforced() {
        assert_eq!(request(&block(&LINE), 100).unwrap_err(), HeadError::TooLarge);
        let many: Vec<String> = (0..40_000).map(|number| format!("{number}: x")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        // More than a header map can hold.
        assert_eq!(request(&block(&many), usize::MAX).unwrap_err(), HeadError::TooLarge);
        assert_eq!(trailers(b"\x00\x00\x80", 100).unwrap_err(), HeadError::Block);
    }

    #[test]
    fn content_lengths_are_parsed() {
        let of = |fields: &[&str]| content_length(&trailers(&block(fields), 1000).unwrap());
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["content-length: 12"]), Ok(Some(12)));
        for wrong in ["-1", "+1", "1,1", "", "99999999999999999999"] {
            assert!(of(&[&format!("content-length: {wrong}")]).is_err(), "{wrong}");
        }
        assert!(of(&["content-length: 1", "content-length: 1"]).is_err());
    }
}
