//! Labels of containers, tags of services and keys of stores: `traefik.http.routers.r.rule` = value.

use crate::origin::{Origin, Problem};
use crate::tree::Node;

/// Longest key that is read, in bytes.
const LONGEST_KEY: usize = 4096;
/// Most steps in a key.
const DEEPEST_KEY: usize = 32;

/// Reads labels that begin with one of the prefixes (`traefik`, without the dot), ignoring case; the prefix is
/// taken off. Other labels are passed over. Labels are read in the order of their keys.
///
/// A key that cannot be read is a problem, and the others are read all the same.
pub fn read<'a>(
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    prefixes: &[&str],
    origin: impl Fn(&str) -> Origin,
) -> (Node, Vec<Problem>) {
    let mut labels: Vec<_> =
        labels.into_iter().filter_map(|(key, value)| Some((rest(key, prefixes)?, key, value))).collect();
    labels.sort_unstable();
    let mut node = Node::table(origin(""));
    let mut problems = Vec::new();
    for (rest, key, value) in labels {
        let origin = origin(key);
        let outcome = steps(rest)
            .and_then(|steps| node.set(&steps, &origin, value).map_err(|conflict| conflict.to_string()));
        if let Err(message) = outcome {
            problems.push(Problem { origin, object: None, message, excerpt: None });
        }
    }
    (node, problems)
}

/// The part of a key behind `prefix.`, compared without case.
fn rest<'a>(key: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    prefixes.iter().find_map(|prefix| {
        let (head, rest) = (key.get(..prefix.len())?, key.get(prefix.len()..)?);
        rest.strip_prefix('.').filter(|_| head.eq_ignore_ascii_case(prefix))
    })
}

/// The steps of a key: `a.b[0].c` has `a`, `b`, `0` and `c`.
pub(crate) fn steps(key: &str) -> Result<Vec<&str>, String> {
    if key.len() > LONGEST_KEY {
        return Err(format!("the key is longer than {LONGEST_KEY} bytes"));
    }
    let mut steps = Vec::new();
    for part in key.split('.') {
        let (name, mut indexes) = part.find('[').map_or((part, ""), |at| part.split_at(at));
        if name.is_empty() {
            return Err(format!("`{key}` has an empty part: expected names between dots"));
        }
        steps.push(name);
        while !indexes.is_empty() {
            let index = indexes.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let Some((number, rest)) = index.filter(|(number, _)| number.parse::<u32>().is_ok()) else {
                return Err(format!("`{part}` in `{key}`: expected an index like `[0]`"));
            };
            steps.push(number);
            indexes = rest;
        }
    }
    if steps.len() > DEEPEST_KEY {
        return Err(format!("`{key}` has more than {DEEPEST_KEY} parts"));
    }
    Ok(steps)
}
