//! Accepts requests with an API key: of a consumer, or one whose hash is in the options.

mod authenticator;
mod foreign;
pub mod key;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::header::HeaderValue;
use serde::{Deserialize, Serialize};
use tidegate_core::client_ip::{ClientIp, IpStrategy};
use tidegate_core::values::is_default;
use tidegate_core::{Access, Build, BuildContext, BuildError, BuildErrors, Middleware};

use crate::auth;
pub use crate::auth::source::KeySource;
use crate::auth::source::{Source, SourceKind};
use authenticator::{Authenticator, Checked};
use foreign::ForeignKeys;

/// Maximum length of a key in bytes.
const MAX_KEY: usize = 1024;
/// Where keys are.
const SOURCE: SourceKind =
    SourceKind { option: "keySource", header: "X-API-Key", scheme: "", max_length: MAX_KEY };

/// Traefik Hub's `apiKey`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ApiKey {
    /// Where clients put their keys. By default, in the header `X-API-Key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_source: Option<KeySource>,
    /// Hashes of keys that others have issued: bcrypt, MD5 and SHA-1 as htpasswd writes them, SHA-256. Each may have a
    /// name in front of it (`name:hash`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secret_values: Vec<String>,
    /// A file with one hash per line, in addition to `secretValues`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_values_file: String,
    /// Whether clients send the keys of `secretValues` as they are. By default, they send them in base64, as in Traefik
    /// Hub.
    #[serde(skip_serializing_if = "is_default")]
    pub secret_non_base64_encoded: bool,
    /// Whether the keys of consumers are accepted. By default, if there are no `secretValues`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumers: Option<bool>,
    /// Scopes that a key must have, all of them. Clients whose keys lack one get 403.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// How to determine the client's address for keys that are valid only from some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategy>,
}

impl Build for ApiKey {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        self.authenticator(context).map(|authenticator| Arc::new(authenticator) as Arc<dyn Middleware>)
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        let source = Source::new(&self.key_source.clone().unwrap_or_default(), SOURCE).ok()?;
        // If another member of `anyOf` admits a request, the key is still not for the service.
        let header = source.own_header().cloned();
        Some(Access::by_head().concealing(move |headers| {
            if let Some(header) = &header {
                headers.remove(header);
            }
        }))
    }
}

impl ApiKey {
    fn authenticator(&self, context: &BuildContext<'_>) -> Result<Authenticator, BuildError> {
        let source = Source::new(&self.key_source.clone().unwrap_or_default(), SOURCE);
        let is_base64 = !self.secret_non_base64_encoded;
        let foreign = ForeignKeys::read(&self.secret_values, &self.secret_values_file, is_base64, context);
        let client_ip = self.ip_strategy.as_ref().map(ClientIp::new).transpose();
        let (source, (foreign, client_ip)) =
            BuildErrors::both(source, BuildErrors::both(foreign, client_ip))?;
        let accepts_consumers = self.consumers.unwrap_or(!self.has_own_keys());
        if foreign.is_empty() && !accepts_consumers {
            return Err(BuildError::new("no keys: expected secretValues, secretValuesFile, or consumers"));
        }
        let scheme = source.scheme().unwrap_or("ApiKey");
        let challenge = format!("{scheme} realm=\"{}\"", auth::DEFAULT_REALM);
        Ok(Authenticator {
            name: context.name.into(),
            clock: context.clock(),
            challenge: HeaderValue::from_str(&challenge)
                .map_err(|_| BuildError::new("keySource.headerAuthScheme: invalid scheme"))?,
            source,
            foreign,
            consumers: accepts_consumers.then(|| context.consumers()),
            client_ip: client_ip.unwrap_or_default(),
            scopes: self.scopes.clone(),
            checked: Checked::default(),
        })
    }

    fn has_own_keys(&self) -> bool {
        !self.secret_values.is_empty() || !self.secret_values_file.is_empty()
    }
}
