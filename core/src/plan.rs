//! Plans of consumers: how much each may use in a period, and how fast.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How much may be used in a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Number of units.
    pub limit: u64,
    /// When it starts again.
    pub period: Period,
    /// Where periods begin.
    pub anchor: Anchor,
    /// What is counted.
    pub unit: Unit,
    /// Who shares the quota.
    pub bucket: QuotaBucket,
}

/// The period of a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A day.
    Day,
    /// A week, from Monday.
    Week,
    /// A month of the calendar.
    Month,
    /// A fixed time.
    Fixed(Duration),
}

/// Where periods begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// With those of the calendar, at this many seconds east of UTC.
    Calendar(i32),
    /// With the first use after the last period.
    FirstUse,
}

/// What a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Bytes of response bodies.
    Bytes,
    /// What requests cost, as the middleware says.
    Cost,
}

impl Unit {
    /// Returns the name in the configuration and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Cost => "cost",
        }
    }
}

/// Who shares a quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaBucket {
    /// All credentials of a consumer.
    Consumer,
    /// Each key, user or subject has its own.
    Key,
}

/// The compiled limits of a plan. Only the middleware that applies them knows their type.
#[derive(Clone)]
pub struct Limits(Arc<dyn Any + Send + Sync>);

impl Limits {
    /// Wraps compiled limits.
    pub fn new(limits: Arc<dyn Any + Send + Sync>) -> Self {
        Self(limits)
    }

    /// Returns the limits, if they have this type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Limits")
    }
}

impl PartialEq for Limits {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Limits {}
