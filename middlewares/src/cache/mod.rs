//! Answers requests from stored responses, as a shared cache (RFC 9111).

mod announced;
mod answer;
mod body;
mod counters;
mod disk;
mod failure;
mod fetch;
mod fill;
mod handler;
mod history;
mod key;
mod marks;
mod opening;
mod operate;
mod prediction;
mod shared;
#[cfg(test)]
mod tests;
mod tiers;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use http::HeaderName;
use serde::{Deserialize, Serialize};
use tidegate_cache::UseCounter;
use tidegate_cache::collapse::{CollapseLimits, Collapser};
use tidegate_cache::disk::DiskLimits;
use tidegate_cache::key::{Query, Template};
use tidegate_cache::memory::{MemoryLimits, MemoryStore};
use tidegate_cache::rules::Rules;
use tidegate_core::values::{Duration, is_default};
use tidegate_core::{Build, BuildContext, BuildError, BuildErrors, Middleware};

use announced::Following;
use counters::Counters;
use disk::DiskSlot;
use handler::Caching;
use history::History;
use marks::Marks;
use shared::Shared;
use tiers::{Disk, Tiers};

/// URLs whose uses are counted.
const COUNTED_KEYS: usize = 100_000;

/// A cache for responses. Not in Traefik.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Cache {
    /// Maximum size of all stored responses in bytes.
    pub max_bytes: u64,
    /// Maximum size of one stored response in bytes.
    pub max_object_bytes: u64,
    /// Keeps responses on disk, too, so that they survive a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskOptions>,
    /// Maximum number of responses to one URL that differ by `Vary`.
    pub max_variants: usize,
    /// How often a URL must be asked for before its response is stored.
    pub min_uses: u32,
    /// What the key consists of.
    #[serde(skip_serializing_if = "is_default")]
    pub key: KeyOptions,
    /// Lifetimes by status, such as `404` or `200-299`, that replace those of responses.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ttl: BTreeMap<String, Duration>,
    /// Maximum lifetime of responses, whoever has set it.
    #[serde(rename = "maxTTL", skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<Duration>,
    /// Status codes and ranges of them, such as `500-599`, that are not stored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_status_codes: Vec<String>,
    /// Response headers that replace `Cache-Control` for this cache, the first one first (RFC 9213).
    pub targeted_fields: Vec<String>,
    /// Maximum lifetime of responses that have a `Last-Modified` and no lifetime; 0 stores none of them.
    #[serde(rename = "maxHeuristicTTL")]
    pub max_heuristic_ttl: Duration,
    /// How long a stale response is sent while it is validated, for responses without `stale-while-revalidate`.
    pub stale_while_revalidate: Duration,
    /// How long a stale response replaces an error, for responses without `stale-if-error`.
    pub stale_if_error: Duration,
    /// Maximum time for which requests can allow stale responses by `max-stale`; without it, any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stale: Option<Duration>,
    /// Sends stale responses while no server can be reached: none is usable, or connecting fails.
    pub stale_without_server: bool,
    /// Lets `stale-while-revalidate` and `stale-if-error` count beside `s-maxage`, which RFC 9111 forbids.
    #[serde(skip_serializing_if = "is_default")]
    pub stale_after_s_maxage: bool,
    /// Ignores `Cache-Control` and `Pragma` of requests.
    #[serde(skip_serializing_if = "is_default")]
    pub ignore_request_directives: bool,
    /// Stores responses with `Set-Cookie`, and sends the cookie to everyone.
    #[serde(skip_serializing_if = "is_default")]
    pub store_set_cookie: bool,
    /// Maximum time for which a request waits for another one for the same; 0 turns waiting off.
    pub max_wait: Duration,
    /// Maximum number of requests that wait for one.
    pub max_waiting: usize,
    /// Adds `Cache-Status` to responses.
    pub status_header: bool,
    /// Adds `X-Cache-Status` to responses: `HIT`, `MISS` or `BYPASS`.
    #[serde(skip_serializing_if = "is_default")]
    pub x_cache_status: bool,
}

/// A folder for stored responses, with the memory in front of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DiskOptions {
    /// The folder. It is created if necessary. Required.
    pub path: PathBuf,
    /// Maximum size of all files in bytes.
    pub max_bytes: u64,
    /// Maximum size of the body of one response in bytes.
    pub max_object_bytes: u64,
    /// Maximum number of responses.
    pub max_objects: u64,
}

impl Default for DiskOptions {
    fn default() -> Self {
        let DiskLimits { total, object, objects, .. } = DiskLimits::default();
        Self { path: PathBuf::new(), max_bytes: total, max_object_bytes: object, max_objects: objects }
    }
}

/// What the key consists of, besides scheme, host, path and the client's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct KeyOptions {
    /// The query parameters that matter. The server gets no others. By default, all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<String>,
    /// The query parameters that do not matter. The server does not get them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude_query: Vec<String>,
    /// Sorts query parameters by name, for the key and for the server.
    #[serde(skip_serializing_if = "is_default")]
    pub sort_query: bool,
    /// Headers that matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Cookies that matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<String>,
}

impl Default for Cache {
    fn default() -> Self {
        let memory = MemoryLimits::default();
        Self {
            max_bytes: memory.total,
            max_object_bytes: memory.object,
            disk: None,
            max_variants: memory.variants,
            min_uses: 1,
            key: KeyOptions::default(),
            ttl: BTreeMap::new(),
            max_ttl: None,
            excluded_status_codes: Vec::new(),
            targeted_fields: vec!["CDN-Cache-Control".to_owned()],
            max_heuristic_ttl: Duration::from_secs(24 * 60 * 60),
            stale_while_revalidate: Duration::from_secs(0),
            stale_if_error: Duration::from_secs(0),
            max_stale: None,
            stale_without_server: true,
            stale_after_s_maxage: false,
            ignore_request_directives: false,
            store_set_cookie: false,
            max_wait: Duration::from_secs(5),
            max_waiting: CollapseLimits::default().waiting,
            status_header: true,
            x_cache_status: false,
        }
    }
}

impl Build for Cache {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let mut errors = BuildErrors::default();
        let lifetimes = errors.check(BuildErrors::collect(
            self.ttl
                .iter()
                .map(|(codes, lifetime)| Ok((statuses("ttl", codes)?, StdDuration::from(*lifetime)))),
        ));
        let excluded = self.excluded_status_codes.iter();
        let excluded =
            errors.check(BuildErrors::collect(excluded.map(|codes| statuses("excludedStatusCodes", codes))));
        let template = errors.check(self.key.template());
        let targets = errors.check(names("targetedFields", &self.targeted_fields));
        for (option, value) in [("maxBytes", self.max_bytes), ("maxObjectBytes", self.max_object_bytes)] {
            if value == 0 {
                errors.add(format!("{option}: invalid size `0`: expected at least 1 byte"));
            }
        }
        if self.max_variants == 0 {
            errors.add("maxVariants: invalid number `0`: expected at least 1".to_owned());
        }
        if let Some(disk) = &self.disk {
            disk.check(&mut errors);
        }
        let made = lifetimes.zip(excluded).zip(template.zip(targets));
        let ((lifetimes, excluded), (template, targets)) = errors.made(made)?;
        let rules = Rules {
            targets,
            honour_requests: !self.ignore_request_directives,
            store_cookies: self.store_set_cookie,
            heuristic_limit: self.max_heuristic_ttl.into(),
            lifetimes,
            max_lifetime: self.max_ttl.map(Into::into),
            excluded,
            max_stale: self.max_stale.map(Into::into),
            stale_while_revalidate: self.stale_while_revalidate.into(),
            stale_if_error: self.stale_if_error.into(),
            stale_after_s_maxage: self.stale_after_s_maxage,
            ..Rules::default()
        };
        let waiting = CollapseLimits { waiting: self.max_waiting, ..CollapseLimits::default() };
        let (counters, clock) = (context.state("counters", Counters::default), context.clock());
        let history = context.state("history", || History::new(clock.uptime()));
        let sampling = history::sample(history.clone(), counters.clone(), clock.clone());
        let shared = Shared {
            tiers: self.tiers(context, &template),
            counters,
            history,
            _sampling: context.spawn("samples", sampling),
            collapser: Collapser::new(waiting),
            rules,
            template,
            clock,
            uses: (self.min_uses > 1).then(|| (UseCounter::new(COUNTED_KEYS), self.min_uses)),
            max_wait: self.max_wait.into(),
            stale_without_server: self.stale_without_server,
            status_header: self.status_header,
            x_cache_status: self.x_cache_status,
        };
        Ok(Arc::new(Caching(Arc::new(shared))))
    }
}

fn statuses(option: &str, codes: &str) -> Result<RangeInclusive<u16>, BuildError> {
    let (first, last) = codes.split_once('-').unwrap_or((codes, codes));
    let code = |text: &str| text.trim().parse::<u16>().ok().filter(|code| (200..=599).contains(code));
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(BuildError::new(format!(
            "{option}: invalid status `{codes}`: expected a code such as `404`, or a range such as `200-299`"
        ))),
    }
}

fn names(option: &str, names: &[String]) -> Result<Vec<HeaderName>, BuildError> {
    BuildErrors::collect(names.iter().map(|name| {
        HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| BuildError::new(format!("{option}: invalid header name `{name}`")))
    }))
}

impl KeyOptions {
    fn template(&self) -> Result<Template, BuildError> {
        let mut errors = BuildErrors::default();
        let headers = errors.check(names("key.headers", &self.headers));
        if !self.query.is_empty() && !self.exclude_query.is_empty() {
            errors.add("key: `query` and `excludeQuery` exclude each other".to_owned());
        }
        let query = match (&self.query[..], &self.exclude_query[..]) {
            ([], []) => Query::All,
            ([], excluded) => Query::Except(excluded.to_vec()),
            (names, _) => Query::Only(names.to_vec()),
        };
        errors.made(headers.map(|headers| Template {
            query,
            sort_query: self.sort_query,
            headers,
            cookies: self.cookies.clone(),
            ..Template::default()
        }))
    }
}

impl DiskOptions {
    fn check(&self, errors: &mut BuildErrors) {
        if !self.path.is_absolute() {
            let path = self.path.display();
            errors.add(format!("disk.path: invalid path `{path}`: expected an absolute path of a folder"));
        }
        let sizes = [
            ("maxBytes", self.max_bytes),
            ("maxObjectBytes", self.max_object_bytes),
            ("maxObjects", self.max_objects),
        ];
        for (option, _) in sizes.iter().filter(|(_, value)| *value == 0) {
            errors.add(format!("disk.{option}: invalid number `0`: expected at least 1"));
        }
    }
}

impl Cache {
    /// The stores. They are found again after every change of options; changed limits are applied by a task, once the
    /// configuration takes effect.
    fn tiers(&self, context: &BuildContext<'_>, template: &Template) -> Tiers {
        let limits = MemoryLimits {
            total: self.max_bytes,
            object: self.max_object_bytes.min(self.max_bytes),
            receiving: (self.max_bytes / 4).max(self.max_object_bytes),
            variants: self.max_variants,
        };
        let memory = Arc::clone(&*context.state("memory", || MemoryStore::new(limits)));
        let resizing = (memory.limits() != limits).then(|| {
            let (memory, name) = (memory.clone(), context.name.to_owned());
            context.spawn("limits", async move {
                if !memory.resize(limits) {
                    tracing::warn!(
                        middleware = name,
                        "cache: responses as large as maxObjectBytes are only stored after a restart"
                    );
                }
            })
        });
        let purges = context.announced_purges();
        let following = Arc::new(Following {
            name: context.name.to_owned(),
            memory: memory.clone(),
            memory_marks: context.state("announced", || Marks::of_empty(&purges)),
            template: template.clone(),
            purges,
        });
        let disk = self.disk.as_ref().map(|options| {
            let limits = DiskLimits {
                total: options.max_bytes,
                object: options.max_object_bytes,
                objects: options.max_objects,
                variants: self.max_variants,
                ..DiskLimits::default()
            };
            let path = options.path.clone();
            let slot = context.state(&format!("disk {}", path.display()), || DiskSlot::new(path));
            let task = context.spawn("disk", opening::open(slot.clone(), following.clone(), limits));
            Disk { slot, _task: task }
        });
        let slot = disk.as_ref().map(|disk| disk.slot.clone());
        let (is_clustered, marks) = (following.purges.is_clustered(), following.memory_marks.clone());
        let _following = is_clustered.then(|| context.spawn("announcements", following.follow(slot)));
        Tiers { memory, marks, disk, _resizing: resizing, _following }
    }
}
