//! Containers configured by labels (Traefik's `providers.docker`).
//!
//! Events are only hints: each change lists all containers and inspects those that differ. While the engine
//! is unavailable, the last known state stays in force. A container that is asked to stop loses its server
//! immediately.

pub(crate) mod client;
mod events;
mod list;
mod model;
mod network;
pub(crate) mod options;
pub(crate) mod repair;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use bollard::models::EventMessage;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::workload::{Keeper, Rules};
use crate::{Error, Provider, Session};
use client::{Client, EngineError, Events};
use events::Meaning;
use list::Containers;
use tidegate_clients::connect::Syntax;

pub use options::DEFAULT_RULE;
pub use tidegate_clients::connect::Tls;

/// Syntax of endpoints.
pub(crate) const SYNTAX: Syntax = Syntax {
    option: "endpoint",
    plain: &["tcp", "http"],
    secure: &["https"],
    otherwise: "unix",
    ports: (2375, 2376),
    example: "tcp://127.0.0.1:2375",
};
/// The events of interest.
const EVENTS: &[(&str, &[&str])] = &[("type", &["container", "network"])];
/// Interval of full refreshes, in case an event was lost.
const RESYNC: Duration = Duration::from_secs(15);
/// How long the first state waits for containers that were just created: Compose starts the gateway and its
/// services at the same time.
const STARTUP_WAIT: Duration = Duration::from_secs(5);

options::options! {
    /// Options of `providers.docker`.
    pub struct Options {}
}

/// Builds the provider.
pub fn build(options: Options) -> Result<Docker, Error> {
    let rules = Rules::new(&options.default_rule, &options.constraints)?;
    let client = Client::new(&options.engine())?;
    let keeper = Mutex::new(Keeper::new(options.keep_routes.into())?);
    Ok(Docker { client: Arc::new(client), rules, keeper, options })
}

/// The Docker provider.
pub struct Docker {
    client: Arc<Client>,
    rules: Rules,
    /// Outlives the connection, so that a restart of the engine ends nothing.
    keeper: Mutex<Keeper>,
    options: Options,
}

impl Provider for Docker {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        Run {
            docker: self,
            session,
            containers: Containers::default(),
            host_address: String::new(),
            settled: false,
        }
        .run()
        .boxed()
    }
}

/// One connection to an engine.
struct Run<'d> {
    docker: &'d Docker,
    session: Session,
    containers: Containers,
    /// The address of containers in host mode.
    host_address: String,
    /// Whether the first complete state was delivered.
    settled: bool,
}

impl Run<'_> {
    async fn run(mut self) -> Result<(), Error> {
        let client = &*self.docker.client;
        client.negotiate().await.map_err(Error::source)?;
        self.host_address = host_address().await;
        // Subscribe before listing, so that no change is missed.
        let mut events = match self.docker.options.watch {
            true => Some(client.events(EVENTS).await.map_err(Error::source)?),
            false => None,
        };
        self.refresh().await?;
        let settle = tokio::time::sleep(STARTUP_WAIT);
        tokio::pin!(settle);
        let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + RESYNC, RESYNC);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let expiry = self.docker.keeper.lock().expiry();
            tokio::select! {
                event = next(&mut events) => {
                    let event = event.map_err(Error::source)?;
                    if !self.handle_event(event).await? {
                        continue;
                    }
                    // The same refresh covers all events received meanwhile.
                    while let Some(Ok(event)) = next(&mut events).now_or_never() {
                        self.handle_event(event).await?;
                    }
                    self.refresh().await?;
                }
                () = &mut settle, if !self.settled => {
                    self.settled = true;
                    self.deliver().await?;
                }
                () = expiry => self.deliver().await?,
                _ = resync.tick(), if events.is_some() => self.refresh().await?,
                () = self.session.reload_asked() => {
                    self.containers.forget_all();
                    self.refresh().await?;
                }
            }
        }
    }

    /// Handles an event. Returns true if the containers must be refreshed.
    async fn handle_event(&mut self, event: EventMessage) -> Result<bool, Error> {
        let stop_signal = |id: &str| self.containers.get(id).map(|container| container.stop_signal.clone());
        match events::meaning(event, stop_signal) {
            Meaning::Nothing => Ok(false),
            Meaning::Changed(id) => {
                self.containers.forget(&id);
                Ok(true)
            }
            Meaning::Stopping(id) => {
                let Some(container) = self.containers.get(&id) else { return Ok(true) };
                let started_at = container.started_at.clone();
                self.containers.stopping.add(&id, &started_at);
                // Deliver without a refresh, as the container may exit within milliseconds.
                self.deliver().await?;
                Ok(false)
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), Error> {
        self.containers.refresh(&self.docker.client).await.map_err(Error::source)?;
        self.deliver().await
    }

    async fn deliver(&mut self) -> Result<(), Error> {
        let docker = self.docker;
        let earlier = self.session.delivered();
        // Without events, their start would not be reported.
        self.settled |= !docker.options.watch
            || !self.containers.are_starting(&docker.options, &docker.rules, STARTUP_WAIT);
        let state = self.containers.configuration(
            &docker.options,
            &docker.rules,
            &mut docker.keeper.lock(),
            &self.host_address,
            &earlier,
        );
        match self.settled {
            true => self.session.deliver(state).await,
            false => self.session.deliver_incomplete(state).await,
        }
    }
}

/// Waits for an event; forever without a subscription.
async fn next(events: &mut Option<Events>) -> Result<EventMessage, EngineError> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Returns the host's address as seen from containers, or the loopback address.
async fn host_address() -> String {
    for name in ["host.docker.internal", "host.containers.internal"] {
        let look_up = tokio::time::timeout(Duration::from_secs(2), tokio::net::lookup_host((name, 0)));
        if let Ok(Ok(mut addresses)) = look_up.await
            && let Some(address) = addresses.next()
        {
            return address.ip().to_string();
        }
    }
    "127.0.0.1".to_owned()
}

#[cfg(test)]
mod tests;
