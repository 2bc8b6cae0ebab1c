//! Storages of accounts, certificates and retry states. The formats are those of Traefik's `acme.json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_core::BoxFuture;
use tokio::sync::watch;

use super::backoff::RetryState;
use super::error::Error;

/// The data of one resolver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stored {
    /// The account; absent before the first order.
    #[serde(rename = "Account")]
    pub(crate) account: Option<StoredAccount>,
    /// The certificates.
    #[serde(rename = "Certificates")]
    pub(crate) certificates: Option<Vec<StoredCertificate>>,
}

/// An account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredAccount {
    /// Its contact.
    #[serde(rename = "Email")]
    pub(crate) email: String,
    /// Its registration with the authority.
    #[serde(rename = "Registration")]
    pub(crate) registration: Option<Registration>,
    /// Its key: PKCS #1 in base64.
    #[serde(rename = "PrivateKey")]
    pub(crate) private_key: String,
    /// Lego's name of the key's type.
    #[serde(rename = "KeyType", skip_serializing_if = "String::is_empty")]
    pub(crate) key_type: String,
}

/// The registration of an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Registration {
    /// The account object.
    pub(crate) body: Value,
    /// Its URL.
    pub(crate) uri: String,
}

/// The names of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Domain {
    /// The first name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) main: String,
    /// Further names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sans: Vec<String>,
}

/// A certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredCertificate {
    /// Its names.
    pub(crate) domain: Domain,
    /// The chain: PEM in base64.
    pub(crate) certificate: String,
    /// The key: PEM in base64.
    pub(crate) key: String,
    /// The store that it is for.
    #[serde(rename = "Store")]
    pub(crate) store: String,
}

/// A change of the data of a resolver.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A new account.
    Account(StoredAccount),
    /// A new certificate, which replaces those with these names.
    Certificate { new: StoredCertificate, instead_of: Vec<Domain> },
    /// Certificates to remove.
    Remove(Vec<Domain>),
}

impl Stored {
    /// Applies a change.
    pub(crate) fn apply(&mut self, change: Change) {
        let all = self.certificates.get_or_insert_default();
        match change {
            Change::Account(account) => self.account = Some(account),
            Change::Remove(domains) => all.retain(|old| !domains.contains(&old.domain)),
            Change::Certificate { new, instead_of } => {
                all.retain(|old| old.domain != new.domain && !instead_of.contains(&old.domain));
                all.push(new);
            }
        }
    }
}

/// A storage of resolvers. Several gateways may share one.
pub(crate) trait Storage: Send + Sync {
    /// Reads the data of a resolver. After an error nothing can be stored.
    fn load<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, Result<Stored, Error>>;
    /// Applies a change atomically. When it returns, the change is durable.
    fn change<'a>(&'a self, resolver: &'a str, change: Change) -> BoxFuture<'a, Result<(), Error>>;
    /// Reads the retry state.
    fn retry_state<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, RetryState>;
    /// Stores the retry state, except for the renewals in it.
    fn keep_ledger<'a>(
        &'a self,
        resolver: &'a str,
        retry_state: &'a RetryState,
    ) -> BoxFuture<'a, Result<(), Error>>;
    /// Returns the first names of certificates to renew now, each once.
    fn take_renewals<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, Vec<String>>;
    /// True if another process may have changed something since the last call.
    fn is_changed<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, bool>;
    /// True if several gateways share it: only the leader orders, and only what it could record before.
    fn is_shared(&self) -> bool {
        false
    }
    /// True while this gateway orders.
    fn leads(&self) -> bool {
        true
    }
    /// Reports sets of names without a certificate here to the leader.
    fn lacks(&self, _: Vec<Vec<String>>) {}
    /// Returns sets of names that other gateways lack.
    fn others_lack(&self) -> Vec<Vec<String>> {
        Vec::new()
    }
    /// Returns a watch of changes; `None` if it has to be polled.
    fn news(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}
