//! Environment variables: `TRAEFIK_ENTRYPOINTS_WEB_ADDRESS=:80`, or with the prefix `TIDEGATE_`.

use std::collections::BTreeMap;

use super::switches::{Given, settle};
use crate::origin::{Origin, Problem};
use crate::tree::Node;

/// The recognised prefixes. The first wins where both give the same key.
pub const PREFIXES: [&str; 2] = ["TIDEGATE_", "TRAEFIK_"];

/// The settings, and what is wrong with the variables.
#[derive(Debug)]
pub struct Read {
    /// The settings.
    pub node: Node,
    /// Variables that are not used, each with the reason.
    pub warnings: Vec<Problem>,
    /// Invalid variables.
    pub problems: Vec<Problem>,
}

/// Reads the variables with one of the [`PREFIXES`]. Underscores separate the parts of a key; names of
/// objects are lower case, since variables have no case.
///
/// `wanted` decides for each variable and its key (with dots) whether it is ours; others are ignored.
/// `is_switch` returns whether a key disables its block unless its value is `true`, regardless of nested
/// options.
pub fn read<'a>(
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    wanted: impl Fn(&str, &str) -> bool,
    is_switch: &dyn Fn(&[&str]) -> bool,
) -> Read {
    let mut read = Read { node: Node::table(Origin::Internal), warnings: Vec::new(), problems: Vec::new() };
    // Sorted by key, so that the result does not depend on the order of the environment.
    let mut by_key: BTreeMap<String, (usize, &str, &str)> = BTreeMap::new();
    for (name, value) in variables {
        let Some((rank, key)) = key(name) else { continue };
        if !wanted(name, &key) {
            continue;
        }
        match by_key.get(&key).copied() {
            Some(other) if other.2 != value => {
                let loser = if other.0 <= rank { name } else { other.1 };
                let winner = if other.0 <= rank { other.1 } else { name };
                read.warnings.push(problem(loser, format!("not used: `{winner}` sets the same option")));
                if rank < other.0 {
                    by_key.insert(key, (rank, name, value));
                }
            }
            Some(_) => {}
            None => drop(by_key.insert(key, (rank, name, value))),
        }
    }
    let mut given = Vec::new();
    for (key, (_, name, value)) in &by_key {
        match super::labels::steps(key) {
            Ok(steps) => given.push(Given { steps, value, origin: Origin::Environment((*name).into()) }),
            Err(_) => read.problems.push(problem(name, "expected parts between single underscores".into())),
        }
    }
    let (given, ignored) = settle(given, is_switch);
    read.warnings.extend(ignored);
    for Given { steps, value, origin } in given {
        if let Err(conflict) = read.node.set(&steps, &origin, value) {
            let message = conflict.to_string();
            read.problems.push(Problem { origin, object: None, message, excerpt: None });
        }
    }
    read
}

/// Returns the rank of the prefix, and the key with dots.
fn key(name: &str) -> Option<(usize, String)> {
    let prefixes = PREFIXES.iter().enumerate();
    let found = prefixes.filter_map(|(rank, prefix)| Some((rank, name.strip_prefix(prefix)?))).next();
    found
        .filter(|(_, rest)| !rest.is_empty())
        .map(|(rank, rest)| (rank, rest.to_lowercase().replace('_', ".")))
}

fn problem(name: &str, message: String) -> Problem {
    Problem { origin: Origin::Environment(name.into()), object: None, message, excerpt: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_become_keys() {
        let read = read(
            [
                ("TRAEFIK_ENTRYPOINTS_WEB_ADDRESS", ":80"),
                ("TRAEFIK_ENTRYPOINTS_WEB_HTTP_TLS_DOMAINS_0_MAIN", "a.test"),
                ("TRAEFIK_API", "true"),
                ("TRAEFIK_SERVICE_HOST", "10.0.0.1"),
                ("HOME", "/root"),
            ],
            |_, key| !key.starts_with("service"),
            &|_| false,
        );
        assert_eq!(
            read.node.flatten(),
            [
                ("api".into(), "true".into()),
                ("entrypoints.web.address".into(), ":80".into()),
                ("entrypoints.web.http.tls.domains[0].main".into(), "a.test".into()),
            ]
        );
        assert!(read.warnings.is_empty() && read.problems.is_empty(), "{read:?}");
        assert_eq!(
            read.node.get(&["api"]).map(|node| &node.origin),
            Some(&Origin::Environment("TRAEFIK_API".into()))
        );
    }

    #[test]
    fn our_prefix_wins_with_a_warning() {
        let variables = [("TRAEFIK_LOG_LEVEL", "INFO"), ("TIDEGATE_LOG_LEVEL", "DEBUG")];
        for order in [variables, [variables[1], variables[0]]] {
            let read = read(order, |_, _| true, &|_| false);
            assert_eq!(read.node.get(&["log", "level"]).and_then(Node::as_leaf), Some("DEBUG"));
            assert_eq!(
                read.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
                [
                    "environment variable TRAEFIK_LOG_LEVEL: not used: `TIDEGATE_LOG_LEVEL` sets the same option"
                ]
            );
        }
    }

    #[test]
    fn an_invalid_name_is_a_problem() {
        let read = read([("TRAEFIK_LOG__LEVEL", "INFO")], |_, _| true, &|_| false);
        assert_eq!(read.problems.len(), 1);
        assert!(read.node.is_empty());
    }
}
