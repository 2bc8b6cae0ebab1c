//! Announced purges of caches.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_core::announced::{AnnouncedPurge, PurgeReport};
use tidegate_core::caches::PurgedResponses;
use tidegate_core::values::is_default;

use crate::observability::AuditLog;

/// Which responses are removed: exactly one of the fields besides `middleware` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct PurgeCache {
    /// Qualified name of the middleware; all if it is empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) middleware: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) all: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) prefix: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) tag: String,
}

impl PurgeCache {
    /// Returns which responses are removed; `None` if none or several are named.
    pub(crate) fn which(&self) -> Option<PurgedResponses> {
        match (self.all, self.url.is_empty(), self.prefix.is_empty(), self.tag.is_empty()) {
            (true, true, true, true) => Some(PurgedResponses::All),
            (false, false, true, true) => Some(PurgedResponses::Url(self.url.clone())),
            (false, true, false, true) => Some(PurgedResponses::Prefix(self.prefix.clone())),
            (false, true, true, false) => Some(PurgedResponses::Tag(self.tag.clone())),
            _ => None,
        }
    }

    /// Returns what caches are told.
    pub(super) fn announced(&self, origin: &str, operator: &str) -> Option<AnnouncedPurge> {
        Some(AnnouncedPurge {
            middleware: self.middleware.clone(),
            which: self.which()?,
            origin: origin.to_owned(),
            operator: operator.to_owned(),
        })
    }
}

/// Describes what is removed, for logs.
pub(crate) fn describe(which: &PurgedResponses) -> String {
    match which {
        PurgedResponses::All => "all".to_owned(),
        PurgedResponses::Url(url) => format!("url {url}"),
        PurgedResponses::Prefix(prefix) => format!("prefix {prefix}"),
        PurgedResponses::Tag(tag) => format!("tag {tag}"),
    }
}

/// Returns what records the purges that caches have applied.
pub(super) fn report(audit: Option<Arc<AuditLog>>) -> Box<PurgeReport> {
    Box::new(move |purge, middleware, removed| {
        let (what, origin, operator) = match purge {
            Some(purge) => (describe(&purge.value.which), &*purge.value.origin, &*purge.value.operator),
            None => ("all, since announcements are missing".to_owned(), "", ""),
        };
        let announcement = purge.map_or(0, |purge| purge.number);
        tracing::info!(
            middleware,
            purged = what,
            number = removed,
            announcement,
            origin,
            operator,
            "cache: purged for the cluster"
        );
        if let Some(audit) = &audit {
            audit.announced_purge(middleware, &what, (origin, operator, announcement));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_thing_is_named() {
        let which = |text: &str| serde_json::from_str::<PurgeCache>(text).ok()?.which();
        assert_eq!(which(r#"{"tag":"a","middleware":"m"}"#), Some(PurgedResponses::Tag("a".into())));
        assert_eq!(which(r#"{"all":true}"#), Some(PurgedResponses::All));
        for text in ["{}", r#"{"all":true,"url":"a"}"#, r#"{"url":"a","tag":"b"}"#, r#"{"what":"a"}"#] {
            assert_eq!(which(text), None, "{text}");
        }
    }
}
