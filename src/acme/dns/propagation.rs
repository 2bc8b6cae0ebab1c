//! Waits until a record is seen where the authority will look: at the name servers of its zone.

use std::net::SocketAddr;

use hickory_resolver::proto::rr::RecordType;
use tokio::time::Instant;

use super::query::{self, Resolvers, texts};
use super::{Patience, Record};
use crate::acme::error::Error;
use crate::settings::Propagation;

/// Waits, as long as the provider's records may take.
pub(super) async fn wait(
    record: &Record,
    resolvers: &Resolvers,
    options: &Propagation,
    patience: Patience,
) -> Result<(), Error> {
    let end = Instant::now() + patience.timeout;
    loop {
        let Err(error) = look(record, resolvers, options).await else { return Ok(()) };
        if Instant::now() + patience.interval > end {
            return Err(Error::dns(format!(
                "propagation: time limit exceeded ({:?}): last error: {error}",
                patience.timeout
            )));
        }
        tokio::time::sleep(patience.interval).await;
    }
}

async fn look(record: &Record, resolvers: &Resolvers, options: &Propagation) -> Result<(), Error> {
    if options.require_all_rns {
        for server in &resolvers.servers {
            sees(*server, &server.to_string(), record, true).await?;
        }
    }
    if options.disable_ans_checks {
        return Ok(());
    }
    let zone = resolvers.zone(&record.name).await?;
    for (name, server) in resolvers.authorities(&zone).await? {
        sees(server, &name, record, false).await?;
    }
    Ok(())
}

async fn sees(server: SocketAddr, label: &str, record: &Record, recursive: bool) -> Result<(), Error> {
    let answer = query::ask(server, &record.name, RecordType::TXT, recursive).await?;
    let found = texts(&answer);
    match found.contains(&record.value) {
        true => Ok(()),
        false => Err(Error::dns(format!(
            "NS {label} did not return the expected TXT record [fqdn: {}., value: {}]: {}",
            record.name,
            record.value,
            found.join(" ,")
        ))),
    }
}
