//! The account at the authority: read from the storage, or registered.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::client::Answer;
use super::error::{Error, Kind, ProblemType};
use super::key::AccountKey;
use super::protocol::{Repeat, Server, Signer, binding};
use super::storage::{Registration, StoredAccount};
use crate::options::Acme;

/// An account that requests can be signed with.
pub(super) struct Account {
    pub(super) server: Arc<Server>,
    pub(super) key: Arc<AccountKey>,
    /// Its URL.
    pub(super) url: String,
}

impl Account {
    /// Sends a signed request, with retries after network failures.
    pub(super) async fn post(&self, url: &str, payload: Option<&Value>) -> Result<Answer, Error> {
        self.server.post(Signer::Account(&self.key, &self.url), url, payload, Repeat::Safe).await
    }

    /// Gets a resource, without retries.
    pub(super) async fn post_once_get(&self, url: &str) -> Result<Answer, Error> {
        self.server.post(Signer::Account(&self.key, &self.url), url, None, Repeat::Never).await
    }

    /// Sends a signed request that must not be repeated.
    pub(super) async fn post_once(&self, url: &str, payload: &Value) -> Result<Answer, Error> {
        self.server.post(Signer::Account(&self.key, &self.url), url, Some(payload), Repeat::Never).await
    }
}

/// Opens the stored account if it is one of this authority's, or else a new one, which is returned to be stored.
///
/// `register` registers a stored account again, under the same key.
pub(super) async fn open(
    options: &Acme,
    server: Arc<Server>,
    stored: Option<&StoredAccount>,
    register: bool,
) -> Result<(Account, Option<StoredAccount>), Error> {
    let known =
        stored.filter(|account| !account.private_key.is_empty() && is_of(account, &options.ca_server));
    let key = match known {
        Some(account) => {
            let der = BASE64_STANDARD
                .decode(&account.private_key)
                .map_err(|error| Error::local(format!("the stored account's key is not base64: {error}")))?;
            AccountKey::read(&der)?
        }
        None => {
            if stored.is_some_and(|account| account.registration.is_some()) {
                tracing::info!(ca = %options.ca_server, "the stored account is another authority's: a new one is made");
            }
            super::blocking(AccountKey::generate).await?
        }
    };
    let key = Arc::new(key);
    if let Some(account) = known
        && !register
        && let Some(registration) = account.registration.as_ref().filter(|known| !known.uri.is_empty())
    {
        return Ok((Account { server, key, url: registration.uri.clone() }, None));
    }
    let registration = self::register(options, &server, &key).await?;
    let account = Account { server, url: registration.uri.clone(), key: key.clone() };
    let stored = StoredAccount {
        email: options.email.clone(),
        registration: Some(registration),
        private_key: BASE64_STANDARD.encode(key.der()),
        key_type: known.map(|account| account.key_type.clone()).unwrap_or_default(),
    };
    Ok((account, Some(stored)))
}

/// Registers a key (RFC 8555 section 7.3). For a known key the authority returns its account.
async fn register(options: &Acme, server: &Server, key: &AccountKey) -> Result<Registration, Error> {
    let url = &server.directory.new_account;
    let mut payload = json!({ "termsOfServiceAgreed": true });
    if !options.email.is_empty() {
        payload["contact"] = json!([format!("mailto:{}", options.email)]);
    }
    match &options.eab {
        Some(eab) => {
            payload["externalAccountBinding"] = binding(key, url, &eab.kid, &eab.hmac_encoded)?;
        }
        None if server.directory.meta.external_account_required => {
            return Err(Error::local("the authority wants an external account: expected `eab`"));
        }
        None => {}
    }
    let answer = server.post(Signer::New(key), url, Some(&payload), Repeat::Safe).await;
    let answer = answer.map_err(|error| error.at("registering the account"))?;
    let uri = answer.header("location").map(str::to_owned);
    let uri = uri.ok_or_else(|| Error::network(format!("{url}: the answer names no account")))?;
    tracing::info!(ca = %options.ca_server, account = %uri, "account registered");
    let body = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    Ok(Registration { body, uri })
}

/// True if the error means that the authority does not know the account.
pub(super) fn is_unknown(error: &Error) -> bool {
    error.kind == Kind::Refused && error.problem == Some(ProblemType::AccountDoesNotExist)
}

/// Accounts belong to the host that registered them, as in Traefik.
fn is_of(account: &StoredAccount, ca_server: &str) -> bool {
    let host = |url: &str| url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    match &account.registration {
        Some(registration) if !registration.uri.is_empty() => host(&registration.uri) == host(ca_server),
        _ => true,
    }
}
