//! Requests that are sent again.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use http_body::Body as _;
use tidegate_core::Body;

use super::lease::Lease;

/// How a request is repeated.
pub(super) enum Repeatable {
    /// It must not be.
    No,
    /// Its head is still there.
    Itself,
    /// The library takes it, so this is a copy.
    Copy(Spare),
}

impl Repeatable {
    /// Requests with a safe method and no body may be repeated. Go's transport repeats the same if a kept connection
    /// closes.
    pub(super) fn new(request: &Request<Body>, lease: &Lease) -> Self {
        let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        match lease {
            _ if !safe || !request.body().is_end_stream() => Self::No,
            Lease::Own { .. } => Self::Itself,
            Lease::Stream { .. } => Self::Copy(Spare::new(request)),
        }
    }

    /// Returns the request to send again; `None` if it must not be repeated. `sent`: what is left of it.
    pub(super) fn into_request(self, sent: Request<Body>) -> Option<Request<Body>> {
        match self {
            Self::No => None,
            Self::Itself => Some(sent),
            Self::Copy(spare) => spare.into_request(),
        }
    }
}

/// A copy of a request as a plain list, because it is made for nearly every request and rarely used.
pub(super) struct Spare {
    method: Method,
    uri: Uri,
    /// Each field with a `:` behind its name and a line feed behind its value, which cannot have one.
    fields: Vec<u8>,
}

impl Spare {
    /// Most copies fit in.
    const USUAL: usize = 512;

    fn new(request: &Request<Body>) -> Self {
        let fields = Self::of_fields(request.headers());
        Self { method: request.method().clone(), uri: request.uri().clone(), fields }
    }

    fn of_fields(headers: &HeaderMap) -> Vec<u8> {
        let mut fields = Vec::with_capacity(Self::USUAL);
        for (name, value) in headers {
            fields.extend_from_slice(name.as_str().as_bytes());
            fields.push(b':');
            fields.extend_from_slice(value.as_bytes());
            fields.push(b'\n');
        }
        fields
    }

    /// The request. `None` if a field cannot be read back, so that none goes missing.
    fn into_request(self) -> Option<Request<Body>> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        for field in self.fields.strip_suffix(b"\n").into_iter().flat_map(|all| all.split(|&b| b == b'\n')) {
            let colon = memchr::memchr(b':', field)?;
            let name = HeaderName::from_bytes(&field[..colon]).ok()?;
            let value = HeaderValue::from_bytes(&field[colon + 1..]).ok()?;
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_request_is_the_same() {
        let original = Request::builder()
            .method("OPTIONS")
            .uri("/p?q")
            .header("host", "a.test:80")
            .header("x-a", "1: 2")
            .header("x-a", HeaderValue::from_bytes(b"\t\xff").unwrap())
            .header("x-empty", "")
            .body(Body::empty())
            .unwrap();
        let copy = Spare::new(&original).into_request().unwrap();
        assert_eq!((copy.method(), copy.uri()), (original.method(), original.uri()));
        assert_eq!(copy.headers(), original.headers());
        let bare = Request::new(Body::empty());
        assert!(Spare::new(&bare).into_request().unwrap().headers().is_empty());
    }
}
