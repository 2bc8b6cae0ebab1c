//! dns-01: a TXT record below `_acme-challenge` (RFC 8555 section 8.4).
//!
//! Providers have lego's names and read lego's variables: from the resolver's `credentials`, from the environment, or
//! from the file that the variable with the suffix `_FILE` names.

mod acme_dns;
mod catalog;
mod cloudflare;
mod exec;
mod httpreq;
mod library;
mod manual;
mod propagation;
mod query;
mod rfc2136;
mod route53;
mod variables;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use tidegate_core::BoxFuture;

use super::challenge::{Proof, Prover};
use super::error::Error;
use crate::options::DnsChallenge;
pub use catalog::table;
use query::Resolvers;
use variables::Variables;

/// Creates a provider from its variables.
type Create = fn(&Variables<'_>) -> Result<Box<dyn Provider>, Error>;

/// A TXT record that proves a name.
#[derive(Clone, Debug)]
struct Record {
    /// The name to prove.
    domain: String,
    token: String,
    key_authorization: String,
    /// The name of the record after CNAMEs, without a trailing dot.
    name: String,
    /// Its value.
    value: String,
}

/// A service that sets records.
trait Provider: Send + Sync {
    /// Adds a record, and keeps others of the same name.
    fn present<'a>(&'a self, record: &'a Record, dns: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>>;
    /// Returns how many records can be there at the same time.
    fn at_once(&self) -> usize {
        usize::MAX
    }
    /// Removes this record only.
    fn clean_up<'a>(&'a self, record: &'a Record, dns: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>>;
    /// Returns how long records may take to become visible, and how often to look for them.
    fn patience(&self) -> Patience;
}

/// Limits of waiting for a record.
#[derive(Clone, Copy, Debug)]
struct Patience {
    timeout: Duration,
    interval: Duration,
}

/// Checks the options of a DNS challenge, as far as possible without network requests.
pub fn check(options: &DnsChallenge) -> Result<(), Error> {
    prover(options).map(drop)
}

/// Creates the prover that the options ask for. Nothing is requested yet.
pub(super) fn prover(options: &DnsChallenge) -> Result<Arc<dyn Prover>, Error> {
    let variables = Variables::new(&options.credentials);
    let provider = provider(&options.provider, &variables)?;
    let resolvers = Resolvers::new(&options.resolvers)?;
    let follow = !variables.is_true("LEGO_DISABLE_CNAME_SUPPORT");
    Ok(Arc::new(Dns { provider, resolvers, options: options.clone(), follow }))
}

fn provider(name: &str, variables: &Variables<'_>) -> Result<Box<dyn Provider>, Error> {
    if let Some(own) = catalog::OWN.iter().find(|own| own.names.contains(&name)) {
        return (own.create)(variables);
    }
    match library::find(name) {
        Some(entry) => Ok(Box::new(library::Library::new(entry, variables)?)),
        None => Err(catalog::unknown(name)),
    }
}

struct Dns {
    provider: Box<dyn Provider>,
    resolvers: Resolvers,
    options: DnsChallenge,
    /// Whether CNAMEs are followed.
    follow: bool,
}

impl Dns {
    async fn record(&self, proof: &Proof) -> Record {
        let mut name = format!("_acme-challenge.{}", proof.name);
        if self.follow {
            name = self.resolvers.follow(&name).await;
        }
        Record {
            domain: proof.name.clone(),
            token: proof.token.clone(),
            key_authorization: proof.key_authorization.clone(),
            name,
            value: BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&proof.key_authorization)),
        }
    }
}

impl Prover for Dns {
    fn kind(&self) -> &'static str {
        "dns-01"
    }

    fn at_once(&self) -> usize {
        self.provider.at_once()
    }

    fn present<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let record = self.record(proof).await;
            let set = self.provider.present(&record, &self.resolvers).await;
            set.map_err(|error| {
                error
                    .at(&format!("{}: setting {} at {}", proof.name, record.name, self.options.provider))
                    .of(&proof.name)
            })
        })
    }

    fn settle<'a>(&'a self, proofs: &'a [Proof]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            tokio::time::sleep(self.options.delay()).await;
            if !self.options.checks() {
                return Ok(());
            }
            for proof in proofs {
                let record = self.record(proof).await;
                let patience = self.provider.patience();
                let seen =
                    propagation::wait(&record, &self.resolvers, &self.options.propagation, patience).await;
                seen.map_err(|error| error.at(&proof.name).of(&proof.name))?;
            }
            Ok(())
        })
    }

    fn withdraw<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let record = self.record(proof).await;
            if let Err(error) = self.provider.clean_up(&record, &self.resolvers).await {
                tracing::warn!(name = %record.name, "a challenge record could not be removed: {error}");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_say_what_they_need() {
        for (provider, expected) in [
            (
                "nobody",
                "unknown provider `nobody`: expected one of those in docs/dns-providers.md; `exec` and `httpreq`",
            ),
            ("hetzne", "unknown provider `hetzne`: did you mean `hetzner`? expected one of"),
            ("exec", "EXEC_PATH"),
            ("httpreq", "HTTPREQ_ENDPOINT"),
            ("cloudflare", "CF_DNS_API_TOKEN"),
            ("acme-dns", "ACME_DNS_API_BASE"),
            ("rfc2136", "RFC2136_NAMESERVER"),
            ("route53", "AWS_ACCESS_KEY_ID"),
        ] {
            // Set but empty, so that the environment of the test does not matter.
            let names = [
                "EXEC_PATH",
                "HTTPREQ_ENDPOINT",
                "CF_DNS_API_TOKEN",
                "ACME_DNS_API_BASE",
                "RFC2136_NAMESERVER",
            ];
            let credentials = names.iter().map(|name| ((*name).to_owned(), String::new()));
            // An EC2 machine would have a role.
            let credentials =
                credentials.chain([("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())]).collect();
            let options = DnsChallenge { provider: provider.into(), credentials, ..DnsChallenge::default() };
            let error = prover(&options).err().map(|error| error.message).unwrap_or_default();
            assert!(error.contains(expected), "{provider}: {error}");
        }
    }
}
