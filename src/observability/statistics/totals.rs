//! The series of all objects.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::event::Event;
use super::series::{Numbers, Series};
use super::top::Top;
use crate::settings::Statistics as Options;

/// The series of all objects.
pub(super) struct Totals {
    epoch: Instant,
    /// Number of the last second that was seen, as that of a series never decreases.
    last: u64,
    entry_points: Vec<(String, Series)>,
    routers: Top<Arc<str>>,
    services: Top<Arc<str>>,
    /// By service and URL.
    servers: Top<(Arc<str>, Arc<str>)>,
    clients: Top<IpAddr>,
}

/// The numbers of one object.
#[derive(Debug)]
pub(crate) struct Row {
    /// `name@provider`, or an entry point, URL or address.
    pub(crate) name: String,
    /// The service of a server.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) numbers: Numbers,
}

/// The numbers of all objects with requests within the last five minutes.
#[derive(Debug)]
pub(crate) struct View {
    /// All entry points.
    pub(crate) entry_points: Vec<Row>,
    pub(crate) routers: Vec<Row>,
    pub(crate) services: Vec<Row>,
    pub(crate) servers: Vec<Row>,
    pub(crate) clients: Vec<Row>,
    /// Number of requests that were not counted.
    pub(crate) lost: u64,
    /// Since when requests have been counted.
    pub(crate) since: SystemTime,
}

impl Totals {
    pub(super) fn new<'a>(
        entry_points: impl Iterator<Item = &'a String>,
        options: &Options,
        now: Instant,
    ) -> Self {
        Self {
            epoch: now,
            last: 0,
            entry_points: entry_points.map(|name| (name.clone(), Series::new(0))).collect(),
            routers: Top::new(options.max_objects),
            services: Top::new(options.max_objects),
            servers: Top::new(options.max_objects),
            clients: Top::new(options.max_clients),
        }
    }

    /// Adds a request that ended about now.
    pub(super) fn add(&mut self, event: &Event, now: Instant) {
        let now = self.seconds(now);
        if let Some((_, series)) = self.entry_points.get_mut(usize::from(event.entry_point)) {
            series.add(event.outcome, now);
        }
        for route in &event.routes {
            if let Some(series) = self.routers.series(&route.router, now) {
                series.add(event.outcome, now);
            }
        }
        for hit in &event.attempts {
            if let Some(series) = self.services.series(&hit.service, now) {
                series.add(hit.outcome, now);
            }
            let Some(server) = &hit.server else { continue };
            if let Some(series) = self.servers.series(&(hit.service.clone(), server.url.clone()), now) {
                series.add(hit.outcome, now);
            }
        }
        if let Some(series) = event.client.and_then(|client| self.clients.series(&client, now)) {
            series.add(event.outcome, now);
        }
    }

    /// Forgets what is old.
    pub(super) fn tidy(&mut self, now: Instant) {
        let now = self.seconds(now);
        self.routers.tidy(now);
        self.services.tidy(now);
        self.servers.tidy(now);
        self.clients.tidy(now);
    }

    /// Returns the numbers at a moment.
    pub(super) fn view(&mut self, lost: u64, since: SystemTime, at: Instant) -> View {
        let now = self.seconds(at);
        let part = at.saturating_duration_since(self.epoch).subsec_nanos();
        let numbers = |series: &Series| series.numbers(now, f64::from(part) / 1e9);
        let row = |name: String, series: &Series| Row { name, service: None, numbers: numbers(series) };
        let named = |top: &Top<Arc<str>>| -> Vec<Row> {
            top.iter(now).map(|(name, series)| row(name.to_string(), series)).collect()
        };
        let server = |((service, url), series): (&(Arc<str>, Arc<str>), &Series)| Row {
            service: Some(service.clone()),
            ..row(url.to_string(), series)
        };
        View {
            entry_points: self.entry_points.iter().map(|(name, series)| row(name.clone(), series)).collect(),
            routers: named(&self.routers),
            services: named(&self.services),
            servers: self.servers.iter(now).map(server).collect(),
            clients: self.clients.iter(now).map(|(client, series)| row(client.to_string(), series)).collect(),
            lost,
            since,
        }
    }

    fn seconds(&mut self, now: Instant) -> u64 {
        self.last = self.last.max(now.saturating_duration_since(self.epoch).as_secs());
        self.last
    }
}
