//! What clients get for which error.

use std::sync::Arc;

use tidegate_core::{BoxFuture, Handler};

use super::*;
use crate::testing::{self, World, block_on};

/// A service that refuses everything like this.
#[derive(Clone)]
struct Refuses(fn() -> Response);

impl Handler for Refuses {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        request.context.exchange.set_request_id("r<1>");
        Box::pin(std::future::ready((self.0)()))
    }
}

fn no_server() -> Response {
    tidegate_core::reply::upstream_failure(tidegate_core::UpstreamError::NoServer)
}

fn limited() -> Response {
    let mut response = tidegate_core::reply::status_text(StatusCode::TOO_MANY_REQUESTS, Reason::RateLimited);
    response.headers_mut().insert("retry-after", HeaderValue::from_static("7"));
    response
}

fn built(options: &str, files: &[(&str, &str)]) -> Result<Arc<dyn Middleware>, BuildError> {
    let mut world = World::default();
    world.files.extend(files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())));
    let options: ErrorPages = serde_json::from_str(options).unwrap();
    options.build(&BuildContext::new("m@file", &world))
}

/// Returns status, content type, and body.
fn ask(pages: &Arc<dyn Middleware>, headers: &[(&str, &str)], service: fn() -> Response) -> [String; 3] {
    let mut request = http::Request::get("http://h.test/a%3Cb?c=d");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = block_on(testing::run(pages, testing::request(request), &Refuses(service)));
    let of = |name: &str| {
        response.headers().get(name).map_or(String::new(), |value| value.to_str().unwrap().to_owned())
    };
    let (status, content_type, length) = (response.status(), of("content-type"), of("content-length"));
    let body = testing::text(response);
    if content_type != "application/grpc" && !length.is_empty() {
        assert_eq!(length, body.len().to_string());
    }
    [status.as_u16().to_string(), content_type, body]
}

#[test]
fn the_client_chooses_the_form() {
    let pages = built("{}", &[]).unwrap();
    let text = "503 Service Unavailable: The service is not available at the moment. Please try again later. \
                [no_server, request r<1>]\n";
    for accept in [&[][..], &[("accept", "*/*")], &[("accept", "image/png")]] {
        assert_eq!(ask(&pages, accept, no_server), ["503", "text/plain; charset=utf-8", text]);
    }
    let [_, content_type, body] = ask(&pages, &[("accept", "text/html,*/*;q=0.8")], limited);
    assert_eq!(content_type, "text/html; charset=utf-8");
    assert!(body.contains("<h1>429 Too Many Requests</h1>"), "{body}");
    assert!(body.contains("Try again in 7 seconds.") && body.contains("r&lt;1&gt;"), "{body}");
    let [_, content_type, body] = ask(&pages, &[("accept", "application/json")], limited);
    assert_eq!(content_type, "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        problem,
        serde_json::json!({
            "type": "about:blank", "title": "Too Many Requests", "status": 429, "code": "rate_limited",
            "detail": "There were too many requests. Please try again later.", "instance": "/a%3Cb",
            "requestId": "r<1>", "retryAfter": 7,
        })
    );
}

#[test]
fn a_fixed_form_ignores_the_client() {
    for (format, expected) in [
        ("problem", "application/problem+json"),
        ("html", "text/html; charset=utf-8"),
        ("text", "text/plain; charset=utf-8"),
    ] {
        let pages = built(&format!(r#"{{"format": "{format}"}}"#), &[]).unwrap();
        assert_eq!(ask(&pages, &[("accept", "image/png")], no_server)[1], expected);
    }
    let pages = built(r#"{"format": "traefik"}"#, &[]).unwrap();
    let expected = ["503", "text/plain; charset=utf-8", "no available server\n"];
    assert_eq!(ask(&pages, &[("accept", "text/html")], no_server), expected);
}

#[test]
fn grpc_clients_get_a_status_that_they_read() {
    let pages = built("{}", &[]).unwrap();
    for content_type in ["application/grpc", "application/grpc+proto"] {
        let request = http::Request::post("http://h.test/s/m").header("content-type", content_type);
        let response = block_on(testing::run(&pages, testing::request(request), &Refuses(no_server)));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "Service Unavailable (no_server)");
        assert_eq!((response.reason, response.failure.is_some()), (Some(Reason::NoServer), true));
        assert_eq!(testing::text(response), "");
    }
    assert_eq!(ask(&pages, &[("content-type", "application/grpc-web")], no_server)[0], "503");
}

#[test]
fn the_most_specific_page_wins() {
    let files = [
        ("/any.html", "any"),
        ("/503.txt", "503"),
        ("/slow.json.j2", r#"{"path": {{ path }}, "after": {{ retryAfter }}, "who": {{ host }}}"#),
    ];
    let options = r#"{"format": "traefik", "pages": {"400-599": ["/any.html"], "503": ["/503.txt"], "rate_limited": ["/slow.json.j2"]}}"#;
    let pages = built(options, &files).unwrap();
    assert_eq!(ask(&pages, &[], no_server), ["503", "text/plain; charset=utf-8", "503"]);
    let json = r#"{"path": "/a%3Cb", "after": 7, "who": "h.test"}"#;
    assert_eq!(ask(&pages, &[], limited), ["429", "application/json", json]);
    let fault = || tidegate_core::reply::empty(StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError);
    assert_eq!(ask(&pages, &[], fault), ["500", "text/html; charset=utf-8", "any"]);
}

#[test]
fn several_pages_of_one_error_are_chosen_by_type_and_escaped() {
    let files = [
        ("/e.html.j2", "<p>{{ requestId }} {{ method }} {{ status }} {{ title }} {{ code }} {{ detail }}"),
        ("/e.json", r#"{"a": 1}"#),
    ];
    let pages = built(r#"{"pages": {"500-599": ["/e.html.j2", "/e.json"]}}"#, &files).unwrap();
    let json = ["503", "application/json", r#"{"a": 1}"#];
    assert_eq!(ask(&pages, &[("accept", "application/json")], no_server), json);
    let [_, _, html] = ask(&pages, &[], no_server);
    assert!(html.starts_with("<p>r&lt;1&gt; GET 503 Service Unavailable no_server The service"), "{html}");
    let request = testing::get("http://h.test/");
    let response = block_on(testing::run(&pages, request, &Refuses(no_server)));
    assert_eq!(response.headers()["vary"], "Accept");
}

#[test]
fn responses_of_servers_and_pages_of_middlewares_stay() {
    let pages = built(r#"{"format": "html"}"#, &[]).unwrap();
    let server = || {
        let mut response = Response::new(Body::full("own"));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    };
    assert_eq!(ask(&pages, &[], server), ["502", "", "own"]);
    let page = || {
        let mut response = tidegate_core::reply::bare(StatusCode::FORBIDDEN, "page", Reason::SignInRefused);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        response
    };
    assert_eq!(ask(&pages, &[], page), ["403", "text/html", "page"]);
    let redirect = || tidegate_core::reply::bare(StatusCode::FOUND, "", Reason::Redirect);
    assert_eq!(ask(&pages, &[], redirect), ["302", "", ""]);
    let answer = || tidegate_core::reply::bare(StatusCode::FORBIDDEN, "no", Reason::AuthenticationAnswer);
    assert_eq!(ask(&pages, &[], answer), ["403", "", "no"]);
}

#[test]
fn why_a_key_is_refused_is_not_told() {
    let renderer = Renderer { format: Format::Problem, pages: Vec::new() };
    let of = |reason: Reason| {
        let mut response = tidegate_core::reply::status_text(StatusCode::UNAUTHORIZED, reason);
        renderer.apply(&mut response, &Asked::of(&testing::get("http://h.test/").head), None);
        testing::text(response)
    };
    let bodies = [Reason::ApiKeyUnknown, Reason::ApiKeyExpired, Reason::ApiKeyRevoked].map(of);
    assert_eq!(bodies, [Reason::Unauthenticated; 3].map(of));
}

#[test]
fn mistakes_name_the_page_and_the_line() {
    for (options, file, expected) in [
        (r#"{"format": "xml"}"#, "", "format: "),
        (r#"{"pages": {"404": []}}"#, "", "pages.404: expected a file"),
        (r#"{"pages": {"404": ["/none.html"]}}"#, "", "pages.404: /none.html: no such file"),
        (r#"{"pages": {"teapot": ["/p.html.j2"]}}"#, "", "pages.teapot: expected a status such as `404`"),
        (r#"{"pages": {"599-500": ["/p.html.j2"]}}"#, "", "pages.599-500: invalid status code or range"),
        (r#"{"pages": {"404": ["/p.html.j2"]}}"#, "a\n{{ status", "/p.html.j2: line 2: "),
        (
            r#"{"pages": {"404": ["/p.html.j2"]}}"#,
            "a\n\n{{ stat }}",
            "/p.html.j2: line 3: undefined value: expected one of status, ",
        ),
        (r#"{"pages": {"404": ["/p.html.j2"]}}"#, "{% include 'x' %}", "/p.html.j2: line 1: "),
        (
            r#"{"pages": {"404": ["/p.html.j2"]}}"#,
            "{% for a in range(99999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            "more than 100000 steps",
        ),
        (r#"{"pages": {"404": ["/p.png"]}}"#, "", "/p.png: unknown type"),
    ] {
        let files = [("/p.html.j2", file), ("/p.png", file)];
        let error = built(options, &files).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error}, expected {expected}");
    }
}
