//! The URL that a proof is for, without query and fragment (RFC 9449 section 4.3).

use http::HeaderName;
use tidegate_core::Request;
use url::Url;

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A URL after the normalisation of RFC 3986 sections 6.2.2 and 6.2.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    scheme: String,
    host: String,
    port: Option<u16>,
    path: String,
}

impl Target {
    /// Reads an http or https URL without user and password. Query and fragment are ignored.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty();
        if !is_plain || url.password().is_some() {
            return None;
        }
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str()?.to_owned(),
            port: url.port_or_known_default(),
            path: normalised(url.path()),
        })
    }

    /// Returns the URL of a request as its client knows it: from `X-Forwarded-Proto` and `X-Forwarded-Host`, which the
    /// entry point has set unless it trusts the peer, or with what is before the path in `public`.
    pub(super) fn of(request: &Request, public: Option<&Self>) -> Option<Self> {
        let target = request.original_target();
        let path = target.split(['?', '#']).next().unwrap_or("/");
        if let Some(public) = public {
            // Any origin will do to normalise the path.
            let path = Self::parse(&format!("http://h{path}"))?.path;
            return Some(Self {
                path: format!("{}{path}", public.path.trim_end_matches('/')),
                ..public.clone()
            });
        }
        let header = |name: &HeaderName| request.head.headers.get(name).and_then(|value| value.to_str().ok());
        let scheme = match header(&X_FORWARDED_PROTO) {
            Some("https" | "wss") => "https",
            Some("http" | "ws") => "http",
            Some(_) => return None,
            None if request.context.is_tls() => "https",
            None => "http",
        };
        let host = header(&X_FORWARDED_HOST).filter(|host| !host.is_empty()).unwrap_or(request.host());
        Self::parse(&format!("{scheme}://{host}{path}"))
    }
}

/// Decodes what need not be escaped, and writes other escapes in upper case.
fn normalised(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let code = after.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte))
            }
            Some(byte) => out.push_str(&format!("%{byte:02X}")),
            None => {
                out.push('%');
                rest = after.get(1..).unwrap_or_default();
                continue;
            }
        }
        rest = after.get(3..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}
