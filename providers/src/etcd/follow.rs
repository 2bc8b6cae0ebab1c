//! Follows the keys of an etcd server: reads all keys, then each change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tidegate_clients::OptionError;
use tidegate_config::formats::entries::EntryError;
use tokio::time::{Instant, sleep_until};

use super::Options;
use super::client::{Client, EtcdError, Event, Extent, Pair, Watch};
use crate::kv::{Tree, shown};
use crate::{Error, Provider, Session};

/// Interval of checks that the watch has reported everything, and delay of the second check if it seems not.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);
const RECHECK_DELAY: Duration = Duration::from_secs(1);
/// Changes within this time are combined into one configuration.
const SETTLE: Duration = Duration::from_millis(10);
/// Rest after building a configuration, as a multiple of its duration.
const REST: u32 = 4;
/// Maximum number of keys.
const MAX_KEYS: usize = 500_000;

/// Builds the provider.
pub fn build(options: Options) -> Result<Etcd, Error> {
    let client =
        |endpoint: &String| Client::new(endpoint, options.tls.as_ref(), &options.username, &options.password);
    let servers: Vec<Client> = options.endpoints.iter().map(client).collect::<Result<_, _>>()?;
    if servers.is_empty() {
        let message = "expected at least one, such as `127.0.0.1:2379`";
        return Err(OptionError::new("endpoints", message).into());
    }
    if options.username.is_empty() && !options.password.is_empty() {
        return Err(OptionError::new("username", "is missing beside `password`").into());
    }
    Ok(Etcd { servers, turn: AtomicUsize::new(0), tree: Tree::new(&options.root_key)? })
}

/// The etcd provider.
pub struct Etcd {
    servers: Vec<Client>,
    /// Index of the next server.
    turn: AtomicUsize,
    tree: Tree,
}

impl Provider for Etcd {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            let server = &self.servers[self.turn.load(Ordering::Relaxed) % self.servers.len()];
            let outcome = self.follow(server, session).await;
            self.turn.fetch_add(1, Ordering::Relaxed);
            outcome
        }
        .boxed()
    }
}

/// The known keys.
#[derive(Default)]
struct Keys(BTreeMap<Vec<u8>, (u64, Vec<u8>)>);

impl Keys {
    fn from_pairs(pairs: Vec<Pair>) -> Self {
        Self(pairs.into_iter().map(|pair| (pair.key, (pair.mod_revision, pair.value))).collect())
    }

    fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            if event.deletes() {
                self.0.remove(&event.kv.key);
            } else {
                self.0.insert(event.kv.key, (event.kv.mod_revision, event.kv.value));
            }
        }
    }

    fn extent(&self) -> Extent {
        let newest = self.0.values().map(|(revision, _)| *revision).max().unwrap_or(0);
        Extent { count: self.0.len() as u64, newest }
    }
}

impl Etcd {
    /// Follows one server until it fails.
    async fn follow(&self, server: &Client, mut session: Session) -> Result<(), Error> {
        let failed = |error: EtcdError| Error::at("etcd", server.endpoint(), error);
        let roots = self.tree.roots();
        let (mut keys, mut watch) = self.begin(server).await.map_err(failed)?;
        self.deliver(&session, &keys).await?;
        let (mut doubt, mut not_before) = (None, Instant::now());
        let mut check = Instant::now() + CHECK_INTERVAL.mul_f64(0.9 + fastrand::f64() * 0.2);
        loop {
            tokio::select! {
                events = watch.next() => {
                    let events = events.map_err(failed)?;
                    if events.is_empty() {
                        continue;
                    }
                    keys.apply(events);
                    let end = not_before.max(Instant::now() + SETTLE);
                    drain(&mut watch, &mut keys, end).await.map_err(failed)?;
                    let begun = Instant::now();
                    self.deliver(&session, &keys).await?;
                    // Limits the share of time spent on a flood of changes.
                    not_before = begun + begun.elapsed() * (REST + 1);
                }
                () = sleep_until(check) => {
                    let (ours, theirs) = (keys.extent(), server.extent(roots).await.map_err(failed)?);
                    let missed = ours != theirs;
                    // If changes are in flight, the local extent will change.
                    if missed && doubt == Some(ours) {
                        return Err(failed(EtcdError::MissedChanges));
                    }
                    doubt = missed.then_some(ours);
                    let pause = if missed { RECHECK_DELAY } else { CHECK_INTERVAL };
                    check = Instant::now() + pause.mul_f64(0.9 + fastrand::f64() * 0.2);
                }
                () = session.reload_asked() => {
                    (keys, watch) = self.begin(server).await.map_err(failed)?;
                    self.deliver(&session, &keys).await?;
                }
            }
        }
    }

    /// Reads all keys and watches from the next revision.
    async fn begin(&self, server: &Client) -> Result<(Keys, Watch), EtcdError> {
        let roots = self.tree.roots();
        let (pairs, revision) = server.read(roots, MAX_KEYS).await?;
        let watch = server.watch(roots, revision + 1).await?;
        Ok((Keys::from_pairs(pairs), watch))
    }

    async fn deliver(&self, session: &Session, keys: &Keys) -> Result<(), Error> {
        let pairs: Vec<_> = keys.0.iter().map(|(key, (_, value))| (shown(key), value.as_slice())).collect();
        let read = pairs.iter().map(|((key, error), value)| {
            (&**key, error.map_or(Ok(*value), |error| Err(EntryError::Unavailable(error.into()))))
        });
        session.deliver(self.tree.read(read, session.own_keys())).await
    }
}

/// Applies changes until this time.
async fn drain(watch: &mut Watch, keys: &mut Keys, end: Instant) -> Result<(), EtcdError> {
    loop {
        tokio::select! {
            events = watch.next() => {
                keys.apply(events?);
                if keys.0.len() > MAX_KEYS {
                    return Err(EtcdError::TooManyKeys { limit: MAX_KEYS });
                }
            }
            () = sleep_until(end) => return Ok(()),
        }
    }
}
