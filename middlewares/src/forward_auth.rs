//! Asks an authentication server whether a request may pass, and with which headers.

mod request;

use std::sync::Arc;
use std::time::Duration as StdDuration;

use http::header::{CONTENT_LENGTH, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use regex::bytes::Regex;
use serde::{Deserialize, Serialize};
use tidegate_core::building::ClientTls;
use tidegate_core::values::is_default;
use tidegate_core::{
    Access, AuthMethod, Body, BoxFuture, Build, BuildContext, BuildError, BuildErrors, CollectError,
    ConsumersHandle, Exchange, HttpClient, Identity, Middleware, Next, OpenSpan, Prediction, Reason, Request,
    Response, reply,
};

use crate::{auth, pattern};
use request::Forwarding;

/// Traefik's `forwardAuth`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ForwardAuth {
    /// URL of the authentication server. A 2xx response lets the request pass; any other is sent to the
    /// client.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// TLS for the connection to the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// Whether the request's own `X-Forwarded-*` headers are passed on. By default, some are (as in older
    /// Traefik).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_forward_header: Option<bool>,
    /// Headers of the response that replace those of the request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub auth_response_headers: Vec<String>,
    /// An expression for the names of further such headers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth_response_headers_regex: String,
    /// Request headers to pass on; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub auth_request_headers: Vec<String>,
    /// Maximum length of the response body in bytes; -1 means unlimited. By default, 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_response_body_size: Option<i64>,
    /// Cookies of the response that are added to the response to the client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_auth_cookies_to_response: Vec<String>,
    /// Response header with the user's name, for the access log.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_field: String,
    /// Response header with the user's groups, separated by commas. Not in Traefik.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub groups_header_field: String,
    /// Whether the request body is passed on. It is buffered in memory.
    #[serde(skip_serializing_if = "is_default")]
    pub forward_body: bool,
    /// Maximum length of a request body that is passed on, in bytes; -1 means 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_size: Option<i64>,
    /// Keeps a relative `Location` of the response as it is.
    #[serde(skip_serializing_if = "is_default")]
    pub preserve_location_header: bool,
    /// Uses the request's method instead of `GET`.
    #[serde(skip_serializing_if = "is_default")]
    pub preserve_request_method: bool,
    /// Where to redirect clients when the response is 401.
    #[serde(rename = "authSigninURL", skip_serializing_if = "String::is_empty")]
    pub auth_signin_url: String,
}

impl Default for ForwardAuth {
    fn default() -> Self {
        Self {
            address: String::new(),
            tls: None,
            trust_forward_header: None,
            auth_response_headers: Vec::new(),
            auth_response_headers_regex: String::new(),
            auth_request_headers: Vec::new(),
            max_response_body_size: None,
            add_auth_cookies_to_response: Vec::new(),
            header_field: String::new(),
            groups_header_field: String::new(),
            forward_body: false,
            max_body_size: Some(-1),
            preserve_location_header: false,
            preserve_request_method: false,
            auth_signin_url: String::new(),
        }
    }
}

/// Timeout for a response, as in Traefik.
const TIMEOUT: StdDuration = StdDuration::from_secs(30);
/// Maximum number of groups of a user.
const MAX_GROUPS: usize = 256;
const DEFAULT_RESPONSE_LIMIT: u64 = 1024 * 1024;
/// Upper bound of `maxBodySize`, since request bodies are buffered in memory.
const MAX_BODY_LIMIT: u64 = 64 * 1024 * 1024;

impl Build for ForwardAuth {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let address = self
            .address
            .parse::<Uri>()
            .ok()
            .filter(|uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
            .ok_or_else(|| {
                BuildError::new(format!(
                    "invalid address `{}`: expected an absolute http or https URL",
                    self.address
                ))
            });
        let regex = match self.auth_response_headers_regex.as_str() {
            "" => Ok(None),
            text => pattern::compile(text)
                .map(Some)
                .map_err(|error| BuildError::new(format!("authResponseHeadersRegex: {error}"))),
        };
        let signin = match self.auth_signin_url.as_str() {
            "" => Ok(None),
            text => HeaderValue::from_str(text).map(Some).map_err(|_| {
                BuildError::new(format!("authSigninURL: control characters are not allowed in `{text}`"))
            }),
        };
        let tls = self.tls.as_ref().map_or(Ok(()), |tls| check_tls(tls, context));
        let asked = names("authRequestHeaders", &self.auth_request_headers);
        let given = names("authResponseHeaders", &self.auth_response_headers);
        let user = Some(&self.header_field).filter(|name| !name.is_empty());
        let urls = BuildErrors::both(address, signin);
        let groups = Some(&self.groups_header_field).filter(|name| !name.is_empty());
        let who = BuildErrors::both(names("headerField", user), names("groupsHeaderField", groups));
        let headers = BuildErrors::both(BuildErrors::both(asked, given), who);
        let rest = BuildErrors::both(BuildErrors::both(headers, regex), tls);
        let ((address, signin), ((((asked, given), (mut user, mut groups)), regex), ())) =
            BuildErrors::both(urls, rest)?;
        if self.max_response_body_size.is_none() {
            tracing::debug!(
                middleware = context.name,
                "maxResponseBodySize is not set, limiting responses to 1 MiB"
            );
        }
        Ok(Arc::new(Authenticator {
            name: context.name.into(),
            client: context.client(),
            tls: self.tls.clone().unwrap_or_default(),
            location_base: url::Url::parse(&self.address)
                .map_err(|e| BuildError::new(format!("address: {e}")))?,
            forwarding: Forwarding::new(address, self.trust_forward_header, &asked),
            response_headers: given,
            response_headers_regex: regex,
            response_limit: limit(self.max_response_body_size, DEFAULT_RESPONSE_LIMIT, u64::MAX),
            cookies: self.add_auth_cookies_to_response.clone(),
            user_header: user.pop(),
            groups_header: groups.pop(),
            consumers: context.consumers(),
            body_limit: self.forward_body.then(|| limit(self.max_body_size, MAX_BODY_LIMIT, MAX_BODY_LIMIT)),
            preserve_location: self.preserve_location_header,
            preserve_method: self.preserve_request_method,
            signin,
        }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        let names: Vec<HeaderName> =
            self.auth_response_headers.iter().filter_map(|name| name.parse().ok()).collect();
        let mut access = Access::by_head()
            .reading_body(self.forward_body)
            .vouching(move |header| names.iter().any(|name| auth::is_same(name, header)));
        if let Ok(regex) = pattern::compile(&self.auth_response_headers_regex)
            && !self.auth_response_headers_regex.is_empty()
        {
            access = access.vouching(move |header| regex.is_match(canonical(header.as_str()).as_bytes()));
        }
        Some(access)
    }
}

/// Reports mistakes at build time that would otherwise fail every request, and watches the files.
pub(crate) fn check_tls(tls: &ClientTls, context: &BuildContext<'_>) -> Result<(), BuildError> {
    let wrong = |text: &str| BuildError::new(format!("unable to create client TLS configuration: {text}"));
    if tls.cert.is_empty() != tls.key.is_empty() {
        return Err(wrong("both TLS cert and key must be defined"));
    }
    for (option, text) in [("CA", &tls.ca), ("certificate", &tls.cert), ("key", &tls.key)] {
        if text.is_empty() {
            continue;
        }
        let pem = if text.contains("-----BEGIN") {
            text.as_bytes().to_vec()
        } else {
            context.file(text).map_err(|error| wrong(&format!("failed to parse {option}: {error}")))?
        };
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN") {
            return Err(wrong(&format!("failed to parse {option}")));
        }
    }
    Ok(())
}

fn names<'a>(
    option: &str,
    texts: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<HeaderName>, BuildError> {
    let wrong = |text: &String| BuildError::new(format!("{option}: invalid header name `{text}`"));
    BuildErrors::collect(texts.into_iter().map(|text| text.parse().map_err(|_| wrong(text))))
}

fn limit(given: Option<i64>, absent: u64, unlimited: u64) -> u64 {
    given.map_or(absent, |limit| u64::try_from(limit).unwrap_or(unlimited))
}

struct Authenticator {
    name: Arc<str>,
    client: Arc<dyn HttpClient>,
    tls: ClientTls,
    forwarding: Forwarding,
    location_base: url::Url,
    response_headers: Vec<HeaderName>,
    response_headers_regex: Option<Regex>,
    response_limit: u64,
    cookies: Vec<String>,
    user_header: Option<HeaderName>,
    groups_header: Option<HeaderName>,
    consumers: ConsumersHandle,
    body_limit: Option<u64>,
    preserve_location: bool,
    preserve_method: bool,
    signin: Option<HeaderValue>,
}

/// Begins the span of the request to the authentication server, and writes it into its headers.
fn begin_span(exchange: &Exchange, auth_request: &mut Request) -> Option<OpenSpan> {
    let spans = exchange.spans()?;
    let head = &mut auth_request.head;
    let span =
        spans.is_recording().then(|| spans.begin_call("AuthRequest", head.uri.to_string().into(), head));
    spans.inject(&mut head.headers);
    span.flatten()
}

/// The complete response of the authentication server.
struct AuthResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: bytes::Bytes,
}

impl Middleware for Authenticator {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            match self.decide(request).await {
                Ok((request, cookies)) => self.with_cookies(next.run(request).await, cookies),
                Err(refusal) => *refusal,
            }
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        // Without user, password and query, which may be secret.
        let asked = &self.location_base[..url::Position::AfterPath];
        let from = self.location_base[..url::Position::BeforeUsername].len();
        let host = &asked[self.location_base[..url::Position::BeforeHost].len()..];
        Prediction::depends(request, format!("asks {}{host}", &asked[..from]))
    }
}

impl Authenticator {
    /// Returns the request to pass on and the cookies for its response, or the response that refuses it.
    async fn decide(&self, request: Request) -> Result<(Request, Vec<HeaderValue>), Box<Response>> {
        let (mut request, auth_request) = self.auth_request(request).await?;
        let method = auth_request.head.method.clone();
        let response = match tokio::time::timeout(TIMEOUT, self.ask(&request.context.exchange, auth_request))
            .await
        {
            Ok(response) => response?,
            Err(_) => {
                tracing::error!(address = %self.location_base, "forwardAuth: the authentication server timed out");
                return Err(unavailable());
            }
        };
        let user = self.user_header.as_ref().and_then(|name| response.headers.get(name));
        let user = user.map(|user| String::from_utf8_lossy(user.as_bytes()).into_owned());
        if let Some(user) = &user {
            request.context.exchange.claim(user);
        }
        if response.status == StatusCode::UNAUTHORIZED
            && let Some(signin) = &self.signin
        {
            let mut redirect = reply::empty(StatusCode::FOUND, Reason::Redirect);
            redirect.headers_mut().insert(LOCATION, signin.clone());
            return Err(Box::new(redirect));
        }
        if !response.status.is_success() {
            return Err(Box::new(self.refusal(response, &method)));
        }
        self.copy_auth_headers(&mut request.head.headers, &response.headers);
        if let Some(user) = user.filter(|user| !user.is_empty()) {
            let consumer = self.consumers.load().by_forward_user(&user);
            let consumer = consumer.map_err(|_| Box::new(auth::consumer_broken()))?;
            let mut identity =
                Identity::new(user, AuthMethod::Forward, self.name.clone()).of_consumer(consumer);
            identity.groups = self.groups(&response.headers);
            request.context.identify(identity);
        }
        let cookies = response.headers.get_all(SET_COOKIE).iter().cloned().collect();
        Ok((request, cookies))
    }

    /// Returns the groups that the authentication server names.
    fn groups(&self, headers: &HeaderMap) -> Vec<String> {
        let Some(name) = &self.groups_header else { return Vec::new() };
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let groups = values.flat_map(|value| value.split(',')).map(str::trim);
        groups.filter(|group| !group.is_empty()).take(MAX_GROUPS).map(str::to_owned).collect()
    }

    /// Builds the request to the authentication server. Returns it after the original request.
    async fn auth_request(&self, mut request: Request) -> Result<(Request, Request), Box<Response>> {
        let mut body = Body::empty();
        if let Some(limit) = self.body_limit {
            let collected =
                std::mem::take(&mut request.body).collect(limit).await.map_err(|error| match error {
                    CollectError::TooLarge { .. } => too_large(),
                    CollectError::Failed(_) => unavailable(),
                })?;
            body = Body::full(collected.bytes.clone());
            request.body = collected.into();
        }
        let method = if self.preserve_method { request.head.method.clone() } else { Method::GET };
        let auth_request = self.forwarding.request(&request, method, body);
        Ok((request, auth_request))
    }

    async fn ask(
        &self,
        exchange: &Exchange,
        mut auth_request: Request,
    ) -> Result<AuthResponse, Box<Response>> {
        let span = begin_span(exchange, &mut auth_request);
        let response = self.client.send(auth_request, &self.tls, TIMEOUT).await.map_err(|error| {
            tracing::error!(address = %self.location_base, %error, "forwardAuth: the authentication server is unreachable");
            unavailable()
        })?;
        let (head, body) = response.into_parts();
        OpenSpan::end_call(span, head.status.as_u16(), &head.headers);
        let body = body.collect(self.response_limit).await.map_err(|error| match error {
            CollectError::TooLarge { limit, .. } => {
                tracing::warn!(address = %self.location_base, limit, "forwardAuth: response longer than maxResponseBodySize");
                too_large()
            }
            CollectError::Failed(error) => {
                tracing::error!(address = %self.location_base, %error, "forwardAuth: reading the response failed");
                unavailable()
            }
        })?;
        Ok(AuthResponse { status: head.status, headers: head.headers, body: body.bytes })
    }

    /// Converts the response into the one for the client.
    fn refusal(&self, response: AuthResponse, method: &Method) -> Response {
        let mut headers = response.headers;
        for name in request::HOP_HEADERS {
            headers.remove(name);
        }
        if *method != Method::HEAD {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(response.body.len()));
        }
        if !self.preserve_location
            && let Some(location) = headers.get(LOCATION)
        {
            let absolute = location
                .to_str()
                .ok()
                .and_then(|location| self.location_base.join(location).ok())
                .and_then(|url| HeaderValue::from_str(url.as_str()).ok());
            let Some(absolute) = absolute else { return *unavailable() };
            headers.insert(LOCATION, absolute);
        }
        let mut response = reply::bare(response.status, response.body, Reason::AuthenticationAnswer);
        *response.headers_mut() = headers;
        response
    }

    /// Replaces the configured headers, and removes those the client sent.
    fn copy_auth_headers(&self, headers: &mut HeaderMap, response: &HeaderMap) {
        for name in &self.response_headers {
            replace(headers, name, response);
        }
        if let Some(regex) = &self.response_headers_regex {
            let matching = |map: &HeaderMap| -> Vec<HeaderName> {
                map.keys()
                    .filter(|name| regex.is_match(canonical(name.as_str()).as_bytes()))
                    .cloned()
                    .collect()
            };
            for name in matching(headers) {
                headers.remove(name);
            }
            for name in matching(response) {
                replace(headers, &name, response);
            }
        }
    }

    fn with_cookies(&self, mut response: Response, cookies: Vec<HeaderValue>) -> Response {
        if cookies.is_empty() || self.cookies.is_empty() {
            return response;
        }
        let listed = |cookie: &HeaderValue| {
            let name = cookie.to_str().ok().and_then(|text| text.split('=').next()).map(str::trim);
            name.is_some_and(|name| self.cookies.iter().any(|listed| listed == name))
        };
        let headers = response.headers_mut();
        let own: Vec<HeaderValue> =
            headers.get_all(SET_COOKIE).iter().filter(|c| !listed(c)).cloned().collect();
        headers.remove(SET_COOKIE);
        for cookie in own.into_iter().chain(cookies.into_iter().filter(listed)) {
            headers.append(SET_COOKIE, cookie);
        }
        response
    }
}

fn replace(headers: &mut HeaderMap, name: &HeaderName, from: &HeaderMap) {
    headers.remove(name);
    for value in from.get_all(name) {
        headers.append(name, value.clone());
    }
}

/// Returns a header name in Go's canonical form (`X-Auth-User`), which users write their expressions for.
fn canonical(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|c| {
            let upper = start;
            start = c == '-';
            if upper { c.to_ascii_uppercase() } else { c }
        })
        .collect()
}

/// Returns the response for a failed authentication server.
fn unavailable() -> Box<Response> {
    Box::new(reply::empty(StatusCode::INTERNAL_SERVER_ERROR, Reason::AuthenticationUnavailable))
}

/// Returns the response when a body exceeds its limit, as Traefik does.
fn too_large() -> Box<Response> {
    Box::new(reply::empty(StatusCode::UNAUTHORIZED, Reason::AuthenticationUnavailable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Service, World, block_on, build_in, text, with_body};
    use std::sync::Mutex;
    use tidegate_core::UpstreamError;

    type Answering = dyn Fn(&Request) -> Result<Response, UpstreamError> + Send + Sync;

    /// A client that records its requests.
    struct Client {
        asked: Arc<Mutex<Vec<Request>>>,
        answer: Box<Answering>,
    }

    impl HttpClient for Client {
        fn send(
            &self,
            request: Request,
            _: &ClientTls,
            _: StdDuration,
        ) -> BoxFuture<'_, Result<Response, UpstreamError>> {
            let answer = (self.answer)(&request);
            self.asked.lock().unwrap().push(request);
            Box::pin(std::future::ready(answer))
        }
    }

    struct Outcome {
        response: Response,
        asked: Vec<Request>,
        passed: Option<Request>,
    }

    fn options() -> ForwardAuth {
        ForwardAuth { address: "http://auth.test/check?x=y".into(), ..ForwardAuth::default() }
    }

    fn run(
        options: ForwardAuth,
        request: Request,
        answer: impl Fn(&Request) -> Result<Response, UpstreamError> + Send + Sync + 'static,
    ) -> Outcome {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let client = Client { asked: asked.clone(), answer: Box::new(answer) };
        let world = World { client: Some(Arc::new(client)), ..World::default() };
        let middleware = build_in(&world, options).unwrap();
        let passed = Arc::new(Mutex::new(None));
        let store = passed.clone();
        let service = Service(move |request| {
            *store.lock().unwrap() = Some(request);
            let mut response = Response::new(Body::full("served"));
            response.headers_mut().append(SET_COOKIE, "own=1".parse().unwrap());
            response.headers_mut().append(SET_COOKIE, "a=service".parse().unwrap());
            response
        });
        let response = block_on(testing::run(&middleware, request, &service));
        let asked = std::mem::take(&mut *asked.lock().unwrap());
        let passed = passed.lock().unwrap().take();
        Outcome { response, asked, passed }
    }

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Response {
        let mut response = Response::new(Body::full(body.to_owned()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        response
    }

    fn post() -> Request {
        let builder = http::Request::post("http://h.test/p?q=1")
            .header("X-User", "spoofed")
            .header("X-Auth-A", "spoofed")
            .header("X-Other", "1")
            .header("Te", "trailers")
            .header("X-Forwarded-Prefix", "/p");
        with_body(builder, "hello")
    }

    #[test]
    fn headers_of_the_response_replace_those_of_the_client() {
        let options = ForwardAuth {
            auth_response_headers: vec!["X-User".into(), "X-Missing".into()],
            auth_response_headers_regex: "^X-Auth-".into(),
            ..options()
        };
        let yes = |_: &Request| Ok(answer(200, &[("x-user", "jane"), ("x-auth-b", "2")], "ignored"));
        let outcome = run(options.clone(), post(), yes);
        let passed = outcome.passed.unwrap().head.headers;
        assert_eq!((passed["x-user"].as_bytes(), passed["x-auth-b"].as_bytes()), (&b"jane"[..], &b"2"[..]));
        assert!(!passed.contains_key("x-auth-a") && passed.contains_key("x-other"));
        assert_eq!(text(outcome.response), "served");

        let silent = run(options, post(), |_| Ok(answer(204, &[], "")));
        assert!(
            !silent.passed.unwrap().head.headers.contains_key("x-user"),
            "the client's own header must not pass"
        );
    }

    #[test]
    fn refused_requests_get_the_servers_response() {
        let no = |_: &Request| {
            Ok(answer(
                403,
                &[("x-why", "because"), ("connection", "close"), ("location", "/login")],
                "go away",
            ))
        };
        let outcome = run(options(), post(), no);
        assert!(outcome.passed.is_none());
        assert_eq!(outcome.response.status(), 403);
        assert_eq!(outcome.response.headers()["x-why"], "because");
        assert_eq!(outcome.response.headers()["location"], "http://auth.test/login");
        assert!(!outcome.response.headers().contains_key("connection"));
        assert_eq!(text(outcome.response), "go away");
        let kept = run(ForwardAuth { preserve_location_header: true, ..options() }, post(), no);
        assert_eq!(kept.response.headers()["location"], "/login");
    }

    #[test]
    fn without_a_usable_response_requests_are_refused() {
        let down = |_: &Request| Err(UpstreamError::ConnectTimeout { server: "auth.test:80".into() });
        let outcome = run(options(), post(), down);
        assert!(outcome.passed.is_none());
        assert_eq!((outcome.response.status().as_u16(), text(outcome.response).as_str()), (500, ""));
        let broken = run(options(), post(), |_| Ok(answer(500, &[], "oops")));
        assert!(broken.passed.is_none());
        assert_eq!(broken.response.status(), 500);
    }

    #[test]
    fn long_responses_are_refused() {
        let long = |_: &Request| Ok(Response::new(Body::full(vec![b'x'; (1 << 20) + 1])));
        let outcome = run(options(), post(), long);
        assert!(outcome.passed.is_none());
        assert_eq!(outcome.response.status(), 401);
        let any = run(ForwardAuth { max_response_body_size: Some(-1), ..options() }, post(), long);
        assert!(any.passed.is_some());
    }

    #[test]
    fn the_body_reaches_both_the_server_and_the_service() {
        let yes = |_: &Request| Ok(answer(200, &[], ""));
        let outcome = run(ForwardAuth { forward_body: true, ..options() }, post(), yes);
        for request in [outcome.asked.into_iter().next().unwrap(), outcome.passed.unwrap()] {
            assert_eq!(request.body.as_bytes().unwrap(), "hello");
        }
        let limited = ForwardAuth { forward_body: true, max_body_size: Some(4), ..options() };
        let outcome = run(limited, post(), yes);
        assert!(outcome.asked.is_empty() && outcome.passed.is_none());
        assert_eq!(outcome.response.status(), 401);
        assert!(run(options(), post(), yes).asked[0].body.as_bytes().unwrap().is_empty());
    }

    #[test]
    fn clients_are_redirected_to_sign_in() {
        let signin = ForwardAuth { auth_signin_url: "https://login.test/?a=b".into(), ..options() };
        let outcome = run(signin.clone(), post(), |_| Ok(answer(401, &[], "no")));
        assert_eq!(outcome.response.status(), 302);
        assert_eq!(outcome.response.headers()["location"], "https://login.test/?a=b");
        assert_eq!(run(signin, post(), |_| Ok(answer(403, &[], "no"))).response.status(), 403);
    }

    #[test]
    fn listed_cookies_reach_the_client() {
        let options = ForwardAuth { add_auth_cookies_to_response: vec!["a".into()], ..options() };
        let yes =
            |_: &Request| Ok(answer(200, &[("set-cookie", "a=auth; Path=/"), ("set-cookie", "b=2")], ""));
        let outcome = run(options, post(), yes);
        let cookies: Vec<_> = outcome.response.headers().get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["own=1", "a=auth; Path=/"]);
    }

    #[test]
    fn the_user_is_recorded() {
        let request = post();
        let exchange = request.context.exchange.clone();
        let options = ForwardAuth { header_field: "X-User".into(), ..options() };
        run(options, request, |_| Ok(answer(200, &[("x-user", "jane")], "")));
        assert_eq!(exchange.user(), Some("jane"));
        assert_eq!(exchange.identity().unwrap().subject, "jane");
    }

    #[test]
    fn wrong_options_are_refused() {
        let refuse = |options: ForwardAuth| build_in(&World::default(), options).err().unwrap().to_string();
        assert!(refuse(ForwardAuth { address: "/x".into(), ..options() }).contains("`/x`"));
        assert!(
            refuse(ForwardAuth { auth_response_headers_regex: "(".into(), ..options() }).contains("Regex")
        );
    }
}
