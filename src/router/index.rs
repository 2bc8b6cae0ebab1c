//! All routes of an entry point, found by host and path.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tidegate_core::Request;

use super::Rule;
use super::cover::{HostPart, PathPart, places};
use super::paths::Paths;
use super::rule::Tree;
use super::view::View;

/// One route that goes into an [`Index`].
pub struct Entry<T> {
    /// Its rule.
    pub rule: Rule,
    /// Higher goes first.
    pub priority: i64,
    /// Decides between equal priorities: lower goes first. The place of the provider in the precedence, then the name.
    pub tie: (usize, String),
    /// What is found.
    pub value: Arc<T>,
}

/// All routes of one entry point, indexed so that the cost of a look-up does not grow with their number.
///
/// Routes are filed by the hosts and paths that their rules ask for. A look-up collects the few routes whose host and
/// path fit, and evaluates their whole rules in order of priority. Rules that ask for neither are evaluated one by one.
pub struct Index<T> {
    /// In order of priority: a route's number is its rank.
    routes: Box<[Route<T>]>,
    /// Routes that ask for one host.
    exact: HashMap<Box<str>, Paths, RandomState>,
    /// Routes that ask for hosts below these labels.
    below: HashMap<Box<str>, Paths, RandomState>,
    /// Length of the longest key in `below`, in bytes.
    longest_below: usize,
    /// All others.
    any_host: Paths,
}

struct Route<T> {
    tree: Tree,
    value: Arc<T>,
}

impl<T> Index<T> {
    /// Builds the index.
    pub fn new(mut entries: Vec<Entry<T>>) -> Self {
        entries.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.tie.cmp(&b.tie)));
        let route = |entry: Entry<T>| Route { tree: entry.rule.into_tree(), value: entry.value };
        let routes: Box<[Route<T>]> = entries.into_iter().map(route).collect();
        let mut filed = Filed::default();
        for (number, route) in (0u32..).zip(&routes) {
            for place in places(&route.tree) {
                let list = match place.host {
                    HostPart::Any => &mut filed.any_host,
                    HostPart::Exact(host) => filed.exact.entry(host.into()).or_default(),
                    HostPart::Below(labels) => filed.below.entry(labels.as_ref().into()).or_default(),
                };
                list.push((place.path, number));
            }
        }
        let longest_below = filed.below.keys().map(|labels| labels.len()).max().unwrap_or(0);
        let build = |map: HashMap<Box<str>, Vec<_>, RandomState>| {
            map.into_iter().map(|(host, list)| (host, Paths::new(list))).collect()
        };
        let (exact, below) = (build(filed.exact), build(filed.below));
        let any_host = Paths::new(filed.any_host);
        Self { routes, exact, below, longest_below, any_host }
    }

    /// The first route in order of priority whose rule takes the request.
    pub fn find(&self, request: &Request) -> Option<&Arc<T>> {
        let view = View::new(request);
        let mut lists: SmallVec<[&[u32]; 8]> = SmallVec::new();
        self.collect(&view, &mut lists);
        let takes = |number: u32| self.routes.get(number as usize).filter(|route| route.tree.matches(&view));
        if let [only] = lists.as_slice() {
            return only.iter().find_map(|&number| takes(number)).map(|route| &route.value);
        }
        // The lists are sorted: take the lowest head until a rule fits.
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

    /// True when there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    fn collect<'a>(&'a self, view: &View<'_>, lists: &mut SmallVec<[&'a [u32]; 8]>) {
        let host = view.host();
        if let Some(paths) = self.exact.get(host) {
            paths.collect(&view.path, lists);
        }
        if !self.below.is_empty() {
            // Only the end of the host can be a key; a stranger's endless host costs nothing.
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

/// Routes and what their rules ask of the path, by host.
#[derive(Default)]
struct Filed<'a> {
    exact: HashMap<Box<str>, Vec<(PathPart<'a>, u32)>, RandomState>,
    below: HashMap<Box<str>, Vec<(PathPart<'a>, u32)>, RandomState>,
    any_host: Vec<(PathPart<'a>, u32)>,
}
