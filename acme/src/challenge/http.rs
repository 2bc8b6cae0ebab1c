//! http-01: a file below `/.well-known/acme-challenge/` (RFC 8555 section 8.3).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use parking_lot::RwLock;
use tidegate_core::{Body, BoxFuture, Handler, Reason, Request, Response, reply};

use super::{Proof, Prover};
use crate::error::Error;
use crate::handshakes::Elsewhere;

/// Prefix of the paths that authorities request.
pub const PREFIX: &str = "/.well-known/acme-challenge/";

/// Maximum length of a token that is looked up elsewhere.
const MAX_TOKEN: usize = 256;

/// The presented key authorizations by token, and where to look up others.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Arc<RwLock<HashMap<String, String>>>, Arc<RwLock<Vec<Arc<dyn Elsewhere>>>>);

impl Tokens {
    /// Adds a place where unknown tokens are looked up.
    pub(crate) fn look_at(&self, elsewhere: Arc<dyn Elsewhere>) {
        self.1.write().push(elsewhere);
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, token: &str) -> bool {
        self.0.read().contains_key(token)
    }

    /// Returns the response for a token, which another gateway may have presented.
    async fn find(&self, path: &str) -> Response {
        let is_token = |token: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(known)
        };
        let token = path.strip_prefix(PREFIX).filter(|token| is_token(token));
        if let Some(token) = token.filter(|token| !self.0.read().contains_key(*token)) {
            let elsewhere = self.1.read().clone();
            for place in elsewhere {
                place.look().await;
                if self.0.read().contains_key(token) {
                    break;
                }
            }
        }
        self.answer(path)
    }

    fn answer(&self, path: &str) -> Response {
        let shown = path.strip_prefix(PREFIX).and_then(|token| self.0.read().get(token).cloned());
        let Some(shown) = shown else {
            return reply::empty(StatusCode::NOT_FOUND, Reason::OwnService);
        };
        let mut response = Response::new(Body::full(shown)).because(Reason::OwnService);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        *response.status_mut() = StatusCode::OK;
        response
    }
}

/// Responds with the key authorization of a token, and with 404 to all other requests.
pub struct ChallengeResponder(pub(crate) Tokens);

impl Handler for ChallengeResponder {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(async move { self.0.find(request.path()).await })
    }
}

/// Proves names over HTTP.
pub(crate) struct Http {
    pub(crate) tokens: Tokens,
    pub(crate) delay: Duration,
}

impl Prover for Http {
    fn kind(&self) -> &'static str {
        "http-01"
    }

    fn present<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<(), Error>> {
        self.tokens.0.write().insert(proof.token.clone(), proof.key_authorization.clone());
        Box::pin(std::future::ready(Ok(())))
    }

    fn settle<'a>(&'a self, _: &'a [Proof]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async {
            tokio::time::sleep(self.delay).await;
            Ok(())
        })
    }

    fn withdraw<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, ()> {
        self.tokens.0.write().remove(&proof.token);
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_shown_until_it_is_withdrawn() {
        let tokens = Tokens::default();
        let prover = Http { tokens: tokens.clone(), delay: Duration::ZERO };
        let proof =
            Proof { name: "a.test".into(), token: "tok".into(), key_authorization: "tok.print".into() };
        prover.present(&proof).await.unwrap();
        assert_eq!(tokens.answer("/.well-known/acme-challenge/tok").status(), 200);
        for path in ["/.well-known/acme-challenge/", "/.well-known/acme-challenge/other", "/tok"] {
            assert_eq!(tokens.answer(path).status(), 404, "{path}");
        }
        prover.withdraw(&proof).await;
        assert_eq!(tokens.answer("/.well-known/acme-challenge/tok").status(), 404);
    }
}
