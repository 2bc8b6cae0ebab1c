//! Gives the gateway's own errors a form that fits the client, or pages of one's own.

mod accept;
mod format;
mod page;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, VARY, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{
    Body, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Exchange, Middleware, Next, Prediction,
    Reason, Request, Response, boxed,
};

use crate::status_ranges::StatusRanges;
use format::{BuiltIn, Details};
use page::Page;

/// Not in Traefik. Replaces the bodies of errors that the gateway itself returns. Responses of servers are left as
/// they are, and so are responses with pages of their own, such as those of a login.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ErrorPages {
    /// The form of errors without a page of their own; `negotiated` by default.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub format: Word<Format>,
    /// Files by status (`404`), range (`500-599`) or reason (`no_server`). Several files for one error have different
    /// types, and the client's `Accept` chooses.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pages: BTreeMap<String, Vec<String>>,
}

/// The form of errors without a page of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `negotiated`: problem details, HTML or text, depending on `Accept`.
    #[default]
    Negotiated,
    /// `problem`: problem details in JSON (RFC 9457).
    Problem,
    /// `html`: a page.
    Html,
    /// `text`: a line of text.
    Text,
    /// `traefik`: Traefik's responses.
    Traefik,
}

impl Vocabulary for Format {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("negotiated", Self::Negotiated),
        ("problem", Self::Problem),
        ("html", Self::Html),
        ("text", Self::Text),
        ("traefik", Self::Traefik),
    ];
}

impl ErrorPages {
    /// Reads the pages.
    ///
    /// # Errors
    ///
    /// A word, status or reason is unknown, or a file cannot be read or has a mistake.
    pub fn compile(&self, context: &BuildContext<'_>) -> Result<Renderer, BuildError> {
        let format = self.format.meaning().map_err(|error| BuildError::new(format!("format: {error}")));
        let pages = self.pages.iter().map(|(key, paths)| {
            let wrong = |error: BuildError| error.map(|message| format!("pages.{key}: {message}"));
            if paths.is_empty() {
                return Err(wrong(BuildError::new("expected a file")));
            }
            let read = |path: &String| Page::parse(path, &context.file(path)?);
            let pages = BuildErrors::collect(paths.iter().map(read));
            BuildErrors::both(Cause::parse(key), pages).map_err(wrong)
        });
        let (format, mut pages) = BuildErrors::both(format, BuildErrors::collect(pages))?;
        // The most specific first: reasons, single codes, narrow ranges.
        pages.sort_by_key(|(cause, _)| cause.width());
        Ok(Renderer { format: format.unwrap_or_default(), pages })
    }
}

impl Build for ErrorPages {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        Ok(Arc::new(self.compile(context)?))
    }
}

/// Which errors have a page.
#[derive(Clone, Debug, PartialEq)]
enum Cause {
    Reason(Reason),
    Status(StatusRanges),
}

impl Cause {
    fn parse(key: &str) -> Result<Self, BuildError> {
        if let Some(reason) = Reason::ALL.iter().find(|reason| reason.name() == key) {
            return Ok(Self::Reason(*reason));
        }
        if key.starts_with(|first: char| first.is_ascii_digit()) {
            return StatusRanges::parse(&[key]).map(Self::Status);
        }
        Err(BuildError::new("expected a status such as `404`, a range such as `500-599`, or a reason code"))
    }

    fn width(&self) -> u32 {
        match self {
            Self::Reason(_) => 0,
            Self::Status(ranges) => ranges.width(),
        }
    }

    fn is(&self, reason: Reason, status: StatusCode) -> bool {
        match self {
            Self::Reason(own) => *own == reason,
            Self::Status(ranges) => ranges.contains(status),
        }
    }
}

/// What is kept of a request until it is known whether its response is an error of the gateway.
#[derive(Debug)]
pub struct Asked {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    accept: Vec<HeaderValue>,
    is_grpc: bool,
}

impl Asked {
    /// Keeps what errors depend on.
    pub fn of(head: &Parts) -> Self {
        let is_grpc = |value: &HeaderValue| {
            let value = value.as_bytes();
            value == b"application/grpc" || value.starts_with(b"application/grpc+")
        };
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: head.headers.get(HOST).cloned(),
            accept: head.headers.get_all(ACCEPT).iter().cloned().collect(),
            is_grpc: head.headers.get(CONTENT_TYPE).is_some_and(is_grpc),
        }
    }
}

/// Compiled [`ErrorPages`].
#[derive(Debug)]
pub struct Renderer {
    format: Format,
    pages: Vec<(Cause, Vec<Page>)>,
}

impl Renderer {
    /// Replaces the body of a response, if it is an error of the gateway without a page of its own.
    pub fn apply(&self, response: &mut Response, asked: &Asked, exchange: Option<&Exchange>) {
        let Some(reason) = response.reason.filter(|reason| replaces(*reason, response)) else { return };
        let status = response.status();
        if asked.is_grpc && self.format != Format::Traefik {
            return format::into_grpc(response, reason);
        }
        let details = Details::new(response, reason, asked, exchange);
        let own = self.pages.iter().find(|(cause, _)| cause.is(reason, status));
        let (media_type, body, varies) = match own {
            Some((_, pages)) => {
                let types: Vec<&str> = pages.iter().map(Page::media_type).collect();
                let page = &pages[accept::choose(&asked.accept, &types)];
                let Some(body) = page.render(&details) else { return };
                (page.content_type(), body, pages.len() > 1)
            }
            None => {
                let built_in = match self.format {
                    Format::Negotiated => {
                        let types: Vec<&str> = BuiltIn::OFFERED.iter().map(|(name, _)| *name).collect();
                        BuiltIn::OFFERED[accept::choose(&asked.accept, &types)].1
                    }
                    Format::Problem => BuiltIn::Problem,
                    Format::Html => BuiltIn::Html,
                    Format::Text => BuiltIn::Text,
                    Format::Traefik => return,
                };
                (built_in.content_type(), built_in.render(&details), self.format == Format::Negotiated)
            }
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        if varies && !accept::varies(headers) {
            headers.append(VARY, HeaderValue::from_static("Accept"));
        }
        response.body = Body::full(body);
    }
}

/// Returns true for errors of the gateway without a page of their own.
fn replaces(reason: Reason, response: &Response) -> bool {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_plain = |headers: &HeaderMap| {
        headers.get(CONTENT_TYPE).is_none_or(|value| value.as_bytes().starts_with(b"text/plain"))
    };
    let is_own = !matches!(
        reason,
        Reason::AuthenticationAnswer
            | Reason::Cached
            | Reason::Configured
            | Reason::OwnService
            | Reason::ClientGone
    );
    is_error && is_own && is_plain(response.headers())
}

impl Middleware for Renderer {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let asked = Asked::of(&request.head);
        let exchange = request.context.exchange.clone();
        let response = next.run(request);
        boxed(move || async move {
            let mut response = response.await;
            if response.reason.is_some() {
                self.apply(&mut response, &asked, Some(&exchange));
            }
            response
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::passes(request)
    }

    fn revise(&self, request: &Request, response: &mut Response) -> Option<String> {
        let before = response.headers().get(CONTENT_TYPE).cloned();
        self.apply(response, &Asked::of(&request.head), None);
        let after = response.headers().get(CONTENT_TYPE)?;
        (before.as_ref() != Some(after))
            .then(|| format!("returns the error as {}", String::from_utf8_lossy(after.as_bytes())))
    }
}
