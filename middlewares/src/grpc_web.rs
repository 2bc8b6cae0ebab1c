//! Lets browsers call gRPC services: translates gRPC-Web requests to gRPC, and responses back.

mod frames;

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, TE,
    TRAILER, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    Body, BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Reason, Request,
    Response, boxed, reply,
};

use frames::{Decoded, Framed};

/// Traefik's `grpcWeb`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GrpcWeb {
    /// Allowed origins, as `https://app.example`; `*` allows all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
}

impl Build for GrpcWeb {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        Ok(Arc::new(self.clone()))
    }
}

const WEB: &str = "application/grpc-web";
const WEB_TEXT: &str = "application/grpc-web-text";
const GRPC: &str = "application/grpc";
const GRPC_STATUS: &str = "grpc-status";

impl Middleware for GrpcWeb {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let headers = &request.head.headers;
        if is_preflight(&request.head) {
            return crate::ready(self.preflight(headers));
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if request.head.method != Method::POST || !content_type.starts_with(WEB) {
            return next.run(request);
        }
        let is_text = content_type.starts_with(WEB_TEXT);
        let web = if is_text { WEB_TEXT } else { WEB };
        let grpc = HeaderValue::try_from(content_type.replacen(web, GRPC, 1));
        let origin = headers.get(ORIGIN).filter(|origin| self.allows(origin)).cloned();
        let headers = &mut request.head.headers;
        if let Ok(grpc) = grpc {
            headers.insert(CONTENT_TYPE, grpc);
        }
        // That is the length of the HTTP/1.1 payload; gRPC messages carry their own.
        headers.remove(CONTENT_LENGTH);
        // Required by gRPC and checked by some servers (gRPC over HTTP/2, "Requests"); browsers cannot send
        // it.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        request.head.version = http::Version::HTTP_2;
        request.body = if is_text {
            Body::of_frames(Decoded::new(request.body))
        } else {
            Body::of_frames(frames::Unsized(request.body))
        };
        let response = next.run(request);
        boxed(move || async move { to_web(response.await, web, is_text, origin) })
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

impl GrpcWeb {
    fn allows(&self, origin: &HeaderValue) -> bool {
        self.allow_origins.iter().any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
    }

    fn preflight(&self, asked: &HeaderMap) -> Response {
        let mut response = reply::empty(StatusCode::OK, Reason::Preflight);
        let headers = response.headers_mut();
        for name in [ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_REQUEST_HEADERS] {
            headers.append(VARY, HeaderValue::from_static(canonical_of(&name)));
        }
        let method = asked.get(ACCESS_CONTROL_REQUEST_METHOD);
        let allowed = method.is_some_and(|method| matches!(method.as_bytes(), b"GET" | b"POST" | b"HEAD"));
        if let (Some(origin), Some(method), true) =
            (asked.get(ORIGIN).filter(|o| self.allows(o)), method, allowed)
        {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
            if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(canonical_list) {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
            }
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        }
        response
    }
}

fn is_preflight(head: &http::request::Parts) -> bool {
    let asks = |value: &HeaderValue| {
        value.to_str().is_ok_and(|names| names.to_ascii_lowercase().contains("x-grpc-web"))
    };
    head.method == Method::OPTIONS && head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS).is_some_and(asks)
}

fn canonical_of(name: &http::HeaderName) -> &'static str {
    match name.as_str() {
        "origin" => "Origin",
        "access-control-request-method" => "Access-Control-Request-Method",
        _ => "Access-Control-Request-Headers",
    }
}

/// Formats `content-type,x-a` as `Content-Type, X-A`.
fn canonical_list(names: &HeaderValue) -> Option<HeaderValue> {
    let names = names.to_str().ok()?;
    let list: Vec<String> = names.split(',').map(|name| canonical(name.trim())).collect();
    HeaderValue::try_from(list.join(", ")).ok()
}

fn canonical(name: &str) -> String {
    let mut start = true;
    let letter = |c: char| {
        let written = if start { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        start = c == '-';
        written
    };
    name.chars().map(letter).collect()
}

/// Converts a gRPC response to gRPC-Web: its trailers become the last part of the body.
///
/// Responses that are not gRPC (an error page, a response from another middleware) keep their body. A
/// Trailers-Only response keeps its status in the headers and has no body, as in Envoy: clients look there
/// when the body is empty.
fn to_web(mut response: Response, web: &'static str, is_text: bool, origin: Option<HeaderValue>) -> Response {
    let headers = response.headers_mut();
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).filter(|kind| is_grpc(kind));
    let kind = kind.and_then(|kind| HeaderValue::try_from(kind.replacen(GRPC, web, 1)).ok());
    let is_grpc = kind.is_some();
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, kind);
    }
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Ok(names) = HeaderValue::try_from(exposed(headers)) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
    if !is_grpc {
        return response;
    }
    let is_empty = http_body::Body::is_end_stream(&response.body);
    let headers = response.headers_mut();
    headers.remove(TRAILER);
    if headers.contains_key(GRPC_STATUS) && is_empty {
        return response;
    }
    headers.remove(CONTENT_LENGTH);
    response.map(|body| Body::of_frames(Framed::new(body, is_text)))
}

/// Returns true for `application/grpc` and its variants (`+proto`, `;charset=…`), but not
/// `application/grpc-web`.
fn is_grpc(kind: &str) -> bool {
    kind.strip_prefix(GRPC).is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';', ' ']))
}

/// Lists the headers that scripts of other origins may read: all present ones and those of the gRPC status.
fn exposed(headers: &HeaderMap) -> String {
    let status = [GRPC_STATUS, "grpc-message"].into_iter().filter(|name| !headers.contains_key(*name));
    let names = headers.keys().map(|name| canonical(name.as_str())).chain(status.map(str::to_owned));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, text, with_body};
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use http_body::Frame;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tidegate_core::BodyError;

    /// A gRPC response body: one message, then trailers.
    struct Answer(u8);

    impl http_body::Body for Answer {
        type Data = Bytes;
        type Error = BodyError;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0 += 1;
            Poll::Ready(match self.0 {
                1 => Some(Ok(Frame::data("\0\0\0\0\x02hi".into()))),
                2 => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    trailers.insert("a-first", HeaderValue::from_static("x"));
                    Some(Ok(Frame::trailers(trailers)))
                }
                _ => None,
            })
        }
    }

    fn call(kind: &str, body: &'static str) -> Response {
        let builder = http::Request::post("http://h.test/pkg.Service/Method")
            .header("Content-Type", kind)
            .header("Content-Length", "3")
            .header("Origin", "https://app.test");
        let options = GrpcWeb { allow_origins: vec!["https://app.test".into()] };
        testing::response_of(options, with_body(builder, body), |request| {
            let kind = request.head.headers[CONTENT_TYPE].clone();
            assert!(!request.head.headers.contains_key(CONTENT_LENGTH));
            assert_eq!(request.body.collect(100).now_or_never().unwrap().unwrap().bytes, "abc");
            let mut response = Response::new(Body::boxed(Answer(0)));
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        })
    }

    const TRAILERS: &str = "a-first: x\r\ngrpc-status: 0\r\n";

    #[test]
    fn trailers_become_the_last_part_of_the_body() {
        let response = call("application/grpc-web+proto", "abc");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc-web+proto");
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.test");
        let exposed = response.headers()[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap().to_owned();
        assert!(
            exposed.contains("Content-Type") && exposed.ends_with("grpc-status, grpc-message"),
            "{exposed}"
        );
        let body = testing::block_on(response.into_body().collect(1000)).unwrap().bytes;
        let mut expected = b"\0\0\0\0\x02hi\x80\0\0\0".to_vec();
        expected.push(u8::try_from(TRAILERS.len()).unwrap());
        expected.extend_from_slice(TRAILERS.as_bytes());
        assert_eq!(body, expected);
    }

    /// Returns the response to a call when the service responds with this content type, these headers and
    /// this body.
    fn web_response(web: &str, headers: &'static [(&str, &str)], body: Body) -> Response {
        let builder = http::Request::post("http://h.test/pkg.Service/Method").header("Content-Type", web);
        let options = GrpcWeb { allow_origins: vec!["*".into()] };
        let body = std::sync::Mutex::new(body);
        testing::response_of(options, with_body(builder, ""), move |_| {
            let mut response = Response::new(std::mem::take(&mut *body.lock().unwrap()));
            for (name, value) in headers {
                response.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            response
        })
    }

    const REFUSED: &[(&str, &str)] =
        &[("content-type", "application/grpc"), ("grpc-status", "5"), ("grpc-message", "not%20here")];

    #[test]
    fn a_trailers_only_response_keeps_its_status_in_the_headers() {
        // The end of the body is known with the headers, or only later.
        for body in [Body::empty, || Body::of_frames(frames::Unsized(crate::replay::tests::pieces(&[])))] {
            for web in [WEB, WEB_TEXT] {
                let response = web_response(web, REFUSED, body());
                let headers = response.headers();
                assert_eq!(headers[CONTENT_TYPE], web);
                assert_eq!(headers["grpc-status"], "5");
                assert_eq!(headers["grpc-message"], "not%20here");
                assert_eq!(
                    headers[ACCESS_CONTROL_EXPOSE_HEADERS],
                    "Content-Type, Grpc-Status, Grpc-Message, Vary"
                );
                assert_eq!(text(response), "");
            }
        }
    }

    #[test]
    fn other_content_keeps_its_body() {
        for web in [WEB, WEB_TEXT] {
            let page = || Body::of_frames(frames::Unsized(Body::full("no such page")));
            let response = web_response(web, &[("content-type", "text/plain")], page());
            assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
            assert_eq!(text(response), "no such page");
        }
    }

    #[test]
    fn adding_the_trailer_frame_removes_the_content_length() {
        let kind = &[("content-type", "application/grpc"), ("content-length", "7")];
        let response = web_response(WEB, kind, Body::boxed(Answer(0)));
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        assert!(text(response).ends_with("grpc-status: 0\r\n"));
    }

    #[test]
    fn the_text_form_is_base64_both_ways() {
        use base64::Engine as _;
        let response = call("application/grpc-web-text", "YWJj");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc-web-text");
        let body = text(response);
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let mut trailers = vec![0x80, 0, 0, 0, u8::try_from(TRAILERS.len()).unwrap()];
        trailers.extend_from_slice(TRAILERS.as_bytes());
        assert_eq!(body, encode(b"\0\0\0\0\x02hi") + &encode(&trailers));
    }

    #[test]
    fn a_preflight_is_answered() {
        let ask = |origin: &str, method: &str| {
            let builder = http::Request::options("http://h.test/")
                .header("Origin", origin)
                .header("Access-Control-Request-Method", method)
                .header("Access-Control-Request-Headers", "content-type,x-grpc-web");
            let options = GrpcWeb { allow_origins: vec!["https://app.test".into()] };
            testing::response_of(options, with_body(builder, ""), |_| panic!("must not reach the service"))
        };
        let allowed = ask("https://app.test", "POST");
        assert_eq!(allowed.status(), 200);
        assert_eq!(allowed.headers()[ACCESS_CONTROL_ALLOW_HEADERS], "Content-Type, X-Grpc-Web");
        assert_eq!(allowed.headers()[ACCESS_CONTROL_MAX_AGE], "600");
        assert_eq!(allowed.headers().get_all(VARY).iter().count(), 3);
        assert!(!ask("https://evil.test", "POST").headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(!ask("https://app.test", "PUT").headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[test]
    fn other_requests_pass_untouched() {
        let seen = testing::request_after(GrpcWeb::default(), testing::get("http://h.test/x"));
        assert_eq!(seen.head.version, http::Version::HTTP_11);
    }
}
