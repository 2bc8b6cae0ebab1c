//! An index of TCP routes by server name.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::rule::{Matcher, Rule, View};
use crate::router::Tree;

/// A route in an [`Index`].
pub type Entry<T> = crate::router::Entry<T, Rule>;

/// Routes indexed by the server names in their rules, so that the cost of a lookup does not depend on their
/// number. Rules without a name are evaluated one by one.
pub struct Index<T> {
    /// In order of priority: the index of a route is its rank.
    routes: Box<[(Rule, Arc<T>)]>,
    exact: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// By suffix after the first label.
    below: HashMap<Box<str>, Vec<usize>, RandomState>,
    any: Vec<usize>,
}

/// The result of a lookup.
pub struct Found<'a, T> {
    /// The route.
    pub value: &'a Arc<T>,
    /// Whether its rule matches every connection.
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
            for bucket in buckets(&rule.tree) {
                let list = match bucket {
                    Bucket::Any => &mut index.any,
                    Bucket::Exact(name) => index.exact.entry(name.into()).or_default(),
                    Bucket::Below(suffix) => index.below.entry(suffix.into()).or_default(),
                };
                if list.last() != Some(&rank) {
                    list.push(rank);
                }
            }
        }
        index
    }

    /// Returns true if there are no routes.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Returns the first route in order of priority whose rule matches the connection.
    pub fn find(&self, view: &View<'_>) -> Option<Found<'_, T>> {
        let exact = self.exact.get(view.server_name).map_or(&[][..], Vec::as_slice);
        let suffix = view.server_name.split_once('.').map_or("", |(_, suffix)| suffix);
        let below = self.below.get(suffix).map_or(&[][..], Vec::as_slice);
        let mut lists = [exact, below, &self.any];
        // The lists are sorted: try the lowest head until a rule matches.
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

/// A list that a rule must be in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bucket<'a> {
    Any,
    Exact(&'a str),
    Below(&'a str),
}

/// Returns the buckets that cover every connection the rule may match.
fn buckets(tree: &Tree<Matcher>) -> Vec<Bucket<'_>> {
    match tree {
        Tree::Matcher(Matcher::Name(name)) => vec![Bucket::Exact(name)],
        Tree::Matcher(Matcher::NameBelow(suffix)) => vec![Bucket::Below(suffix)],
        Tree::Matcher(_) | Tree::Not(_) => vec![Bucket::Any],
        Tree::Any(parts) => {
            let all: Vec<_> = parts.iter().flat_map(buckets).collect();
            if all.contains(&Bucket::Any) { vec![Bucket::Any] } else { all }
        }
        // All parts must match, so the buckets of any one part suffice.
        Tree::All(parts) => {
            let named = parts.iter().map(buckets).filter(|buckets| !buckets.contains(&Bucket::Any));
            named.min_by_key(Vec::len).unwrap_or_else(|| vec![Bucket::Any])
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
    fn routes_match_by_priority_then_name() {
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
