//! LDAP (RFC 4511): checks passwords of users in a directory.
//!
//! Connections are opened on demand, kept for a while, and used by one check at a time. Names, connections and TLS are
//! those of all our clients.

mod ber;
mod check;
mod connection;
mod dn;
mod filter;
mod message;
mod pool;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tidegate_core::BoxFuture;
use tidegate_core::ldap::{LdapClient, LdapOptions, LdapUnavailable, LdapUser};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::OptionError;
use crate::connect::{Connector, Syntax};
use crate::tls::TlsOptions;
use check::Check;
use connection::{Connection, LdapError, StartTls};
use pool::{Outage, Pool};

/// Maximum length of a user name in bytes.
const MAX_USER: usize = 512;
/// Maximum length of a password in bytes.
const MAX_PASSWORD: usize = 4096;

const SYNTAX: Syntax = Syntax {
    option: "url",
    plain: &["ldap"],
    secure: &["ldaps"],
    otherwise: "ldap",
    ports: (389, 636),
    example: "ldaps://ldap.example.org:636",
};

/// A client of one directory.
pub struct Client {
    shared: Arc<Shared>,
    control: Handle,
}

struct Shared {
    connector: Connector,
    start_tls: Option<StartTls>,
    check: Check,
    pool: Pool,
    outage: Outage,
    timeout: Duration,
}

impl Client {
    /// Validates the options, without connecting. Connections run on `control`.
    pub fn new(options: &LdapOptions, control: Handle) -> Result<Self, OptionError> {
        let roots = match options.certificate_authority.as_str() {
            "" => Vec::new(),
            pem => vec![pem.as_bytes().to_vec()],
        };
        let tls = TlsOptions { roots, insecure: options.insecure_skip_verify, ..TlsOptions::default() };
        let unusable =
            |error: crate::tls::TlsError| OptionError::new("certificateAuthority", error.to_string());
        if !tls.roots.is_empty() {
            tls.client_config().map_err(unusable)?;
        }
        let connector = Connector::with_tls(&SYNTAX, &options.url, &tls, "")?;
        let start_tls = match options.start_tls {
            false => None,
            true if connector.is_secure() => {
                return Err(OptionError::new(
                    "startTLS",
                    "not possible with `ldaps://`, which is encrypted already",
                ));
            }
            true => {
                let name = connector.host_name().and_then(|host| ServerName::try_from(host.to_owned()).ok());
                let name =
                    name.ok_or_else(|| OptionError::new("startTLS", "needs the name or address of a host"))?;
                Some((TlsConnector::from(Arc::new(tls.client_config().map_err(unusable)?)), name))
            }
        };
        let shared = Shared {
            start_tls,
            check: Check::new(options)?,
            pool: Pool::new(options.pool_size, options.pool_burst, options.pool_ttl),
            outage: Outage::default(),
            timeout: options.timeout,
            connector,
        };
        Ok(Self { shared: Arc::new(shared), control })
    }

    /// Returns true if passwords leave the machine unencrypted.
    pub fn is_exposed(&self) -> bool {
        let Shared { connector, start_tls, .. } = &*self.shared;
        let is_local = |host: &str| {
            host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        };
        !connector.is_secure()
            && start_tls.is_none()
            && connector.host_name().is_some_and(|host| !is_local(host))
    }
}

impl LdapClient for Client {
    fn verify<'a>(
        &'a self,
        user: &'a str,
        password: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<LdapUser>, LdapUnavailable>> {
        let is_possible = |length: usize, max: usize| (1..=max).contains(&length);
        // A bind without a password is anonymous, and succeeds.
        if !is_possible(user.len(), MAX_USER) || !is_possible(password.len(), MAX_PASSWORD) {
            return Box::pin(std::future::ready(Ok(None)));
        }
        let (shared, user, password) = (self.shared.clone(), user.to_owned(), password.to_vec());
        Box::pin(async move {
            // Goes on when the client leaves, so that the connection can be used again.
            let task = self.control.spawn(async move { shared.verify(&user, &password).await });
            task.await.unwrap_or_else(|_| Err(unavailable("the check was aborted")))
        })
    }
}

impl Shared {
    async fn verify(&self, user: &str, password: &[u8]) -> Result<Option<LdapUser>, LdapUnavailable> {
        let is_down = || unavailable(format!("{} does not work", self.connector.endpoint()));
        if self.outage.is_active() {
            return Err(is_down());
        }
        let deadline = Instant::now() + self.timeout;
        let busy = || unavailable("all connections are in use");
        // What is left is enough to tell an outage from a queue.
        let _slot = self.pool.enter(self.timeout / 2).await.ok_or_else(busy)?;
        let begun = self.outage.begin(self.timeout).ok_or_else(is_down)?;
        let outcome = timeout_at(deadline, self.attempt(user, password)).await;
        let (is_outage, reason) = match outcome {
            Ok(Ok(user)) => {
                if let Some(duration) = self.outage.end() {
                    tracing::info!(url = self.connector.endpoint(), ?duration, "the LDAP server works again");
                }
                return Ok(user);
            }
            Ok(Err(error)) => (error.is_outage(), error.to_string()),
            Err(_) => (true, format!("no answer within {:?}", self.timeout)),
        };
        if !is_outage {
            self.outage.end();
            tracing::warn!(url = self.connector.endpoint(), "cannot check a password by LDAP: {reason}");
        } else if self.outage.note(begun) {
            tracing::warn!(url = self.connector.endpoint(), "the LDAP server does not work: {reason}");
        }
        Err(unavailable(reason))
    }

    async fn attempt(&self, user: &str, password: &[u8]) -> Result<Option<LdapUser>, LdapError> {
        if let Some(mut connection) = self.pool.take() {
            match self.check.run(&mut connection, user, password).await {
                Ok(outcome) => {
                    self.pool.keep(connection);
                    return Ok(outcome);
                }
                Err(error) if error.is_lost() => self.pool.clear(),
                Err(error) => return Err(error),
            }
        }
        let mut connection = Connection::open(&self.connector, self.start_tls.as_ref(), self.timeout).await?;
        let outcome = self.check.run(&mut connection, user, password).await?;
        self.pool.keep(connection);
        Ok(outcome)
    }
}

fn unavailable(reason: impl Into<String>) -> LdapUnavailable {
    LdapUnavailable { reason: reason.into() }
}

#[cfg(test)]
mod tests;
