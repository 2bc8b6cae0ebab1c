//! Migrates data that older versions wrote under keys that a store may reject.

use tidegate_clients::consul::store::Operation;

use super::keys::{read, write};
use super::replica_cache::entry_of;
use super::{Inner, delete, error};
use crate::error::Error;
use crate::storage::{StoredAccount, StoredCertificate};

/// Maximum number of keys to rewrite at a time.
const AT_ONCE: usize = 50;

impl Inner {
    /// Rewrites the values of old keys, as the leader.
    pub(super) async fn migrate(&self) -> Result<(), Error> {
        let (certificates, live) = {
            let mirror = self.mirror.lock();
            let live = mirror.live.as_ref();
            let live = live.map(|live| (live.old.clone(), live.failures.clone())).unwrap_or_default();
            (mirror.old(&self.keys).0, live)
        };
        for (old, certificate) in certificates.into_iter().take(AT_ONCE) {
            let key = self.keys.certificate(&certificate.domain);
            let value = write(&certificate)?;
            let operation = Operation::Set { key: key.clone(), value };
            let index = self.while_leading(|_| vec![operation]).await?;
            self.mirror.lock().wrote(index, Some((key, certificate)), &[]);
            self.forget(&[old]).await;
        }
        let doubles = self.mirror.lock().old(&self.keys).1;
        self.forget(&doubles).await;
        let (old, failures) = live;
        for old in old.into_iter().filter(|old| !self.is_kept(&old.key)).take(AT_ONCE) {
            if old.renews {
                // Only once the old key is removed, or it would request renewals forever.
                let new = Operation::Set { key: self.keys.renew(&old.name), value: Vec::new() };
                if self.while_leading(|_| vec![delete(old.key.clone()), new]).await.is_err() {
                    self.keep(old.key);
                }
                continue;
            }
            if let Some(record) = failures.get(&old.name) {
                let operation = Operation::Set { key: self.keys.failure(&old.name), value: write(record)? };
                self.while_leading(|_| vec![operation]).await?;
            }
            self.forget(&[old.key]).await;
        }
        Ok(())
    }

    /// Copies account and certificates from the old keys of a prefix or resolver that is now encoded, if there are none
    /// under the new keys. The old keys are kept.
    pub(super) async fn adopt(&self) -> Result<(), Error> {
        let Some(older) = self.keys.older() else { return Ok(()) };
        {
            let mirror = self.mirror.lock();
            let has_account = mirror.live.as_ref().is_some_and(|live| live.account.is_some());
            if has_account || mirror.has_certificates() {
                return Ok(());
            }
        }
        let certificates = self.read(&older.certificates()).await?;
        let live = self.read(&older.live()).await?;
        let account = entry_of(&live, &older.account()).and_then(read::<StoredAccount>);
        let certificates = certificates.entries.iter().filter_map(read::<StoredCertificate>);
        let certificates = certificates.map(|one| (self.keys.certificate(&one.domain), one)).collect();
        self.write_again(certificates, account).await?;
        self.read_all(true).await
    }

    /// Removes old keys one by one, since a store may reject even that. New keys have precedence.
    pub(super) async fn forget(&self, old: &[String]) {
        for key in old {
            if self.is_kept(key) {
                continue;
            }
            if let Err(refusal) = self.store.apply(&[delete(key.clone())]).await {
                tracing::warn!(resolver = %self.resolver, key, "an old key cannot be removed: {}", error(refusal));
                self.keep(key.clone());
            }
        }
    }

    /// Returns true for an old key that cannot be removed.
    fn is_kept(&self, key: &str) -> bool {
        self.kept.lock().contains(key)
    }

    fn keep(&self, key: String) {
        self.kept.lock().insert(key);
    }
}
