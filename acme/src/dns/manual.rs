//! `manual`: logs which record to set, and waits for it.

use tidegate_core::BoxFuture;

use super::query::Resolvers;
use super::variables::Variables;
use super::{Patience, Provider, Record};
use crate::error::Error;

pub(super) struct Manual {
    patience: Patience,
}

impl Manual {
    /// Reads `MANUAL_PROPAGATION_TIMEOUT` (default: one hour) and `MANUAL_POLLING_INTERVAL`.
    pub(super) fn new(variables: &Variables<'_>) -> Result<Self, Error> {
        Ok(Self { patience: variables.patience("MANUAL", 3600, 10)? })
    }
}

impl Provider for Manual {
    fn present<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        tracing::warn!("set this record now: {}. 120 IN TXT \"{}\"", record.name, record.value);
        Box::pin(std::future::ready(Ok(())))
    }

    fn clean_up<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        tracing::warn!("this record may be removed: {}. 120 IN TXT \"{}\"", record.name, record.value);
        Box::pin(std::future::ready(Ok(())))
    }

    fn patience(&self) -> Patience {
        self.patience
    }
}
