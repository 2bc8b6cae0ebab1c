//! Membership in Consul: each member has a session, and keys that are removed with it.
//!
//! The keys are `<name>/members/<id>` and `<name>/leader` below the prefix, each locked by the session of its
//! writer.

use std::sync::Arc;
use std::time::Duration;

use tidegate_clients::OptionError;
use tidegate_clients::consul::keys::{encode, encode_path};
use tidegate_clients::consul::store::{Listing, Operation, Refusal, Store};
use tokio::time::Instant;

use super::error::MemberError;
use super::member::now;
use super::{Inner, Leader, Member, News, pause};
use crate::settings::{Cluster as Options, ClusterConsul};

/// A session is renewed after this fraction of its TTL.
const RENEWALS_PER_TTL: u32 = 3;

/// Membership in Consul.
pub(super) struct Consul {
    store: Store,
    /// Prefix of all keys of this cluster, with a trailing slash.
    prefix: String,
    ttl: Duration,
}

/// Returns the prefix of the keys of a cluster, without a trailing slash.
pub(crate) fn consul_place(place: &ClusterConsul, name: &str) -> String {
    format!("{}/{}", encode_path(&place.prefix), encode(name))
}

impl Consul {
    pub(super) fn new(place: &ClusterConsul, options: &Options) -> Result<Self, OptionError> {
        let prefix = format!("{}/", consul_place(place, &options.name));
        Ok(Self { store: Store::new(&place.place())?, prefix, ttl: options.ttl.0 })
    }

    /// Keeps the gateway a member until it stops.
    pub(super) async fn run(self, inner: Arc<Inner>, mut news: News) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let mut session = None;
            let stopped = {
                let mut stop = news.clone();
                let member = self.member(&inner, news.clone(), &mut session);
                tokio::select! {
                    error = member => {
                        self.failed(&inner, &error);
                        false
                    }
                    () = stop.stop() => true,
                }
            };
            inner.leading(false);
            if let Some(session) = &session {
                // Otherwise the session expires.
                let _ = self.store.end_session(session).await;
            }
            if stopped {
                return;
            }
            failures = if begun.elapsed() > self.ttl { 1 } else { failures + 1 };
            tokio::select! {
                () = tokio::time::sleep(pause(failures)) => {}
                () = news.stop() => return,
            }
        }
    }

    /// Keeps the gateway a member until an error occurs, which is returned.
    async fn member(&self, inner: &Inner, news: News, session: &mut Option<String>) -> MemberError {
        let begun = Instant::now();
        let name = format!("tidegate {}", inner.me.id);
        let id = match self.store.begin_session(&name, self.ttl, Duration::ZERO).await {
            Ok(id) => session.insert(id).clone(),
            Err(error) => return error.into(),
        };
        // The first snapshot may arrive during the write, so keep what was written.
        let shown = match self.publish(inner, &id).await {
            Ok(shown) => shown,
            Err(error) => return error,
        };
        inner.alive_until(begun + self.ttl);
        tokio::select! {
            error = self.beat(inner, news, &id, shown) => error,
            error = self.watch(inner, &id) => error,
        }
    }

    /// Publishes this member, and returns what was written.
    async fn publish(&self, inner: &Inner, session: &str) -> Result<Member, MemberError> {
        let me = inner.me();
        let lock = Operation::Lock {
            key: format!("{}members/{}", self.prefix, encode(&me.id)),
            value: me.text().into_bytes(),
            session: session.to_owned(),
        };
        self.store.apply(&[lock]).await.map_err(|refusal| match refusal {
            Refusal::Condition(_) => MemberError::IdTaken { id: me.id.clone(), within: self.ttl * 2 },
            Refusal::Store(error) => error.into(),
        })?;
        Ok(me)
    }

    /// Renews the session and publishes each new snapshot.
    async fn beat(&self, inner: &Inner, mut news: News, session: &str, mut shown: Member) -> MemberError {
        let mut failed = false;
        loop {
            let begun = Instant::now();
            match self.store.renew_session(session).await {
                Ok(true) => {
                    inner.alive_until(begun + self.ttl);
                    if std::mem::take(&mut failed) {
                        inner.works();
                    }
                }
                Ok(false) => return MemberError::SessionEnded,
                // The session may still be valid: retry, and let the list show what is wrong.
                Err(error) => {
                    self.failed(inner, &error);
                    failed = true;
                }
            }
            let next = begun + self.ttl / RENEWALS_PER_TTL;
            while Instant::now() < next {
                news.snapshot(next.saturating_duration_since(Instant::now()).min(Duration::from_secs(1)))
                    .await;
                if inner.me() == shown {
                    continue;
                }
                match self.publish(inner, session).await {
                    Ok(written) => shown = written,
                    Err(error) => {
                        self.failed(inner, &error);
                        failed = true;
                        break;
                    }
                }
            }
        }
    }

    /// Follows the members, and becomes leader if there is none.
    async fn watch(&self, inner: &Inner, session: &str) -> MemberError {
        let mut follow = self.store.follow(&self.prefix);
        let leader = format!("{}leader", self.prefix);
        loop {
            let listing = match follow.next(&self.store).await {
                Ok(listing) => listing,
                Err(error) => {
                    self.failed(inner, &error);
                    continue;
                }
            };
            let holder = listing.entries.iter().find(|entry| entry.key == leader && entry.session.is_some());
            let mine = holder.is_some_and(|entry| entry.session.as_deref() == Some(session));
            let nobody = holder.is_none();
            inner.leading(mine);
            self.update_members(inner, &listing);
            let own = format!("{}members/{}", self.prefix, encode(&inner.me.id));
            if !listing.entries.iter().any(|entry| entry.key == own)
                && let Err(error) = self.publish(inner, session).await
            {
                // The key was removed, possibly by another gateway with the same id.
                return error;
            }
            if nobody {
                let value = Leader { id: inner.me.id.clone(), since: now() };
                let value = serde_json::to_vec(&value).unwrap_or_default();
                let lock = Operation::Lock { key: leader.clone(), value, session: session.to_owned() };
                // If another gateway was faster, the next list shows it.
                if let Err(Refusal::Store(error)) = self.store.apply(&[lock]).await {
                    self.failed(inner, &error);
                }
            }
        }
    }

    fn failed(&self, inner: &Inner, error: &dyn std::error::Error) {
        inner.failed(&format!("Consul at {}: {error}", self.store.endpoint()));
    }

    fn update_members(&self, inner: &Inner, listing: &Listing) {
        let members = format!("{}members/", self.prefix);
        let held = listing.entries.iter().filter(|entry| entry.session.is_some());
        let found = held.clone().filter(|entry| entry.key.starts_with(&members));
        let leader = held
            .filter(|entry| entry.key == format!("{}leader", self.prefix))
            .find_map(|entry| serde_json::from_slice::<Leader>(&entry.value).ok());
        inner.saw(found.filter_map(|entry| Member::read(&entry.value)).collect(), leader);
    }
}
