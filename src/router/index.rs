//! All routes of an entry point, indexed by host and path.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tidegate_core::Request;

use super::Rule;
use super::cover::{HostPart, places};
use super::matcher::Matcher;
use super::paths::{Asked, Paths};
use super::tree::Tree;
use super::view::View;

/// A route to be indexed.
pub struct Entry<T, R = Rule> {
    /// Its rule.
    pub rule: R,
    /// Higher priorities match first.
    pub priority: i64,
    /// Tie-breaker for equal priorities, lower first: the provider's rank, then the name.
    pub tie: (usize, String),
    /// The value to find.
    pub value: Arc<T>,
}

impl<T, R: Clone> Clone for Entry<T, R> {
    fn clone(&self) -> Self {
        let (rule, tie, value) = (self.rule.clone(), self.tie.clone(), self.value.clone());
        Self { rule, priority: self.priority, tie, value }
    }
}

impl<T, R> Entry<T, R> {
    /// Sorts entries in the order of evaluation.
    pub(crate) fn sort(entries: &mut [Self]) {
        entries.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.tie.cmp(&b.tie)));
    }
}

/// All routes of one entry point, indexed so that the cost of a look-up does not grow with their number.
///
/// Routes are filed by the hosts and paths in their rules. A look-up collects the few routes whose host and
/// path match, and evaluates their complete rules in order of priority. Rules with neither are evaluated one
/// by one.
pub struct Index<T> {
    /// In order of priority: a route's index is its rank.
    routes: Box<[Route<T>]>,
    /// Routes for exact hosts.
    exact: HashMap<Box<str>, Paths, RandomState>,
    /// Routes for hosts below these suffixes.
    below: HashMap<Box<str>, Paths, RandomState>,
    /// Length of the longest key in `below`, in bytes.
    longest_below: usize,
    /// All other routes.
    any_host: Paths,
}

struct Route<T> {
    tree: Tree<Matcher>,
    value: Arc<T>,
}

impl<T> Index<T> {
    /// Builds the index.
    pub fn new(mut entries: Vec<Entry<T>>) -> Self {
        Entry::sort(&mut entries);
        let route = |entry: Entry<T>| Route { tree: entry.rule.into_tree(), value: entry.value };
        let routes: Box<[Route<T>]> = entries.into_iter().map(route).collect();
        let Hosts { exact, below, any_host } = file(&routes);
        let longest_below = below.keys().map(|labels| labels.len()).max().unwrap_or(0);
        Self { routes, exact, below, longest_below, any_host }
    }

    /// Returns the first route in order of priority whose rule matches the request.
    pub fn find(&self, request: &Request) -> Option<&Arc<T>> {
        let view = View::new(request);
        let mut lists: SmallVec<[&[u32]; 8]> = SmallVec::new();
        self.collect(&view, &mut lists);
        let fits = |matcher: &Matcher| matcher.matches(&view);
        let takes = |number: u32| self.routes.get(number as usize).filter(|route| route.tree.matches(&fits));
        if let [only] = lists.as_slice() {
            return only.iter().find_map(|&number| takes(number)).map(|route| &route.value);
        }
        // The lists are sorted: repeatedly take the lowest head until a rule matches.
        loop {
            let lowest = lists.iter().filter_map(|list| list.first().copied()).min()?;
            if let Some(route) = takes(lowest) {
                return Some(&route.value);
            }
            for list in &mut lists {
                if list.first() == Some(&lowest) {
                    *list = list.get(1..).unwrap_or_default();
                }
            }
        }
    }

    /// Returns true if there are no routes.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    fn collect<'a>(&'a self, view: &View<'_>, lists: &mut SmallVec<[&'a [u32]; 8]>) {
        if !self.exact.is_empty()
            && let Some(paths) = self.exact.get(view.host())
        {
            paths.collect(&view.path, lists);
        }
        if !self.below.is_empty() {
            let host = view.host();
            // Only the end of the host can be a key, so an overlong host costs nothing.
            let from = host.len().saturating_sub(self.longest_below + 1);
            for dot in memchr::memchr_iter(b'.', host.as_bytes().get(from..).unwrap_or_default()) {
                let labels = host.get(from + dot + 1..).unwrap_or("");
                if let Some(paths) = self.below.get(labels) {
                    paths.collect(&view.path, lists);
                }
            }
        }
        self.any_host.collect(&view.path, lists);
    }
}

/// The routes by host.
struct Hosts {
    exact: HashMap<Box<str>, Paths, RandomState>,
    below: HashMap<Box<str>, Paths, RandomState>,
    any_host: Paths,
}

/// Files each route under all its places.
fn file<T>(routes: &[Route<T>]) -> Hosts {
    let mut filed = Filed::default();
    for (number, route) in (0u32..).zip(routes) {
        for place in places(&route.tree) {
            let list = match place.host {
                HostPart::Any => &mut filed.any_host,
                HostPart::Exact(host) => filed.exact.entry(host.into()).or_default(),
                HostPart::Below(labels) => filed.below.entry(labels.as_ref().into()).or_default(),
            };
            list.push((place.path, number));
        }
    }
    let build = |map: HashMap<Box<str>, Asked<'_>, RandomState>| {
        map.into_iter().map(|(host, list)| (host, Paths::new(list))).collect()
    };
    Hosts { exact: build(filed.exact), below: build(filed.below), any_host: Paths::new(filed.any_host) }
}

/// Routes and their paths, by host.
#[derive(Default)]
struct Filed<'a> {
    exact: HashMap<Box<str>, Asked<'a>, RandomState>,
    below: HashMap<Box<str>, Asked<'a>, RandomState>,
    any_host: Asked<'a>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::request;
    use super::*;

    fn index(rules: &[(&str, i64)]) -> Index<usize> {
        let entry = |(number, (rule, priority)): (usize, &(&str, i64))| Entry {
            rule: Rule::parse(rule).unwrap(),
            priority: *priority,
            tie: (0, format!("{number:05}")),
            value: Arc::new(number),
        };
        Index::new(rules.iter().enumerate().map(entry).collect())
    }

    fn found(index: &Index<usize>, host: &str, target: &str) -> Option<usize> {
        index.find(&request("GET", host, target, &[])).map(|number| **number)
    }

    #[test]
    fn priority_then_tie_decides() {
        let index = index(&[
            ("PathPrefix(`/`)", 1),
            ("Host(`a.test`)", 5),
            ("Host(`a.test`) && PathPrefix(`/x`)", 9),
            ("PathPrefix(`/x`)", 9),
            ("Host(`*.b.test`) && !PathPrefix(`/no`)", 9),
            ("HostRegexp(`^.+\\.c\\.test$`)", 9),
        ]);
        for (host, target, number) in [
            ("o.test", "/", 0),
            ("a.test", "/", 1),
            ("A.test.:80", "/xy", 2),
            ("o.test", "/x", 3),
            ("1.b.test", "/", 4),
            ("1.b.test", "/no", 0),
            ("2.1.b.test", "/", 0),
            ("2.1.c.test", "/", 5),
        ] {
            assert_eq!(found(&index, host, target), Some(number), "{host} {target}");
        }
    }

    #[test]
    fn nothing_is_found_if_nothing_matches() {
        assert!(Index::<()>::new(Vec::new()).is_empty());
        assert_eq!(found(&index(&[("Host(`a`)", 1)]), "b", "/"), None);
    }

    #[test]
    fn many_routes_on_one_host_are_told_apart() {
        let rules: Vec<String> =
            (0..500).map(|i| format!("Host(`h.test`) && PathPrefix(`/p{i}/`)")).collect();
        let index = index(&rules.iter().map(|rule| (rule.as_str(), 1)).collect::<Vec<_>>());
        for i in [0, 1, 17, 170, 499] {
            assert_eq!(found(&index, "h.test", &format!("/p{i}/x")), Some(i));
        }
        assert_eq!(found(&index, "h.test", "/p500/x"), None);
    }

    fn rules() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "Host\\(`(a|b|c\\.a|\\*\\.a|\\*)`\\)",
            "(Path|PathPrefix)\\(`/[ab]{0,3}`\\)",
            "PathRegexp\\(`\\^/[ab]{0,2}\\[ab\\]\\+`\\)",
            "HostRegexp\\(`\\^\\[a-c\\]\\+\\\\\\.a\\$`\\)",
            "Method\\(`(GET|PUT)`\\)",
            "Query\\(`a`, `[12]`\\)",
        ];
        leaf.prop_recursive(4, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 2..4).prop_map(|v| format!("({})", v.join(" || "))),
                prop::collection::vec(inner.clone(), 2..4).prop_map(|v| format!("({})", v.join(" && "))),
                inner.prop_map(|e| format!("!{e}")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_linear_scan(
            rules in prop::collection::vec((rules(), 0i64..4), 1..40),
            requests in prop::collection::vec(("(GET|PUT)", "(a|b|c\\.a|b\\.c\\.a|A\\.|d)", "/[ab]{0,4}(\\?a=[12])?"), 1..20),
        ) {
            let rules: Vec<(&str, i64)> = rules.iter().map(|(rule, priority)| (rule.as_str(), *priority)).collect();
            let index = index(&rules);
            let parsed: Vec<Rule> = rules.iter().map(|(rule, _)| Rule::parse(rule).unwrap()).collect();
            for (method, host, target) in &requests {
                let request = request(method, host, target, &[]);
                for (rule, parsed) in rules.iter().zip(&parsed) {
                    let unmet = crate::router::unmet(rule.0, &request).unwrap();
                    prop_assert_eq!(unmet.is_none(), parsed.matches(&request), "{} {:?}", rule.0, unmet);
                }
                let expected = (0..rules.len())
                    .filter(|&i| parsed[i].matches(&request))
                    .min_by_key(|&i| (-rules[i].1, i));
                prop_assert_eq!(index.find(&request).map(|n| **n), expected, "{} {} {}", method, host, target);
            }
        }
    }
}
