//! Chooses the TLS options for each host of an entry point.
//!
//! The handshake only knows the server name, so the options for a name depend on the rules of all TLS routers
//! that match the host. The routers that name it most specifically decide (Traefik's `tls.options` of
//! routers): by name, by wildcard, by pattern, by ``Host(`*`)`` or a negation, and finally those without a
//! host. If these disagree, the route checks the options of the connection.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::DEFAULT_OPTIONS;
use crate::router::{Closeness, HostSet, Rule};

/// TLS options with the properties that handshakes, hosts and routes compare.
#[derive(Debug)]
pub struct NamedOptions {
    /// The qualified name.
    pub name: Arc<str>,
    /// Digest of the options; `None` if they are missing or broken.
    content: Option<[u8; 32]>,
    /// Whether client certificates are verified against CAs.
    pub verifies_clients: bool,
    /// Whether it is checked that they are not revoked.
    pub(crate) checks_revocation: bool,
}

impl NamedOptions {
    /// Returns options with this name and content.
    pub fn new(name: &str, content: Option<[u8; 32]>) -> Self {
        Self { name: name.into(), content, verifies_clients: false, checks_revocation: false }
    }

    /// Returns true if a connection with these options can be used where the others are required. Options
    /// with the same name are the same across reloads, and those with different names if their content is
    /// equal.
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

/// The options that a TLS router requests for its hosts.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its rule.
    pub rule: Rule,
    /// Its options.
    pub options: Arc<NamedOptions>,
}

/// The TLS options of the hosts of an entry point.
#[derive(Debug, Default)]
pub struct HostOptions {
    default: Arc<NamedOptions>,
    /// Options for names without a router, if the entry point sets them.
    unclaimed: Option<Arc<NamedOptions>>,
    /// Options of hosts that rules name exactly.
    exact: HashMap<String, Arc<NamedOptions>, foldhash::fast::RandomState>,
    /// Claims on other hosts, in order of priority.
    wide: Vec<Claim>,
    /// Indexes of claims on hosts with this suffix.
    below: HashMap<Box<str>, Vec<usize>, foldhash::fast::RandomState>,
    /// Maximum length of a key in `below`, in bytes.
    longest_below: usize,
    /// Indexes of all other claims.
    anywhere: Vec<usize>,
    /// Options of routers without a host.
    unnamed: Vec<Arc<NamedOptions>>,
}

impl HostOptions {
    /// Returns the options for claims in order of descending priority.
    pub fn new(claims: Vec<Claim>, default: Arc<NamedOptions>) -> Self {
        Self::with_unclaimed(claims, default, None)
    }

    /// Like [`Self::new`], for an entry point with options for names without a router.
    pub fn with_unclaimed(
        claims: Vec<Claim>,
        default: Arc<NamedOptions>,
        unclaimed: Option<Arc<NamedOptions>>,
    ) -> Self {
        let unclaimed = unclaimed.filter(|options| !options.is_same(&default));
        let mut hosts = Self { default, unclaimed, ..Self::default() };
        // Fast path: no lookups are needed.
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
            // Conflicting routers answer 503.
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
                // Already in `exact`.
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

    /// Returns the options for a host, given in lower case without port; empty if the host is unknown.
    pub fn for_host(&self, host: &str) -> &Arc<NamedOptions> {
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
        choice.resolve(&self.default).unwrap_or_else(|| self.unclaimed())
    }

    /// Returns the hosts that rules name exactly, with their options.
    pub fn exact(&self) -> impl Iterator<Item = (&str, &Arc<NamedOptions>)> {
        self.exact.iter().map(|(host, options)| (host.as_str(), options))
    }
}

/// The options of routers that name a host equally specifically.
#[derive(Clone, Copy, Default)]
struct Choice<'a> {
    first: Option<&'a Arc<NamedOptions>>,
    last: Option<&'a Arc<NamedOptions>>,
    others: bool,
    has_default: bool,
    /// Whether a router matches all requests for the host, so that those with lower priority receive none.
    is_complete: bool,
}

impl<'a> Choice<'a> {
    /// Adds the options of the router with the next lower priority.
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

    /// Returns the options if all agree; otherwise `default` if one router uses it, as its route does not
    /// check; otherwise those with the lowest priority.
    fn resolve(self, default: &'a Arc<NamedOptions>) -> Option<&'a Arc<NamedOptions>> {
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
    fn the_most_specific_name_decides() {
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
            assert_eq!(&*options.for_host(host).name, expected, "{host}");
        }
        assert_eq!(&*HostOptions::default().for_host("a.test").name, "default");
    }

    #[test]
    fn a_router_for_a_whole_host_decides_and_routes_check_conflicts() {
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
            assert_eq!(&*hosts(claims).for_host("a.test").name, expected, "{claims:?}");
        }
    }

    #[test]
    fn names_without_a_router_have_the_options_of_the_entry_point() {
        let named = |name: &str, first| Arc::new(NamedOptions::new(name, Some([first; 32])));
        let (default, strict) = (named("default", 0), named("strict", 1));
        let claim = |rule: &str, options: &Arc<NamedOptions>| Claim {
            rule: Rule::parse(rule).unwrap(),
            options: options.clone(),
        };
        let of = |claims: Vec<Claim>, host: &str| {
            let hosts = HostOptions::with_unclaimed(claims, default.clone(), Some(strict.clone()));
            hosts.for_host(host).name.to_string()
        };
        assert_eq!(of(vec![], "x.test"), "strict");
        let hosts = || vec![claim("Host(`a.test`)", &default), claim("Host(`b.test`)", &strict)];
        assert_eq!(
            ["a.test", "b.test", "x.test"].map(|host| of(hosts(), host)),
            ["default", "strict", "strict"]
        );
        assert_eq!(of(vec![claim("Host(`a.test`)", &default)], "a.test"), "default");
        assert_eq!(of(vec![claim("Path(`/`)", &default)], "x.test"), "default", "its router matches");
    }

    #[test]
    fn options_are_the_same_by_name_or_content() {
        let of = |name: &str, content| NamedOptions::new(name, content);
        assert!(of("a", Some([1; 32])).is_same(&of("b", Some([1; 32]))));
        assert!(of("a", Some([1; 32])).is_same(&of("a", Some([2; 32]))), "after a reload");
        assert!(!of("a", Some([1; 32])).is_same(&of("b", Some([2; 32]))));
        assert!(!of("a", None).is_same(&of("b", None)), "missing ones are never the same");
    }
}
