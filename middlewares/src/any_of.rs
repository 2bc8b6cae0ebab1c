//! Lets a request through when one of several middlewares would: an address *or* a password.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_core::reference::Target;
use tidegate_core::{
    Access, Body, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Middleware, Next, Prediction,
    Reason, Request, Response, Verdict,
};

/// Not in Traefik. Members are tried in order, each with the original request, until one admits it. If none
/// does, the response is the first refusal that the client can act on (401, 407 or a redirect), with the
/// challenges of all 401 responses; if there is none, it is the last refusal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AnyOf {
    /// Names of the middlewares, in order. Each must decide who may pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<String>,
}

impl Build for AnyOf {
    tidegate_core::references!(Self { middlewares }, visit => {
        for name in middlewares {
            visit(Target::Middleware, name);
        }
    });

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.middlewares.is_empty() {
            return Err(BuildError::new(
                "anyOf: `middlewares` is empty: expected the names of middlewares, one of which must admit a request",
            ));
        }
        let member = |name: &String| {
            let member = context.middleware(name)?;
            match context.access(name) {
                Some(access) if !access.reads_body => Ok(Member { middleware: member, access }),
                Some(_) => Err(BuildError::new(format!(
                    "anyOf: middleware \"{name}\" reads the request body (forwardBody, validateDigest), which the other members could then no longer read",
                ))),
                None => Err(BuildError::new(format!(
                    "anyOf: middleware \"{}\" does not decide who may pass: expected access, apiKey, basicAuth, digestAuth, \
                     forwardAuth, hmac, jwt, ldap, oAuthIntrospection, oidc, opa, ipAllowList, anyOf, or a chain of those",
                    name
                ))),
            }
        };
        let members = BuildErrors::collect(self.middlewares.iter().map(member))?;
        Ok(Arc::new(Any(members.into())))
    }

    fn access(&self, context: &BuildContext<'_>) -> Option<Access> {
        Some(Access::of_all(self.middlewares.iter().filter_map(|name| context.access(name))))
    }
}

struct Any(Arc<[Member]>);

struct Member {
    middleware: Arc<dyn Middleware>,
    access: Access,
}

impl Middleware for Any {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if let Some(owner) = self.owner(&request) {
            return owner.middleware.handle(request, next);
        }
        Box::pin(self.try_members(request, next))
    }

    fn owns(&self, request: &Request) -> bool {
        self.owner(request).is_some()
    }

    fn predict(&self, request: Request) -> Prediction {
        if let Some(owner) = self.owner(&request) {
            return owner.middleware.predict(request);
        }
        let mut refusals = Refusals::default();
        let mut notes = Vec::new();
        let mut possible = None;
        for (place, member) in self.0.iter().enumerate() {
            let Prediction { verdict, notes: own, .. } = member.middleware.predict(request.stand_in());
            notes.extend(own);
            let (mut request, is_admitted) = match verdict {
                Verdict::Responds(response) => {
                    refusals.add(*response);
                    continue;
                }
                Verdict::Passes(request) => (request, true),
                Verdict::Depends(request) => (request, false),
            };
            remove_claims(&self.0, place, &mut request.head.headers);
            if is_admitted && possible.is_none() {
                return Prediction { notes, ..Prediction::passes(*request) };
            }
            possible.get_or_insert(request);
            if is_admitted {
                break;
            }
        }
        match possible {
            Some(request) => {
                Prediction { verdict: Verdict::Depends(request), notes, response_headers: Vec::new() }
            }
            None => Prediction { notes, ..Prediction::responds(refusals.into_response()) },
        }
    }
}

/// Removes the headers that only members other than the `current` one may set, and credentials for those members.
fn remove_claims(members: &[Member], current: usize, headers: &mut HeaderMap) {
    let vouches = |place: usize, name: &HeaderName| {
        members.get(place).is_some_and(|member| member.access.vouches_for(name))
    };
    let is_claim =
        |name: &&HeaderName| !vouches(current, name) && (0..members.len()).any(|place| vouches(place, name));
    let claims: Vec<HeaderName> = headers.keys().filter(is_claim).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    for (_, member) in members.iter().enumerate().filter(|(place, _)| *place != current) {
        member.access.conceal(headers);
    }
}

impl Any {
    /// Returns the member that answers the request itself.
    fn owner(&self, request: &Request) -> Option<&Member> {
        self.0.iter().find(|member| member.middleware.owns(request))
    }

    async fn try_members(&self, request: Request, next: &Next) -> Response {
        let Request { head, body, context } = request;
        let gate = Arc::new(Gate {
            members: self.0.clone(),
            current: Mutex::new(0),
            body: Mutex::new(body),
            passed: AtomicBool::new(false),
        });
        let behind = Next::new([gate.clone() as Arc<dyn Middleware>], next.clone());
        let mut refusals = Refusals::default();
        for (place, member) in self.0.iter().enumerate() {
            *gate.current.lock() = place;
            let attempt = Request::new(head.clone(), Body::empty(), context.clone());
            let response = Next::new([member.middleware.clone()], behind.clone()).run(attempt).await;
            if gate.passed.load(Ordering::Relaxed) {
                return response;
            }
            refusals.add(response);
        }
        refusals.into_response()
    }
}

/// Runs behind each member: a request that gets here is admitted.
struct Gate {
    members: Arc<[Member]>,
    /// Index of the member being tried.
    current: Mutex<usize>,
    /// The request body, which no member sees.
    body: Mutex<Body>,
    passed: AtomicBool,
}

impl Middleware for Gate {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        self.passed.store(true, Ordering::Relaxed);
        request.body = std::mem::take(&mut *self.body.lock());
        let current = *self.current.lock();
        remove_claims(&self.members, current, &mut request.head.headers);
        next.run(request)
    }
}

/// The refusals so far.
#[derive(Default)]
struct Refusals {
    way_in: Option<Response>,
    last: Option<Response>,
    /// Challenges of the 401 responses that are not returned.
    challenges: Vec<HeaderValue>,
}

impl Refusals {
    fn add(&mut self, response: Response) {
        let status = response.status();
        let offers = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED)
            || status.is_redirection();
        match &self.way_in {
            Some(_) if status == StatusCode::UNAUTHORIZED => {
                self.challenges.extend(response.headers().get_all(WWW_AUTHENTICATE).iter().cloned());
            }
            None if offers => self.way_in = Some(response),
            _ => self.last = Some(response),
        }
    }

    fn into_response(self) -> Response {
        let Some(mut response) = self.way_in.or(self.last) else {
            return tidegate_core::reply::status_text(StatusCode::FORBIDDEN, Reason::Forbidden);
        };
        if response.status() == StatusCode::UNAUTHORIZED {
            for challenge in self.challenges {
                response.headers_mut().append(WWW_AUTHENTICATE, challenge);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::add_prefix::AddPrefix;
    use crate::basic_auth::BasicAuth;
    use crate::chain::Chain;
    use crate::digest_auth::DigestAuth;
    use crate::forward_auth::ForwardAuth;
    use crate::ip_allow_list::IpAllowList;
    use crate::testing::{self, Service, World, block_on, with_body};

    struct NoClient;

    impl tidegate_core::HttpClient for NoClient {
        fn send(
            &self,
            _: Request,
            _: &tidegate_core::building::ClientTls,
            _: std::time::Duration,
        ) -> BoxFuture<'_, Result<Response, tidegate_core::UpstreamError>> {
            Box::pin(std::future::ready(Err(tidegate_core::UpstreamError::NoServer)))
        }
    }

    fn world() -> World {
        let mut world = World { client: Some(Arc::new(NoClient)), ..World::default() };
        let addresses = |range: &str, status| IpAllowList {
            source_range: vec![range.into()],
            reject_status_code: status,
            ..IpAllowList::default()
        };
        let login = BasicAuth {
            users: vec!["ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=".into()],
            header_field: "X-User".into(),
            ..BasicAuth::default()
        };
        let digest = DigestAuth {
            users: vec!["ann:traefik:a2688e031edb4be6a3797f3882655c05".into()],
            ..DigestAuth::default()
        };
        let forward = |forward_body| ForwardAuth {
            address: "http://a.test/".into(),
            forward_body,
            ..ForwardAuth::default()
        };
        world.add("home", addresses("127.0.0.0/8", 0));
        world.add("office", addresses("10.0.0.0/8", 0));
        world.add("hidden", addresses("10.0.0.0/8", 404));
        world.add("login", login);
        world.add("digest", digest);
        world.add("prefix", AddPrefix { prefix: "/x".into() });
        world.add("forward", forward(false));
        world.add("reads", forward(true));
        for (name, members) in [("both", ["office", "login"]), ("odd", ["home", "prefix"])] {
            world.add(name, Chain { middlewares: members.map(str::to_owned).into() });
        }
        world
    }

    fn any(names: &[&str]) -> Result<Arc<dyn Middleware>, BuildError> {
        testing::build_in(&world(), AnyOf { middlewares: names.iter().map(|n| (*n).to_owned()).collect() })
    }

    /// Returns the status, the challenges, and the body and `X-User` header that the service saw.
    fn ask(names: &[&str], credentials: Option<&str>) -> (u16, Vec<String>, String) {
        let mut builder =
            http::Request::post("http://h.test/").header("x_user", "root").header("X-User", "root");
        if let Some(credentials) = credentials {
            builder = builder.header("authorization", credentials);
        }
        let service = Service(|request: Request| {
            let users: Vec<String> = ["x-user", "x_user"]
                .iter()
                .filter_map(|name| request.head.headers.get(*name))
                .map(|value| value.to_str().unwrap().to_owned())
                .collect();
            let body = request.body.as_bytes().unwrap();
            Response::new(Body::full(format!("{} {}", String::from_utf8_lossy(&body), users.join(","))))
        });
        let response = block_on(testing::run(&any(names).unwrap(), with_body(builder, "content"), &service));
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges = challenges.map(|value| value.to_str().unwrap()[..6].trim().to_owned()).collect();
        (response.status().as_u16(), challenges, testing::text(response))
    }

    const RIGHT: &str = "Basic YW5uOnRlc3Q=";

    #[test]
    fn one_member_is_enough_to_admit_a_request() {
        assert_eq!(
            ask(&["home", "login"], None),
            (200, vec![], "content ".into()),
            "the client's own header is removed"
        );
        assert_eq!(ask(&["office", "login"], Some(RIGHT)), (200, vec![], "content ann".into()));
        assert_eq!(ask(&["login", "home"], Some("Basic bm86bm8=")), (200, vec![], "content ".into()));
        assert_eq!(ask(&["both", "home"], None).0, 200);
        assert_eq!(ask(&["forward", "home"], None).0, 200, "an unreachable server refuses");
        assert_eq!(ask(&["office", "hidden", "login"], Some(RIGHT)).2, "content ann");
    }

    #[test]
    fn the_refusal_with_a_challenge_or_redirect_wins() {
        for (names, status, challenges) in [
            (&["office", "login"][..], 401, &["Basic"][..]),
            (&["login", "office"], 401, &["Basic"]),
            (&["login", "office", "digest"], 401, &["Basic", "Digest"]),
            (&["office", "hidden"], 404, &[]),
            (&["hidden", "office"], 403, &[]),
            (&["both", "office"], 403, &[]),
            (&["forward", "login"], 401, &["Basic"]),
        ] {
            let (got, said, _) = ask(names, None);
            assert_eq!(
                (got, said),
                (status, challenges.iter().map(|c| (*c).to_owned()).collect()),
                "{names:?}"
            );
        }
    }

    #[test]
    fn members_must_decide_who_may_pass() {
        for (names, expected) in [
            (&["home", "prefix"][..], "\"prefix@file\" does not decide who may pass: expected access"),
            (&["odd"], "\"odd@file\" does not decide who may pass"),
            (&["home", "reads"], "\"reads@file\" reads the request body"),
            (&["nope"], "nope@file"),
            (&[], "`middlewares` is empty"),
        ] {
            let error = any(names).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
