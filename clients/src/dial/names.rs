//! Resolves the names of servers: `/etc/hosts` first, then the system's name servers.
//!
//! TTLs are not honoured. Docker's name server answers with ten minutes, and within that time another container may have
//! the address: an answer that old sends requests to a stranger. Failures are shared for [`MAX_AGE`], addresses for less:
//! `docker network disconnect` and `connect` give an address to another container within a twentieth of a second.

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

/// How old an answer may be when a connection is opened with it.
pub const MAX_AGE: Duration = Duration::from_millis(100);
/// How long addresses that were found are shared by new connections.
const SHARED: Duration = Duration::from_millis(10);
/// A look-up without an answer is repeated after this time: the question may be lost, or the name server may be waiting
/// for another one that does not know the name, while a container with that name starts.
const REPEAT: Duration = Duration::from_millis(500);
/// How often the system's files are looked at for changes.
const CHECK_FILES: Duration = Duration::from_millis(50);
/// What a resolver is made from.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Names whose answers are shared at a time.
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
    /// When the name servers were asked.
    pub fn asked(&self) -> Instant {
        self.asked
    }

    /// When their answer came.
    pub fn received(&self) -> Instant {
        self.received
    }

    /// The addresses, in the order in which they are to be tried.
    pub fn addresses(&self) -> &Arc<[IpAddr]> {
        &self.addresses
    }
}

/// Why a name has no addresses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// The name servers know no address of it.
    #[error("`{name}`: no such host: {reason}")]
    NotFound {
        /// The name.
        name: Arc<str>,
        /// What they answered.
        reason: Arc<str>,
        /// When they were asked.
        asked: Instant,
    },
    /// Whether it has any is not known: no answer, or one that reports a failure.
    #[error("`{name}`: {reason}")]
    Failed {
        /// The name.
        name: Arc<str>,
        /// What went wrong.
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

/// Resolves a name by the system's name servers; see `Names::lookup`.
pub async fn lookup(name: &str, after: Option<Instant>) -> Outcome {
    SYSTEM.lookup(name, after).await
}

/// A resolver whose answers are shared for a moment.
pub(super) struct Names {
    /// Used instead of one that is made from the system's files.
    fixed: Option<TokioResolver>,
    system: Mutex<Option<Arc<System>>>,
    questions: Mutex<HashMap<Box<str>, Question>>,
}

/// A look-up that is under way, or its outcome.
struct Question {
    asked: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Question {
    /// For how long it is shared.
    fn shared_for(&self) -> Duration {
        match &*self.outcome.borrow() {
            Some(Ok(_)) => SHARED,
            Some(Err(_)) | None => MAX_AGE,
        }
    }
}

/// Waits for the outcome of a look-up; `None` when nobody carries it out any more.
async fn answered(mut outcome: watch::Receiver<Option<Outcome>>) -> Option<Outcome> {
    outcome.wait_for(Option::is_some).await.ok()?.clone()
}

impl Names {
    pub(super) fn new(fixed: Option<TokioResolver>) -> Self {
        Self { fixed, system: Mutex::default(), questions: Mutex::default() }
    }

    pub(super) fn system() -> &'static Arc<Self> {
        &SYSTEM
    }

    /// Resolves a name. Shares a recent look-up that began later than `after`. One that takes long is repeated beside
    /// the first; an answer to either counts.
    pub(super) async fn lookup(self: &Arc<Self>, name: &str, after: Option<Instant>) -> Outcome {
        let mut asked = Instant::now();
        let mut running = FuturesUnordered::new();
        running.push(answered(self.question(name, after)));
        loop {
            tokio::select! {
                Some(outcome) = running.next() => match outcome {
                    Some(Err(LookupError::Failed { .. })) if !running.is_empty() => {}
                    Some(outcome) => return outcome,
                    // The runtime of whoever asked has ended.
                    None => return self.ask(name, Instant::now()).await,
                },
                () = tokio::time::sleep(REPEAT) => {
                    let before = std::mem::replace(&mut asked, Instant::now());
                    running.push(answered(self.question(name, Some(before))));
                }
            }
        }
    }

    /// Joins a look-up or begins one. It goes on when those who wait for it give up.
    fn question(self: &Arc<Self>, name: &str, after: Option<Instant>) -> watch::Receiver<Option<Outcome>> {
        let mut questions = self.questions.lock();
        let asked = Instant::now();
        let is_recent = |question: &Question| asked.duration_since(question.asked) < question.shared_for();
        if let Some(question) = questions.get(name).filter(|question| is_recent(question))
            && after.is_none_or(|after| question.asked > after)
        {
            return question.outcome.clone();
        }
        if questions.len() >= MAX_SHARED {
            questions.retain(|_, question| is_recent(question));
        }
        let (sender, outcome) = watch::channel(None);
        if questions.len() < MAX_SHARED {
            questions.insert(name.into(), Question { asked, outcome: outcome.clone() });
        }
        drop(questions);
        let (names, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            // Nobody may be waiting any more.
            let _ = sender.send(Some(names.ask(&name, asked).await));
        });
        outcome
    }

    async fn ask(&self, name: &str, asked: Instant) -> Outcome {
        let system = self.fixed.is_none().then(|| self.current());
        let resolver = self.fixed.as_ref().or_else(|| system.as_ref()?.resolver.as_ref());
        let found: Result<Vec<IpAddr>, (bool, String)> = match resolver {
            Some(resolver) => match resolver.lookup_ip(name).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) => Err((error.is_no_records_found(), error.to_string())),
            },
            // Without a readable resolv.conf the C library knows best. It does not say what kind of failure it met.
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
            Ok(_) => {
                Err(LookupError::NotFound { name: name(), reason: Arc::from("it has no address"), asked })
            }
            Err((true, reason)) => Err(LookupError::NotFound { name: name(), reason: reason.into(), asked }),
            Err((false, reason)) => Err(LookupError::Failed { name: name(), reason: reason.into() }),
        }
    }

    /// The system's resolver, made again when one of its files has changed: a container's hosts file may change while
    /// it runs.
    fn current(&self) -> Arc<System> {
        let mut system = self.system.lock();
        if let Some(known) = &*system {
            let mut checked = known.checked.lock();
            if checked.elapsed() < CHECK_FILES {
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

/// A resolver, and what it was made from.
struct System {
    resolver: Option<TokioResolver>,
    stamps: [Option<Stamp>; 2],
    checked: Mutex<Instant>,
}

/// What tells one version of a file from the next.
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

/// Asks for both families, and remembers nothing. The lifetimes matter: a cache without room may still serve what it
/// has not yet evicted.
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
