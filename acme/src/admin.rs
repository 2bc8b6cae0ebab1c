//! Commands of operators outside of the running gateway, which work on the storage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use serde_json::json;
use time::OffsetDateTime;

use super::account;
use super::authority::{Repeat, Server};
use super::backoff::RetryState;
use super::certificate::{Certificate, Facts};
use super::client::Http;
use super::consul::ConsulStorage;
use super::error::{Error, ProblemType};
use super::file::FileStorage;
use super::jws::key_change;
use super::key::AccountKey;
use super::managed::text;
use super::names::{canonical, domain_of, names_of};
use super::renewal::Renewal;
use super::shared::Row;
use super::storage::{Change, Storage, Stored, StoredCertificate};
use crate::options::Acme;

/// A certificate and its key, in PEM.
pub struct Exported {
    /// The first name.
    pub main: String,
    /// The chain.
    pub chain: String,
    /// The key.
    pub key: String,
}

/// Failure of an operator's command.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The settings have no resolver.
    #[error("the settings have no `certificatesResolvers`")]
    NoResolvers,
    /// No resolver has this name.
    #[error("there is no certificate resolver `{0}`")]
    UnknownResolver(String),
    /// The command needs one resolver.
    #[error("there are several resolvers: say which with --resolver")]
    SeveralResolvers,
    /// No certificate is for the name.
    #[error("there is no certificate for `{0}`")]
    NoCertificate(String),
    /// The account was never registered.
    #[error("resolver `{0}` has no account yet")]
    NoAccount(String),
    /// The certificate cannot be revoked without an account.
    #[error("resolver `{0}` has no account that could revoke it")]
    NoAccountToRevoke(String),
    /// The storage cannot be used, or the authority refuses.
    #[error(transparent)]
    Acme(#[from] Error),
    /// The stored certificate is not PEM.
    #[error(transparent)]
    Pem(#[from] pem::Error),
    /// The authority has done its part, the storage has not.
    #[error("it is revoked, but still stored: {0}")]
    StillStored(#[source] Error),
    /// The authority has done its part, the storage has not.
    #[error("the key is changed, but the new one is not stored: {0}")]
    KeyNotStored(#[source] Error),
    /// There is nothing to import.
    #[error("{} is neither a file nor a folder", .0.display())]
    NoSource(PathBuf),
    /// Another `acme.json` has several resolvers, none of them of the same name.
    #[error("{} has no resolver `{resolver}`, only {}", source_path.display(), names.join(", "))]
    OtherResolvers {
        /// The file.
        source_path: PathBuf,
        /// The resolver of the settings.
        resolver: String,
        /// The resolvers of the file.
        names: Vec<String>,
    },
    /// A file of certbot cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A certificate of certbot cannot be read.
    #[error("{}: {source}", folder.display())]
    Certificate {
        /// Its folder.
        folder: PathBuf,
        /// The cause.
        source: Error,
    },
    /// A certificate of certbot does not belong to its key.
    #[error("{}: {source}", folder.display())]
    Pair {
        /// Its folder.
        folder: PathBuf,
        /// The cause.
        source: Error,
    },
    /// A folder has no certificate of certbot.
    #[error("{}: there is no `<name>/fullchain.pem`", .0.display())]
    NoCertificates(PathBuf),
}

/// The storages of resolvers.
pub struct Admin {
    resolvers: Vec<(String, Acme)>,
}

impl Admin {
    /// Looks at all of these resolvers, or at the one of this name.
    pub fn new(
        all: impl IntoIterator<Item = (String, Acme)>,
        resolver: Option<&str>,
    ) -> Result<Self, AdminError> {
        let is_meant = |(name, _): &(String, Acme)| resolver.is_none_or(|wanted| wanted == name);
        let resolvers: Vec<_> = all.into_iter().filter(is_meant).collect();
        match (resolvers.is_empty(), resolver) {
            (false, _) => Ok(Self { resolvers }),
            (true, None) => Err(AdminError::NoResolvers),
            (true, Some(name)) => Err(AdminError::UnknownResolver(name.to_owned())),
        }
    }

    /// Lists all certificates, and names that failed.
    pub async fn list(&self) -> Result<Vec<Row>, AdminError> {
        let mut rows = Vec::new();
        let now = OffsetDateTime::now_utc();
        for (resolver, options) in &self.resolvers {
            let kept = Kept::of(options, resolver)?;
            let stored = kept.read(resolver).await?;
            let retry_state = kept.retry_state(resolver).await;
            let mut told: Vec<String> = Vec::new();
            for certificate in stored.certificates.unwrap_or_default() {
                let names = names_of(&certificate.domain);
                let facts =
                    text(&certificate.certificate, "certificate").and_then(|chain| Facts::read(&chain));
                let record = retry_state.error_of(&names);
                let error = match &facts {
                    Err(error) => error.to_string(),
                    Ok(_) => record.map(|record| record.error.clone()).unwrap_or_default(),
                };
                let facts = facts.ok();
                let next =
                    facts.as_ref().map(|f| Renewal::by_lifetime(f, options.certificates_duration, now).at);
                told.extend(names.iter().cloned());
                rows.push(Row {
                    names,
                    resolver: resolver.clone(),
                    issuer: facts.as_ref().map(|facts| facts.issuer.clone()).unwrap_or_default(),
                    not_after: facts.map(|facts| facts.not_after),
                    next,
                    error,
                });
            }
            for (name, record) in retry_state.names.iter().filter(|(name, _)| !told.contains(name)) {
                rows.push(Row {
                    names: vec![name.clone()],
                    resolver: resolver.clone(),
                    issuer: String::new(),
                    not_after: None,
                    next: OffsetDateTime::from_unix_timestamp(i64::try_from(record.next).unwrap_or(0)).ok(),
                    error: record.error.clone(),
                });
            }
        }
        Ok(rows)
    }

    /// Marks a certificate for renewal by the running gateway, or by the next one that starts.
    pub async fn renew(&self, name: &str) -> Result<(), AdminError> {
        match self.find(name).await {
            Ok(found) => Ok(found.kept.renew(found.resolver, &names_of(&found.certificate.domain)).await?),
            // There may be none because ordering failed, which is a reason to try now.
            Err(error) => {
                let name = canonical(name);
                for (resolver, options) in &self.resolvers {
                    let kept = Kept::of(options, resolver)?;
                    // The content of Consul is known once it has been read.
                    kept.read(resolver).await?;
                    if kept.retry_state(resolver).await.names.contains_key(&name) {
                        return Ok(kept.renew(resolver, &[name]).await?);
                    }
                }
                Err(error)
            }
        }
    }

    /// Revokes a certificate and removes it from the storage; a gateway that needs it obtains another.
    pub async fn revoke(&self, name: &str, reason: u8) -> Result<(), AdminError> {
        let Found { resolver, options, kept, certificate } = self.find(name).await?;
        let stored = kept.read(resolver).await?;
        let chain = text(&certificate.certificate, "certificate")?;
        let leaf = CertificateDer::from_pem_slice(chain.as_bytes())?;
        if stored.account.as_ref().is_none_or(|account| account.registration.is_none()) {
            return Err(AdminError::NoAccountToRevoke(resolver.to_owned()));
        }
        let revoking = async {
            let http = Http::for_authority(options)?;
            let server = Arc::new(Server::open(http, &options.ca_server).await?);
            let (account, _) = account::open(options, server.clone(), stored.account.as_ref(), false).await?;
            let url = server.directory.revoke_cert.clone();
            let url = url.ok_or_else(|| super::Error::refused("the authority does not revoke"))?;
            let payload = json!({ "certificate": BASE64_URL_SAFE_NO_PAD.encode(&leaf), "reason": reason });
            account.post(&url, Some(&payload), Repeat::Safe).await
        };
        match revoking.await {
            Ok(_) => {}
            Err(error) if error.problem == Some(ProblemType::AlreadyRevoked) => {}
            Err(error) => return Err(error.into()),
        }
        let removed = kept.change(resolver, Change::Remove(vec![certificate.domain])).await;
        removed.map_err(AdminError::StillStored)
    }

    /// Changes the key of the account of a resolver, at its authority and in the storage.
    pub async fn change_key(&self) -> Result<(), AdminError> {
        let [(resolver, options)] = &self.resolvers[..] else {
            return Err(AdminError::SeveralResolvers);
        };
        let kept = Kept::of(options, resolver)?;
        let stored = kept.read(resolver).await?.account.filter(|account| account.registration.is_some());
        let stored = stored.ok_or_else(|| AdminError::NoAccount(resolver.clone()))?;
        let changing = async {
            let http = Http::for_authority(options)?;
            let server = Arc::new(Server::open(http, &options.ca_server).await?);
            let (account, _) = account::open(options, server.clone(), Some(&stored), false).await?;
            let url = server.directory.key_change.clone();
            let url = url.ok_or_else(|| super::Error::refused("the authority does not change keys"))?;
            let new = super::blocking(AccountKey::generate).await?;
            let request = key_change(&account.key, &new, &account.url, &url)?;
            account.post(&url, Some(&request), Repeat::Never).await?;
            Ok::<_, super::Error>(BASE64_STANDARD.encode(new.der()))
        };
        let private_key = changing.await?;
        let changed = super::storage::StoredAccount { private_key, ..stored };
        let written = kept.change(resolver, Change::Account(changed)).await;
        written.map_err(AdminError::KeyNotStored)
    }

    /// Returns a certificate with its key.
    pub async fn export(&self, name: &str) -> Result<Exported, AdminError> {
        let certificate = self.find(name).await?.certificate;
        let chain = text(&certificate.certificate, "certificate")?;
        let key = text(&certificate.key, "key")?;
        Ok(Exported { main: certificate.domain.main, chain, key })
    }

    /// Imports certificates from another `acme.json` or from certbot's folder (`/etc/letsencrypt`), and returns their
    /// names. Imports the account of an `acme.json` too unless there is one.
    pub async fn import(&self, source: &Path) -> Result<Vec<String>, AdminError> {
        let [(resolver, options)] = &self.resolvers[..] else {
            return Err(AdminError::SeveralResolvers);
        };
        let kept = Kept::of(options, resolver)?;
        let known = kept.read(resolver).await?;
        let (account, certificates) = match source.is_dir() {
            true => (None, from_certbot(source)?),
            false => from_acme_json(source, resolver)?,
        };
        if known.account.is_none()
            && let Some(account) = account
        {
            kept.change(resolver, Change::Account(account)).await?;
        }
        let mut names = Vec::new();
        for new in certificates {
            names.push(new.domain.main.clone());
            let change = Change::Certificate { new, instead_of: Vec::new() };
            kept.change(resolver, change).await?;
        }
        Ok(names)
    }

    async fn find(&self, name: &str) -> Result<Found<'_>, AdminError> {
        let name = canonical(name);
        for (resolver, options) in &self.resolvers {
            let kept = Kept::of(options, resolver)?;
            let certificates = kept.read(resolver).await?.certificates.unwrap_or_default();
            let found = certificates.into_iter().find(|one| names_of(&one.domain).contains(&name));
            if let Some(certificate) = found {
                return Ok(Found { resolver, options, kept, certificate });
            }
        }
        Err(AdminError::NoCertificate(name))
    }
}

/// A certificate, and where it is stored.
struct Found<'a> {
    resolver: &'a str,
    options: &'a Acme,
    kept: Kept,
    certificate: StoredCertificate,
}

/// The storage of a resolver.
enum Kept {
    File(FileStorage),
    Consul(ConsulStorage),
}

impl Kept {
    fn of(options: &Acme, resolver: &str) -> Result<Self, Error> {
        match options.consul_place() {
            None => Ok(Self::File(FileStorage::new(&options.storage))),
            Some(_) => ConsulStorage::new(options, resolver, None).map(Self::Consul),
        }
    }

    async fn read(&self, resolver: &str) -> Result<Stored, Error> {
        match self {
            Self::File(file) => file.read().map(|mut whole| whole.remove(resolver).unwrap_or_default()),
            Self::Consul(consul) => consul.read_by_hand().await,
        }
    }

    async fn retry_state(&self, resolver: &str) -> RetryState {
        match self {
            Self::File(file) => file.read_state().remove(resolver).unwrap_or_default(),
            Self::Consul(consul) => consul.retry_state(resolver).await,
        }
    }

    async fn change(&self, resolver: &str, change: Change) -> Result<(), Error> {
        match self {
            Self::File(file) => file.write_change(resolver, change),
            Self::Consul(consul) => consul.change_by_hand(change).await,
        }
    }

    async fn renew(&self, resolver: &str, names: &[String]) -> Result<(), Error> {
        match self {
            Self::File(file) => file.write_state(resolver, |retry_state| {
                retry_state.succeed(names);
                retry_state.renew.extend(names.iter().take(1).cloned());
                retry_state.renew.dedup();
            }),
            Self::Consul(consul) => consul.renew_by_hand(names).await,
        }
    }
}

type Imported = (Option<super::storage::StoredAccount>, Vec<StoredCertificate>);

fn from_acme_json(source: &Path, resolver: &str) -> Result<Imported, AdminError> {
    if !source.is_file() {
        return Err(AdminError::NoSource(source.to_owned()));
    }
    let mut whole = FileStorage::new(source).read()?;
    // The resolver of the same name, or the only one.
    let found = match whole.remove(resolver) {
        Some(found) => found,
        None if whole.len() == 1 => whole.into_values().next().unwrap_or_default(),
        None => {
            return Err(AdminError::OtherResolvers {
                source_path: source.to_owned(),
                resolver: resolver.to_owned(),
                names: whole.into_keys().collect(),
            });
        }
    };
    Ok((found.account, found.certificates.unwrap_or_default()))
}

/// Reads `live/<name>/{fullchain,privkey}.pem`.
fn from_certbot(folder: &Path) -> Result<Vec<StoredCertificate>, AdminError> {
    let live = folder.join("live");
    let live = if live.is_dir() { live } else { folder.to_owned() };
    let file = |path: &Path, source| AdminError::File { path: path.to_owned(), source };
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&live)
        .map_err(|error| file(&live, error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("fullchain.pem").is_file())
        .collect();
    folders.sort();
    for path in folders {
        let read = |name: &str| {
            let path = path.join(name);
            std::fs::read_to_string(&path).map_err(|error| file(&path, error))
        };
        let (chain, key) = (read("fullchain.pem")?, read("privkey.pem")?);
        let facts =
            Facts::read(&chain).map_err(|source| AdminError::Certificate { folder: path.clone(), source })?;
        Certificate::read(&chain, &key)
            .map_err(|source| AdminError::Pair { folder: path.clone(), source })?;
        found.push(StoredCertificate {
            domain: domain_of(&facts.names),
            certificate: BASE64_STANDARD.encode(chain),
            key: BASE64_STANDARD.encode(key),
            store: "default".to_owned(),
        });
    }
    match found.is_empty() {
        true => Err(AdminError::NoCertificates(live)),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(path: &Path) -> Admin {
        let acme = Acme { storage: path.display().to_string(), ..Acme::default() };
        Admin::new([("le".to_owned(), acme)], None).unwrap()
    }

    #[tokio::test]
    async fn certificates_come_from_certbot_and_go_as_pem() {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("live/a.test");
        std::fs::create_dir_all(&live).unwrap();
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned(), "b.test".to_owned()]).unwrap();
        std::fs::write(live.join("fullchain.pem"), made.cert.pem()).unwrap();
        std::fs::write(live.join("privkey.pem"), made.signing_key.serialize_pem()).unwrap();
        let path = folder.path().join("acme.json");
        let admin = admin(&path);
        assert_eq!(admin.import(folder.path()).await.unwrap(), ["a.test"]);
        let rows = admin.list().await.unwrap();
        assert_eq!((rows.len(), &rows[0].names[..]), (1, &["a.test".to_owned(), "b.test".to_owned()][..]));
        assert_eq!(admin.export("B.test").await.unwrap().chain, made.cert.pem());
        assert!(admin.export("c.test").await.err().unwrap().to_string().contains("c.test"));
        admin.renew("b.test").await.unwrap();
        assert_eq!(FileStorage::new(&path).read_state()["le"].renew, ["a.test"]);
        // From one storage to another.
        let other = self::admin(&folder.path().join("other.json"));
        assert_eq!(other.import(&path).await.unwrap(), ["a.test"]);
        assert!(other.import(Path::new("gone.json")).await.is_err());
    }
}
