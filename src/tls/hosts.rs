//! Which TLS options apply to which host of an entry point.
//!
//! Options are chosen at the handshake by the server name alone, so for each name the rules of all TLS routers are asked
//! what they say about the host. The routers that name it most closely decide (Traefik's `tls.options` of routers): by
//! name, by wildcard, by pattern, by ``Host(`*`)`` or a negation, and last those that do not ask for a host. Where
//! these disagree, the route checks what the connection was opened with.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::DEFAULT_OPTIONS;
use crate::router::{Closeness, HostSet, Rule};

/// TLS options as handshakes, hosts and routes compare them.
#[derive(Debug)]
pub struct NamedOptions {
    /// The qualified name.
    pub name: Arc<str>,
    /// What they come to, as a digest; `None` for options that are missing or broken.
    content: Option<[u8; 32]>,
    /// A certificate that a client shows has been checked against authorities.
    pub verifies_clients: bool,
}

impl NamedOptions {
    /// Options of this name and content.
    pub fn new(name: &str, content: Option<[u8; 32]>) -> Self {
        Self { name: name.into(), content, verifies_clients: false }
    }

    /// True when a connection that was opened with one may be used for what requires the other. Options of one name are the
    /// same across reloads, those of two names when they say the same.
    pub fn is_same(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || self.name == other.name
            || (self.content.is_some() && self.content == other.content)
    }
}

impl Default for NamedOptions {
    fn default() -> Self {
        Self::new(DEFAULT_OPTIONS, None)
    }
}

/// What a TLS router of an entry point asks for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its rule.
    pub rule: Rule,
    /// Its options.
    pub options: Arc<NamedOptions>,
}

/// The TLS options of an entry point's hosts.
#[derive(Debug, Default)]
pub struct HostOptions {
    default: Arc<NamedOptions>,
    /// Those of names that no router asks for, where the entry point has options of its own.
    unclaimed: Option<Arc<NamedOptions>>,
    /// Hosts that rules ask for by name.
    exact: HashMap<String, Arc<NamedOptions>, foldhash::fast::RandomState>,
    /// Claims on hosts that are not listed, in order of priority.
    wide: Vec<Claim>,
    /// Numbers of those whose hosts end in a dot and these labels.
    below: HashMap<Box<str>, Vec<usize>, foldhash::fast::RandomState>,
    /// Length of the longest key in `below`, in bytes.
    longest_below: usize,
    /// Numbers of all others.
    anywhere: Vec<usize>,
    /// Options of routers that do not ask for a host.
    unnamed: Vec<Arc<NamedOptions>>,
}

impl HostOptions {
    /// Of claims in order of priority, highest first.
    pub fn new(claims: Vec<Claim>, default: Arc<NamedOptions>) -> Self {
        Self::with_unclaimed(claims, default, None)
    }

    /// The same for an entry point with options of its own, which apply to names that no router asks for.
    pub fn with_unclaimed(
        claims: Vec<Claim>,
        default: Arc<NamedOptions>,
        unclaimed: Option<Arc<NamedOptions>>,
    ) -> Self {
        let unclaimed = unclaimed.filter(|options| !options.is_same(&default));
        let mut hosts = Self { default, unclaimed, ..Self::default() };
        // The cheap case: nothing has to be looked up.
        if claims.iter().all(|claim| claim.options.is_same(hosts.unclaimed())) {
            return hosts;
        }
        let mut named: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, claim) in claims.iter().enumerate() {
            for host in claim.rule.hosts() {
                if !host.starts_with('*') {
                    named.entry(host).or_default().push(number);
                }
            }
        }
        for (host, users) in named {
            let mut choice = Choice::default();
            for claim in users.iter().filter_map(|&number| claims.get(number)) {
                if claim.rule.coverage(&host).is_some() {
                    choice.add(&claim.options, false);
                }
            }
            // Routers in conflict answer 503.
            let options = if choice.others { Some(&hosts.default) } else { choice.first };
            if let Some(options) = options.cloned() {
                hosts.exact.insert(host, options);
            }
        }
        for claim in claims {
            hosts.add_wide(claim);
        }
        hosts.longest_below = hosts.below.keys().map(|labels| labels.len()).max().unwrap_or(0);
        hosts
    }

    fn add_wide(&mut self, claim: Claim) {
        if !claim.rule.asks_for_host() {
            if !self.unnamed.iter().any(|known| known.is_same(&claim.options)) {
                self.unnamed.push(claim.options);
            }
            return;
        }
        let number = self.wide.len();
        let mut is_wide = false;
        for set in claim.rule.host_sets() {
            match set {
                // It is in `exact`.
                HostSet::Exact(_) => continue,
                HostSet::Any => self.anywhere.push(number),
                HostSet::Below(labels) => self.below.entry(labels).or_default().push(number),
            }
            is_wide = true;
        }
        if is_wide {
            self.wide.push(claim);
        }
    }

    /// Those of a host, which is given in lower case and without port; empty when nothing is known of it.
    pub fn of(&self, host: &str) -> &Arc<NamedOptions> {
        let bare = host.strip_suffix('.').unwrap_or(host);
        if let Some(options) = self.exact.get(bare) {
            return options;
        }
        if self.wide.is_empty() && self.unnamed.is_empty() {
            return self.unclaimed();
        }
        self.search(host, bare)
    }

    fn unclaimed(&self) -> &Arc<NamedOptions> {
        self.unclaimed.as_ref().unwrap_or(&self.default)
    }

    fn search(&self, host: &str, bare: &str) -> &Arc<NamedOptions> {
        let mut numbers: SmallVec<[usize; 8]> = SmallVec::from_slice(&self.anywhere);
        for (dot, _) in bare.match_indices('.') {
            let labels = bare.get(dot + 1..).unwrap_or_default();
            if labels.len() <= self.longest_below
                && let Some(found) = self.below.get(labels)
            {
                numbers.extend_from_slice(found);
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        let mut unnamed = Choice::default();
        for options in &self.unnamed {
            unnamed.add(options, false);
        }
        let (mut closest, mut choice) = (Closeness::Unnamed, unnamed);
        for claim in numbers.iter().filter_map(|&number| self.wide.get(number)) {
            let Some(coverage) = claim.rule.coverage(host) else { continue };
            if coverage.closeness < closest {
                continue;
            }
            if coverage.closeness > closest {
                (closest, choice) = (coverage.closeness, Choice::default());
            }
            choice.add(&claim.options, coverage.whole && closest < Closeness::Wildcard);
        }
        choice.settle(&self.default).unwrap_or_else(|| self.unclaimed())
    }

    /// The hosts that rules ask for by name, with their options.
    pub fn exact(&self) -> impl Iterator<Item = (&str, &Arc<NamedOptions>)> {
        self.exact.iter().map(|(host, options)| (host.as_str(), options))
    }
}

/// The options that routers ask for which name a host equally closely.
#[derive(Clone, Copy, Default)]
struct Choice<'a> {
    first: Option<&'a Arc<NamedOptions>>,
    last: Option<&'a Arc<NamedOptions>>,
    others: bool,
    has_default: bool,
    /// One takes all requests for the host: routers of lower priority see none.
    is_complete: bool,
}

impl<'a> Choice<'a> {
    /// Adds those of the router that comes next by priority.
    fn add(&mut self, options: &'a Arc<NamedOptions>, whole: bool) {
        if self.is_complete {
            return;
        }
        let first = self.first.get_or_insert(options);
        self.others |= !first.is_same(options);
        self.has_default |= *options.name == *DEFAULT_OPTIONS;
        self.last = Some(options);
        self.is_complete = whole;
    }

    /// Those on which all agree; else `default` if one has them, as its route does not check, else those of the lowest priority,
    /// which take what is left.
    fn settle(self, default: &'a Arc<NamedOptions>) -> Option<&'a Arc<NamedOptions>> {
        match () {
            () if !self.others => self.first,
            () if self.has_default => Some(default),
            () => self.last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(claims: &[(&str, &str)]) -> HostOptions {
        let digest = |name: &str| {
            let mut digest = [0; 32];
            digest[..name.len()].copy_from_slice(name.as_bytes());
            Some(digest)
        };
        let claims = claims.iter().map(|(rule, name)| Claim {
            rule: Rule::parse(rule).unwrap(),
            options: Arc::new(NamedOptions::new(name, digest(name))),
        });
        HostOptions::new(claims.collect(), Arc::default())
    }

    #[test]
    fn the_closest_name_counts() {
        let options = hosts(&[
            ("Host(`x.w.test`)", "default"),
            ("HostRegexp(`^[ab]+\\.p\\.test$`) && !Host(`b.p.test`)", "pattern"),
            ("HostRegexp(`^.+\\.dom\\.test$`) || Host(`dom.test`)", "dom"),
            ("Host(`a.test`)", "strict"),
            ("Host(`*.w.test`) && !Host(`q.w.test`)", "low"),
            ("Host(`*`)", "any"),
            ("PathPrefix(`/`)", "path"),
        ]);
        for (host, expected) in [
            ("a.test", "strict"),
            ("a.test.", "strict"),
            ("y.w.test", "low"),
            ("x.w.test", "default"),
            ("q.w.test", "any"),
            ("z.y.w.test", "any"),
            ("www.dom.test", "dom"),
            ("a.b.dom.test", "dom"),
            ("dom.test", "dom"),
            ("a.p.test", "pattern"),
            ("b.p.test", "any"),
            ("c.p.test", "any"),
            ("b.test", "any"),
            ("", "any"),
        ] {
            assert_eq!(&*options.of(host).name, expected, "{host}");
        }
        assert_eq!(&*HostOptions::default().of("a.test").name, "default");
    }

    #[test]
    fn who_takes_all_of_a_host_by_priority_decides_and_disagreement_is_left_to_routes() {
        let all = "HostRegexp(`^.+\\.test$`)";
        let part = "HostRegexp(`^a\\.test$`) && Path(`/x`)";
        for (claims, expected) in [
            (&[(all, "strict"), (part, "other")][..], "strict"),
            (&[(part, "other"), (all, "strict")], "strict"),
            (&[(part, "strict"), (all, "default")], "default"),
            (&[(part, "default"), (all, "strict")], "default"),
            (&[("Path(`/`)", "strict"), ("Path(`/b`)", "strict")], "strict"),
            (&[("Path(`/`)", "strict"), ("Path(`/b`)", "default")], "default"),
            (&[("!Host(`b.test`)", "strict"), ("Path(`/b`)", "default")], "strict"),
        ] {
            assert_eq!(&*hosts(claims).of("a.test").name, expected, "{claims:?}");
        }
    }

    #[test]
    fn names_that_nobody_asks_for_have_the_options_of_the_entry_point() {
        let named = |name: &str, first| Arc::new(NamedOptions::new(name, Some([first; 32])));
        let (default, strict) = (named("default", 0), named("strict", 1));
        let claim = |rule: &str, options: &Arc<NamedOptions>| Claim {
            rule: Rule::parse(rule).unwrap(),
            options: options.clone(),
        };
        let of = |claims: Vec<Claim>, host: &str| {
            let hosts = HostOptions::with_unclaimed(claims, default.clone(), Some(strict.clone()));
            hosts.of(host).name.to_string()
        };
        assert_eq!(of(vec![], "x.test"), "strict");
        let hosts = || vec![claim("Host(`a.test`)", &default), claim("Host(`b.test`)", &strict)];
        assert_eq!(
            ["a.test", "b.test", "x.test"].map(|host| of(hosts(), host)),
            ["default", "strict", "strict"]
        );
        assert_eq!(of(vec![claim("Host(`a.test`)", &default)], "a.test"), "default");
        assert_eq!(of(vec![claim("Path(`/`)", &default)], "x.test"), "default", "its router takes it");
    }

    #[test]
    fn options_are_compared_by_content() {
        let of = |name: &str, content| NamedOptions::new(name, content);
        assert!(of("a", Some([1; 32])).is_same(&of("b", Some([1; 32]))));
        assert!(of("a", Some([1; 32])).is_same(&of("a", Some([2; 32]))), "after a reload");
        assert!(!of("a", Some([1; 32])).is_same(&of("b", Some([2; 32]))));
        assert!(!of("a", None).is_same(&of("b", None)), "missing ones are never the same");
    }
}
