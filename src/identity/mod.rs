//! Tells servers who the client is (`identity`): in headers, or in a token that the gateway signs.
//!
//! Headers of these names are removed from every request when it arrives, in every spelling, so that whatever a
//! server finds in them is from the gateway. They are added at the end of a route, when every middleware has run.

mod keys;
mod token;
mod values;

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use tidegate_core::aliases::is_same;
use tidegate_core::{Identity, Request};

use crate::settings::{IdentityHeaders, Settings};
pub use keys::KeyError;
use token::Tokens;

/// The headers that only the gateway may set.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnHeaders {
    names: Box<[HeaderName]>,
    /// A bit for the length of each name, to skip most others.
    lengths: u64,
}

impl OwnHeaders {
    /// Returns the headers of these settings.
    pub(crate) fn of(settings: &Settings) -> Self {
        let names = settings.identity.iter().flat_map(|identity| identity.names());
        let names: Box<[HeaderName]> = names.filter_map(|(_, name)| name.parse().ok()).collect();
        let lengths = names.iter().fold(0, |lengths, name| lengths | length_bit(name));
        Self { names, lengths }
    }

    /// Removes these headers, and those that a service might confuse with them.
    pub(crate) fn remove_from(&self, headers: &mut HeaderMap) {
        if self.names.is_empty() {
            return;
        }
        let is_own = |name: &&HeaderName| {
            self.lengths & length_bit(name) != 0 && self.names.iter().any(|own| is_same(own, name))
        };
        let found: SmallVec<[HeaderName; 4]> = headers.keys().filter(is_own).cloned().collect();
        for name in found {
            headers.remove(name);
        }
    }
}

fn length_bit(name: &HeaderName) -> u64 {
    1 << (name.as_str().len() % 64)
}

/// Checks the key in a file, if one is named.
pub(crate) fn check_key(file: &str) -> Result<(), KeyError> {
    if file.is_empty() { Ok(()) } else { keys::SigningKey::from_file(file.as_ref()).map(drop) }
}

/// Adds who the client is to requests.
pub struct Announcer {
    own: OwnHeaders,
    headers: Option<Headers>,
    tokens: Option<Tokens>,
}

impl Announcer {
    /// Reads the settings; `None` if servers are told nothing.
    ///
    /// # Errors
    ///
    /// The key cannot be read or generated.
    pub fn new(settings: &Settings) -> Result<Option<Arc<Self>>, KeyError> {
        let Some(options) = &settings.identity else { return Ok(None) };
        Ok(Some(Arc::new(Self {
            own: OwnHeaders::of(settings),
            headers: options.headers.as_ref().map(Headers::new),
            tokens: options.token.as_ref().map(Tokens::new).transpose()?,
        })))
    }

    /// Tells a service who the client is, if that is known.
    pub(crate) fn announce(&self, request: &mut Request, service: &str) {
        let Some(identity) = request.context.identity.as_deref() else { return };
        let headers = &mut request.head.headers;
        // Middlewares may have set some of them.
        self.own.remove_from(headers);
        if let Some(names) = &self.headers {
            names.set(headers, identity);
        }
        if let Some((name, token)) = self.tokens.as_ref().and_then(|tokens| tokens.header(identity, service))
        {
            headers.insert(name.clone(), token);
        }
    }

    /// Returns the public keys as a JSON Web Key Set, and how many seconds they may be cached; `None` without tokens.
    pub(crate) fn public_keys(&self) -> Option<(String, u64)> {
        self.tokens.as_ref().map(Tokens::public_keys)
    }

    /// Replaces keys that are due, forever.
    pub async fn run(self: Arc<Self>) {
        if let Some(tokens) = &self.tokens {
            tokens.rotate().await;
        }
    }
}

/// The headers for the parts of an identity.
struct Headers {
    subject: Option<HeaderName>,
    consumer: Option<HeaderName>,
    groups: Option<HeaderName>,
    plan: Option<HeaderName>,
    scopes: Option<HeaderName>,
    method: Option<HeaderName>,
    labels: Vec<(String, HeaderName)>,
}

impl Headers {
    fn new(options: &IdentityHeaders) -> Self {
        // The settings have been checked: a name is valid or empty.
        let name = |name: &String| name.parse().ok();
        let labels = options.labels.iter();
        Self {
            subject: name(&options.subject),
            consumer: name(&options.consumer),
            groups: name(&options.groups),
            plan: name(&options.plan),
            scopes: name(&options.scopes),
            method: name(&options.method),
            labels: labels.filter_map(|(label, header)| Some((label.clone(), name(header)?))).collect(),
        }
    }

    fn set(&self, headers: &mut HeaderMap, identity: &Identity) {
        let mut set = |name: &Option<HeaderName>, value: &dyn Fn() -> Option<HeaderValue>| {
            if let Some((name, value)) = name.as_ref().and_then(|name| Some((name, value()?))) {
                headers.insert(name, value);
            }
        };
        set(&self.subject, &|| values::single(&identity.subject));
        set(&self.consumer, &|| values::single(&identity.consumer.as_ref()?.name));
        set(&self.groups, &|| values::list(identity.all_groups(), ','));
        set(&self.plan, &|| values::single(identity.plan()));
        set(&self.scopes, &|| values::list(identity.scopes.iter().map(String::as_str), ' '));
        set(&self.method, &|| values::single(identity.method.name()));
        for (label, name) in &self.labels {
            if let Some(value) = identity.label(label).and_then(values::single) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_headers_are_removed_in_every_spelling() {
        let mut settings = Settings::default();
        settings.identity = Some(crate::settings::Identity {
            headers: Some(IdentityHeaders::default()),
            token: Some(crate::settings::IdentityToken::default()),
        });
        let own = OwnHeaders::of(&settings);
        let mut headers = HeaderMap::new();
        for name in [
            "X-Consumer-Name",
            "x_consumer_name",
            "X.Consumer_Groups",
            "x-identity_token",
            "X-Auth-Subject",
            "x-consumer-names",
            "x-consumername",
            "accept",
        ] {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static("spoofed"),
            );
        }
        headers.append("x-consumer-name", HeaderValue::from_static("again"));
        own.remove_from(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "x-consumer-names", "x-consumername"]);
        assert!(OwnHeaders::of(&Settings::default()).names.is_empty());
    }
}
