//! Evaluates a rule when only the host is known: at a TLS handshake.

use super::cover::{self, HostPart};
use super::matcher::Matcher;
use super::pattern;
use super::rule::Rule;
use super::tree::Tree;

/// How specifically a rule matches a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closeness {
    /// It does not depend on the host.
    Unnamed,
    /// By ``Host(`*`)``, or by excluding others.
    Broad,
    /// By a pattern.
    Pattern,
    /// By a wildcard.
    Wildcard,
    /// By name.
    Exact,
}

/// A host that a rule may match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// How specifically the rule matches it.
    pub closeness: Closeness,
    /// True if the rule matches every request for the host, whatever else the request contains.
    pub whole: bool,
}

/// A set that contains hosts matched by a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostSet {
    /// Any host.
    Any,
    /// Exactly this host.
    Exact(Box<str>),
    /// Hosts that end with a dot and this suffix.
    Below(Box<str>),
}

impl Rule {
    /// Returns which requests for a host the rule may match; `None` for none. The host is in lower case and
    /// without port. As in routing, only patterns see a trailing dot.
    pub fn coverage(&self, host: &str) -> Option<Coverage> {
        evaluate(self.tree(), host, false)
    }

    /// Returns sets that contain every host that the rule may match, sorted and without duplicates.
    pub fn host_sets(&self) -> Vec<HostSet> {
        let owned = |host: &HostPart<'_>| match host {
            HostPart::Any => HostSet::Any,
            HostPart::Exact(name) => HostSet::Exact((*name).into()),
            HostPart::Below(labels) => HostSet::Below((&**labels).into()),
        };
        let mut sets: Vec<HostSet> =
            cover::places(self.tree()).iter().map(|place| owned(&place.host)).collect();
        sets.sort();
        sets.dedup();
        if sets.contains(&HostSet::Any) { vec![HostSet::Any] } else { sets }
    }

    /// Returns true if the rule depends on the host in any way.
    pub fn asks_for_host(&self) -> bool {
        any_matcher(self.tree(), &is_about_host)
    }

    /// Returns true if the rule depends on nothing but the host.
    pub fn asks_for_host_only(&self) -> bool {
        !any_matcher(self.tree(), &|matcher| !is_about_host(matcher))
    }

    /// Returns the minimum and maximum closeness for the hosts that the rule matches.
    pub fn closeness(&self) -> (Closeness, Closeness) {
        closeness(self.tree(), false)
    }

    /// Returns the common prefix of the hosts that the rule matches, if it is a single pattern that implies
    /// one.
    pub fn host_prefix(&self) -> Option<String> {
        let of = |tree: &Tree<Matcher>| match tree {
            Tree::Matcher(Matcher::HostRegexp(regex)) => pattern::literal_prefix(regex.as_str()),
            _ => None,
        };
        match self.tree() {
            Tree::All(parts) => parts.iter().find_map(of),
            tree => of(tree),
        }
    }
}

impl HostSet {
    /// Returns true if a host may be in both sets.
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_below = |name: &str, labels: &str| {
            name.strip_suffix(labels).is_some_and(|front| front.is_empty() || front.ends_with('.'))
        };
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(name), Self::Below(labels)) | (Self::Below(labels), Self::Exact(name)) => {
                is_below(name, labels)
            }
            (Self::Below(a), Self::Below(b)) => is_below(a, b) || is_below(b, a),
        }
    }
}

fn is_about_host(matcher: &Matcher) -> bool {
    matches!(
        matcher,
        Matcher::Host(_)
            | Matcher::HostBelow(_)
            | Matcher::AnyHost
            | Matcher::HostRegexp(_)
            | Matcher::Nothing
    )
}

fn any_matcher(tree: &Tree<Matcher>, is: &impl Fn(&Matcher) -> bool) -> bool {
    match tree {
        Tree::All(parts) | Tree::Any(parts) => parts.iter().any(|part| any_matcher(part, is)),
        Tree::Not(part) => any_matcher(part, is),
        Tree::Matcher(matcher) => is(matcher),
    }
}

/// Returns the minimum and maximum closeness for the hosts that a tree, or its negation, matches.
fn closeness(tree: &Tree<Matcher>, negated: bool) -> (Closeness, Closeness) {
    match (tree, negated) {
        (Tree::Not(part), _) => closeness(part, !negated),
        (Tree::Matcher(matcher), true) if is_about_host(matcher) => (Closeness::Broad, Closeness::Broad),
        (Tree::Matcher(matcher), _) => {
            let one = match matcher {
                Matcher::Host(_) => Closeness::Exact,
                Matcher::HostBelow(_) => Closeness::Wildcard,
                Matcher::HostRegexp(_) => Closeness::Pattern,
                Matcher::AnyHost => Closeness::Broad,
                _ => Closeness::Unnamed,
            };
            (one, one)
        }
        (Tree::All(parts) | Tree::Any(parts), _) => {
            let all = matches!(tree, Tree::All(_)) != negated;
            let each = parts.iter().map(|part| closeness(part, negated));
            let least = each.clone().map(|(least, _)| least);
            let least = if all { least.max() } else { least.min() };
            let unnamed = Closeness::Unnamed;
            (least.unwrap_or(unnamed), each.map(|(_, greatest)| greatest).max().unwrap_or(unnamed))
        }
    }
}

/// Evaluates a tree, or its negation, with only the host known.
fn evaluate(tree: &Tree<Matcher>, host: &str, negated: bool) -> Option<Coverage> {
    match (tree, negated) {
        (Tree::Not(part), _) => evaluate(part, host, !negated),
        (Tree::Matcher(matcher), _) => of_matcher(matcher, host, negated),
        (Tree::All(parts), false) | (Tree::Any(parts), true) => {
            let mut all = Coverage { closeness: Closeness::Unnamed, whole: true };
            for part in parts {
                let part = evaluate(part, host, negated)?;
                all.closeness = all.closeness.max(part.closeness);
                all.whole &= part.whole;
            }
            Some(all)
        }
        (Tree::Any(parts), false) | (Tree::All(parts), true) => {
            let parts = parts.iter().filter_map(|part| evaluate(part, host, negated));
            parts.reduce(|a, b| Coverage {
                closeness: a.closeness.max(b.closeness),
                whole: a.whole || b.whole,
            })
        }
    }
}

fn of_matcher(matcher: &Matcher, host: &str, negated: bool) -> Option<Coverage> {
    let bare = host.strip_suffix('.').unwrap_or(host);
    let (fits, closeness) = match matcher {
        Matcher::Host(name) => (**name == *bare, Closeness::Exact),
        Matcher::HostBelow(suffix) => {
            (bare.split_once('.').is_some_and(|(_, rest)| *rest == **suffix), Closeness::Wildcard)
        }
        Matcher::AnyHost => (true, Closeness::Broad),
        Matcher::HostRegexp(pattern) => (pattern.is_match(host), Closeness::Pattern),
        Matcher::Nothing => (false, Closeness::Unnamed),
        _ => return Some(Coverage { closeness: Closeness::Unnamed, whole: false }),
    };
    let closeness = if negated && is_about_host(matcher) { Closeness::Broad } else { closeness };
    (fits != negated).then_some(Coverage { closeness, whole: true })
}

#[cfg(test)]
mod tests {
    use super::Closeness::{Broad, Exact, Pattern, Unnamed, Wildcard};
    use super::*;

    #[test]
    fn a_host_alone_decides_as_far_as_possible() {
        for (rule, host, expected) in [
            ("Host(`a.test`)", "a.test", Some((Exact, true))),
            ("Host(`a.test`)", "a.test.", Some((Exact, true))),
            ("Host(`a.test`)", "b.test", None),
            ("Host(`*.test`) && Path(`/`)", "a.test", Some((Wildcard, false))),
            ("Host(`*.test`) && !Host(`a.test`)", "a.test", None),
            ("HostRegexp(`^.+\\.d\\.test$`) || Host(`d.test`)", "w.d.test", Some((Pattern, true))),
            ("HostRegexp(`^.+\\.d\\.test$`) || Host(`d.test`)", "d.test", Some((Exact, true))),
            ("HostRegexp(`^.+\\.d\\.test$`) || Host(`d.test`)", "e.test", None),
            ("HostRegexp(`^a\\.test$`)", "a.test.", None),
            ("!Host(`a.test`)", "a.test", None),
            ("!Host(`a.test`)", "b.test", Some((Broad, true))),
            ("!(!Host(`a.test`) && !HostRegexp(`^b`))", "b.test", Some((Pattern, true))),
            ("!(Host(`a.test`) || PathPrefix(`/x`))", "b.test", Some((Broad, false))),
            ("Host(`a.test`) || PathPrefix(`/x`)", "b.test", Some((Unnamed, false))),
            ("Host(`a.test`) || PathPrefix(`/x`)", "a.test", Some((Exact, true))),
            ("Host(`*`)", "", Some((Broad, true))),
            ("Header(`Host`, `a.test`)", "a.test", None),
        ] {
            // Pushing a negation inwards gives the same result as the rule itself.
            let found = Rule::parse(rule).unwrap().coverage(host);
            let found = found.map(|coverage| (coverage.closeness, coverage.whole));
            let expected: Option<(Closeness, bool)> = expected;
            assert_eq!(found, expected, "{rule} on {host}");
        }
    }

    #[test]
    fn sets_overlap_where_a_host_may_be_in_both() {
        let set = |rule: &str| Rule::parse(rule).unwrap().host_sets().remove(0);
        for (a, b, expected) in [
            ("Host(`a.b.test`)", "Host(`*.b.test`)", true),
            ("Host(`a.ab.test`)", "Host(`*.b.test`)", false),
            ("HostRegexp(`^.+\\.a\\.test$`)", "HostRegexp(`^.+\\.b\\.test$`)", false),
            ("HostRegexp(`^.+\\.a\\.test$`)", "HostRegexp(`^.+\\.test$`)", true),
            ("PathPrefix(`/`)", "Host(`a.test`)", true),
            ("Host(`b.test`)", "Host(`a.test`)", false),
        ] {
            assert_eq!(set(a).overlaps(&set(b)), expected, "{a} and {b}");
            assert_eq!(set(b).overlaps(&set(a)), expected, "{b} and {a}");
        }
    }
}
