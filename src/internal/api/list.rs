//! Lists of the API, with search, sorting and paging.

use std::cmp::Ordering;
use std::collections::HashMap;

use tidegate_config::{Config, Kind};

use super::certificates::Certificate;
use super::json;
use crate::snapshot::Snapshot;
use crate::snapshot::report::Status;

/// The query of a request for a list.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Query {
    search: String,
    status: String,
    service: String,
    middleware: String,
    sort_by: String,
    descending: bool,
    page: Option<String>,
    per_page: Option<String>,
}

/// One page: its items, and the number of the next page (1 after the last).
#[derive(Debug, PartialEq)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    pub(super) next: usize,
}

/// Why a page is invalid. The texts are Traefik's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PageError {
    /// A parameter is not a positive number.
    #[error("invalid request: {name}: {number}")]
    Number {
        /// The parameter.
        name: &'static str,
        /// Its value; 0 for one that is not a number.
        number: i64,
    },
    /// There are fewer pages.
    #[error("invalid request: page: {page}, per_page: {per_page}")]
    OutOfRange {
        /// The requested page.
        page: usize,
        /// Its size.
        per_page: usize,
    },
}

impl Query {
    /// Parses the query of a target.
    pub(super) fn parse(query: &str) -> Self {
        let values: HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).into_owned().rev_first();
        let take = |name: &str| values.get(name).cloned().unwrap_or_default();
        Self {
            search: take("search").to_lowercase(),
            status: take("status").to_lowercase(),
            service: take("serviceName"),
            middleware: take("middlewareName"),
            sort_by: take("sortBy"),
            descending: take("direction") == "desc",
            page: values.get("page").filter(|text| !text.is_empty()).cloned(),
            per_page: values.get("per_page").filter(|text| !text.is_empty()).cloned(),
        }
    }

    /// Returns the names of the matching objects, in order.
    pub(super) fn select(&self, snapshot: &Snapshot, kind: Kind, names: Vec<&str>) -> Vec<String> {
        let mut rows: Vec<Row> = names.iter().map(|name| Row::of(snapshot, kind, name)).collect();
        rows.retain(|row| self.wants(row));
        rows.sort_by(|a, b| self.order(a, b));
        if self.descending {
            rows.reverse();
        }
        rows.into_iter().map(|row| row.name).collect()
    }

    /// Returns the matching certificates, in order.
    pub(super) fn certificates(&self, mut all: Vec<Certificate>) -> Vec<Certificate> {
        all.retain(|certificate| {
            (self.search.is_empty() || certificate.contains(&self.search))
                && (self.status.is_empty() || certificate.status == self.status)
        });
        all.sort_by(|a, b| a.order(&self.sort_by, b));
        if self.descending {
            all.reverse();
        }
        all
    }

    /// Returns the requested page, or why it is invalid.
    pub(super) fn page<T>(&self, mut items: Vec<T>) -> Result<Page<T>, PageError> {
        let page = number(self.page.as_deref(), 1).ok_or_else(|| wrong("page", self.page.as_deref()))?;
        let per_page = number(self.per_page.as_deref(), 100)
            .ok_or_else(|| wrong("per_page", self.per_page.as_deref()))?;
        let start = (page - 1).saturating_mul(per_page);
        if start > 0 && start >= items.len() {
            return Err(PageError::OutOfRange { page, per_page });
        }
        let mut items = items.split_off(start.min(items.len()));
        let next = if items.len() > per_page { page + 1 } else { 1 };
        items.truncate(per_page);
        Ok(Page { items, next })
    }

    fn wants(&self, row: &Row) -> bool {
        let found = |text: &str| text.to_lowercase().contains(&self.search);
        (self.search.is_empty() || found(&row.name) || found(&row.rule))
            && (self.status.is_empty() || row.status.as_str() == self.status)
            && (self.service.is_empty() || !row.is_router || self.is_service(&row.service))
            && (self.middleware.is_empty()
                || !row.has_middlewares
                || row.middlewares.contains(&self.middleware))
    }

    /// As in Traefik, a service without provider matches whatever provider is requested.
    fn is_service(&self, service: &str) -> bool {
        if service.contains('@') {
            return service == self.service;
        }
        self.service.split('@').next() == Some(service)
    }

    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let first = match self.sort_by.as_str() {
            "provider" => a.provider().cmp(b.provider()),
            "priority" => a.priority.cmp(&b.priority),
            "status" => a.status.as_str().cmp(b.status.as_str()),
            "rule" => a.rule.cmp(&b.rule),
            "service" => a.service.cmp(&b.service),
            "entryPoints" => a.entry_points.cmp(&b.entry_points),
            "type" => a.type_name.cmp(&b.type_name),
            "servers" => a.servers.cmp(&b.servers),
            _ => Ordering::Equal,
        };
        first.then_with(|| a.name.cmp(&b.name))
    }
}

/// The properties that a list is searched and sorted by.
#[derive(Default)]
struct Row {
    name: String,
    rule: String,
    service: String,
    middlewares: Vec<String>,
    is_router: bool,
    /// Whether objects of this kind can have middlewares.
    has_middlewares: bool,
    entry_points: usize,
    servers: usize,
    priority: i64,
    type_name: String,
    status: Status,
}

impl Row {
    fn of(snapshot: &Snapshot, kind: Kind, name: &str) -> Self {
        let config = &snapshot.report.config;
        let mut row = Self {
            name: name.to_owned(),
            priority: json::priority(snapshot, kind, name),
            type_name: json::type_name(snapshot, kind, name).unwrap_or_default(),
            status: snapshot.report.object(kind, name).map(|report| report.status).unwrap_or_default(),
            is_router: kind.is_router(),
            has_middlewares: matches!(kind, Kind::Router | Kind::TcpRouter),
            ..Self::default()
        };
        if let Some(router) = config.http.routers.get(name).filter(|_| kind == Kind::Router) {
            row.rule.clone_from(&router.rule);
            router.service.written().clone_into(&mut row.service);
            row.middlewares.clone_from(&router.middlewares);
            row.entry_points = router.entry_points.len();
        }
        if let Some(router) = config.tcp.routers.get(name).filter(|_| kind == Kind::TcpRouter) {
            row.rule.clone_from(&router.rule);
            router.service.written().clone_into(&mut row.service);
            row.middlewares.clone_from(&router.middlewares);
            row.entry_points = router.entry_points.len();
        }
        if let Some(router) = config.udp.routers.get(name).filter(|_| kind == Kind::UdpRouter) {
            router.service.written().clone_into(&mut row.service);
            row.entry_points = router.entry_points.len();
        }
        row.servers = servers(config, kind, name).unwrap_or(0);
        row
    }

    fn provider(&self) -> &str {
        self.name.rsplit_once('@').map_or("", |(_, provider)| provider)
    }
}

/// Returns the number of servers of a service.
fn servers(config: &Config, kind: Kind, name: &str) -> Option<usize> {
    match kind {
        Kind::Service => Some(config.http.services.get(name)?.load_balancer.as_ref()?.servers.len()),
        Kind::TcpService => Some(config.tcp.services.get(name)?.load_balancer.as_ref()?.servers.len()),
        Kind::UdpService => Some(config.udp.services.get(name)?.load_balancer.as_ref()?.servers.len()),
        _ => None,
    }
}

fn number(text: Option<&str>, default: usize) -> Option<usize> {
    match text {
        None => Some(default),
        Some(text) => text.parse().ok().filter(|number| *number > 0),
    }
}

fn wrong(name: &'static str, text: Option<&str>) -> PageError {
    PageError::Number { name, number: text.and_then(|text| text.parse().ok()).unwrap_or(0) }
}

trait RevFirst {
    /// Collects a map in which the first of several values wins, as in Go's `url.Values.Get`.
    fn rev_first(self) -> HashMap<String, String>;
}

impl<I: Iterator<Item = (String, String)>> RevFirst for I {
    fn rev_first(self) -> HashMap<String, String> {
        let mut map = HashMap::new();
        for (key, value) in self {
            map.entry(key).or_insert(value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_from_one() {
        let of = |query: &str| Query::parse(query).page((1..=7).collect());
        assert_eq!(of(""), Ok(Page { items: (1..=7).collect(), next: 1 }));
        assert_eq!(of("per_page=3"), Ok(Page { items: vec![1, 2, 3], next: 2 }));
        assert_eq!(of("per_page=3&page=3"), Ok(Page { items: vec![7], next: 1 }));
        for (query, error) in [
            ("page=2", "invalid request: page: 2, per_page: 100"),
            ("page=0", "invalid request: page: 0"),
            ("page=x", "invalid request: page: 0"),
            ("per_page=-1", "invalid request: per_page: -1"),
            (
                "page=18446744073709551615&per_page=9",
                "invalid request: page: 18446744073709551615, per_page: 9",
            ),
        ] {
            assert_eq!(of(query).unwrap_err().to_string(), error, "{query}");
        }
        let empty: Result<Page<i32>, PageError> = Query::default().page(Vec::new());
        assert_eq!(empty, Ok(Page { items: Vec::new(), next: 1 }));
    }
}
