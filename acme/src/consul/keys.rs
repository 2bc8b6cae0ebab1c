//! Layout of the shared data of resolvers in Consul: one key for each thing, far below its limit of 512 KiB.
//!
//! ```text
//! <prefix>/<resolver>/certificates/<main name>/<hash of all names>
//! <prefix>/<resolver>/live/account
//! <prefix>/<resolver>/live/leader              held by the session of the leader
//! <prefix>/<resolver>/live/replicas/<session>  a replica, and the names it lacks
//! <prefix>/<resolver>/live/proofs/<token>      challenges that are presented now
//! <prefix>/<resolver>/live/failures/<name>     orders and failures of a name
//! <prefix>/<resolver>/live/renew/<name>        renewals that operators asked for
//! ```
//!
//! Names are encoded (`tidegate_clients::consul::keys`). Older versions wrote them as they are: those keys are read,
//! and rewritten by the leader.

use crate::storage::Domain;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tidegate_clients::consul::keys::{encode, encode_path};
use tidegate_clients::consul::store::Entry;

use crate::error::Error;

/// The keys of one resolver.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Prefix and resolver.
    base: String,
    /// The same as older versions wrote it, if it differs.
    old_base: Option<String>,
}

/// Returns where the keys of a resolver are, and where older versions had them.
pub fn places(prefix: &str, resolver: &str) -> (String, String) {
    (format!("{}/{}", encode_path(prefix), encode(resolver)), format!("{prefix}/{resolver}"))
}

impl Keys {
    pub(super) fn new(prefix: &str, resolver: &str) -> Self {
        let (base, old) = places(prefix, resolver);
        let old_base = (old != base).then_some(old);
        Self { base, old_base }
    }

    /// Returns the keys as older versions wrote them, if prefix or resolver have characters that are encoded now.
    pub(super) fn older(&self) -> Option<Self> {
        Some(Self { base: self.old_base.clone()?, old_base: None })
    }

    /// Returns the prefix of certificates.
    pub(super) fn certificates(&self) -> String {
        format!("{}/certificates/", self.base)
    }

    /// Returns the prefix of everything else.
    pub(super) fn live(&self) -> String {
        format!("{}/live/", self.base)
    }

    pub(super) fn account(&self) -> String {
        format!("{}/live/account", self.base)
    }

    pub(super) fn leader(&self) -> String {
        format!("{}/live/leader", self.base)
    }

    pub(super) fn replica(&self, session: &str) -> String {
        format!("{}/live/replicas/{session}", self.base)
    }

    pub(super) fn proof(&self, token: &str) -> String {
        format!("{}/live/proofs/{}", self.base, encode(token))
    }

    /// Returns the prefix of proofs.
    pub(super) fn proofs(&self) -> String {
        format!("{}/live/proofs/", self.base)
    }

    pub(super) fn failure(&self, name: &str) -> String {
        format!("{}/live/failures/{}", self.base, encode(name))
    }

    pub(super) fn renew(&self, name: &str) -> String {
        format!("{}/live/renew/{}", self.base, encode(name))
    }

    /// Returns the key of the certificate with these names.
    pub(super) fn certificate(&self, domain: &Domain) -> String {
        let mut names = domain.sans.clone();
        names.push(domain.main.clone());
        names.sort();
        let digest = Sha256::digest(names.join(" "));
        let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{}/certificates/{}/{hash}", self.base, encode(&domain.main))
    }
}

/// Returns the last step of a certificate's key: the same for the same names in all versions.
pub(super) fn hash_in(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

/// Encodes a value as JSON.
pub(super) fn write(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::local(error.to_string()))
}

/// Decodes an entry. One that is broken spoils only itself: it is logged, and `None` is returned.
pub(super) fn read<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    match serde_json::from_slice(&entry.value) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(key = %entry.key, %error, "a key in Consul cannot be read and is left out");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_have_a_key_by_all_of_their_names() {
        let keys = Keys::new("t/acme", "le");
        let domain = |main: &str, sans: &[&str]| Domain {
            main: main.into(),
            sans: sans.iter().map(|name| (*name).to_owned()).collect(),
        };
        let wide = keys.certificate(&domain("*.a.test", &[]));
        assert!(wide.starts_with("t/acme/le/certificates/__2A.a.test/"), "{wide}");
        assert_eq!(Keys::new("t/acme", "le").older().map(|keys| keys.base), None);
        let odd = Keys::new("t/acme", "le x");
        assert_eq!((&*odd.base, odd.older().unwrap().base.as_str()), ("t/acme/le__20x", "t/acme/le x"));
        let one = keys.certificate(&domain("a.test", &[]));
        assert!(one.starts_with("t/acme/le/certificates/a.test/"), "{one}");
        assert_ne!(one, keys.certificate(&domain("a.test", &["b.test"])));
        assert_eq!(
            keys.certificate(&domain("a.test", &["c.test", "b.test"])),
            keys.certificate(&domain("a.test", &["b.test", "c.test"]))
        );
    }
}
