//! Replaces error responses with pages from another service.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tidegate_core::reference::{Reference, Target};
use tidegate_core::{
    Body, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Context, Handler, Middleware, Next,
    Prediction, Reason, Request, Response, UpstreamError, boxed, reply,
};

use crate::status_ranges::StatusRanges;

/// Traefik's `errors`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Errors {
    /// Statuses to replace, as `404` or `500-599`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<String>,
    /// Status codes to return instead, by code or range.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub status_rewrites: BTreeMap<String, u16>,
    /// The service with the error pages.
    #[serde(skip_serializing_if = "Reference::is_empty")]
    pub service: Reference,
    /// Path and query of the page. `{status}` is replaced with the status of the response, `{originalStatus}`
    /// with the one before rewriting, `{url}` with the escaped URL of the request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// Request headers passed to the error service. By default, all but credentials.
    #[serde(skip_serializing_if = "is_none_or_empty")]
    pub error_request_headers: Option<Vec<String>>,
}

fn is_none_or_empty(headers: &Option<Vec<String>>) -> bool {
    headers.as_ref().is_none_or(Vec::is_empty)
}

impl Build for Errors {
    tidegate_core::references!(Self { service, .. }, visit => { visit(Target::Service, service) });

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let name = |name: &String| {
            let wrong = |_| BuildError::new(format!("errorRequestHeaders: invalid header name `{name}`"));
            name.parse::<HeaderName>().map_err(wrong)
        };
        let headers = self.error_request_headers.as_ref();
        let headers = headers.map(|names| BuildErrors::collect(names.iter().map(name))).transpose();
        let rewrites = self.status_rewrites.iter().map(|(from, to)| {
            let wrong = |_| BuildError::new(format!("statusRewrites: invalid status code `{to}`"));
            BuildErrors::both(StatusRanges::parse(&[from]), StatusCode::from_u16(*to).map_err(wrong))
        });
        let rewrites = BuildErrors::collect(rewrites);
        let status = BuildErrors::both(StatusRanges::parse(&self.status), rewrites);
        let rest = BuildErrors::both(context.service(self.service.as_str()), headers);
        let ((status, mut rewrites), (service, headers)) = BuildErrors::both(status, rest)?;
        // Single codes precede ranges, so that the more specific entry wins.
        rewrites.sort_by_key(|(from, _)| from.width());
        Ok(Arc::new(Pages {
            status,
            rewrites,
            service,
            service_name: Arc::from(self.service.as_str()),
            query: self.query.clone(),
            headers,
        }))
    }
}

struct Pages {
    status: StatusRanges,
    rewrites: Vec<(StatusRanges, StatusCode)>,
    service: Arc<dyn Handler>,
    /// The service's name in the access log.
    service_name: Arc<str>,
    query: String,
    headers: Option<Vec<HeaderName>>,
}

impl Middleware for Pages {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let original = Original {
            headers: self.headers_of(&request.head.headers),
            uri: request.head.uri.clone(),
            version: request.head.version,
            context: request.context.clone(),
        };
        let stage = request.context.exchange.stage();
        let response = next.run(request);
        boxed(move || async move {
            let response = response.await;
            let status = response.status();
            if is_substituted(&original.context, &response) {
                return response;
            }
            // A response that switches protocols has no body to replace.
            if status == StatusCode::SWITCHING_PROTOCOLS || !self.status.contains(status) {
                return response;
            }
            let size = http_body::Body::size_hint(response.body()).exact();
            drop(response);
            let exchange = original.context.exchange.clone();
            exchange.replace_at(stage);
            let shown = self.shown(status);
            let Some(mut request) = self.page_request(original, status, shown) else {
                return reply::error(shown, reply::text_of(shown), Reason::ErrorPage);
            };
            let exchange = exchange.begin_page(self.service_name.clone(), status.as_u16(), size);
            request.context.exchange = exchange.clone();
            let mut page = self.service.call(request).await;
            exchange.answer(page.status().as_u16(), page.reason);
            *page.status_mut() = shown;
            page
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        let note =
            format!("replaces responses with status {} by pages of {}", self.status, self.service_name);
        Prediction::passes(request).note(note)
    }

    fn revise(&self, request: &Request, response: &mut Response) -> Option<String> {
        let status = response.status();
        if is_substituted(&request.context, response) || !self.status.contains(status) {
            return None;
        }
        *response.status_mut() = self.shown(status);
        Some(format!(
            "replaces the response with status {} by a page of {}",
            status.as_u16(),
            self.service_name
        ))
    }
}

/// Whether a cache in front has something better than a page.
fn is_substituted(context: &Context, response: &Response) -> bool {
    context.has_substitute && response.failure.as_deref().is_some_and(UpstreamError::is_unsent)
}

/// The parts of a request kept until the response shows whether a page is needed.
struct Original {
    headers: HeaderMap,
    uri: Uri,
    version: http::Version,
    context: Context,
}

impl Pages {
    /// Returns the status that the client gets instead of this one.
    fn shown(&self, status: StatusCode) -> StatusCode {
        self.rewrites.iter().find(|(from, _)| from.contains(status)).map_or(status, |(_, to)| *to)
    }

    fn headers_of(&self, all: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match &self.headers {
            Some(names) => {
                for name in names {
                    for value in all.get_all(name) {
                        headers.append(name, value.clone());
                    }
                }
            }
            None => {
                headers.clone_from(all);
                for name in [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE] {
                    headers.remove(name);
                }
            }
        }
        for name in [CONTENT_LENGTH, http::header::EXPECT] {
            headers.remove(name);
        }
        for name in [http::header::TRANSFER_ENCODING, http::header::CONNECTION, http::header::UPGRADE] {
            headers.remove(name);
        }
        if let Some(host) = all.get(HOST) {
            headers.insert(HOST, host.clone());
        }
        headers
    }

    /// Builds the request for the page. `None` when its target is invalid.
    fn page_request(&self, original: Original, status: StatusCode, shown: StatusCode) -> Option<Request> {
        let mut target = String::from("/");
        if !self.query.is_empty() {
            let mut query = self.query.trim_start_matches('/').replace("{status}", shown.as_str());
            query = query.replace("{originalStatus}", status.as_str());
            if query.contains("{url}") {
                query = query.replace("{url}", &query_escaped(&url_of(&original)));
            }
            // Traefik's URL parser escapes invalid characters; only spaces are common.
            target.push_str(&query.replace(' ', "%20"));
        }
        let mut head = http::Request::new(()).into_parts().0;
        head.method = Method::GET;
        head.uri = target.parse().ok()?;
        head.version = original.version;
        head.headers = original.headers;
        // The page has none.
        let context = Context { has_substitute: false, ..original.context };
        Some(Request::new(head, Body::empty(), context))
    }
}

fn url_of(original: &Original) -> String {
    let scheme = if original.context.is_tls() { "https" } else { "http" };
    let host = original.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    format!("{scheme}://{host}{}", original.uri)
}

/// Go's `url.QueryEscape`.
fn query_escaped(text: &str) -> String {
    const KEEP: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');
    utf8_percent_encode(text, KEEP).to_string().replace(' ', "+")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Service, World, block_on, build_in, text, with_body};

    /// Returns the response to `request` from a service that responds with `status`, with pages that echo
    /// their request.
    fn ask(options: Errors, request: Request, status: u16) -> Response {
        let mut world = World::default();
        world.services.insert(
            "pages@file".into(),
            Arc::new(Service(|request: Request| {
                let mut lines = vec![format!("{} {}", request.head.method, request.head.uri)];
                lines
                    .extend(request.head.headers.iter().map(|(k, v)| format!("{k}={}", v.to_str().unwrap())));
                lines[1..].sort();
                let mut response = Response::new(Body::full(lines.join("\n")));
                response.headers_mut().insert("x-page", "1".parse().unwrap());
                response
            })),
        );
        let middleware = build_in(&world, Errors { service: "pages".into(), ..options }).unwrap();
        let service = Service(move |_| {
            let mut response = Response::new(Body::full("from the service"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("x-service", "1".parse().unwrap());
            response
        });
        block_on(testing::run(&middleware, request, &service))
    }

    fn post() -> Request {
        let builder = http::Request::post("http://h.test:99/a%2Fb?c=d e".replace(' ', "%20"));
        with_body(
            builder
                .header("Authorization", "secret")
                .header("Cookie", "secret")
                .header("X-A", "1")
                .header("X-B", "2"),
            "abc",
        )
    }

    fn options(status: &str, query: &str) -> Errors {
        Errors { status: vec![status.into()], query: query.into(), ..Errors::default() }
    }

    #[test]
    fn an_error_is_replaced_with_a_page_and_keeps_its_status() {
        let response = ask(options("500-599", "/e/{status}?u={url}"), post(), 503);
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("x-page") && !response.headers().contains_key("x-service"));
        let seen = text(response);
        assert!(
            seen.starts_with("GET /e/503?u=http%3A%2F%2Fh.test%3A99%2Fa%252Fb%3Fc%3Dd%2520e\n"),
            "{seen}"
        );
    }

    #[test]
    fn other_responses_pass() {
        let response = ask(options("500-599", "/e"), post(), 404);
        assert_eq!((response.status().as_u16(), text(response).as_str()), (404, "from the service"));
    }

    #[test]
    fn a_failure_that_has_a_substitute_passes() {
        let mut world = World::default();
        let pages = Service(|request: Request| {
            assert!(!request.context.has_substitute);
            Response::new(Body::full("page"))
        });
        world.services.insert("pages@file".into(), Arc::new(pages));
        let options = Errors { service: "pages".into(), ..options("500-599", "/") };
        let middleware = build_in(&world, options).unwrap();
        for (failure, expected) in [
            (Some(UpstreamError::NoServer), "no available server\n"),
            (Some(UpstreamError::ResponseTimeout { server: "a:80".into() }), "page"),
            (None, "page"),
        ] {
            let service = Service(move |_| match &failure {
                Some(failure) => reply::upstream_failure(failure.clone()),
                None => reply::status_text(StatusCode::BAD_GATEWAY, Reason::ErrorPage),
            });
            for (has_substitute, expected) in [(true, expected), (false, "page")] {
                let mut request = post();
                request.context.has_substitute = has_substitute;
                assert_eq!(text(block_on(testing::run(&middleware, request, &service))), expected);
            }
        }
    }

    #[test]
    fn statuses_are_rewritten_and_the_more_specific_entry_wins() {
        let rewrites = BTreeMap::from([("400-499".into(), 400), ("404".into(), 200)]);
        let options = Errors { status_rewrites: rewrites, ..options("404", "{status}/{originalStatus}") };
        let response = ask(options, post(), 404);
        assert_eq!(response.status(), 200);
        assert!(text(response).starts_with("GET /200/404\n"));
    }

    #[test]
    fn credentials_are_sent_to_the_error_service_only_when_configured() {
        let seen = text(ask(options("404", ""), post(), 404));
        assert_eq!(seen, "GET /\nhost=h.test:99\nx-a=1\nx-b=2");
        let only = |names: &[&str]| Errors {
            error_request_headers: Some(names.iter().map(|s| s.to_string()).collect()),
            ..options("404", "x y")
        };
        assert_eq!(
            text(ask(only(&["X-B", "Cookie"]), post(), 404)),
            "GET /x%20y\ncookie=secret\nhost=h.test:99\nx-b=2"
        );
        assert_eq!(text(ask(only(&[]), post(), 404)), "GET /x%20y\nhost=h.test:99");
    }

    #[test]
    fn an_invalid_page_url_keeps_the_status() {
        let response = ask(options("404", "\u{1}"), post(), 404);
        assert_eq!((response.status().as_u16(), text(response).as_str()), (404, "Not Found\n"));
    }

    #[test]
    fn a_missing_service_is_an_error_at_build() {
        let error =
            build_in(&World::default(), Errors { service: "x".into(), ..Errors::default() }).err().unwrap();
        assert!(error.to_string().contains("x@file"));
    }
}
