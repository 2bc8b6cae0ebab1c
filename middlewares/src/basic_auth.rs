//! Asks for a user name and password (HTTP Basic, RFC 7617).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use http::header::HeaderValue;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;
use tidegate_core::{
    Access, AuthMethod, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Clock, Middleware, Next,
    Prediction, Request, Response,
};

use crate::auth::credentials::{self, Credentials};
use crate::auth::password::Hash;
use crate::auth::{self, DEFAULT_REALM, Establishing, NotEstablished, slow};

/// How long valid credentials are accepted without hashing them again.
const CACHE_TTL: Duration = Duration::from_secs(60);
/// Maximum number of cached credentials.
const CACHE_CAPACITY: usize = 1024;
/// Checks below this cost, in microseconds, run inline instead of on another thread.
const MAX_INLINE_COST: u64 = 20;
/// Checks above this cost, in microseconds, are not made for a prediction.
const MAX_PREDICTED_COST: u64 = 1_000_000;

/// Traefik's `basicAuth`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BasicAuth {
    /// Users as `name:hash`, in the format of `htpasswd` (bcrypt, MD5, SHA-1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// A file with one `name:hash` per line, in addition to `users`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub users_file: String,
    /// Shown by the browser; `traefik` when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub realm: String,
    /// Removes the `Authorization` header before the request reaches the service.
    #[serde(skip_serializing_if = "is_default")]
    pub remove_header: bool,
    /// Request header that carries the user's name to the service.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_field: String,
}

impl Build for BasicAuth {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let mut users = HashMap::default();
        let mut errors = BuildErrors::default();
        for entry in auth::user_entries(&self.users, &self.users_file, context)? {
            let split = entry.text.split_once(':').filter(|(_, hash)| !hash.contains(':'));
            let Some((name, hash)) = split else {
                let (name, place) = (auth::shown_name(&entry.text), &entry.place);
                errors.add(format!("invalid user{name}{place}: expected `name:hash`"));
                continue;
            };
            let hash = Hash::parse(hash);
            if hash == Hash::Unknown {
                tracing::warn!(
                    middleware = context.name,
                    user = name,
                    "unsupported password hash: this user cannot log in"
                );
            }
            users.insert(name.to_owned(), Arc::new(hash));
        }
        let establishing =
            Establishing::new(context, AuthMethod::Basic, &self.header_field, self.remove_header);
        let establishing = errors.check(establishing);
        let establishing = errors.made(establishing)?;
        let Some(dummy) = users.values().max_by_key(|hash| hash.work()).cloned() else {
            return Err(BuildError::new(format!("no users found in {}", self.users_file)));
        };
        let realm = if self.realm.is_empty() { DEFAULT_REALM } else { &self.realm };
        let challenge = HeaderValue::from_bytes(format!("Basic realm=\"{realm}\"").as_bytes())
            .map_err(|_| BuildError::new("realm: control characters are not allowed"))?;
        Ok(Arc::new(Basic {
            users,
            dummy,
            challenge,
            establishing,
            key: credentials::random_key()?,
            remembered: Cache::new(CACHE_CAPACITY),
            clock: context.clock(),
        }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        Some(auth::access(&self.header_field))
    }
}

struct Basic {
    users: HashMap<String, Arc<Hash>, foldhash::fast::RandomState>,
    /// The slowest hash of all. Faster checks are padded with it, so that timing does not reveal whether a
    /// user exists.
    dummy: Arc<Hash>,
    challenge: HeaderValue,
    establishing: Establishing,
    key: hmac::Key,
    /// Valid credentials by their MAC, with the uptime until which they need no new check.
    remembered: Cache<[u8; 32], Duration>,
    clock: Clock,
}

impl Middleware for Basic {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let Some(credentials) = Credentials::from_headers(&request.head.headers) else {
            // As in Traefik, whose JSON access log does not tell a missing user from an anonymous one.
            request.context.exchange.claim("");
            return self.refuse();
        };
        request.context.exchange.claim(&credentials.user);
        if self.dummy.work() < MAX_INLINE_COST {
            let right =
                self.users.get(&credentials.user).is_some_and(|hash| hash.matches(&credentials.password));
            return if right { self.accept(request, &credentials.user, next) } else { self.refuse() };
        }
        let mac = credentials.mac(&self.key);
        if self.is_remembered(&mac) {
            return self.accept(request, &credentials.user, next);
        }
        Box::pin(async move {
            match self.check(mac, &credentials).await {
                Some(true) => self.accept(request, &credentials.user, next).await,
                Some(false) => self.refuse().await,
                None => slow::too_busy(),
            }
        })
    }

    fn predict(&self, mut request: Request) -> Prediction {
        let refused = |note| Prediction::responds(auth::unauthorized(self.challenge.clone())).note(note);
        let Some(credentials) = Credentials::from_headers(&request.head.headers) else {
            return refused("a login is required");
        };
        if self.dummy.work() > MAX_PREDICTED_COST {
            return Prediction::depends(request, "the password takes too long to check");
        }
        let stored = self.users.get(&credentials.user);
        let right = stored.is_some_and(|hash| hash.matches(&credentials.password));
        if stored.is_none_or(|hash| hash.work() < self.dummy.work()) {
            std::hint::black_box(self.dummy.matches(&credentials.password));
        }
        if !right {
            return refused("the credentials are invalid");
        }
        match self.establishing.establish(&mut request, &credentials.user) {
            Ok(()) => Prediction::passes(request).note("the credentials are valid"),
            Err(NotEstablished::Name) => refused("the credentials are invalid"),
            Err(error) => Prediction::responds(auth::consumer_broken()).note(error.to_string()),
        }
    }
}

impl Basic {
    fn accept<'a>(&'a self, mut request: Request, user: &str, next: &'a Next) -> BoxFuture<'a, Response> {
        match self.establishing.establish(&mut request, user) {
            Ok(()) => next.run(request),
            Err(NotEstablished::Name) => self.refuse(),
            Err(NotEstablished::Consumer(_)) => crate::ready(auth::consumer_broken()),
        }
    }

    fn refuse<'a>(&self) -> BoxFuture<'a, Response> {
        crate::ready(auth::unauthorized(self.challenge.clone()))
    }

    fn is_remembered(&self, mac: &[u8; 32]) -> bool {
        self.remembered.get(mac).is_some_and(|until| self.clock.uptime() < until)
    }

    /// Checks the password on another thread. Concurrent requests with the same credentials share one check.
    /// Returns `None` when too many checks are queued.
    async fn check(&self, mac: [u8; 32], credentials: &Credentials) -> Option<bool> {
        self.remembered.remove_if(&mac, |until| self.clock.uptime() >= *until);
        match self.remembered.get_value_or_guard_async(&mac).await {
            Ok(_) => Some(true),
            Err(place) => {
                let right = self.hash_password(credentials).await?;
                if right {
                    let _ = place.insert(self.clock.uptime() + CACHE_TTL);
                }
                Some(right)
            }
        }
    }

    async fn hash_password(&self, credentials: &Credentials) -> Option<bool> {
        let stored = self.users.get(&credentials.user).cloned();
        let (dummy, password) = (self.dummy.clone(), credentials.password.clone());
        slow::run(move || {
            let right = stored.as_ref().is_some_and(|hash| hash.matches(&password));
            if stored.is_none_or(|hash| hash.work() < dummy.work()) {
                std::hint::black_box(dummy.matches(&password));
            }
            right
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, World, request};
    use base64::Engine as _;
    use http::HeaderMap;
    use http::Request as Head;
    use http::header::AUTHORIZATION;
    use parking_lot::Mutex;
    use proptest::prelude::*;
    use tidegate_core::Body;

    const MD5_TEST: &str = "test:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/";
    const SHA_TEST: &str = "sha:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=";

    fn options(users: &[&str]) -> BasicAuth {
        BasicAuth { users: users.iter().map(|u| (*u).to_owned()).collect(), ..BasicAuth::default() }
    }

    fn with_credentials(credentials: &str) -> Request {
        let encoded = base64::engine::general_purpose::STANDARD.encode(credentials);
        request(Head::get("http://h.test/").header("authorization", format!("Basic {encoded}")))
    }

    fn status(options: BasicAuth, request: Request) -> u16 {
        testing::response_of(options, request, |_| Response::new(Body::empty())).status().as_u16()
    }

    #[test]
    fn only_the_right_password_is_accepted() {
        let bcrypt = format!("b:{}", bcrypt::hash("test", 4).unwrap());
        let users = options(&[MD5_TEST, SHA_TEST, &bcrypt]);
        for (credentials, expected) in [
            ("test:test", 200),
            ("sha:test", 200),
            ("b:test", 200),
            ("b:Test", 401),
            ("test:", 401),
            ("nobody:test", 401),
            (":", 401),
            ("test", 401),
        ] {
            assert_eq!(status(users.clone(), with_credentials(credentials)), expected, "{credentials}");
        }
        assert_eq!(status(options(&[SHA_TEST]), with_credentials("sha:test")), 200);
        assert_eq!(status(options(&[SHA_TEST]), with_credentials("sha:no")), 401);
    }

    #[test]
    fn the_challenge_is_traefiks() {
        for value in ["", "Basic", "Basic !!", "Bearer x"] {
            let request = request(Head::get("http://h.test/").header("authorization", value));
            let options = BasicAuth { realm: "my realm".into(), ..options(&[MD5_TEST]) };
            let response = testing::response_of(options, request, |_| Response::new(Body::empty()));
            assert_eq!(response.status(), 401);
            assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"my realm\"");
            assert_eq!(response.headers()["content-type"], "text/plain");
            assert_eq!(testing::text(response), "401 Unauthorized\n");
        }
    }

    #[test]
    fn the_user_is_sent_to_the_service_and_logged() {
        let options =
            BasicAuth { header_field: "X-User".into(), remove_header: true, ..options(&[MD5_TEST]) };
        let mut request = with_credentials("test:test");
        request.head.headers.insert("x-user", HeaderValue::from_static("spoofed"));
        request.head.headers.insert("x_user", HeaderValue::from_static("spoofed"));
        let exchange = request.context.exchange.clone();
        let seen = testing::request_after(options, request);
        assert_eq!(seen.head.headers["x-user"], "test");
        assert!(!seen.head.headers.contains_key("x_user"));
        assert!(!seen.head.headers.contains_key("authorization"));
        assert_eq!(exchange.user(), Some("test"));
        assert_eq!(exchange.identity().unwrap().subject, "test");
    }

    #[test]
    fn valid_credentials_are_cached_and_invalid_ones_are_not() {
        let basic = testing::build(options(&[MD5_TEST]));
        let calls = Arc::new(Mutex::new(0));
        let counted = calls.clone();
        let service = testing::Service(move |_| {
            *counted.lock() += 1;
            Response::new(Body::empty())
        });
        testing::block_on(async {
            for (credentials, expected) in [
                ("test:test", 200),
                ("test:test", 200),
                ("test:bad", 401),
                ("test:bad", 401),
                ("test:test", 200),
            ] {
                let answer = testing::run(&basic, with_credentials(credentials), &service).await;
                assert_eq!(answer.status(), expected, "{credentials}");
            }
            let at_once: Vec<_> =
                (0..20).map(|_| testing::run(&basic, with_credentials("test:test"), &service)).collect();
            for answer in futures_util::future::join_all(at_once).await {
                assert_eq!(answer.status(), 200);
            }
        });
        assert_eq!(*calls.lock(), 23);
    }

    #[test]
    fn users_come_from_the_list_and_the_file_and_must_not_be_empty() {
        let mut world = World::default();
        world.files.insert("/users".into(), format!("# staff\n{MD5_TEST}\n").into_bytes());
        world.files.insert("/broken".into(), format!("{MD5_TEST}\nhunter2\n").into_bytes());
        world.files.insert("/none".into(), b"# nobody\n".to_vec());
        let build = |users: &[&str], file: &str| {
            let options = BasicAuth { users_file: file.into(), ..options(users) };
            testing::build_in(&world, options).err().map(|error| error.to_string())
        };
        assert_eq!(build(&[], "/users"), None);
        assert_eq!(build(&[], "/none").as_deref(), Some("no users found in /none"));
        assert_eq!(build(&[], "").as_deref(), Some("no users found in "));
        assert_eq!(build(&["a:b:c"], "").as_deref(), Some("invalid user `a`: expected `name:hash`"));
        assert_eq!(build(&[], "/broken").as_deref(), Some("invalid user (/broken:2): expected `name:hash`"));
        assert!(build(&["hunter2"], "").is_some_and(|text| !text.contains("hunter2")));
    }

    proptest! {
        #[test]
        fn no_header_panics(value in r"([Bb]asic ?)?[a-zA-Z0-9+/=: ]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_str(&value).unwrap());
            let _ = Credentials::from_headers(&headers);
        }
    }
}
