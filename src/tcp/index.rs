//! All TCP routes of one side of an entry point, found by server name.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::rule::{Matcher, Rule, View};
use crate::router::Tree;

/// One route that goes into an [`Index`].
pub type Entry<T> = crate::router::Entry<T, Rule>;

/// Routes filed by the server names that their rules ask for, so that the cost of a look-up does not grow with their
/// number. Rules that ask for no name are evaluated one by one.
pub struct Index<T> {
    /// In order of priority: a route's number is its rank.
    routes: Box<[(Rule, Arc<T>)]>,
    exact: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// By what follows the first label.
    below: HashMap<Box<str>, Vec<usize>, RandomState>,
    any: Vec<usize>,
}

/// What is found.
pub struct Found<'a, T> {
    /// The route.
    pub value: &'a Arc<T>,
    /// True when its rule takes every connection.
    pub catch_all: bool,
}

impl<T> Index<T> {
    /// Builds the index.
    pub fn new(mut entries: Vec<Entry<T>>) -> Self {
        Entry::sort(&mut entries);
        let mut index = Self {
            routes: entries.into_iter().map(|entry| (entry.rule, entry.value)).collect(),
            exact: HashMap::default(),
            below: HashMap::default(),
            any: Vec::new(),
        };
        for (rank, (rule, _)) in index.routes.iter().enumerate() {
            for place in places(&rule.tree) {
                let list = match place {
                    Place::Any => &mut index.any,
                    Place::Exact(name) => index.exact.entry(name.into()).or_default(),
                    Place::Below(suffix) => index.below.entry(suffix.into()).or_default(),
                };
                if list.last() != Some(&rank) {
                    list.push(rank);
                }
            }
        }
        index
    }

    /// True when there is no route.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The first route in order of priority whose rule takes the connection.
    pub fn find(&self, view: &View<'_>) -> Option<Found<'_, T>> {
        let exact = self.exact.get(view.server_name).map_or(&[][..], Vec::as_slice);
        let suffix = view.server_name.split_once('.').map_or("", |(_, suffix)| suffix);
        let below = self.below.get(suffix).map_or(&[][..], Vec::as_slice);
        let mut lists = [exact, below, &self.any];
        // The lists are sorted: take the lowest head until a rule fits.
        loop {
            let lowest = lists.iter().filter_map(|list| list.first().copied()).min()?;
            let (rule, value) = self.routes.get(lowest)?;
            if rule.matches(view) {
                return Some(Found { value, catch_all: rule.is_catch_all() });
            }
            for list in &mut lists {
                if list.first() == Some(&lowest) {
                    *list = &list[1..];
                }
            }
        }
    }
}

/// Where a rule must be found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    Any,
    Exact(&'a str),
    Below(&'a str),
}

/// The places that cover every connection which the rule may take.
fn places(tree: &Tree<Matcher>) -> Vec<Place<'_>> {
    match tree {
        Tree::Matcher(Matcher::Name(name)) => vec![Place::Exact(name)],
        Tree::Matcher(Matcher::NameBelow(suffix)) => vec![Place::Below(suffix)],
        Tree::Matcher(_) | Tree::Not(_) => vec![Place::Any],
        Tree::Any(parts) => {
            let all: Vec<_> = parts.iter().flat_map(places).collect();
            if all.contains(&Place::Any) { vec![Place::Any] } else { all }
        }
        // One part must fit, so the places of any one part will do.
        Tree::All(parts) => {
            let named = parts.iter().map(places).filter(|places| !places.contains(&Place::Any));
            named.min_by_key(Vec::len).unwrap_or_else(|| vec![Place::Any])
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rule::read;
    use super::*;

    fn index(rules: &[(&str, i64)]) -> Index<usize> {
        let entries = rules.iter().enumerate().map(|(number, (rule, priority))| Entry {
            rule: read(rule).unwrap().rule.unwrap(),
            priority: *priority,
            tie: (0, format!("{number:05}")),
            value: Arc::new(number),
        });
        Index::new(entries.collect())
    }

    fn found(index: &Index<usize>, server_name: &str, protocol: &str) -> Option<usize> {
        let protocols = [protocol.as_bytes().to_vec()];
        let view = View { server_name, peer: [127, 0, 0, 1].into(), protocols: &protocols };
        index.find(&view).map(|found| **found.value)
    }

    #[test]
    fn priority_then_tie_decides() {
        let index = index(&[
            ("HostSNI(`*`)", -1),
            ("HostSNI(`a.test`)", 17),
            ("HostSNI(`a.test`) && ALPN(`h2`)", 31),
            ("HostSNI(`*.test`)", 17),
            ("HostSNI(`b.test`) || HostSNI(`c.test`)", 17),
        ]);
        for (name, protocol, number) in
            [("", "", 0), ("a.test", "", 1), ("a.test", "h2", 2), ("b.test", "", 3), ("x.y.test", "", 0)]
        {
            assert_eq!(found(&index, name, protocol), Some(number), "{name} {protocol}");
        }
        let nothing = View { server_name: "", peer: [127, 0, 0, 1].into(), protocols: &[] };
        assert!(index.find(&nothing).unwrap().catch_all);
        assert!(Index::<()>::new(Vec::new()).is_empty());
    }

    fn rules() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "HostSNI\\(`(a|b|a\\.c|\\*\\.c|\\*)`\\)",
            "HostSNIRegexp\\(`\\^\\[ab\\]`\\)",
            "ALPN\\(`[xy]`\\)",
            "ClientIP\\(`(127\\.0\\.0\\.1|10\\.0\\.0\\.0/8)`\\)",
        ];
        leaf.prop_recursive(3, 10, 3, |inner| {
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
            rules in prop::collection::vec((rules(), -1i64..3), 1..30),
            names in prop::collection::vec(("(a|b|a\\.c|b\\.c|d|)", "[xyz]"), 1..20),
        ) {
            let rules: Vec<(&str, i64)> = rules.iter().map(|(rule, priority)| (rule.as_str(), *priority)).collect();
            let index = index(&rules);
            for (name, protocol) in &names {
                let protocols = [protocol.as_bytes().to_vec()];
                let view = View { server_name: name, peer: [127, 0, 0, 1].into(), protocols: &protocols };
                let expected = (0..rules.len())
                    .filter(|&i| read(rules[i].0).unwrap().rule.unwrap().matches(&view))
                    .min_by_key(|&i| (-rules[i].1, i));
                prop_assert_eq!(found(&index, name, protocol), expected);
            }
        }
    }
}
