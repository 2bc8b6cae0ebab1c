//! Command-line flags: `--entryPoints.web.address=:80`, `--api` for `--api=true`, `--log.level DEBUG`.

use super::switches::{Given, settle};
use crate::origin::{Origin, Problem};
use crate::tree::{Conflict, Node, Value};

/// The settings, and what is wrong with the flags.
#[derive(Debug)]
pub struct Read {
    /// The settings.
    pub node: Node,
    /// Flags that have no effect, each with the reason.
    pub warnings: Vec<Problem>,
    /// Invalid flags.
    pub problems: Vec<Problem>,
}

/// Reads flags, with one dash or two, as in Traefik. A flag without `=` takes the next argument as its value
/// unless that is a flag, in which case its value is `true`. Repeated flags form a list; where no list is
/// expected, the last one wins.
///
/// `is_switch` returns whether a key disables its block unless its value is `true`, regardless of nested
/// options.
pub fn read<'a>(arguments: impl IntoIterator<Item = &'a str>, is_switch: &dyn Fn(&[&str]) -> bool) -> Read {
    let mut read = Read { node: Node::table(Origin::Internal), warnings: Vec::new(), problems: Vec::new() };
    let mut given = Vec::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        let Some(name) = flag(argument) else {
            read.problems.push(problem(argument, "expected a flag like `--log.level=DEBUG`".into()));
            continue;
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, value),
            None => (name, arguments.next_if(|next| !next.starts_with('-')).unwrap_or("true")),
        };
        let origin = Origin::Flag(format!("--{name}").into());
        match super::labels::steps(name) {
            Ok(steps) => given.push(Given { steps, value, origin }),
            Err(error) => {
                let message = error.to_string();
                read.problems.push(Problem { origin, object: None, message, excerpt: None });
            }
        }
    }
    let (given, ignored) = settle(given, is_switch);
    read.warnings = ignored;
    for Given { steps, value, origin } in given {
        if let Err(conflict) = add(&mut read.node, &steps, &origin, value) {
            let message = conflict.to_string();
            read.problems.push(Problem { origin, object: None, message, excerpt: None });
        }
    }
    read
}

/// Returns the name after one or two dashes.
fn flag(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    (!name.is_empty() && !name.starts_with(['-', '='])).then_some(name)
}

fn add(node: &mut Node, steps: &[&str], origin: &Origin, value: &str) -> Result<(), Conflict> {
    let before = match node.get(steps).map(|existing| &existing.value) {
        Some(Value::Leaf(text)) => vec![Node::leaf(origin.clone(), text)],
        Some(Value::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    if before.is_empty() {
        return node.set(steps, origin, value);
    }
    node.remove(steps);
    node.set(steps, origin, value)?;
    let added = Node::leaf(origin.clone(), value);
    if let Some(existing) = node.get_mut(steps) {
        existing.value = Value::List(before.into_iter().chain([added]).collect());
    }
    Ok(())
}

fn problem(argument: &str, message: String) -> Problem {
    Problem { origin: Origin::Flag(argument.into()), object: None, message, excerpt: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode;

    fn given(arguments: &[&str]) -> Read {
        read(arguments.iter().copied(), &|steps| steps == ["log"])
    }

    #[test]
    fn a_disabled_block_discards_its_options() {
        for arguments in [
            ["--log=false", "--log.level=INFO", "--api.debug"],
            ["--LOG.level=INFO", "--api.debug", "--log=no"],
            ["--log.level.x=INFO", "--api.debug", "--log=0"],
        ] {
            let Read { node, warnings, problems } = given(&arguments);
            assert!(problems.is_empty() && warnings.is_empty(), "{problems:?} {warnings:?}");
            assert!(node.get(&["log"]).is_some_and(|log| log.as_leaf().is_some()), "{node:?}");
            assert!(node.get(&["api", "debug"]).is_some());
        }
        let on = given(&["--log=false", "--log.level=INFO", "--log=true"]);
        assert_eq!(on.node.flatten(), [("log.level".into(), "INFO".into())]);
        let other = given(&["--tls=false", "--tls.options=x"]);
        assert_eq!(other.node.flatten(), [("tls.options".into(), "x".into())]);
        assert_eq!(
            other.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["flag --tls: `false` has no effect: options of `tls` are also given"]
        );
    }

    #[test]
    fn flags_become_keys() {
        let Read { node, problems, .. } = given(&[
            "--entryPoints.web.address=:80",
            "--api",
            "-log.level",
            "DEBUG",
            "--providers.docker",
            "--entryPoints.web.http.tls.domains[0].main=a.test",
            "--providers.docker.constraints=Label(`a`,`b=c`)",
        ]);
        assert_eq!(problems, []);
        assert_eq!(
            node.flatten(),
            [
                ("entryPoints.web.address".into(), ":80".into()),
                ("entryPoints.web.http.tls.domains[0].main".into(), "a.test".into()),
                ("api".into(), "true".into()),
                ("log.level".into(), "DEBUG".into()),
                ("providers.docker.constraints".into(), "Label(`a`,`b=c`)".into()),
            ]
        );
    }

    #[test]
    fn a_repeated_flag_adds_to_a_list_and_overrides_a_value() {
        let Read { node, problems, .. } = given(&["--ips=a,b", "--level=INFO", "--ips=c", "--LEVEL=DEBUG"]);
        assert_eq!(problems, []);
        let list: Vec<String> = decode(node.get(&["ips"]).expect("there")).expect("a list");
        assert_eq!(list, ["a", "b", "c"]);
        let level: String = decode(node.get(&["level"]).expect("there")).expect("a text");
        assert_eq!(level, "DEBUG");
    }

    #[test]
    fn other_arguments_are_refused() {
        for argument in ["check", "--", "-", "--=x", "---a", "--a..b=c", "--a[x]=c"] {
            assert_eq!(given(&[argument]).problems.len(), 1, "{argument}");
        }
    }
}
