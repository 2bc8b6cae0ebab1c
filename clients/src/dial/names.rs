//! Resolves the names of servers: `/etc/hosts` first, then the system's name servers.
//!
//! TTLs are ignored. Docker's name server uses ten minutes, and within that time another container may get
//! the address, which would receive the requests. Failures are shared for [`MAX_AGE`], addresses for less:
//! with `docker network disconnect` and `connect`, an address moves to another container within 50 ms.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::order::sorted;

/// Maximum age of an answer for a new connection.
pub const MAX_AGE: Duration = Duration::from_millis(100);
/// How long new connections share resolved addresses.
const SHARE_TIME: Duration = Duration::from_millis(10);
/// A lookup without an answer is repeated after this time: the query may be lost, or the name server may be
/// waiting for an upstream server that does not have the name, while a container with that name starts.
const REPEAT_AFTER: Duration = Duration::from_millis(500);
/// Interval of checks for changes of the system's files.
const FILE_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// The files that a resolver is configured from.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Maximum number of names with shared answers.
const MAX_SHARED: usize = 1024;

static SYSTEM: LazyLock<Arc<Names>> = LazyLock::new(|| Arc::new(Names::new(None)));

/// Addresses of a name.
#[derive(Clone, Debug)]
pub struct Answer {
    asked: Instant,
    received: Instant,
    addresses: Arc<[IpAddr]>,
}

impl Answer {
    /// Returns when the query was sent.
    pub fn asked(&self) -> Instant {
        self.asked
    }

    /// Returns when the answer was received.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// Returns the addresses in the order in which to try them.
    pub fn addresses(&self) -> &Arc<[IpAddr]> {
        &self.addresses
    }
}

/// Why a name has no addresses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// The name servers have no address for the name.
    #[error("`{name}`: no such host: {reason}")]
    NotFound {
        /// The name.
        name: Arc<str>,
        /// The answer.
        reason: Arc<str>,
        /// When the query was sent.
        asked: Instant,
    },
    /// The lookup failed, so it is unknown whether the name has addresses.
    #[error("`{name}`: {reason}")]
    Failed {
        /// The name.
        name: Arc<str>,
        /// The error.
        reason: Arc<str>,
    },
}

impl From<LookupError> for std::io::Error {
    fn from(error: LookupError) -> Self {
        let kind = match error {
            LookupError::NotFound { .. } => std::io::ErrorKind::NotFound,
            LookupError::Failed { .. } => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

type Outcome = Result<Answer, LookupError>;

/// Resolves a name with the system's resolver; see `Names::lookup`.
pub async fn lookup(name: &str, after: Option<Instant>) -> Outcome {
    SYSTEM.lookup(name, after).await
}

/// A resolver whose answers are shared for a short time.
pub(super) struct Names {
    /// Overrides the system's resolver.
    fixed: Option<TokioResolver>,
    system: Mutex<Option<Arc<System>>>,
    lookups: Mutex<HashMap<Box<str>, Lookup>>,
}

/// A lookup in progress, or its outcome.
struct Lookup {
    asked: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Lookup {
    /// Returns how long the outcome is shared.
    fn shared_for(&self) -> Duration {
        match &*self.outcome.borrow() {
            Some(Ok(_)) => SHARE_TIME,
            Some(Err(_)) | None => MAX_AGE,
        }
    }
}

/// Waits for the outcome of a lookup; `None` if its task has ended without one.
async fn wait_for_outcome(mut outcome: watch::Receiver<Option<Outcome>>) -> Option<Outcome> {
    outcome.wait_for(Option::is_some).await.ok()?.clone()
}

impl Names {
    pub(super) fn new(fixed: Option<TokioResolver>) -> Self {
        Self { fixed, system: Mutex::default(), lookups: Mutex::default() }
    }

    pub(super) fn system() -> &'static Arc<Self> {
        &SYSTEM
    }

    /// Resolves a name. Shares a recent lookup that started later than `after`. A slow lookup is repeated
    /// concurrently, and the first answer is used.
    pub(super) async fn lookup(self: &Arc<Self>, name: &str, after: Option<Instant>) -> Outcome {
        let mut asked = Instant::now();
        let mut running = FuturesUnordered::new();
        running.push(wait_for_outcome(self.join_or_start(name, after)));
        loop {
            tokio::select! {
                Some(outcome) = running.next() => match outcome {
                    Some(Err(LookupError::Failed { .. })) if !running.is_empty() => {}
                    Some(outcome) => return outcome,
                    // The runtime of the task has shut down.
                    None => return self.query(name, Instant::now()).await,
                },
                () = tokio::time::sleep(REPEAT_AFTER) => {
                    let before = std::mem::replace(&mut asked, Instant::now());
                    running.push(wait_for_outcome(self.join_or_start(name, Some(before))));
                }
            }
        }
    }

    /// Joins a lookup or starts one, which continues even if its waiters are dropped.
    fn join_or_start(
        self: &Arc<Self>,
        name: &str,
        after: Option<Instant>,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut lookups = self.lookups.lock();
        let asked = Instant::now();
        let is_recent = |lookup: &Lookup| asked.duration_since(lookup.asked) < lookup.shared_for();
        if let Some(lookup) = lookups.get(name).filter(|lookup| is_recent(lookup))
            && after.is_none_or(|after| lookup.asked > after)
        {
            return lookup.outcome.clone();
        }
        if lookups.len() >= MAX_SHARED {
            lookups.retain(|_, lookup| is_recent(lookup));
        }
        let (sender, outcome) = watch::channel(None);
        if lookups.len() < MAX_SHARED {
            lookups.insert(name.into(), Lookup { asked, outcome: outcome.clone() });
        }
        drop(lookups);
        let (names, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            // All waiters may be gone.
            let _ = sender.send(Some(names.query(&name, asked).await));
        });
        outcome
    }

    async fn query(&self, name: &str, asked: Instant) -> Outcome {
        let system = self.fixed.is_none().then(|| self.current());
        let resolver = self.fixed.as_ref().or_else(|| system.as_ref()?.resolver.as_ref());
        let found: Result<Vec<IpAddr>, (bool, String)> = match resolver {
            Some(resolver) => match resolver.lookup_ip(name).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) => Err((error.is_no_records_found(), error.to_string())),
            },
            // Without a readable resolv.conf, use the C library, which does not report the kind of failure.
            None => match tokio::net::lookup_host((name, 0)).await {
                Ok(found) => Ok(found.map(|address| address.ip()).collect()),
                Err(error) => Err((false, error.to_string())),
            },
        };
        let name = || Arc::from(name);
        match found {
            Ok(found) if !found.is_empty() => {
                Ok(Answer { asked, received: Instant::now(), addresses: sorted(found).into() })
            }
            Ok(_) => Err(LookupError::NotFound { name: name(), reason: Arc::from("no address"), asked }),
            Err((true, reason)) => Err(LookupError::NotFound { name: name(), reason: reason.into(), asked }),
            Err((false, reason)) => Err(LookupError::Failed { name: name(), reason: reason.into() }),
        }
    }

    /// Returns the system's resolver, which is rebuilt when one of its files changes: a container's hosts
    /// file may change while it runs.
    fn current(&self) -> Arc<System> {
        let mut system = self.system.lock();
        if let Some(known) = &*system {
            let mut checked = known.checked.lock();
            if checked.elapsed() < FILE_CHECK_INTERVAL {
                return known.clone();
            }
            *checked = Instant::now();
            if known.stamps == stamps() {
                return known.clone();
            }
        }
        system.insert(Arc::new(System::new())).clone()
    }
}

/// A resolver, and the versions of its files.
struct System {
    resolver: Option<TokioResolver>,
    stamps: [Option<Stamp>; 2],
    checked: Mutex<Instant>,
}

/// Identifies a version of a file.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    inode: u64,
    length: u64,
}

impl System {
    fn new() -> Self {
        let stamps = stamps();
        let resolver = TokioResolver::builder_tokio()
            .and_then(|mut builder| {
                uncached(builder.options_mut());
                builder.build()
            })
            .inspect_err(|e| tracing::warn!("resolver: {e}; using the C library's"))
            .ok();
        Self { resolver, stamps, checked: Mutex::new(Instant::now()) }
    }
}

/// Enables both address families and disables caching. Sets TTL limits too, as a cache of size 0 may still
/// serve entries that are not evicted yet.
pub(super) fn uncached(options: &mut ResolverOpts) {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    options.positive_min_ttl = Some(Duration::ZERO);
    options.positive_max_ttl = Some(Duration::ZERO);
    options.negative_min_ttl = Some(Duration::ZERO);
    options.negative_max_ttl = Some(Duration::ZERO);
}

fn stamps() -> [Option<Stamp>; 2] {
    FILES.map(|file| {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Stamp { modified: metadata.modified().ok(), inode: metadata.ino(), length: metadata.len() })
    })
}
