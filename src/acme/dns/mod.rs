//! dns-01.

use std::sync::Arc;

use super::challenge::Prover;
use super::error::Error;
use crate::settings::DnsChallenge;

pub(super) fn prover(options: &DnsChallenge) -> Result<Arc<dyn Prover>, Error> {
    Err(Error::local(format!("provider `{}` is unknown", options.provider)))
}
