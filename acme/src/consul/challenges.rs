//! Challenges that all replicas present: the authority may reach any of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_clients::consul::store::{Listing, Operation};
use tidegate_core::BoxFuture;

use super::keys::{read, write};
use super::{ConsulStorage, Inner};
use crate::challenge::{Proof, Prover};
use crate::error::Error;
use crate::handshakes::Elsewhere;

/// Timeout for looking up an unknown proof in the store.
const PATIENCE: Duration = Duration::from_secs(3);
/// Minimum interval between two look-ups: strangers can ask for any token.
const LOOK_GAP: Duration = Duration::from_millis(100);

/// A proof as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SharedProof {
    /// `http-01` or `tls-alpn-01`.
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) token: String,
    pub(super) key_authorization: String,
}

/// Proofs of other replicas, presented by this one too.
pub(super) struct Remote {
    /// How this replica presents proofs; `None` if none need presenting.
    prover: Option<Arc<dyn Prover>>,
    /// By token: the proof, and the index of the store when it was seen.
    shown: Mutex<HashMap<String, (u64, Proof)>>,
    /// Tokens of proofs that this replica published itself.
    own: Mutex<HashSet<String>>,
}

impl Remote {
    pub(super) fn new(prover: Option<Arc<dyn Prover>>) -> Self {
        Self { prover, shown: Mutex::default(), own: Mutex::default() }
    }

    /// Presents the proofs in the store at this index. `all` withdraws those that are gone.
    pub(super) async fn show(&self, proofs: &[SharedProof], index: u64, all: bool) {
        let Some(prover) = &self.prover else { return };
        for proof in proofs.iter().filter(|proof| proof.kind == prover.kind()) {
            if self.own.lock().contains(&proof.token) {
                continue;
            }
            let known = self.shown.lock().get_mut(&proof.token).map(|(seen, _)| *seen = index.max(*seen));
            if known.is_some() {
                continue;
            }
            let proof = Proof {
                name: proof.name.clone(),
                token: proof.token.clone(),
                key_authorization: proof.key_authorization.clone(),
            };
            match prover.present(&proof).await {
                Ok(()) => {
                    self.shown.lock().insert(proof.token.clone(), (index, proof));
                }
                Err(error) => tracing::error!(name = %proof.name, %error, "a shared proof cannot be shown"),
            }
        }
        if !all {
            return;
        }
        let is_there = |token: &str| proofs.iter().any(|proof| proof.token == token);
        let gone: Vec<Proof> = {
            let mut shown = self.shown.lock();
            // A listing from before a proof was seen proves nothing.
            let gone = shown.extract_if(|token, (seen, _)| *seen <= index && !is_there(token));
            gone.map(|(_, (_, proof))| proof).collect()
        };
        for proof in &gone {
            prover.withdraw(proof).await;
        }
    }
}

/// Presents proofs here and, through the store, at all other replicas.
pub(super) struct SharedProver {
    pub(super) inner: Arc<dyn Prover>,
    pub(super) storage: ConsulStorage,
}

impl Prover for SharedProver {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn at_once(&self) -> usize {
        self.inner.at_once()
    }

    fn present<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let shared = SharedProof {
                kind: self.kind().to_owned(),
                name: proof.name.clone(),
                token: proof.token.clone(),
                key_authorization: proof.key_authorization.clone(),
            };
            let inner = &self.storage.0;
            inner.remote.own.lock().insert(proof.token.clone());
            self.inner.present(proof).await?;
            let (key, value) = (inner.keys.proof(&proof.token), write(&shared)?);
            let lock = inner.while_leading(|session| {
                // It vanishes with the session of this gateway.
                vec![Operation::Lock { key, value, session: session.to_owned() }]
            });
            lock.await.map(|_| ()).map_err(|error| error.at("sharing a proof"))
        })
    }

    fn settle<'a>(&'a self, proofs: &'a [Proof]) -> BoxFuture<'a, Result<(), Error>> {
        self.inner.settle(proofs)
    }

    fn withdraw<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let inner = &self.storage.0;
            self.inner.withdraw(proof).await;
            let key = inner.keys.proof(&proof.token);
            if let Err(error) = inner.store.apply(&[Operation::Delete { key }]).await {
                tracing::debug!(%error, "a shared proof could not be taken back");
            }
            inner.remote.own.lock().remove(&proof.token);
        })
    }
}

impl Elsewhere for ConsulStorage {
    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let inner = &self.0;
            let mut looks = inner.looks.subscribe();
            // A look-up in progress may have begun before the proof was stored.
            let needed = looks.borrow().begun + 1;
            inner.look.notify_one();
            let _ = tokio::time::timeout(PATIENCE, looks.wait_for(|looks| looks.done >= needed)).await;
        })
    }
}

/// Looks up unknown proofs in the store: once for all who are waiting.
pub(super) async fn look_when_asked(inner: Arc<Inner>) {
    loop {
        inner.look.notified().await;
        inner.looks.send_modify(|looks| looks.begun += 1);
        let prefix = inner.keys.proofs();
        match inner.store.read(&prefix, false).await {
            Ok(listing) => inner.remote.show(&proofs_of(&listing), listing.index, false).await,
            Err(error) => tracing::debug!(%error, "no look at shared proofs"),
        }
        inner.looks.send_modify(|looks| looks.done = looks.begun);
        tokio::time::sleep(LOOK_GAP).await;
    }
}

fn proofs_of(listing: &Listing) -> Vec<SharedProof> {
    listing.entries.iter().filter_map(read).collect()
}

/// How many look-ups have begun, and how many of them are done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Looks {
    begun: u64,
    done: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge::http::{Http, Tokens};

    fn proof(token: &str) -> SharedProof {
        SharedProof {
            kind: "http-01".into(),
            name: "a.test".into(),
            token: token.into(),
            key_authorization: format!("{token}.print"),
        }
    }

    #[tokio::test]
    async fn what_others_present_is_shown_until_they_take_it_back() {
        let tokens = Tokens::default();
        let remote = Remote::new(Some(Arc::new(Http { tokens: tokens.clone(), delay: Duration::ZERO })));
        remote.show(&[proof("one")], 5, true).await;
        assert!(tokens.contains("one"));
        let other = SharedProof { kind: "tls-alpn-01".into(), ..proof("two") };
        remote.show(&[proof("one"), other], 6, true).await;
        assert!(!tokens.contains("two"), "of another kind");
        remote.show(&[], 4, true).await;
        assert!(tokens.contains("one"), "that answer is older");
        remote.show(&[], 7, false).await;
        assert!(tokens.contains("one"), "only asked for, not all");
        remote.show(&[], 7, true).await;
        assert!(!tokens.contains("one"));
        remote.own.lock().insert("own".into());
        remote.show(&[proof("own")], 8, true).await;
        assert!(!tokens.contains("own"), "the prover itself shows it");
    }
}
