//! Services of a Docker Swarm that say in their labels how they want to be reached (Traefik's `providers.swarm`).
//!
//! A manager tells of services that are made or changed, and of containers on its own node; how tasks on other nodes
//! fare it does not tell, so it is asked from time to time, and more often while something changes. While it is away,
//! the last known state stays.

mod derive;
mod model;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tidegate_clients::OptionError;
use tidegate_core::values;
use tokio::time::{Instant, sleep_until};

use crate::docker;
use crate::docker::client::{Client, EngineError, Events};
use crate::workload::Rules;
use crate::{Error, Provider, Session};
use derive::Swarm;

/// Between two looks while something changes, and how long that goes on after the last change.
const BUSY: Duration = Duration::from_millis(250);
const STAYS_BUSY: Duration = Duration::from_secs(15);
/// {"type":["service","container","network","node"],"event":["create","update","remove","start","die","health_status"]}
const EVENTS: &str = "%7B%22type%22%3A%5B%22service%22%2C%22container%22%2C%22network%22%2C%22node%22%5D%2C%22ev\
    ent%22%3A%5B%22create%22%2C%22update%22%2C%22remove%22%2C%22start%22%2C%22die%22%2C%22heal\
    th_status%22%5D%7D";

/// Failure of a question to a manager.
#[derive(Debug, thiserror::Error)]
enum ManagerError {
    /// The engine does not answer, or with an error.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine does not have this part of the API, as those that manage no swarm.
    #[error("the engine does not know `{path}`: is it a manager of a swarm?")]
    UnknownPath {
        /// The path that was asked for.
        path: &'static str,
    },
    /// The manager closed the stream of events.
    #[error("the manager ended the stream of events")]
    EventsEnded,
}

docker::options::options! {
    /// Options of `providers.swarm`.
    pub struct Options {
        /// Time between two looks at all tasks, when nothing is told.
        pub refresh_seconds: values::Duration = values::Duration::from_secs(15),
    }
}

/// Makes the provider.
pub fn build(options: Options) -> Result<SwarmProvider, Error> {
    if options.refresh_seconds.is_zero() {
        return Err(OptionError::new("refreshSeconds", "expected more than 0").into());
    }
    let rules = Rules::new(&options.default_rule, &options.constraints)?;
    let client = Client::new(&options.engine())?;
    Ok(SwarmProvider { client, rules, options })
}

/// The Swarm provider.
pub struct SwarmProvider {
    client: Client,
    rules: Rules,
    options: Options,
}

impl Provider for SwarmProvider {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        self.follow(session).boxed()
    }
}

impl SwarmProvider {
    /// Follows a manager until it is lost.
    async fn follow(&self, mut session: Session) -> Result<(), Error> {
        self.client.negotiate().await.map_err(Error::source)?;
        let mut events = match self.options.watch {
            true => Some(self.client.events_of(EVENTS).await.map_err(Error::source)?),
            false => None,
        };
        let mut known = Swarm::default();
        let mut first = true;
        let mut busy_until = Instant::now();
        loop {
            let swarm = self.look().await.map_err(Error::source)?;
            // A swarm without services is a state, too.
            if std::mem::take(&mut first) || swarm != known {
                known = swarm;
                busy_until = busy_until.max(Instant::now() + BUSY * 4);
                let earlier = session.delivered();
                session.deliver(known.configuration(&self.options, &self.rules, &earlier)).await?;
            }
            let now = Instant::now();
            let settled = known.tasks.iter().all(|task| task.desired_state == task.status.state);
            let interval = match now < busy_until && !settled {
                true => BUSY,
                false => Duration::from(self.options.refresh_seconds).mul_f64(0.95 + fastrand::f64() * 0.1),
            };
            // Right after a change the tasks are not even planned yet.
            let soon = if now < busy_until { BUSY } else { interval };
            tokio::select! {
                event = next(&mut events) => {
                    event.map_err(Error::source)?;
                    busy_until = Instant::now() + STAYS_BUSY;
                    // Those that come with it are dealt with by the same look.
                    let settle = Instant::now() + BUSY / 10;
                    while let Ok(event) = tokio::time::timeout_at(settle, next(&mut events)).await {
                        event.map_err(Error::source)?;
                    }
                }
                () = sleep_until(now + soon.min(interval)), if events.is_some() => {}
                () = session.reload_asked() => {}
            }
        }
    }

    async fn look(&self) -> Result<Swarm, ManagerError> {
        let list = async |path: &'static str| -> Result<Vec<serde_json::Value>, ManagerError> {
            self.client.json(path).await?.ok_or(ManagerError::UnknownPath { path })
        };
        Ok(Swarm {
            services: read(list("/services").await?),
            // {"desired-state":["running"]}
            tasks: read(list("/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D").await?),
            // {"scope":["swarm"]}
            networks: read(list("/networks?filters=%7B%22scope%22%3A%5B%22swarm%22%5D%7D").await?),
            nodes: read(list("/nodes").await?),
        })
    }
}

/// Those that can be read: one that cannot spoils nothing but itself.
fn read<T: serde::de::DeserializeOwned>(values: Vec<serde_json::Value>) -> Vec<T> {
    values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect()
}

/// Waits for an event, forever where none are asked for.
async fn next(events: &mut Option<Events>) -> Result<(), ManagerError> {
    match events {
        Some(events) => match events.next().await.map_err(EngineError::Events)? {
            Some(_) => Ok(()),
            None => Err(ManagerError::EventsEnded),
        },
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
