//! What members tell each other, and how it is written.
//!
//! A new kind is a variant of [`Command`], a file, and a line in [`Handlers`](super::Handlers).

use serde::{Deserialize, Serialize};
use tidegate_core::announced::{Announced, Numbered};

use super::maintenance::SwitchMaintenance;
use super::purge::PurgeCache;

/// Announcements that are kept for members that are away.
pub(super) const MAX_KEPT: usize = 128;
/// Maximum size of a written announcement in bytes.
pub(super) const MAX_LEN: usize = 32 << 10;
/// Maximum length of ids.
const MAX_ID: usize = 64;
/// Maximum length of names.
const MAX_NAME: usize = 256;
/// Raised when older members must not read what is written.
const VERSION: u32 = 1;

/// An announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Announcement {
    version: u32,
    /// Identifies it, however often it is written.
    pub(super) id: String,
    /// The member that it comes from.
    pub(super) origin: String,
    /// When it was made (RFC 3339).
    pub(super) time: String,
    /// Name of the operator.
    #[serde(default)]
    pub(super) operator: String,
    /// What is to be done.
    pub(super) command: Command,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(crate) enum Command {
    /// Responses are removed from caches.
    PurgeCache(PurgeCache),
    /// A router has been switched to maintenance, or back.
    SwitchMaintenance(SwitchMaintenance),
    /// Something that only newer members know.
    #[serde(other)]
    Unknown,
}

/// Announcements as they are in the store.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// The series of their numbers.
    pub(super) series: String,
    /// The highest number that was given.
    pub(super) number: u64,
    /// Number and text of those that are left, in any order.
    pub(super) texts: Vec<(u64, Vec<u8>)>,
    /// The switches of routers to maintenance beside the list.
    pub(super) switches: Option<Vec<u8>>,
}

impl Announcement {
    /// Creates an announcement.
    pub(super) fn new(id: String, origin: &str, time: String, operator: &str, command: Command) -> Self {
        Self {
            version: VERSION,
            id,
            origin: origin.to_owned(),
            time,
            operator: operator.chars().take(MAX_NAME).collect(),
            command,
        }
    }

    /// Encodes it; `None` if it is too long.
    pub(super) fn encode(&self) -> Option<String> {
        serde_json::to_string(self).ok().filter(|text| text.len() <= MAX_LEN)
    }

    /// Decodes it; `None` if it is invalid.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_LEN {
            return None;
        }
        let one: Self = serde_json::from_slice(text).ok()?;
        let names = [&one.origin, &one.time, &one.operator];
        let is_valid = one.version == VERSION
            && is_id(&one.id)
            && names.iter().all(|name| name.chars().count() <= MAX_NAME)
            && match &one.command {
                Command::PurgeCache(purge) => purge.which().is_some(),
                Command::SwitchMaintenance(switch) => switch.is_valid(),
                Command::Unknown => true,
            };
        is_valid.then_some(one)
    }
}

impl Listing {
    /// Decodes the announcements.
    pub(super) fn decode(mut self) -> Announced<Announcement> {
        self.texts.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        let read = self.texts.iter().take(MAX_KEPT).map(|(number, text)| {
            let value = Announcement::decode(text);
            let id = value.as_ref().map(|one| one.id.clone()).unwrap_or_default();
            Numbered { number: *number, id, value }
        });
        Announced::new(self.series, self.number, read.collect())
    }
}

/// Returns a new id.
pub(super) fn random_id() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// Whether this can be the id of an announcement or a series.
pub(super) fn is_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use tidegate_core::announced::Since;

    use super::*;

    fn purge(tag: &str) -> Announcement {
        let command = Command::PurgeCache(PurgeCache { tag: tag.into(), ..PurgeCache::default() });
        Announcement::new("i1".into(), "gw-1", "2026-01-01T00:00:00Z".into(), "ann", command)
    }

    #[test]
    fn announcements_round_trip() {
        let one = purge("logo");
        let text = one.encode().unwrap();
        assert!(text.contains(r#""command":{"kind":"purgeCache","#), "{text}");
        assert_eq!(Announcement::decode(text.as_bytes()), Some(one));
        assert_eq!(purge(&"x".repeat(MAX_LEN)).encode(), None);
    }

    #[test]
    fn what_is_invalid_is_not_read_and_newer_kinds_are() {
        let text = purge("logo").encode().unwrap();
        for (from, to) in [
            (r#""version":1"#, r#""version":2"#),
            (r#""origin":"gw-1""#, r#""origin":7"#),
            (r#""id":"i1""#, r#""id":"i 1""#),
            (r#""tag":"logo""#, r#""tag":"logo","all":true"#),
            (r#""tag":"logo""#, r#""shape":"logo""#),
            ("}}", "}"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            assert_eq!(Announcement::decode(changed.as_bytes()), None, "{changed}");
        }
        let newer = text.replace("purgeCache", "maintenance").replace("\"tag\"", "\"until\"");
        assert_eq!(Announcement::decode(newer.as_bytes()).unwrap().command, Command::Unknown);
    }

    #[test]
    fn announced_switches_name_their_router() {
        let switch = SwitchMaintenance { router: "r@file".into(), version: 7 };
        let command = Command::SwitchMaintenance(switch);
        let one = Announcement::new("i1".into(), "gw-1", "2026-01-01T00:00:00Z".into(), "ann", command);
        let text = one.encode().unwrap();
        assert!(text.contains(r#"{"kind":"switchMaintenance","router":"r@file","version":7}"#), "{text}");
        assert_eq!(Announcement::decode(text.as_bytes()), Some(one));
        for name in [String::new(), "x".repeat(2000)] {
            assert_eq!(Announcement::decode(text.replace("r@file", &name).as_bytes()), None);
        }
    }

    #[test]
    fn an_unreadable_announcement_is_a_gap() {
        let text = |tag: &str| purge(tag).encode().unwrap().into_bytes();
        let texts = vec![(3, text("c")), (1, text("a")), (2, b"odd".to_vec())];
        let list = Listing { series: "s".into(), number: 3, texts, switches: None }.decode();
        assert_eq!(list.first, 3);
        assert!(matches!(list.since(None), Since::Unknown));
    }

    #[test]
    fn no_bytes_cause_a_panic() {
        proptest::proptest!(|(bytes: Vec<u8>, number: u64, last: u64)| {
            let listing = Listing { series: "s".into(), number: last, texts: vec![(number, bytes)], switches: None };
            let list = listing.decode();
            let _ = list.since(Some(&list.last));
        });
    }
}
