//! The tasks behind a shared storage: they keep a session, take the lock of the leader when it is free, and follow
//! changes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidegate_clients::consul::store::{Listing, Operation, Refusal};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Handle;

use super::keys::write;
use super::replica_cache::{Live, Replica, entry_of};
use super::{Inner, challenges};
use crate::error::Error;
use crate::storage::Stored;

/// TTL of the session: Consul's minimum. Consul may take twice that to end it.
pub(super) const TTL: Duration = Duration::from_secs(10);
/// Interval of renewals.
const RENEW: Duration = Duration::from_secs(3);
/// How long before it expires a session is treated as lost.
const MARGIN: Duration = Duration::from_secs(1);
/// How long nobody can take the lock of a session that expired, so that requests in progress can end. Later ones are
/// refused by the lock itself.
const LOCK_DELAY: Duration = Duration::from_secs(2);
/// Pauses between attempts to take a free lock, and to reach Consul.
const AGAIN: Duration = Duration::from_millis(500);

/// The session and lock of this replica.
#[derive(Default)]
pub(super) struct Lease {
    /// The session, and when it was last renewed.
    session: Option<(String, Instant)>,
    /// Whether it holds the lock.
    leads: bool,
    /// The entry of this replica in the store.
    published: Option<Vec<Vec<String>>>,
}

impl Lease {
    /// Returns the session while it certainly holds the lock.
    pub(super) fn leading(&self) -> Option<&str> {
        let (id, renewed) = self.session.as_ref()?;
        (self.leads && renewed.elapsed() < TTL - MARGIN).then_some(id.as_str())
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.session.as_ref().map(|(id, _)| id.as_str())
    }
}

/// Starts the tasks.
pub(super) fn start(inner: &Arc<Inner>, control: &Handle) {
    control.spawn(keep_session(inner.clone()));
    control.spawn(follow_certificates(inner.clone()));
    control.spawn(follow_live(inner.clone()));
    control.spawn(challenges::look_when_asked(inner.clone()));
}

/// Releases lock and session, so that another gateway can take over at once.
pub(super) async fn stop(inner: &Inner) {
    inner.stopping.store(true, Ordering::Relaxed);
    let (session, leads) = {
        let mut lease = inner.lease.lock();
        let leads = lease.leading().is_some();
        (std::mem::take(&mut *lease).session, leads)
    };
    let Some((session, _)) = session else { return };
    if leads {
        let key = inner.keys.leader();
        // Deleted explicitly instead of by the end of the session, it is free at once.
        let operations = [
            Operation::CheckSession { key: key.clone(), session: session.clone() },
            Operation::Delete { key },
        ];
        let _ = inner.store.apply(&operations).await;
    }
    let _ = inner.store.end_session(&session).await;
}

async fn keep_session(inner: Arc<Inner>) {
    while !inner.stopping.load(Ordering::Relaxed) {
        let pause = match round(&inner).await {
            Ok(pause) => pause,
            Err(error) => {
                inner.failed("session", &error);
                AGAIN
            }
        };
        tokio::select! {
            () = inner.stir.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Does what is due, and returns the time until something is due again.
async fn round(inner: &Inner) -> Result<Duration, Error> {
    let session = session(inner).await?;
    publish(inner, &session).await?;
    inner.worked("session");
    let leader = {
        let mirror = inner.mirror.lock();
        let Some(live) = mirror.live.as_ref() else { return Ok(AGAIN) };
        live.leader.as_ref().map(|(session, _)| session.clone())
    };
    match leader {
        Some(other) if other != session => {
            if std::mem::take(&mut inner.lease.lock().leads) {
                tracing::warn!(resolver = %inner.resolver, "another gateway orders certificates now");
                inner.tell();
            }
            Ok(RENEW)
        }
        Some(_) if inner.lease.lock().leads => {
            inner.migrate().await?;
            Ok(RENEW)
        }
        _ => lead(inner, &session).await,
    }
}

/// Begins or renews the session when that is due.
async fn session(inner: &Inner) -> Result<String, Error> {
    let known = inner.lease.lock().session.clone();
    let asked = Instant::now();
    if let Some((id, renewed)) = known {
        if renewed.elapsed() < RENEW {
            return Ok(id);
        }
        if inner.store.renew_session(&id).await? {
            let mut lease = inner.lease.lock();
            if let Some((_, renewed)) = lease.session.as_mut().filter(|(own, _)| *own == id) {
                *renewed = asked;
            }
            return Ok(id);
        }
        // Consul was unreachable for too long.
        let led = std::mem::take(&mut *inner.lease.lock()).leads;
        if led {
            tracing::warn!(resolver = %inner.resolver, "this gateway's session in Consul has ended: it orders no more");
        }
        inner.tell();
    }
    let id = inner.store.begin_session(&format!("tidegate {}", inner.node), TTL, LOCK_DELAY).await?;
    let mut lease = inner.lease.lock();
    if inner.stopping.load(Ordering::Relaxed) {
        return Err(Error::local("the gateway is stopping"));
    }
    *lease = Lease { session: Some((id.clone(), asked)), ..Lease::default() };
    Ok(id)
}

/// Registers this replica with the names it lacks.
async fn publish(inner: &Inner, session: &str) -> Result<(), Error> {
    let lacks = inner.lacks.lock().clone();
    if inner.lease.lock().published.as_ref() == Some(&lacks) {
        return Ok(());
    }
    let replica = Replica { node: inner.node.clone(), since: inner.since.clone(), lacks: lacks.clone() };
    let value = write(&replica)?;
    let key = inner.keys.replica(session);
    let lock = Operation::Lock { key, value, session: session.to_owned() };
    inner.store.apply(&[lock]).await.map_err(|refusal| Error::local(refusal.to_string()))?;
    inner.lease.lock().published = Some(lacks);
    Ok(())
}

/// Tries to become the leader.
async fn lead(inner: &Inner, session: &str) -> Result<Duration, Error> {
    let replica = Replica { node: inner.node.clone(), since: now(), lacks: Vec::new() };
    let value = write(&replica)?;
    let lock = Operation::Lock { key: inner.keys.leader(), value, session: session.to_owned() };
    match inner.store.apply(&[lock]).await {
        Ok(_) => {}
        // Another gateway was faster, or the last leader has only just gone.
        Err(Refusal::Condition(_)) => return Ok(AGAIN),
        Err(Refusal::Store(error)) => return Err(error.into()),
    }
    // Read what the last leader wrote before anything is ordered.
    inner.read_all(true).await?;
    inner.adopt().await?;
    {
        let mut lease = inner.lease.lock();
        if lease.id() != Some(session) {
            return Ok(AGAIN);
        }
        lease.leads = true;
    }
    tracing::info!(
        resolver = %inner.resolver,
        storage = %inner.place,
        "this gateway orders certificates for all that share the storage"
    );
    inner.tell();
    Ok(RENEW)
}

async fn follow_certificates(inner: Arc<Inner>) {
    let mut follow = inner.store.follow(&inner.keys.certificates());
    let mut kept = None;
    loop {
        match follow.next(&inner.store).await {
            Ok(listing)
                if listing.entries.is_empty()
                    && inner.mirror.lock().has_certificates()
                    && !all_gone(&inner).await =>
            {
                // An answer that is ignored must not count as seen.
                follow = inner.store.follow(&inner.keys.certificates());
                tokio::time::sleep(AGAIN).await;
            }
            Ok(listing) if inner.mirror.lock().distrusts(&listing) => {
                follow = inner.store.follow(&inner.keys.certificates());
                tokio::time::sleep(AGAIN).await;
            }
            Ok(listing) => {
                inner.worked("certificates");
                let changed = inner.mirror.lock().set_certificates(&listing);
                if changed || kept.is_none() {
                    inner.tell();
                }
                keep_copy(&inner, &listing, &mut kept).await;
            }
            Err(error) => inner.failed("certificates", &error),
        }
    }
}

/// True if the last certificate was deleted, rather than the token's rights or Consul's data lost: a token without
/// rights sees an empty store, and so does everybody after Consul lost its data. In these cases certificates are still
/// served, and restored where they are lost.
async fn all_gone(inner: &Inner) -> bool {
    let session = inner.lease.lock().id().map(str::to_owned);
    let Ok(live) = inner.store.read(&inner.keys.live(), true).await else { return false };
    let sees_itself = session.is_some_and(|session| entry_of(&live, &inner.keys.replica(&session)).is_some());
    if !sees_itself {
        inner.failed("certificates", &"the store is empty, or the token has no rights");
        return false;
    }
    if entry_of(&live, &inner.keys.account()).is_some() {
        return true;
    }
    let (certificates, account) = inner.mirror.lock().all();
    if account.is_none() {
        return true;
    }
    tracing::warn!(resolver = %inner.resolver, "Consul has lost what was kept: it is written again");
    if let Err(error) = inner.write_again(certificates, account).await {
        inner.failed("certificates", &error);
    }
    false
}

/// Keeps a copy of the certificates on disk, if the options ask for it.
async fn keep_copy(inner: &Arc<Inner>, listing: &Listing, kept: &mut Option<Vec<(String, u64)>>) {
    let now: Vec<(String, u64)> =
        listing.entries.iter().map(|entry| (entry.key.clone(), entry.index)).collect();
    if kept.as_ref() == Some(&now) {
        return;
    }
    *kept = Some(now);
    let (Some(cache), Some(certificates)) = (inner.cache.clone(), inner.mirror.lock().certificates()) else {
        return;
    };
    let resolver = inner.resolver.clone();
    let content = Stored { account: None, certificates: Some(certificates) };
    let written = crate::blocking(move || cache.keep(&resolver, content)).await;
    if let Err(error) = written {
        tracing::error!(resolver = %inner.resolver, %error, "the copy of the certificates cannot be kept");
        *kept = Some(Vec::new());
    }
}

async fn follow_live(inner: Arc<Inner>) {
    let mut follow = inner.store.follow(&inner.keys.live());
    loop {
        match follow.next(&inner.store).await {
            Ok(listing) => {
                inner.worked("live");
                inner.take_live(&listing).await;
                inner.tell();
                inner.stir.notify_one();
            }
            Err(error) => inner.failed("live", &error),
        }
    }
}

impl Inner {
    /// Adopts everything but the certificates.
    pub(super) async fn take_live(&self, listing: &Listing) {
        let live = Live::read(&self.keys, listing);
        self.remote.show(&live.proofs, listing.index, true).await;
        self.mirror.lock().set_live(live);
    }
}

/// Returns the current time in RFC 3339.
pub(super) fn now() -> String {
    OffsetDateTime::now_utc().truncate_to_second().format(&Rfc3339).unwrap_or_default()
}
