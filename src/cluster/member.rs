//! A gateway, as published to the other members.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::settings::Cluster as Options;

/// Maximum length of a published member in bytes.
const MAX_LEN: usize = 16 << 10;

/// A gateway of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    /// Its name.
    pub id: String,
    /// Its address, as configured.
    pub address: String,
    /// Its version of Tidegate.
    pub version: String,
    /// When it was started (RFC 3339).
    pub since: String,
    /// Hash of its configuration.
    pub snapshot: String,
    /// Number of its previous configurations.
    pub generation: u64,
    /// Whether every provider has delivered.
    pub ready: bool,
    /// Number of problems of its configuration.
    pub problems: usize,
    /// Number of the last announcement that it knows.
    pub announcement: u64,
    /// Distinguishes it from other gateways with the same name.
    pub nonce: String,
}

/// The leader of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Leader {
    /// Name of the member.
    pub id: String,
    /// Since when (RFC 3339).
    pub since: String,
}

impl Member {
    /// Returns this process, with the fields that never change.
    pub(crate) fn this(options: Option<&Options>) -> Self {
        let id = options.map(|options| options.id.clone()).filter(|id| !id.is_empty());
        Self {
            id: id.unwrap_or_else(host_name),
            address: options.map(|options| options.address.clone()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            since: now(),
            nonce: format!("{:016x}", fastrand::u64(..)),
            ..Self::default()
        }
    }

    /// Encodes the member for publishing.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Decodes a published member; `None` if it is invalid.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_LEN {
            return None;
        }
        serde_json::from_slice::<Self>(text).ok().filter(|member| !member.id.is_empty())
    }
}

/// Returns the current time (RFC 3339).
pub(super) fn now() -> String {
    let now = OffsetDateTime::from(SystemTime::now());
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// Returns the host name, reduced to characters that are valid in an id.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    let name: String = name.trim().chars().filter(fits).take(128).collect();
    if name.is_empty() { "tidegate".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_round_trip_and_newer_fields_are_ignored() {
        let member = Member { snapshot: "ab".into(), ..Member::this(None) };
        assert_eq!(Member::read(member.text().as_bytes()), Some(member));
        let newer = br#"{"id": "a", "version": "9", "colour": "red"}"#;
        assert_eq!(Member::read(newer).map(|member| member.version).as_deref(), Some("9"));
        for odd in ["", "[]", "{}", "7"] {
            assert_eq!(Member::read(odd.as_bytes()), None, "{odd}");
        }
        assert_eq!(Member::read(format!(r#"{{"id": "{}"}}"#, "x".repeat(MAX_LEN)).as_bytes()), None);
    }
}
