//! Requests that are sent again.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri, request};
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
    pub(super) fn new(head: &request::Parts, body: &Body, lease: &Lease) -> Self {
        let safe = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE);
        match lease {
            _ if !safe || !body.is_end_stream() => Self::No,
            Lease::Own { .. } => Self::Itself,
            Lease::Stream { .. } => Self::Copy(Spare::new(head)),
        }
    }

    /// Makes the head what it was, to send it again. Returns false if it must not be repeated.
    pub(super) fn restore(self, head: &mut request::Parts) -> bool {
        match self {
            Self::No => false,
            Self::Itself => true,
            Self::Copy(spare) => spare.into_head().map(|spare| *head = spare).is_some(),
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

    fn new(head: &request::Parts) -> Self {
        let fields = Self::of_fields(&head.headers);
        Self { method: head.method.clone(), uri: head.uri.clone(), fields }
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

    /// The head. `None` if a field cannot be read back, so that none goes missing.
    fn into_head(self) -> Option<request::Parts> {
        let mut head = Request::new(()).into_parts().0;
        (head.method, head.uri) = (self.method, self.uri);
        for field in self.fields.strip_suffix(b"\n").into_iter().flat_map(|all| all.split(|&b| b == b'\n')) {
            let colon = memchr::memchr(b':', field)?;
            let name = HeaderName::from_bytes(&field[..colon]).ok()?;
            let value = HeaderValue::from_bytes(&field[colon + 1..]).ok()?;
            head.headers.append(name, value);
        }
        Some(head)
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
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let copy = Spare::new(&original).into_head().unwrap();
        assert_eq!((&copy.method, &copy.uri), (&original.method, &original.uri));
        assert_eq!(copy.headers, original.headers);
        let bare = Request::new(()).into_parts().0;
        assert!(Spare::new(&bare).into_head().unwrap().headers.is_empty());
    }
}
