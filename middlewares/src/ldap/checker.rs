//! Checks the credentials of requests.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use quick_cache::sync::Cache;
use tidegate_core::ldap::{LdapClient, LdapUnavailable, LdapUser};
use tidegate_core::{
    AuthMethod, BoxFuture, Clock, ConsumersHandle, Identity, Middleware, Next, Prediction, Reason, Request,
    Response, reply,
};

use crate::auth::credentials::Credentials;
use crate::auth::{self, NotEstablished};

/// Maximum number of cached credentials.
pub(super) const CACHE_CAPACITY: usize = 1024;

/// A user whose password was right.
#[derive(Clone)]
pub(super) struct Known {
    user: Arc<LdapUser>,
    /// The uptime until which the password needs no new check.
    until: Duration,
}

/// The middleware.
pub(super) struct Checker {
    pub(super) name: Arc<str>,
    pub(super) directory: Arc<dyn LdapClient>,
    /// `None` sends no challenge.
    pub(super) challenge: Option<HeaderValue>,
    /// The header for the user's name.
    pub(super) header: Option<HeaderName>,
    pub(super) keeps_authorization: bool,
    pub(super) consumers: ConsumersHandle,
    pub(super) clock: Clock,
    pub(super) key: hmac::Key,
    /// Users by the MAC of their credentials. Wrong ones are not kept, so clients cannot fill it.
    pub(super) known: Cache<[u8; 32], Known>,
    pub(super) ttl: Duration,
}

impl Middleware for Checker {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let Some(credentials) = credentials(&request) else {
            request.context.exchange.claim("");
            return crate::ready(self.refuse());
        };
        let mac = credentials.mac(&self.key);
        if let Some(user) = self.remembered(&mac) {
            return self.accept(request, &user, next);
        }
        Box::pin(async move {
            let outcome = self.check(mac, &credentials).await;
            if let Ok(Some(user)) = outcome {
                return self.accept(request, &user, next).await;
            }
            request.context.exchange.claim(&credentials.user);
            let Err(LdapUnavailable { reason }) = outcome else { return self.refuse() };
            tracing::debug!(middleware = &*self.name, "no password can be checked: {reason}");
            unavailable()
        })
    }

    fn predict(&self, mut request: Request) -> Prediction {
        let Some(credentials) = credentials(&request) else {
            return Prediction::responds(self.refuse()).note("a user name and a password are required");
        };
        match self.remembered(&credentials.mac(&self.key)) {
            Some(user) => match self.establish(&mut request, &user) {
                Ok(()) => Prediction::passes(request).note("the password was checked a moment ago"),
                Err(error) => Prediction::responds(self.answer(error)).note(error.to_string()),
            },
            None => Prediction::depends(request, "the LDAP server checks the password"),
        }
    }
}

impl Checker {
    fn remembered(&self, mac: &[u8; 32]) -> Option<Arc<LdapUser>> {
        let known = self.known.get(mac)?;
        (self.clock.uptime() < known.until).then_some(known.user)
    }

    /// Asks the directory. Concurrent requests with the same credentials share one check.
    async fn check(
        &self,
        mac: [u8; 32],
        credentials: &Credentials,
    ) -> Result<Option<Arc<LdapUser>>, LdapUnavailable> {
        let verify = async || {
            let user = self.directory.verify(&credentials.user, &credentials.password).await?;
            Ok(user.map(Arc::new))
        };
        if self.ttl.is_zero() {
            return verify().await;
        }
        self.known.remove_if(&mac, |known| self.clock.uptime() >= known.until);
        match self.known.get_value_or_guard_async(&mac).await {
            Ok(known) => Ok(Some(known.user)),
            Err(place) => {
                let user = verify().await?;
                if let Some(user) = &user {
                    let _ = place.insert(Known { user: user.clone(), until: self.clock.uptime() + self.ttl });
                }
                Ok(user)
            }
        }
    }

    fn accept<'a>(
        &'a self,
        mut request: Request,
        user: &LdapUser,
        next: &'a Next,
    ) -> BoxFuture<'a, Response> {
        match self.establish(&mut request, user) {
            Ok(()) => next.run(request),
            Err(error) => crate::ready(self.answer(error)),
        }
    }

    /// Returns the response to a user with the right password.
    fn answer(&self, error: NotEstablished) -> Response {
        match error {
            NotEstablished::Name => self.refuse(),
            NotEstablished::Consumer(_) => auth::consumer_broken(),
        }
    }

    /// Tells the following middlewares and the service who the client is.
    fn establish(&self, request: &mut Request, user: &LdapUser) -> Result<(), NotEstablished> {
        request.context.exchange.claim(&user.name);
        let consumer = self.consumers.load().by_basic_user(&user.name)?;
        let headers = &mut request.head.headers;
        if let Some(name) = &self.header {
            let value = HeaderValue::from_bytes(user.name.as_bytes()).map_err(|_| NotEstablished::Name)?;
            auth::set_exclusively(headers, name, value);
        }
        if !self.keeps_authorization {
            headers.remove(AUTHORIZATION);
        }
        let mut identity =
            Identity::new(&user.name, AuthMethod::Ldap, self.name.clone()).of_consumer(consumer);
        identity.groups.clone_from(&user.groups);
        identity.labels.insert("dn".to_owned(), user.dn.clone());
        request.context.identify(identity);
        Ok(())
    }

    fn refuse(&self) -> Response {
        match &self.challenge {
            Some(challenge) => auth::unauthorized(challenge.clone()),
            None => {
                let text = "401 Unauthorized\n";
                let mut response = reply::bare(StatusCode::UNAUTHORIZED, text, Reason::Unauthenticated);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
                response
            }
        }
    }
}

/// Returns the credentials of a request. Those that no directory accepts count as none: an empty name or password (which
/// would bind anonymously), a name that is not UTF-8, and more than one `Authorization` field.
fn credentials(request: &Request) -> Option<Credentials> {
    let headers = &request.head.headers;
    let is_one = headers.get_all(AUTHORIZATION).iter().nth(1).is_none();
    Credentials::from_headers(headers).filter(|given| {
        is_one
            && !given.user.is_empty()
            && !given.password.is_empty()
            && !given.user.contains(char::REPLACEMENT_CHARACTER)
    })
}

fn unavailable() -> Response {
    let mut response = reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::AuthenticationUnavailable);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
