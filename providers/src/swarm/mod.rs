//! Docker Swarm services configured by labels (Traefik's `providers.swarm`).
//!
//! A manager reports changes of services, and of containers on its own node. It does not report tasks on
//! other nodes, so they are polled, more often while something changes. While the manager is unavailable, the
//! last known state stays in force.

mod derive;
mod model;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tidegate_clients::OptionError;
use tidegate_core::values;
use tokio::time::{Instant, sleep_until};

use crate::docker;
use crate::docker::client::{Client, EngineError, Events};
use crate::workload::{Keeper, Rules};
use crate::{Error, Provider, Session};
use model::Swarm;

/// Poll interval while something changes, and how long it applies after the last change.
const BUSY_INTERVAL: Duration = Duration::from_millis(250);
const BUSY_DURATION: Duration = Duration::from_secs(15);
/// The events of interest.
const EVENTS: &[(&str, &[&str])] = &[
    ("type", &["service", "container", "network", "node"]),
    ("event", &["create", "update", "remove", "start", "die", "health_status"]),
];

/// Failure of a request to a manager.
#[derive(Debug, thiserror::Error)]
enum ManagerError {
    /// The engine does not respond, or responds with an error.
    #[error(transparent)]
    Engine(EngineError),
    /// The engine does not support this part of the API, as it is not a manager.
    #[error("the engine does not support `{path}`: is it a swarm manager?")]
    UnknownPath {
        /// The requested path.
        path: &'static str,
    },
    /// The manager closed the stream of events.
    #[error("the manager closed the event stream")]
    EventsEnded,
}

impl From<EngineError> for ManagerError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::UnknownPath { path } => Self::UnknownPath { path },
            EngineError::EventsEnded => Self::EventsEnded,
            error => Self::Engine(error),
        }
    }
}

docker::options::options! {
    /// Options of `providers.swarm`.
    pub struct Options {
        /// Poll interval of all tasks.
        pub refresh_seconds: values::Duration = values::Duration::from_secs(15),
    }
}

/// Builds the provider.
pub fn build(options: Options) -> Result<SwarmProvider, Error> {
    if options.refresh_seconds.is_zero() {
        return Err(OptionError::new("refreshSeconds", "expected more than 0").into());
    }
    let rules = Rules::new(&options.default_rule, &options.constraints)?;
    let client = Client::new(&options.engine())?;
    let keeper = Mutex::new(Keeper::new(options.keep_routes.into())?);
    Ok(SwarmProvider { client, rules, keeper, options })
}

/// The Swarm provider.
pub struct SwarmProvider {
    client: Client,
    rules: Rules,
    /// Outlives the connection, so that a restart of the manager ends nothing.
    keeper: Mutex<Keeper>,
    options: Options,
}

impl Provider for SwarmProvider {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        self.follow(session).boxed()
    }
}

impl SwarmProvider {
    /// Follows a manager until the connection fails.
    async fn follow(&self, mut session: Session) -> Result<(), Error> {
        self.client.negotiate().await.map_err(Error::source)?;
        let mut events = match self.options.watch {
            true => Some(self.client.events(EVENTS).await.map_err(Error::source)?),
            false => None,
        };
        let mut known = Swarm::default();
        let mut due = true;
        let mut busy_until = Instant::now();
        loop {
            let swarm = self.fetch().await.map_err(Error::source)?;
            // A swarm without services is a valid state.
            if std::mem::take(&mut due) || swarm != known {
                known = swarm;
                busy_until = busy_until.max(Instant::now() + BUSY_INTERVAL * 4);
                let earlier = session.delivered();
                let state =
                    known.configuration(&self.options, &self.rules, &mut self.keeper.lock(), &earlier);
                session.deliver(state).await?;
            }
            let expiry = self.keeper.lock().expiry();
            let now = Instant::now();
            let settled = known.tasks.iter().all(|task| task.desired_state == task.state);
            let interval = match now < busy_until && !settled {
                true => BUSY_INTERVAL,
                false => Duration::from(self.options.refresh_seconds).mul_f64(0.95 + fastrand::f64() * 0.1),
            };
            // Right after a change, tasks are not scheduled yet.
            let soon = if now < busy_until { BUSY_INTERVAL } else { interval };
            tokio::select! {
                event = next(&mut events) => {
                    event.map_err(Error::source)?;
                    busy_until = Instant::now() + BUSY_DURATION;
                    // The same poll covers events that arrive together.
                    let settle = Instant::now() + BUSY_INTERVAL / 10;
                    while let Ok(event) = tokio::time::timeout_at(settle, next(&mut events)).await {
                        event.map_err(Error::source)?;
                    }
                }
                () = sleep_until(now + soon.min(interval)), if events.is_some() => {}
                () = expiry => due = true,
                () = session.reload_asked() => {}
            }
        }
    }

    async fn fetch(&self) -> Result<Swarm, ManagerError> {
        let services = self.client.services().await?;
        let tasks = self.client.tasks().await?;
        let networks = self.client.swarm_networks().await?;
        let nodes = self.client.nodes().await?;
        Ok(Swarm::new(services, tasks, networks, nodes))
    }
}

/// Waits for an event; forever without a subscription.
async fn next(events: &mut Option<Events>) -> Result<(), ManagerError> {
    match events {
        Some(events) => Ok(events.next().await.map(drop)?),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
