//! The account at the authority: read from the storage, or registered.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use instant_acme::{Key, NewAccount};
use serde_json::Value;

use super::authority::{Repeat, Server};
use super::client::Answer;
use super::error::{Error, Kind, ProblemType};
use super::jws::{Signer, binding};
use super::key::AccountKey;
use super::storage::{Registration, StoredAccount};
use super::transport::{DIRECTORY, Transport, error_from};
use crate::options::Acme;

/// An account that requests can be signed with.
pub(super) struct Account {
    pub(super) server: Arc<Server>,
    pub(super) key: Arc<AccountKey>,
    /// Its URL.
    pub(super) url: String,
}

impl Account {
    /// Opens the account in the ACME library, for requests that follow each other.
    pub(super) async fn library(&self) -> Result<(instant_acme::Account, Transport), Error> {
        let failed = |error| error_from("the account", error);
        let transport = Transport::new(self.server.clone(), self.key.clone(), None);
        // A placeholder: the transport signs with the account's own key.
        let (_, placeholder) = Key::generate_pkcs8().map_err(failed)?;
        let builder = instant_acme::Account::builder_with_http(Box::new(transport.clone()));
        let account = builder.from_parts(self.url.clone(), placeholder, DIRECTORY.to_owned()).await;
        Ok((account.map_err(failed)?, transport))
    }

    /// Sends a signed request that the library does not know; `None` is POST-as-GET.
    pub(super) async fn post(
        &self,
        url: &str,
        payload: Option<&Value>,
        repeat: Repeat,
    ) -> Result<Answer, Error> {
        let payload = payload.map(Value::to_string).unwrap_or_default();
        self.server.post(Signer::Account(&self.key, &self.url), url, payload.as_bytes(), repeat).await
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
async fn register(
    options: &Acme,
    server: &Arc<Server>,
    key: &Arc<AccountKey>,
) -> Result<Registration, Error> {
    let directory = &server.directory;
    let binding = match &options.eab {
        Some(eab) => Some(binding(key, &directory.new_account, &eab.kid, &eab.hmac_encoded)?),
        None if directory.meta.external_account_required => {
            return Err(Error::local("the authority wants an external account: expected `eab`"));
        }
        None => None,
    };
    let contact = format!("mailto:{}", options.email);
    let contact = [contact.as_str()];
    let new = NewAccount {
        contact: if options.email.is_empty() { &[] } else { &contact },
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let transport = Transport::new(server.clone(), key.clone(), binding);
    let builder = instant_acme::Account::builder_with_http(Box::new(transport.clone()));
    let created = builder.create(&new, DIRECTORY.to_owned(), None).await;
    // The credentials are those of a placeholder.
    let (account, _) =
        created.map_err(|error| error_from("new account", error).at("registering the account"))?;
    let uri = account.id().to_owned();
    tracing::info!(ca = %options.ca_server, account = %uri, "account registered");
    let body = serde_json::from_slice(&transport.body()).unwrap_or(Value::Null);
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
