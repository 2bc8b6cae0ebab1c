//! Where a key or a token is in a request, and how it is removed.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};
use tidegate_core::concealed::Concealed;
use tidegate_core::{BuildError, BuildErrors, Request};
use url::form_urlencoded;

/// Where clients put their keys or tokens: Traefik Hub's `keySource` and `tokenSource`. Several places are searched in
/// this order; a request must not have keys in two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct KeySource {
    /// Header with the key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header: String,
    /// Scheme in front of the key, such as `Bearer` in `Authorization`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_auth_scheme: String,
    /// Cookie with the key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cookie: String,
    /// Query parameter with the key. Keys in URLs end up in histories and in logs of others.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub query: String,
}

/// What distinguishes the sources of one middleware from those of another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceKind {
    /// Name of the option.
    pub(crate) option: &'static str,
    /// The header if no place is given.
    pub(crate) header: &'static str,
    /// Its scheme, if it has one.
    pub(crate) scheme: &'static str,
    /// Maximum length in bytes. What is longer is refused without being hashed.
    pub(crate) max_length: usize,
}

/// A validated [`KeySource`].
#[derive(Debug)]
pub(crate) struct Source {
    max_length: usize,
    header: Option<HeaderName>,
    scheme: Option<String>,
    cookie: Option<String>,
    query: Option<String>,
    concealed: Arc<Concealed>,
}

/// What was found in a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    None,
    One(Cow<'a, [u8]>),
    /// More than one, or one too long to be read.
    Unusable,
}

impl Source {
    /// Checks the options.
    pub(crate) fn new(options: &KeySource, kind: SourceKind) -> Result<Self, BuildError> {
        let mut errors = BuildErrors::default();
        let SourceKind { option, .. } = kind;
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let is_default =
            [&options.header, &options.cookie, &options.query].iter().all(|text| text.is_empty());
        let header = if is_default { kind.header } else { &options.header };
        let header = (!header.is_empty()).then(|| header.parse()).transpose();
        if header.is_err() {
            errors.add(format!("{option}.header: invalid header name `{}`", options.header));
        }
        let scheme = if is_default { kind.scheme } else { &options.header_auth_scheme };
        if options.header.is_empty() && !options.header_auth_scheme.is_empty() {
            errors
                .add(format!("{option}.headerAuthScheme: requires {option}.header, such as `Authorization`"));
        }
        if !scheme.bytes().all(is_token) {
            errors.add(format!("{option}.headerAuthScheme: invalid scheme `{scheme}`"));
        }
        if !options.cookie.bytes().all(is_token) {
            errors.add(format!("{option}.cookie: invalid cookie name `{}`", options.cookie));
        }
        errors.finish()?;
        let header = header.ok().flatten();
        let (cookie, query) = (known(&options.cookie), known(&options.query));
        let headers = header.clone().into_iter().chain(cookie.is_some().then_some(COOKIE));
        let concealed = Concealed { headers: headers.collect(), parameter: query.clone() };
        let (max_length, concealed) = (kind.max_length, Arc::new(concealed));
        Ok(Self { max_length, header, scheme: known(scheme), cookie, query, concealed })
    }

    /// Returns the header that only holds the key.
    pub(crate) fn own_header(&self) -> Option<&HeaderName> {
        self.header.as_ref().filter(|_| self.scheme.is_none())
    }

    /// Returns the scheme for the challenge of a 401 response.
    pub(crate) fn scheme(&self) -> Option<&str> {
        self.scheme.as_deref()
    }

    /// Searches all places, and keeps what is there out of logs.
    pub(crate) fn take_note<'a>(&self, request: &'a Request) -> Found<'a> {
        let found = self.find(request);
        if found != Found::None {
            request.context.exchange.conceal(self.concealed.clone());
        }
        found
    }

    /// Searches all places.
    pub(crate) fn find<'a>(&self, request: &'a Request) -> Found<'a> {
        let mut found = Found::None;
        let headers = &request.head.headers;
        if let Some(name) = &self.header {
            for value in headers.get_all(name) {
                match &self.scheme {
                    None => found.add(self.max_length, Cow::Borrowed(value.as_bytes().trim_ascii())),
                    Some(scheme) => {
                        if let Some(key) = after_scheme(value.as_bytes(), scheme.as_bytes()) {
                            found.add(self.max_length, Cow::Borrowed(key));
                        }
                    }
                }
            }
            // Another field of the same name could be what the service reads.
            if self.scheme.is_some() && found != Found::None && headers.get_all(name).iter().nth(1).is_some()
            {
                return Found::Unusable;
            }
        }
        if let Some(name) = &self.cookie {
            for pair in headers.get_all(COOKIE).iter().flat_map(|field| pairs(field.as_bytes())) {
                if let Some(value) = value_of(pair, name) {
                    found.add(self.max_length, Cow::Borrowed(value));
                }
            }
        }
        if let (Some(name), Some(query)) = (&self.query, request.head.uri.query()) {
            for (_, value) in form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name) {
                let value = match value {
                    Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Cow::Owned(text.into_bytes()),
                };
                found.add(self.max_length, value);
            }
        }
        found
    }

    /// Removes the key, and nothing else.
    pub(crate) fn remove(&self, request: &mut Request) {
        if let Some(name) = &self.header {
            let headers = &mut request.head.headers;
            let is_key = match (&self.scheme, headers.get(name)) {
                (None, _) => true,
                (Some(scheme), Some(value)) => after_scheme(value.as_bytes(), scheme.as_bytes()).is_some(),
                (Some(_), None) => false,
            };
            if is_key {
                headers.remove(name);
            }
        }
        if let Some(name) = &self.cookie {
            remove_cookie(&mut request.head.headers, name);
        }
        if let Some(name) = &self.query {
            remove_parameter(request, name);
        }
    }
}

impl<'a> Found<'a> {
    fn add(&mut self, max_length: usize, key: Cow<'a, [u8]>) {
        *self = match self {
            Self::None if key.len() <= max_length => Self::One(key),
            _ => Self::Unusable,
        };
    }
}

/// Returns what follows a scheme in a credentials field; `None` for other schemes. A tab instead of a space counts, since
/// a service might read it so.
fn after_scheme<'a>(value: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (own, key) = value.trim_ascii_start().split_at_checked(scheme.len())?;
    let is_longer = key.first().is_some_and(|byte| is_token(*byte));
    (own.eq_ignore_ascii_case(scheme) && !is_longer).then(|| key.trim_ascii())
}

/// Returns true for the characters of tokens (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns the pairs of a `Cookie` field.
fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

/// Returns the value of a cookie, without quotes, if it has this name.
fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let value = pair.strip_prefix(name.as_bytes())?.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// Removes a cookie, and the header if no other is left.
fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let has = |field: &HeaderValue| pairs(field.as_bytes()).any(|pair| value_of(pair, name).is_some());
    if !headers.get_all(COOKIE).iter().any(has) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|field| {
            let others =
                pairs(field.as_bytes()).filter(|pair| !pair.is_empty() && value_of(pair, name).is_none());
            let joined = others.collect::<Vec<_>>().join(&b"; "[..]);
            // Parts of a valid value are valid.
            HeaderValue::from_bytes(&joined).ok().filter(|value| !value.is_empty())
        })
        .collect();
    headers.remove(COOKIE);
    for field in kept {
        headers.append(COOKIE, field);
    }
}

/// Removes a parameter of the query.
fn remove_parameter(request: &mut Request, name: &str) {
    let Some(query) = request.head.uri.query() else { return };
    let is_other = |pair: &&str| !form_urlencoded::parse(pair.as_bytes()).any(|(key, _)| key == name);
    let kept: Vec<&str> = query.split('&').filter(is_other).collect();
    if kept.len() == query.split('&').count() {
        return;
    }
    let path = request.head.uri.path();
    let target = match kept.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", kept.join("&")),
    };
    // Parts of a valid target are valid.
    if let Ok(target) = PathAndQuery::try_from(target) {
        request.head.uri = target.into();
    }
    // A redirect returns to the target as the client has sent it.
    request.context.original_target = None;
}
