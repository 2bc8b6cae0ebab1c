//! Sessions as the API shows them, and their end by an operator.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tidegate_core::BoxFuture;
use tidegate_core::sessions::{EndError, SessionInfo, SessionList, SessionPlace, Sessions, WhichSessions};
use tidegate_core::store::StoreError;

use super::party::{Party, Store};
use super::session::{Live, Session, session_mark, subject_mark};

/// Number of sessions that are read from the store at once.
const CONCURRENT: usize = 64;

impl Sessions for Party {
    fn list(&self, most: usize) -> BoxFuture<'_, Result<SessionList, StoreError>> {
        Box::pin(async move {
            let (place, mut all, has_more) = match &self.store {
                None => (SessionPlace::Cookies, self.seen(), false),
                Some(store) => {
                    let (all, has_more) = self.indexed(store, most).await?;
                    (SessionPlace::Redis, all, has_more)
                }
            };
            all.sort_by_key(|live| std::cmp::Reverse(live.session.login));
            let has_more = has_more || all.len() > most;
            all.truncate(most);
            let providers = self.providers.iter().map(|provider| provider.name.clone()).collect();
            let sessions = all.iter().map(|live| self.info(live)).collect();
            Ok(SessionList { place, providers, sessions, has_more })
        })
    }

    fn end<'a>(&'a self, which: &'a WhichSessions) -> BoxFuture<'a, Result<String, EndError>> {
        Box::pin(async move {
            match which {
                WhichSessions::One(key) => {
                    let session = self.with_key(key).await?.ok_or(EndError::UnknownSession)?;
                    // All gateways ask the store for this mark; the session itself frees its memory.
                    self.end_all(key.clone()).await?;
                    Party::end(self, &session).await?;
                    Ok(session.subject)
                }
                WhichSessions::Subject { provider, subject } => {
                    let known = match (self.providers.as_slice(), provider.as_str()) {
                        ([only], "") => Some(only),
                        (several, name) => several.iter().find(|provider| provider.name == name),
                    };
                    let known = known.ok_or_else(|| EndError::UnknownProvider(provider.clone()))?;
                    self.end_all(subject_mark(&known.key, subject)).await?;
                    Ok(subject.clone())
                }
            }
        })
    }
}

impl Party {
    /// Returns the sessions in cookies that were seen recently. Of one that was extended, only the last is returned.
    fn seen(&self) -> Vec<Arc<Live>> {
        let now = self.now();
        let mut latest: HashMap<String, Arc<Live>> = HashMap::new();
        for (_, live) in self.cache.iter().filter(|(_, live)| self.is_valid(live, now)) {
            let known = latest.entry(live.session.id.clone()).or_insert_with(|| live.clone());
            let age = |live: &Live| (live.session.generation, live.session.extended);
            if age(known) < age(&live) {
                *known = live;
            }
        }
        latest.into_values().collect()
    }

    /// Returns the sessions in a store, and whether there are more.
    async fn indexed(&self, store: &Store, most: usize) -> Result<(Vec<Arc<Live>>, bool), StoreError> {
        let marks = store.store.members(&self.index_key(), most + 1, store.deadline).await?;
        let has_more = marks.len() > most;
        let reads = stream::iter(marks).map(|mark| async move {
            let Some(session) = self.stored_by_mark(store, &mark).await? else { return Ok(None) };
            let Some(live) = self.live(session).ok() else { return Ok(None) };
            for mark in &live.marks {
                if store.ended(mark).await?.is_some_and(|time| live.session.login <= time) {
                    return Ok(None);
                }
            }
            Ok(Some(Arc::new(live)))
        });
        let all: Vec<Option<Arc<Live>>> = reads.buffer_unordered(CONCURRENT).try_collect().await?;
        let now = self.now();
        Ok((all.into_iter().flatten().filter(|live| self.is_valid(live, now)).collect(), has_more))
    }

    async fn with_key(&self, key: &str) -> Result<Option<Session>, StoreError> {
        match &self.store {
            Some(store) => self.stored_by_mark(store, key).await,
            None => {
                let mut seen = self.seen().into_iter();
                let found = seen.find(|live| session_mark(&live.session.id) == key);
                Ok(found.map(|live| live.session.clone()))
            }
        }
    }

    fn info(&self, live: &Live) -> SessionInfo {
        let session = &live.session;
        let seconds = |millis: u64| i64::try_from(millis / 1_000).unwrap_or(i64::MAX);
        let consumer = self
            .identity(live)
            .ok()
            .and_then(|identity| identity.consumer.as_ref().map(|one| one.name.to_string()));
        SessionInfo {
            key: session_mark(&session.id),
            provider: self.provider_of(session).map(|provider| provider.name.clone()).unwrap_or_default(),
            subject: session.subject.clone(),
            user: live.identity.subject.clone(),
            consumer,
            began: seconds(session.login),
            extended: seconds(session.extended),
            ends: seconds(session.end(&self.lifetime)),
        }
    }
}
