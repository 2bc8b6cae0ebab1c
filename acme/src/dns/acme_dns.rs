//! `acme-dns`: a small DNS server only for challenges, to which names point with a CNAME.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_core::BoxFuture;
use tokio::sync::Mutex;

use super::query::Resolvers;
use super::variables::Variables;
use super::{Patience, Provider, Record};
use crate::client::{Http, Message};
use crate::error::Error;

pub(super) struct AcmeDns {
    base: String,
    path: String,
    allow: Vec<String>,
    http: Http,
    /// Serializes changes, which read and rewrite the file.
    file: Mutex<()>,
    patience: Patience,
}

/// The account of a name, in the storage format of lego's client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Account {
    fulldomain: String,
    subdomain: String,
    username: String,
    password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    server_url: String,
}

type Accounts = BTreeMap<String, Account>;

impl AcmeDns {
    /// Reads `ACME_DNS_API_BASE`, `ACME_DNS_STORAGE_PATH` and `ACME_DNS_ALLOWLIST`.
    pub(super) fn new(variables: &Variables<'_>) -> Result<Self, Error> {
        let base = variables.required(&["ACME_DNS_API_BASE"])?;
        let allow = variables.first(&["ACME_DNS_ALLOWLIST"]).unwrap_or_default();
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            path: variables.required(&["ACME_DNS_STORAGE_PATH"])?,
            allow: allow
                .split(',')
                .map(str::trim)
                .filter(|range| !range.is_empty())
                .map(str::to_owned)
                .collect(),
            http: Http::plain(Duration::from_secs(30)),
            file: Mutex::new(()),
            patience: variables.patience("ACME_DNS", 60, 2)?,
        })
    }

    async fn update(&self, record: &Record) -> Result<(), Error> {
        let account = self.account(record).await?;
        let base = if account.server_url.is_empty() { &self.base } else { &account.server_url };
        let url = format!("{}/update", base.trim_end_matches('/'));
        let message = Message {
            content_type: "application/json",
            headers: vec![("x-api-user", account.username), ("x-api-key", account.password)],
            body: json!({ "subdomain": account.subdomain, "txt": record.value }).to_string().into_bytes(),
        };
        let answer = self.http.send(Method::POST, &url, message).await;
        let answer = answer.map_err(|error| Error::dns(error.message))?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(Error::dns(format!("{url}: status {}: {}", answer.status, answer.excerpt()))),
        }
    }

    /// Returns the account of a name. A new one is registered and stored, and needs a CNAME before it works.
    async fn account(&self, record: &Record) -> Result<Account, Error> {
        let _one = self.file.lock().await;
        let bad = |error: &dyn std::fmt::Display| {
            Error::local(format!("ACME_DNS_STORAGE_PATH `{}`: {error}", self.path))
        };
        let mut accounts: Accounts = match tokio::fs::read(&self.path).await {
            Ok(text) if text.trim_ascii().is_empty() => Accounts::new(),
            Ok(text) => serde_json::from_slice(&text).map_err(|error| bad(&error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Accounts::new(),
            Err(error) => return Err(bad(&error)),
        };
        if let Some(known) = accounts.get(&record.domain) {
            return Ok(known.clone());
        }
        let account = self.register().await?;
        let name = format!("_acme-challenge.{}", record.domain);
        let message = format!(
            "acme-dns: a new account was made for {:?}: set this record, and it will work from then on: {name} CNAME {}.",
            record.domain, account.fulldomain
        );
        accounts.insert(record.domain.clone(), account);
        let text = serde_json::to_vec(&accounts).map_err(|error| bad(&error))?;
        let path = self.path.clone();
        let written = super::super::blocking(move || {
            super::super::file::replace(std::path::Path::new(&path), &text)
                .map_err(|error| Error::local(format!("{path}: {error}")))
        });
        written.await?;
        Err(Error::dns(message))
    }

    async fn register(&self) -> Result<Account, Error> {
        let url = format!("{}/register", self.base);
        let body = match self.allow.is_empty() {
            true => Vec::new(),
            false => json!({ "allowfrom": self.allow }).to_string().into_bytes(),
        };
        let message = Message { content_type: "application/json", body, ..Message::default() };
        let answer = self.http.send(Method::POST, &url, message).await;
        let answer = answer.map_err(|error| Error::dns(error.message))?;
        if !answer.status.is_success() {
            return Err(Error::dns(format!("{url}: status {}: {}", answer.status, answer.excerpt())));
        }
        answer.json(&url).map_err(|error| Error::dns(error.message))
    }
}

impl Provider for AcmeDns {
    fn present<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.update(record))
    }

    fn clean_up<'a>(&'a self, _: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        // The server only keeps the last two values.
        Box::pin(std::future::ready(Ok(())))
    }

    fn patience(&self) -> Patience {
        self.patience
    }
}
