//! Derives from a rule where it is filed in the index.

use super::matcher::Matcher;
use super::pattern;
use super::tree::Tree;

/// Maximum number of places when combining alternatives.
const MAX_PRODUCT: usize = 64;

/// A place in the index. A rule is filed so that every matching request looks at one of its places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) host: HostPart<'a>,
    pub(super) path: PathPart<'a>,
}

/// The host of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum HostPart<'a> {
    #[default]
    Any,
    /// Exactly this host.
    Exact(&'a str),
    /// Hosts that end with a dot and this suffix.
    Below(std::borrow::Cow<'a, str>),
}

/// The path of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum PathPart<'a> {
    #[default]
    Any,
    /// Exactly this path.
    Exact(&'a str),
    /// Paths that start with this prefix.
    Prefix(std::borrow::Cow<'a, str>),
}

/// Returns the places of a rule; never empty.
pub(super) fn places(tree: &Tree<Matcher>) -> Vec<Place<'_>> {
    match tree {
        Tree::Matcher(matcher) => vec![of_matcher(matcher)],
        Tree::Not(_) => vec![Place::default()],
        Tree::Any(parts) => {
            let all: Vec<_> = parts.iter().flat_map(places).collect();
            // An alternative that may be anywhere makes the others redundant.
            if all.contains(&Place::default()) { vec![Place::default()] } else { all }
        }
        Tree::All(parts) => {
            let first = vec![Place::default()];
            parts.iter().map(places).fold(first, both)
        }
    }
}

/// Returns places for what must be in one of `left` and in one of `right`.
fn both<'a>(left: Vec<Place<'a>>, right: Vec<Place<'a>>) -> Vec<Place<'a>> {
    if left.len() * right.len() > MAX_PRODUCT && left.len() > 1 && right.len() > 1 {
        let more = |places: &[Place<'_>]| places.iter().all(|place| place.host != HostPart::Any);
        // Either side suffices: prefer the one with a host.
        return if more(&right) && !more(&left) { right } else { left };
    }
    let mut out = Vec::with_capacity(left.len() * right.len());
    for a in &left {
        for b in &right {
            let host = if a.host.is_better_than(&b.host) { &a.host } else { &b.host };
            let path = if a.path.is_better_than(&b.path) { &a.path } else { &b.path };
            out.push(Place { host: host.clone(), path: path.clone() });
        }
    }
    out
}

fn of_matcher(matcher: &Matcher) -> Place<'_> {
    let host = |host| Place { host, ..Place::default() };
    let path = |path| Place { path, ..Place::default() };
    match matcher {
        Matcher::Host(name) => host(HostPart::Exact(name)),
        Matcher::HostBelow(suffix) => host(HostPart::Below((&**suffix).into())),
        Matcher::HostRegexp(pattern) => host(below_literal(pattern.as_str())),
        Matcher::Path(text) => path(PathPart::Exact(text)),
        Matcher::PathPrefix(text) => path(PathPart::Prefix((&**text).into())),
        Matcher::PathRegexp(pattern) => path(
            pattern::literal_prefix(pattern.as_str())
                .map_or(PathPart::Any, |text| PathPart::Prefix(text.into())),
        ),
        _ => Place::default(),
    }
}

/// Returns the suffix that a host must have to match a pattern like `^.+\.example\.com$`.
fn below_literal(pattern: &str) -> HostPart<'static> {
    let literal = pattern::literal_suffix(pattern).unwrap_or_default();
    let literal = literal.strip_suffix('.').unwrap_or(&literal);
    match literal.split_once('.') {
        Some((_, labels)) if !labels.is_empty() => HostPart::Below(labels.to_owned().into()),
        _ => HostPart::Any,
    }
}

impl HostPart<'_> {
    fn is_better_than(&self, other: &Self) -> bool {
        let worth = |part: &Self| match part {
            Self::Any => 0,
            Self::Below(suffix) => 1 + suffix.len(),
            Self::Exact(_) => usize::MAX,
        };
        worth(self) > worth(other)
    }
}

impl PathPart<'_> {
    fn is_better_than(&self, other: &Self) -> bool {
        let worth = |part: &Self| match part {
            Self::Any => 0,
            Self::Prefix(text) => 1 + text.len(),
            Self::Exact(_) => usize::MAX,
        };
        worth(self) > worth(other)
    }
}
