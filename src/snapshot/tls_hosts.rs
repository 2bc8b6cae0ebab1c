//! The TLS options of the hosts of each entry point: which routers are in conflict, and which options cannot be chosen at
//! the handshake.

use std::collections::HashMap;
use std::sync::Arc;

use super::attach::Attached;
use super::diagnostics::Outcome;
use super::routers::{Rules, options_name};
use crate::router::{Closeness, HostSet, Rule};
use crate::tls::{Claim, HostOptions, NamedOptions, TlsStore};

/// How many pairs of routers and hosts are compared for the report of an entry point. Beyond, a router whose options may not apply
/// is reported without an example.
const MAX_COMPARED: usize = 1_000_000;

/// The TLS options that the settings give to an entry point.
type OwnOptions<'a> = Option<&'a str>;

/// The order in which providers come first.
type Rank<'a> = dyn Fn(&str) -> usize + 'a;

/// A TLS router of one entry point.
struct Claimant<'a> {
    /// Number of the router.
    place: usize,
    name: &'a str,
    rule: &'a Rule,
    options: Arc<NamedOptions>,
    /// Its route checks what a connection was opened with.
    is_checked: bool,
}

/// Checks the TLS options of all routers, and finds those of each host of each entry point.
///
/// `points` has the options that the settings give to each entry point. Two routers of one host with different options are
/// in conflict. Which client authentication was meant is not
/// known then, so neither serves (Traefik's `core.strictTLSOptions`).
pub(super) fn settle(
    attached: &[Attached],
    rules: &Rules,
    tls: &TlsStore,
    (points, rank): (&[OwnOptions<'_>], &Rank<'_>),
    outcomes: &mut [Outcome],
) -> Vec<HostOptions> {
    let mut claimants: Vec<Vec<Claimant<'_>>> = points.iter().map(|_| Vec::new()).collect();
    for (place, router) in attached.iter().enumerate() {
        let Some(asked) = &router.router.tls else { continue };
        let name = options_name(&asked.options);
        if !tls.has_options(name) {
            outcomes[place].errors.push(format!("building router handler: unknown TLS options: {name}"));
        }
        let Some(Ok(rule)) = rules.get(&router.router.rule) else { continue };
        let (options, is_checked) = (tls.named(name), tls.is_checked(name));
        for &point in &router.entry_points {
            let options = options.clone();
            claimants[point].push(Claimant { place, name: &router.name, rule, options, is_checked });
        }
    }
    let default = tls.named(crate::tls::DEFAULT_OPTIONS);
    let each = claimants.into_iter().zip(points).map(|(mut claimants, own)| {
        // The order in which routes are looked for.
        let priority = |claimant: &Claimant<'_>| attached[claimant.place].router.priority;
        claimants.sort_by_cached_key(|one| (std::cmp::Reverse(priority(one)), rank(one.name), one.name));
        refuse_conflicts(&claimants, outcomes);
        let claim = |one: &Claimant<'_>| Claim { rule: one.rule.clone(), options: one.options.clone() };
        let own = own.map(|name| tls.named_in_settings(name));
        let unclaimed = own.as_ref().unwrap_or(&default);
        let all_same = claimants.iter().all(|one| one.options.is_same(unclaimed));
        let claims = if all_same { Vec::new() } else { claimants.iter().map(claim).collect() };
        let hosts = HostOptions::with_unclaimed(claims, default.clone(), own);
        if claimants.iter().any(|one| one.is_checked) {
            warn_of_undecided(&claimants, &hosts, outcomes);
        }
        hosts
    });
    each.collect()
}

/// Routers that ask for one host, wildcard or `*` with different options do not serve.
fn refuse_conflicts(claimants: &[Claimant<'_>], outcomes: &mut [Outcome]) {
    let Some(first) = claimants.first() else { return };
    if claimants.iter().all(|one| one.options.is_same(&first.options)) {
        return;
    }
    let mut named: HashMap<String, Vec<&Claimant<'_>>> = HashMap::new();
    for one in claimants {
        for host in one.rule.hosts() {
            // It may be ruled out again elsewhere in the rule.
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
            let errors = &mut outcomes[one.place].errors;
            if !errors.contains(&conflict) {
                errors.push(conflict);
            }
        }
    }
}

/// Warns of routers that may be asked for on connections which were opened with other options, and then answer 421.
fn warn_of_undecided(claimants: &[Claimant<'_>], hosts: &HostOptions, outcomes: &mut [Outcome]) {
    let wide: Vec<(usize, &Claimant<'_>, Reach)> = claimants
        .iter()
        .enumerate()
        .filter_map(|(number, one)| Reach::of(one.rule).map(|reach| (number, one, reach)))
        .collect();
    let whole = whole_hosts(claimants);
    let mut left = MAX_COMPARED;
    for (number, one, reach) in wide.iter().filter(|(_, one, _)| one.is_checked) {
        if outcomes[one.place].is_broken() {
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
            Some((host, options)) => format!("`{host}` is opened with {}", options.name),
            None => match other() {
                Some((_, other, _)) => {
                    format!("router {} has {} for some of the same names", other.name, other.options.name)
                }
                None => continue,
            },
        };
        let options = &one.options.name;
        outcomes[one.place].warnings.push(format!(
            "the server name alone does not decide on the TLS options {options}: {reason}; requests on a connection with other options are answered with 421"
        ));
    }
}

/// By host that is asked for by name: the first router that takes all requests for it. Those behind it see none.
fn whole_hosts(claimants: &[Claimant<'_>]) -> HashMap<String, usize> {
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

/// The hosts that a rule may take beyond those that it names.
struct Reach {
    sets: Vec<HostSet>,
    prefix: Option<String>,
    /// How closely it names them.
    closeness: (Closeness, Closeness),
    /// It takes all their requests.
    is_whole: bool,
}

impl Reach {
    /// `None` for a rule that takes only hosts which it names.
    fn of(rule: &Rule) -> Option<Self> {
        let sets = rule.host_sets();
        let is_exact = |set: &HostSet| matches!(set, HostSet::Exact(_));
        (!sets.iter().all(is_exact)).then(|| Self {
            sets,
            prefix: rule.host_prefix(),
            closeness: rule.closeness(),
            is_whole: rule.asks_for_host_only(),
        })
    }

    /// True when this rule's options are chosen wherever both fit.
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
