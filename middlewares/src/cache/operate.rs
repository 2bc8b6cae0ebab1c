//! What operators learn about a cache, and how they remove responses.

use std::time::Duration;

use http::Uri;
use tidegate_cache::key::Template;
use tidegate_cache::{Listed, Purge, StoredObject, Timestamp};
use tidegate_core::BoxFuture;
use tidegate_core::caches::{
    CacheStatistics, CachedResponse, DiskStatistics, InvalidUrl, ListedResponses, PurgedResponses,
    ResponseCache, TierStatistics,
};

use super::counters::Totals;
use super::handler::Caching;
use super::shared::Shared;
use super::tiers::Disk;

impl ResponseCache for Caching {
    fn statistics(&self) -> CacheStatistics {
        let Shared { tiers, counters, history, clock, .. } = &*self.0;
        let totals = counters.totals();
        let (objects, bytes) = tiers.memory.usage();
        let memory = TierStatistics {
            objects: objects as u64,
            bytes,
            max_bytes: tiers.memory.limits().total,
            evictions: tiers.memory.evicted(),
        };
        CacheStatistics {
            requests: totals.since(&Totals::default()),
            recent: history.recent(clock.uptime(), &totals),
            history: history.steps(&totals),
            stored: counters.stored(),
            memory,
            disk: tiers.disk.as_ref().map(disk_statistics),
        }
    }

    fn list<'a>(
        &'a self,
        which: &'a ListedResponses,
    ) -> BoxFuture<'a, Result<Vec<CachedResponse>, InvalidUrl>> {
        Box::pin(async move {
            let resource = match which {
                ListedResponses::Url(url) => resource(&self.0.template, url)?,
                ListedResponses::Largest(_) | ListedResponses::Hottest(_) => Vec::new(),
            };
            let (shared, which) = (self.0.clone(), which.clone());
            // It looks at every response, and reads from the disk.
            let listed = tokio::task::spawn_blocking(move || shared.listed(&which, &resource)).await;
            Ok(listed.unwrap_or_default())
        })
    }

    fn purge<'a>(
        &'a self,
        which: &'a PurgedResponses,
        announcement: &'a str,
    ) -> BoxFuture<'a, Result<usize, InvalidUrl>> {
        Box::pin(async move {
            let removed = self.0.tiers.purge(to_purge(&self.0.template, which)?).await;
            if !announcement.is_empty() {
                self.0.tiers.applied(announcement);
            }
            Ok(removed)
        })
    }

    fn close(&self, within: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let Some(disk) = &self.0.tiers.disk else { return true };
            let slot = disk.slot.clone();
            tokio::task::spawn_blocking(move || slot.close(within)).await.unwrap_or(false)
        })
    }
}

impl Shared {
    fn listed(&self, which: &ListedResponses, resource: &[u8]) -> Vec<CachedResponse> {
        let (listed, number) = match which {
            ListedResponses::Largest(number) => (Listed::Largest(*number), *number),
            ListedResponses::Hottest(number) => (Listed::Hottest(*number), *number),
            ListedResponses::Url(_) => (Listed::Resource(resource), usize::MAX),
        };
        let (tiers, now) = (&self.tiers, self.now());
        let in_memory = tiers.memory.list(&listed);
        let mut all: Vec<_> = in_memory.iter().map(|object| response("memory", object, now)).collect();
        if let Some(disk) = tiers.disk() {
            all.extend(disk.list(&listed).iter().map(|object| response("disk", object, now)));
        }
        match which {
            ListedResponses::Largest(_) => all.sort_by_key(|object| std::cmp::Reverse(object.bytes)),
            ListedResponses::Hottest(_) => all.sort_by_key(|object| std::cmp::Reverse(object.uses)),
            ListedResponses::Url(_) => {}
        }
        all.truncate(number);
        all
    }
}

/// What a purge removes from a cache whose keys have this form.
pub(super) fn to_purge(template: &Template, which: &PurgedResponses) -> Result<Purge, InvalidUrl> {
    Ok(match which {
        PurgedResponses::All => Purge::All,
        PurgedResponses::Url(url) => Purge::Resource(resource(template, url)?),
        PurgedResponses::Prefix(url) => {
            // A host is always whole.
            let mut start = resource(template, url)?;
            start.pop();
            Purge::Prefix(start)
        }
        PurgedResponses::Tag(tag) => Purge::Tag(tag.as_bytes().into()),
    })
}

/// The beginning of the keys of a URL.
fn resource(template: &Template, url: &str) -> Result<Vec<u8>, InvalidUrl> {
    let invalid = || InvalidUrl(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| invalid())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some(scheme @ ("http" | "https")), Some(authority)) => {
            Ok(template.resource(scheme, authority.as_str(), uri.path(), uri.query()))
        }
        _ => Err(invalid()),
    }
}

fn disk_statistics(disk: &Disk) -> DiskStatistics {
    let slot = &disk.slot;
    let path = slot.path().display().to_string();
    let Some(store) = slot.store() else {
        return DiskStatistics { path, problem: slot.problem(), ..DiskStatistics::default() };
    };
    let usage = store.usage();
    DiskStatistics {
        path,
        is_ready: usage.ready,
        problem: usage.problem.map(|problem| problem.to_string()),
        tier: TierStatistics {
            objects: usage.objects as u64,
            bytes: usage.bytes,
            max_bytes: store.limits().total,
            evictions: usage.evicted,
        },
        max_objects: store.limits().objects,
        recovered: usage.recovered,
        lost: usage.lost,
        failures: usage.failed,
        corrupt: usage.corrupt,
    }
}

fn response(tier: &'static str, object: &StoredObject, now: Timestamp) -> CachedResponse {
    CachedResponse {
        tier,
        url: String::from_utf8_lossy(object.key.resource()).into_owned(),
        key: object.key.describe(),
        tags: object.tags.iter().map(|tag| String::from_utf8_lossy(tag).into_owned()).collect(),
        bytes: object.length,
        uses: object.uses,
        age: object.policy.map(|policy| policy.age(now)),
        ttl: object.policy.map(|policy| policy.time_to_live(now)),
    }
}
