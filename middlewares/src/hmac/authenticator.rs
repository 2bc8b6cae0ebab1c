//! Lets signed requests pass.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use http::header::{AUTHORIZATION, HeaderName, PROXY_AUTHORIZATION};
use http_body::Body as _;
use tidegate_core::concealed::Concealed;
use tidegate_core::consumer::SignatureKey;
use tidegate_core::{
    AuthMethod, Body, BoxFuture, Clock, CollectError, Consumers, ConsumersHandle, Identity, Middleware, Next,
    Prediction, Request, Response, boxed,
};

use super::digest::Expected;
use super::keys::{Key, verify_stored};
use super::presented::Presented;
use super::refusal::Refusal;
use super::{cavage, fields, message};
use crate::auth::remembered::{Mark, Remembered, SharedMarks};

/// Lets signed requests pass.
pub(super) struct Authenticator {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) keys: HashMap<String, Owned, foldhash::fast::RandomState>,
    pub(super) consumers: ConsumersHandle,
    /// Whether their keys are accepted.
    pub(super) accepts_consumers: bool,
    /// The label that counts; any if `None`.
    pub(super) label: Option<String>,
    /// Components that must be covered.
    pub(super) components: Vec<String>,
    /// The same for the older form.
    pub(super) headers: Vec<String>,
    pub(super) accepts_message: bool,
    pub(super) accepts_cavage: bool,
    pub(super) validates_digest: bool,
    pub(super) max_body: u64,
    /// How far clocks of clients may be ahead.
    pub(super) skew: Duration,
    pub(super) max_age: Duration,
    pub(super) requires_nonce: bool,
    pub(super) rejects_replays: bool,
    pub(super) max_remembered: usize,
    pub(super) remembered: Arc<Remembered>,
    /// Used signatures of all gateways.
    pub(super) shared: Option<SharedMarks>,
    pub(super) concealed: Arc<Concealed>,
}

/// A key and whose it is.
pub(super) struct Owned {
    pub(super) key: Key,
    /// Qualified name of the consumer.
    pub(super) consumer: Option<String>,
}

/// Whose key it is.
enum Owner<'k> {
    Options(&'k Owned),
    Consumer(&'k SignatureKey),
    /// Keys that identify no one.
    Broken(&'k [Arc<SignatureKey>]),
}

/// Headers with signatures.
pub(super) fn concealed() -> Concealed {
    let headers = vec![AUTHORIZATION, PROXY_AUTHORIZATION, HeaderName::from_static("signature")];
    Concealed { headers, parameter: None }
}

/// A verified signature.
struct Verified {
    identity: Identity,
    mark: Mark,
    /// What the body must be; `None` if it may be anything, or is empty.
    digest: Option<Expected>,
}

impl Middleware for Authenticator {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let verified = match self.verify(&request) {
            Ok(verified) => verified,
            Err(refusal) => return crate::ready(refusal.response()),
        };
        if verified.digest.is_none() {
            return self.finish(request, verified, next);
        }
        boxed(move || async move {
            match self.check_body(request, &verified).await {
                Ok(request) => self.finish(request, verified, next).await,
                Err(refusal) => refusal.response(),
            }
        })
    }

    fn predict(&self, mut request: Request) -> Prediction {
        let refused = |refusal: Refusal| Prediction::responds(refusal.response()).note(refusal.to_string());
        match self.verify(&request) {
            Ok(verified) if self.rejects_replays && self.shared.is_some() => {
                request.context.identify(Arc::new(verified.identity));
                Prediction::depends(request, "asks Redis whether the signature has been used")
            }
            Ok(verified) if self.rejects_replays && self.remembered.contains(&verified.mark) => {
                refused(Refusal::Replayed)
            }
            Ok(verified) => {
                request.context.identify(Arc::new(verified.identity));
                match verified.digest {
                    Some(_) => Prediction::depends(request, "compares the body with its digest"),
                    None => Prediction::passes(request).note("the signature is valid"),
                }
            }
            Err(refusal) => refused(refusal),
        }
    }
}

impl Authenticator {
    fn finish<'a>(
        &'a self,
        mut request: Request,
        verified: Verified,
        next: &'a Next,
    ) -> BoxFuture<'a, Response> {
        if self.rejects_replays {
            if let Some(shared) = &self.shared {
                return boxed(move || async move {
                    match self.record_shared(shared, verified.mark).await {
                        Ok(()) => {
                            request.context.identify(Arc::new(verified.identity));
                            next.run(request).await
                        }
                        Err(refusal) => refusal.response(),
                    }
                });
            }
            if let Err(refusal) = self.record(verified.mark) {
                return crate::ready(refusal.response());
            }
        }
        request.context.identify(Arc::new(verified.identity));
        next.run(request)
    }

    /// Records that a signature is used, in this process.
    fn record(&self, mark: Mark) -> Result<(), Refusal> {
        let window = self.max_age + self.skew;
        Ok(self.remembered.add(mark, self.clock.uptime(), window, self.max_remembered)?)
    }

    /// Records that a signature is used, for all gateways.
    async fn record_shared(&self, shared: &SharedMarks, mark: Mark) -> Result<(), Refusal> {
        // Clocks of gateways may differ as much as those of clients.
        let window = self.max_age + 2 * self.skew;
        if shared.add(&mark, window).await? { Ok(()) } else { self.record(mark) }
    }

    /// Verifies everything that the head tells.
    fn verify(&self, request: &Request) -> Result<Verified, Refusal> {
        let directory = self.consumers.load();
        let presented = self.present(request, &directory)?;
        let owner = self.owner(&directory, &presented.key_id).ok_or(Refusal::UnknownKey)?;
        request.context.exchange.claim(&presented.key_id);
        self.check_times(&presented)?;
        if self.requires_nonce && presented.nonce.as_ref().is_none_or(String::is_empty) {
            return Err(Refusal::NoNonce);
        }
        let consumer = match owner {
            Owner::Options(owned) => {
                owned.key.verify(&presented)?;
                match &owned.consumer {
                    Some(name) => Some(directory.get(name).ok_or(Refusal::NoConsumer)?.clone()),
                    None => None,
                }
            }
            Owner::Consumer(key) => {
                verify_stored(key, &presented)?;
                Some(key.consumer.clone())
            }
            Owner::Broken(keys) => {
                // Only those who have the key learn that something is wrong with it.
                let is_valid = keys.iter().any(|key| verify_stored(key, &presented).is_ok());
                return Err(if is_valid { Refusal::NoConsumer } else { Refusal::Signature });
            }
        };
        let digest = self.expected(request, &presented)?;
        let identity = Identity::new(&*presented.key_id, AuthMethod::Signature, self.name.clone());
        let identity = identity.of_consumer(consumer);
        Ok(Verified { identity, mark: mark(&presented), digest })
    }

    /// Returns whose key this is. Keys of the options are preferred.
    fn owner<'k>(&'k self, directory: &'k Consumers, id: &str) -> Option<Owner<'k>> {
        if let Some(owned) = self.keys.get(id) {
            return Some(Owner::Options(owned));
        }
        if !self.accepts_consumers {
            return None;
        }
        match (directory.signature_key(id), directory.broken_signature_keys(id)) {
            (Some(key), _) => Some(Owner::Consumer(key)),
            (None, []) => None,
            (None, keys) => Some(Owner::Broken(keys)),
        }
    }

    fn present(&self, request: &Request, directory: &Consumers) -> Result<Presented, Refusal> {
        let headers = &request.head.headers;
        let inputs = fields::joined(headers, "signature-input")?.filter(|_| self.accepts_message);
        let older = if self.accepts_cavage { cavage::find(headers)? } else { None };
        if inputs.is_some() || older.is_some() {
            request.context.exchange.conceal(self.concealed.clone());
        }
        match (inputs, older) {
            (Some(inputs), None) => {
                let is_known = |id: &str| self.owner(directory, id).is_some();
                message::read(request, &inputs, self.label.as_deref(), is_known, &self.components)
            }
            (None, Some((_, text))) => cavage::read(request, text, &self.headers),
            (None, None) => Err(Refusal::Missing),
            (Some(_), Some(_)) => Err(Refusal::Several),
        }
    }

    fn check_times(&self, presented: &Presented) -> Result<(), Refusal> {
        let now = self.clock.wall().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        if presented.created > now.saturating_add(seconds(self.skew)) {
            return Err(Refusal::NotYetValid);
        }
        let is_old = presented.created.saturating_add(seconds(self.max_age)) <= now;
        if is_old || presented.expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }

    /// Returns the digest that the body must have. A body without one is refused.
    fn expected(&self, request: &Request, presented: &Presented) -> Result<Option<Expected>, Refusal> {
        let is_empty = request.body.size_hint().exact() == Some(0);
        match self.validates_digest {
            false => Ok(None),
            true if presented.covers_digest => {
                Expected::read(&request.head.headers, presented.form).map(Some)
            }
            true if is_empty => Ok(None),
            true => Err(Refusal::NoDigest),
        }
    }

    async fn check_body(&self, mut request: Request, verified: &Verified) -> Result<Request, Refusal> {
        let body = std::mem::take(&mut request.body).collect(self.max_body).await;
        let body = body.map_err(|error| match error {
            CollectError::TooLarge { .. } => Refusal::BodyTooLarge,
            CollectError::Failed(_) => Refusal::BodyBroken,
        })?;
        if !verified.digest.as_ref().is_some_and(|expected| expected.fits(&body.bytes)) {
            return Err(Refusal::Digest);
        }
        request.body = Body::from(body);
        Ok(request)
    }
}

/// Returns what must not be used again: the nonce of a key, or all that is signed. Signatures of the same content may
/// differ, so they identify nothing.
fn mark(presented: &Presented) -> Mark {
    let mut text = Vec::with_capacity(presented.base.len() + 64);
    text.extend_from_slice(&(presented.key_id.len() as u64).to_be_bytes());
    text.extend_from_slice(presented.key_id.as_bytes());
    match &presented.nonce {
        Some(nonce) => {
            text.push(1);
            text.extend_from_slice(nonce.as_bytes());
        }
        None => {
            text.push(0);
            text.extend_from_slice(&presented.base);
        }
    }
    let mut mark = [0; 16];
    mark.copy_from_slice(&digest(&SHA256, &text).as_ref()[..16]);
    mark
}
