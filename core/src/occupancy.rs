//! What limits hold at the moment, for metrics.

/// A middleware that limits its clients.
pub trait Limit {
    /// Returns its kind, as in the configuration: `inFlightReq`.
    fn kind(&self) -> &'static str;

    /// Returns what it holds. Called when metrics are read.
    fn occupancy(&self) -> Occupancy;
}

/// What a limit holds at the moment. `None` for what it never holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Number of sources that it tracks.
    pub sources: Option<u64>,
    /// Number of requests or connections that count against it.
    pub in_flight: Option<u64>,
    /// Number of requests that it delays.
    pub waiting: Option<u64>,
}

impl Occupancy {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let sum = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
        Self {
            sources: sum(self.sources, other.sources),
            in_flight: sum(self.in_flight, other.in_flight),
            waiting: sum(self.waiting, other.waiting),
        }
    }
}
