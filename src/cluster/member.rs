//! One gateway, as the others see it.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::settings::Cluster as Options;

/// Longest text of a member that is believed.
const LONGEST: usize = 16 << 10;

/// A gateway of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Member {
    /// Its name.
    pub id: String,
    /// Where it is, as its settings say.
    pub address: String,
    /// Its version of Tidegate.
    pub version: String,
    /// When it was started (RFC 3339).
    pub since: String,
    /// Hash of the configuration that it serves.
    pub snapshot: String,
    /// How many configurations it has served before.
    pub generation: u64,
    /// True when every provider has delivered.
    pub ready: bool,
    /// How much is wrong with its configuration.
    pub problems: usize,
    /// Told apart by this from others that have taken the same name.
    pub nonce: String,
}

/// Who leads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Leader {
    /// Name of the member.
    pub id: String,
    /// Since when (RFC 3339).
    pub since: String,
}

impl Member {
    /// This process, as far as it never changes.
    pub(super) fn this(options: Option<&Options>) -> Self {
        let id = options.map(|options| options.id.clone()).filter(|id| !id.is_empty());
        Self {
            id: id.unwrap_or_else(machine),
            address: options.map(|options| options.address.clone()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").into(),
            since: now(),
            nonce: format!("{:016x}", fastrand::u64(..)),
            ..Self::default()
        }
    }

    /// As it is kept for the others.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A member as it was kept. `None` for what is not a member.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        serde_json::from_slice::<Self>(text).ok().filter(|member| !member.id.is_empty())
    }
}

/// The present time (RFC 3339).
pub(super) fn now() -> String {
    let now = OffsetDateTime::from(SystemTime::now());
    now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default()
}

/// The name of this machine, in letters that an identifier may have.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fits = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    let name: String = name.trim().chars().filter(fits).take(128).collect();
    if name.is_empty() { "tidegate".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_as_they_were_written_and_newer_ones_too() {
        let member = Member { snapshot: "ab".into(), ..Member::this(None) };
        assert_eq!(Member::read(member.text().as_bytes()), Some(member));
        let newer = br#"{"id": "a", "version": "9", "colour": "red"}"#;
        assert_eq!(Member::read(newer).map(|member| member.version).as_deref(), Some("9"));
        for odd in ["", "[]", "{}", "7"] {
            assert_eq!(Member::read(odd.as_bytes()), None, "{odd}");
        }
        assert_eq!(Member::read(format!(r#"{{"id": "{}"}}"#, "x".repeat(LONGEST)).as_bytes()), None);
    }
}
