//! Sessions: what they contain, how long they last, and what requests need of them.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_core::{AuthMethod, Clock, Identity};

use super::provider::Provider;
use crate::jwt::claims::{self, Expression};
use crate::jwt::token::Claims;

/// Maximum number of groups of an identity.
const MAX_GROUPS: usize = 256;
/// How long before their expiry tokens are refreshed, in milliseconds.
const EARLY: u64 = 5_000;
/// Claims that nothing reads later.
const UNUSED_CLAIMS: [&str; 5] = ["nonce", "at_hash", "c_hash", "s_hash", "jti"];

/// A session. The names are short because it is part of each request. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Session {
    #[serde(rename = "i")]
    pub(super) id: String,
    /// Key of the provider.
    #[serde(rename = "p")]
    pub(super) provider: String,
    #[serde(rename = "s")]
    pub(super) subject: String,
    /// The provider's session.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub(super) provider_session: Option<String>,
    #[serde(rename = "l")]
    pub(super) login: u64,
    /// When it was last extended.
    #[serde(rename = "e")]
    pub(super) extended: u64,
    #[serde(rename = "c")]
    pub(super) claims: Claims,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub(super) access_expiry: Option<u64>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token: Option<String>,
    /// Number of refreshes.
    #[serde(rename = "g", default)]
    pub(super) generation: u64,
    /// The ID token, for logging out at the provider.
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    pub(super) id_token: Option<String>,
}

/// How long sessions last, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    pub(super) expiry: u64,
    pub(super) absolute: u64,
    pub(super) is_sliding: bool,
}

impl Session {
    /// Returns when it ends.
    pub(super) fn end(&self, lifetime: &Lifetime) -> u64 {
        let from = if lifetime.is_sliding { self.extended } else { self.login };
        from.saturating_add(lifetime.expiry).min(self.login.saturating_add(lifetime.absolute))
    }

    /// Returns true if its cookie is to be sent again, to extend it.
    pub(super) fn is_extensible(&self, lifetime: &Lifetime, now: u64) -> bool {
        let is_due = now.saturating_sub(self.extended) >= lifetime.expiry / 10;
        lifetime.is_sliding && is_due && self.end(lifetime) < self.login.saturating_add(lifetime.absolute)
    }

    /// Returns true if its tokens are to be refreshed.
    pub(super) fn is_stale(&self, now: u64) -> bool {
        self.refresh_token.is_some()
            && self.access_expiry.is_some_and(|expiry| now.saturating_add(EARLY) >= expiry)
    }

    /// Returns the names under which it can be ended.
    pub(super) fn marks(&self) -> Vec<String> {
        let mut marks = vec![session_mark(&self.id), subject_mark(&self.provider, &self.subject)];
        marks.extend(self.provider_session.as_ref().map(|id| provider_session_mark(&self.provider, id)));
        marks
    }
}

/// The name of a session.
pub(super) fn session_mark(id: &str) -> String {
    super::seal::sha256(&format!("i\0{id}"))
}

/// The name of all sessions of a subject.
pub(super) fn subject_mark(provider: &str, subject: &str) -> String {
    super::seal::sha256(&format!("s\0{provider}\0{subject}"))
}

/// The name of all sessions that belong to one of the provider.
pub(super) fn provider_session_mark(provider: &str, id: &str) -> String {
    super::seal::sha256(&format!("d\0{provider}\0{id}"))
}

/// Returns the claims that sessions keep.
pub(super) fn kept(mut claims: Claims) -> Claims {
    for name in UNUSED_CLAIMS {
        claims.remove(name);
    }
    claims
}

/// A session with what requests need of it.
pub(super) struct Live {
    pub(super) session: Session,
    pub(super) identity: Arc<Identity>,
    /// Values of the forwarded headers, in their order.
    pub(super) headers: Vec<Option<HeaderValue>>,
    /// Whether the claims permit requests.
    pub(super) is_permitted: bool,
    /// Names under which it can be ended.
    pub(super) marks: Vec<String>,
}

/// Why a session is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// The claim with the name is missing.
    NoName,
    /// A claim cannot be sent in a header.
    Unsendable,
}

impl Live {
    /// Prepares a session for requests.
    pub(super) fn new(
        session: Session,
        by: &Arc<str>,
        provider: &Provider,
        headers: &[(HeaderName, String)],
        condition: Option<&Expression>,
    ) -> Result<Self, Unusable> {
        let own = &session.claims;
        let name = match &provider.username_claim {
            Some(claim) => claims::claim(own, claim).and_then(claims::scalar).map(|name| name.into_owned()),
            None => Some(session.subject.clone()),
        };
        let name = name.filter(|name| !name.is_empty() && !name.chars().any(char::is_control));
        let mut identity = Identity::new(name.ok_or(Unusable::NoName)?, AuthMethod::Oidc, by.clone());
        identity.groups = match claims::claim(own, &provider.groups_claim) {
            Some(Value::Array(groups)) => {
                groups.iter().filter_map(Value::as_str).take(MAX_GROUPS).map(str::to_owned).collect()
            }
            Some(Value::String(group)) => vec![group.clone()],
            _ => Vec::new(),
        };
        for label in ["iss", "sub", "email"] {
            if let Some(Value::String(text)) = own.get(label) {
                identity.labels.insert(label.to_owned(), text.clone());
            }
        }
        let values = headers.iter().map(|(_, claim)| claims::header_value(own, claim));
        Ok(Self {
            headers: values.collect::<Result<_, _>>().map_err(|_| Unusable::Unsendable)?,
            identity: Arc::new(identity),
            is_permitted: condition.is_none_or(|condition| condition.holds(own)),
            marks: session.marks(),
            session,
        })
    }
}

/// Returns the text of a claim. The subject is also that of a provider without ID tokens.
pub(super) fn session_claim<'s>(session: &'s Session, name: &str) -> Option<&'s str> {
    match name {
        "sub" => Some(&session.subject),
        name => claims::claim(&session.claims, name)?.as_str(),
    }
}

/// Returns the time in milliseconds since 1970.
pub(super) fn millis(clock: &Clock) -> u64 {
    let since = clock.wall().duration_since(UNIX_EPOCH).unwrap_or(Duration::MAX);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time in seconds since 1970.
pub(super) fn seconds(clock: &Clock) -> f64 {
    clock.wall().duration_since(UNIX_EPOCH).map_or(f64::INFINITY, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            id: "i".into(),
            provider: "p".into(),
            subject: "s".into(),
            provider_session: None,
            login: 1_000,
            extended: 1_000,
            claims: Claims::new(),
            access_expiry: Some(100_000),
            refresh_token: Some("r".into()),
            generation: 0,
            id_token: None,
        }
    }

    #[test]
    fn sessions_slide_up_to_their_absolute_end() {
        let lifetime = Lifetime { expiry: 1_000, absolute: 2_500, is_sliding: true };
        assert_eq!(session().end(&lifetime), 2_000);
        assert!(!session().is_extensible(&lifetime, 1_099) && session().is_extensible(&lifetime, 1_100));
        let extended = Session { extended: 2_900, ..session() };
        assert_eq!(extended.end(&lifetime), 3_500);
        assert!(!extended.is_extensible(&lifetime, 3_400), "there is nothing to gain");
        let fixed = Lifetime { is_sliding: false, ..lifetime };
        assert_eq!((extended.end(&fixed), extended.is_extensible(&fixed, 3_000)), (2_000, false));
    }

    #[test]
    fn tokens_are_refreshed_before_they_expire() {
        assert!(!session().is_stale(94_999) && session().is_stale(95_000));
        assert!(!Session { refresh_token: None, ..session() }.is_stale(200_000));
    }
}
