//! Refreshing tokens (OpenID Connect Core section 12): once per session, however many requests need it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::login::merge;
use super::party::{Party, Refreshed, Store};
use super::provider::{Provider, ProviderError};
use super::session::{Session, kept};

/// How long a provider that has failed is not asked again, in milliseconds.
const PAUSE: u64 = 10_000;
/// How long another gateway may take to refresh a session in a shared store.
const LOCK: Duration = Duration::from_secs(15);
/// How often a session is read while another gateway refreshes it.
const POLL: Duration = Duration::from_millis(100);

/// What became of a session.
pub(super) enum Outcome {
    /// It is the same: its provider is not available.
    Unchanged,
    New(Box<Session>),
    Ended,
}

impl Party {
    /// Refreshes the tokens of a session.
    pub(super) async fn refresh(self: &Arc<Self>, session: &Session) -> Outcome {
        let key = format!("{} {}", session.id, session.generation);
        // The first attempt may find the failure of an earlier one.
        for _ in 0..2 {
            let started = || async {
                let (party, session) = (self.clone(), session.clone());
                // A client that leaves must not lose the new refresh token.
                let task = tokio::spawn(async move { party.attempt(&session).await });
                task.await.map(Arc::new)
            };
            let Ok(result) = self.kept.refreshed.get_or_insert_async(&key, started()).await else {
                return Outcome::Unchanged;
            };
            match &*result {
                Refreshed::New(session) => return Outcome::New(session.clone()),
                Refreshed::Ended => return Outcome::Ended,
                Refreshed::Unavailable(until) if self.now() < *until => return Outcome::Unchanged,
                Refreshed::Unavailable(_) => {
                    self.kept.refreshed.remove_if(&key, |known| Arc::ptr_eq(known, &result));
                }
            }
        }
        Outcome::Unchanged
    }

    async fn attempt(&self, session: &Session) -> Refreshed {
        let until = self.kept.unavailable_until.load(Ordering::Relaxed);
        if self.now() < until {
            return Refreshed::Unavailable(until);
        }
        if let Some(store) = &self.store {
            match store.lock(&format!("{} {}", session.id, session.generation), LOCK).await {
                Ok(true) => {}
                Ok(false) => return self.wait_for_other(store, session).await,
                Err(_) => return self.unavailable(),
            }
        }
        let Some(provider) = self.provider_of(session) else { return Refreshed::Ended };
        match self.request(provider, session).await {
            Ok(new) => {
                if self.store.is_some()
                    && let Err(error) = self.keep(&new, &http::HeaderMap::new()).await
                {
                    tracing::error!(middleware = &*self.name, %error, "oidc: the refreshed session cannot be kept");
                }
                Refreshed::New(Box::new(new))
            }
            Err(error) => {
                self.failed(provider, &error);
                match error {
                    ProviderError::Unavailable(_) | ProviderError::Unknown => self.unavailable(),
                    ProviderError::Refused(_) | ProviderError::Invalid(_) => Refreshed::Ended,
                }
            }
        }
    }

    fn unavailable(&self) -> Refreshed {
        let until = self.now().saturating_add(PAUSE);
        self.kept.unavailable_until.store(until, Ordering::Relaxed);
        Refreshed::Unavailable(until)
    }

    /// Waits until another gateway has refreshed the session.
    async fn wait_for_other(&self, store: &Store, session: &Session) -> Refreshed {
        let wait = async {
            loop {
                match self.stored(store, &session.id).await {
                    Ok(Some(new)) if new.generation > session.generation => {
                        return Refreshed::New(Box::new(new));
                    }
                    Ok(Some(_)) => tokio::time::sleep(POLL).await,
                    Ok(None) => return Refreshed::Ended,
                    Err(_) => return Refreshed::Unavailable(self.now()),
                }
            }
        };
        tokio::time::timeout(LOCK, wait).await.unwrap_or_else(|_| Refreshed::Unavailable(self.now()))
    }

    async fn request(&self, provider: &Provider, session: &Session) -> Result<Session, ProviderError> {
        let token = session.refresh_token.as_deref().ok_or(ProviderError::Invalid("no refresh token"))?;
        let metadata = provider.metadata().ok_or(ProviderError::Unknown)?;
        let tokens = provider.refresh(&metadata, token).await?;
        let mut new = session.clone();
        if let (Some(text), true) = (&tokens.id_token, metadata.issuer.is_some()) {
            let mut claims = provider.verify_id_token(text, None, &self.clock).await?;
            if claims.get("sub").and_then(|subject| subject.as_str()) != Some(&session.subject) {
                return Err(ProviderError::Invalid("a token of another user"));
            }
            if provider.asks_user_info {
                let more = self.user_info(provider, &metadata, &tokens.access_token, &claims).await?;
                merge(&mut claims, more);
            }
            new.claims = kept(claims);
            new.id_token = tokens.id_token.clone().filter(|_| metadata.end_session.is_some());
        }
        let now = self.now();
        new.access_expiry =
            tokens.lifetime().map(|seconds| now.saturating_add(seconds.saturating_mul(1_000)));
        new.refresh_token = tokens.refresh_token.or(new.refresh_token);
        new.generation += 1;
        if self.lifetime.is_sliding {
            new.extended = now;
        }
        Ok(new)
    }
}
