//! Resolves the TLS options of hosts at each entry point, and reports conflicts and options that cannot be
//! chosen in the handshake.

use std::collections::HashMap;
use std::sync::Arc;

use super::attach::Attached;
use super::diagnostics::Outcome;
use super::routers::{Rules, options_name};
use crate::router::{Closeness, HostSet, Rule};
use crate::tls::{Claim, HostOptions, NamedOptions, TlsStore};

/// Maximum number of comparisons of routers and hosts per entry point. Beyond that, a router whose options
/// may not apply is reported without checking for an actual overlap.
const MAX_COMPARISONS: usize = 1_000_000;

/// The TLS options that the settings define for an entry point.
type OwnOptions<'a> = Option<&'a str>;

/// Returns the rank of a provider; lower ranks win.
type Rank<'a> = dyn Fn(&str) -> usize + 'a;

/// A TLS router of one entry point.
struct Claimant<'a> {
    /// Index of the router.
    index: usize,
    name: &'a str,
    rule: &'a Rule,
    options: Arc<NamedOptions>,
    /// Whether its route checks the options of the connection.
    is_checked: bool,
}

/// Checks the TLS options of all routers and resolves those of each host at each entry point.
///
/// `points` has the options that the settings define for each entry point. Two routers for one host with
/// different options conflict. As it is unknown which client authentication was intended, both are disabled
/// (Traefik's `core.strictTLSOptions`).
pub(super) fn resolve(
    attached: &[Attached],
    rules: &Rules,
    tls: &TlsStore,
    (points, rank): (&[OwnOptions<'_>], &Rank<'_>),
    outcomes: &mut [Outcome],
) -> Vec<HostOptions> {
    let mut claimants: Vec<Vec<Claimant<'_>>> = points.iter().map(|_| Vec::new()).collect();
    for (index, router) in attached.iter().enumerate() {
        let Some(asked) = &router.router.tls else { continue };
        let name = options_name(&asked.options);
        if !tls.has_options(name) {
            outcomes[index].errors.push(format!("building router handler: unknown TLS options: {name}"));
        }
        let Some(Ok(rule)) = rules.get(&router.router.rule) else { continue };
        let (options, is_checked) = (tls.named(name), tls.is_checked(name));
        for &point in &router.entry_points {
            let options = options.clone();
            claimants[point].push(Claimant { index, name: &router.name, rule, options, is_checked });
        }
    }
    let default = tls.named(crate::tls::DEFAULT_OPTIONS);
    let each = claimants.into_iter().zip(points).map(|(mut claimants, own)| {
        // The order in which routes are matched.
        let priority = |claimant: &Claimant<'_>| attached[claimant.index].router.priority;
        claimants.sort_by_cached_key(|one| (std::cmp::Reverse(priority(one)), rank(one.name), one.name));
        reject_conflicts(&claimants, outcomes);
        let claim = |one: &Claimant<'_>| Claim { rule: one.rule.clone(), options: one.options.clone() };
        let own = own.map(|name| tls.named_in_settings(name));
        let unclaimed = own.as_ref().unwrap_or(&default);
        let all_same = claimants.iter().all(|one| one.options.is_same(unclaimed));
        let claims = if all_same { Vec::new() } else { claimants.iter().map(claim).collect() };
        let hosts = HostOptions::with_unclaimed(claims, default.clone(), own);
        if claimants.iter().any(|one| one.is_checked) {
            warn_about_undecided(&claimants, &hosts, outcomes);
        }
        hosts
    });
    each.collect()
}

/// Disables routers that name the same host, wildcard or `*` with different options.
fn reject_conflicts(claimants: &[Claimant<'_>], outcomes: &mut [Outcome]) {
    let Some(first) = claimants.first() else { return };
    if claimants.iter().all(|one| one.options.is_same(&first.options)) {
        return;
    }
    let mut named: HashMap<String, Vec<&Claimant<'_>>> = HashMap::new();
    for one in claimants {
        for host in one.rule.hosts() {
            // Another part of the rule may exclude the host.
            if host.starts_with('*') || one.rule.coverage(&host).is_some() {
                named.entry(host).or_default().push(one);
            }
        }
    }
    let mut named: Vec<_> = named.into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (host, users) in named {
        if users.iter().all(|one| one.options.is_same(&users[0].options)) {
            continue;
        }
        for one in users {
            let conflict = format!(
                "router's TLSOptions configuration is conflicting with other routers on the same entrypoint and host {host}"
            );
            let errors = &mut outcomes[one.index].errors;
            if !errors.contains(&conflict) {
                errors.push(conflict);
            }
        }
    }
}

/// Warns about routers that answer 421 because connections to them may use other TLS options.
fn warn_about_undecided(claimants: &[Claimant<'_>], hosts: &HostOptions, outcomes: &mut [Outcome]) {
    let wide: Vec<(usize, &Claimant<'_>, Reach)> = claimants
        .iter()
        .enumerate()
        .filter_map(|(number, one)| Reach::from_rule(one.rule).map(|reach| (number, one, reach)))
        .collect();
    let whole = fully_matched_hosts(claimants);
    let mut left = MAX_COMPARISONS;
    for (number, one, reach) in wide.iter().filter(|(_, one, _)| one.is_checked) {
        if outcomes[one.index].is_broken() {
            continue;
        }
        let named = hosts.exact().find(|(host, options)| {
            !options.is_same(&one.options)
                && whole.get(*host).is_none_or(|by| by >= number)
                && (left == 0 || {
                    left -= 1;
                    one.rule.coverage(host).is_some()
                })
        });
        let mut other = || {
            wide.iter().find(|(other_number, other, other_reach)| {
                !other.options.is_same(&one.options)
                    && (left == 0 || {
                        left -= 1;
                        let is_before = number < other_number;
                        let may_see_it = is_before || !other_reach.is_whole;
                        may_see_it && reach.overlaps(other_reach) && !reach.outranks(other_reach, is_before)
                    })
            })
        };
        let reason = match named {
            Some((host, options)) => format!("`{host}` uses {}", options.name),
            None => match other() {
                Some((_, other, _)) => {
                    format!("router {} uses {} for some of the same names", other.name, other.options.name)
                }
                None => continue,
            },
        };
        let options = &one.options.name;
        outcomes[one.index].warnings.push(format!(
            "the server name alone does not determine the TLS options {options}: {reason}; requests on connections with other options get a 421"
        ));
    }
}

/// Returns for each named host the first router that matches all its requests. Later routers receive none.
fn fully_matched_hosts(claimants: &[Claimant<'_>]) -> HashMap<String, usize> {
    let mut whole = HashMap::new();
    for (number, one) in claimants.iter().enumerate() {
        for host in one.rule.hosts() {
            if !host.starts_with('*') && one.rule.coverage(&host).is_some_and(|coverage| coverage.whole) {
                whole.entry(host).or_insert(number);
            }
        }
    }
    whole
}

/// The hosts that a rule matches beyond those it names.
struct Reach {
    sets: Vec<HostSet>,
    prefix: Option<String>,
    /// How specifically the rule names them.
    closeness: (Closeness, Closeness),
    /// Whether the rule matches all their requests.
    is_whole: bool,
}

impl Reach {
    /// Returns `None` for a rule that matches only the hosts it names.
    fn from_rule(rule: &Rule) -> Option<Self> {
        let sets = rule.host_sets();
        let is_exact = |set: &HostSet| matches!(set, HostSet::Exact(_));
        (!sets.iter().all(is_exact)).then(|| Self {
            sets,
            prefix: rule.host_prefix(),
            closeness: rule.closeness(),
            is_whole: rule.asks_for_host_only(),
        })
    }

    /// Returns true if the options of this rule win wherever both match.
    fn outranks(&self, other: &Self, is_before: bool) -> bool {
        let (lowest, highest) = (self.closeness.0, other.closeness.1);
        lowest > highest || (lowest == highest && self.is_whole && is_before)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let prefixes = self.prefix.as_ref().zip(other.prefix.as_ref());
        prefixes.is_none_or(|(a, b)| a.starts_with(b) || b.starts_with(a))
            && self.sets.iter().any(|set| other.sets.iter().any(|theirs| set.overlaps(theirs)))
    }
}
