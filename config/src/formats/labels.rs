//! Labels of containers, tags of services and keys of stores: `traefik.http.routers.r.rule` = value.

use super::entries::{Entry, EntryError, MAX_KEY_DEPTH, MAX_KEY_LEN, Read, assemble};
use crate::origin::{Origin, Problem};
use crate::tree::Node;

/// Reads labels with one of the prefixes (`traefik`, without the dot), ignoring case; the prefix is removed.
/// Other labels are ignored. Labels are read in the order of their keys, and where two prefixes give the same
/// option, the first one wins.
///
/// A label that is invalid, or contradicts another, is a problem of the object that it names; the others are
/// read regardless.
pub fn read<'a>(
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    prefixes: &[&str],
    origin: impl Fn(&str) -> Origin,
) -> (Node, Vec<Problem>) {
    let read = read_all(labels.into_iter().map(|(key, value)| (key, Ok(value))), prefixes, origin);
    (read.node, read.problems)
}

/// Like [`read`], but a value may be replaced by the reason why it is missing, and a lost label that names no
/// object is reported.
pub fn read_all<'a>(
    labels: impl IntoIterator<Item = (&'a str, Result<&'a str, EntryError>)>,
    prefixes: &[&str],
    origin: impl Fn(&str) -> Origin,
) -> Read {
    let entries = labels.into_iter().filter_map(|(key, value)| {
        let (rank, rest) = strip_prefix(key, prefixes)?;
        let parts = rest.split(['.', '[', ']']).filter(|part| !part.is_empty());
        Some(Entry { rank, key, steps: steps(rest), begins: parts.take(MAX_KEY_DEPTH).collect(), value })
    });
    assemble(entries, origin)
}

/// Returns the rank of a key's prefix, and the part after `prefix.`; ignores case.
fn strip_prefix<'a>(key: &'a str, prefixes: &[&str]) -> Option<(usize, &'a str)> {
    prefixes.iter().enumerate().find_map(|(rank, prefix)| {
        let (head, rest) = (key.get(..prefix.len())?, key.get(prefix.len()..)?);
        rest.strip_prefix('.').filter(|_| head.eq_ignore_ascii_case(prefix)).map(|rest| (rank, rest))
    })
}

/// Splits a key into steps: `a.b[0].c` into `a`, `b`, `0` and `c`.
pub(crate) fn steps(key: &str) -> Result<Vec<&str>, EntryError> {
    if key.len() > MAX_KEY_LEN {
        return Err(EntryError::KeyTooLong);
    }
    let mut steps = Vec::new();
    for part in key.split('.') {
        let (name, mut indexes) = part.find('[').map_or((part, ""), |at| part.split_at(at));
        if name.is_empty() {
            return Err(EntryError::EmptyStep { key: key.to_owned(), separator: "dots" });
        }
        steps.push(name);
        while !indexes.is_empty() {
            let index = indexes.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let Some((number, rest)) = index.filter(|(number, _)| number.parse::<u32>().is_ok()) else {
                return Err(EntryError::Index { step: part.to_owned(), key: key.to_owned() });
            };
            steps.push(number);
            indexes = rest;
        }
    }
    if steps.len() > MAX_KEY_DEPTH {
        return Err(EntryError::LabelTooDeep { key: key.to_owned() });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode_config;

    fn label(key: &str) -> Origin {
        Origin::Label { container: "whoami".into(), label: key.into() }
    }

    #[test]
    fn labels_become_objects() {
        let labels = [
            ("traefik.http.routers.r.rule", "Host(`a.test`)"),
            ("Traefik.HTTP.Routers.r.EntryPoints", "web, websecure"),
            ("traefik.http.routers.r.tls", "true"),
            ("traefik.http.routers.r.tls.domains[1].main", "c.test"),
            ("traefik.http.routers.r.tls.domains[0].main", "b.test"),
            ("traefik.http.routers.r.tls.domains[0].sans", "*.b.test,d.test"),
            ("traefik.http.middlewares.m.addprefix.prefix", "/x"),
            ("com.docker.compose.project", "p"),
            ("traefikx.http.routers.q.rule", "no"),
        ];
        let (node, problems) = read(labels, &["tidegate", "traefik"], label);
        assert_eq!(problems, []);
        let provided = decode_config(&node);
        assert_eq!(provided.problems, []);
        let router = &provided.config.http.routers["r"];
        assert_eq!(router.entry_points, ["web", "websecure"]);
        let domains = &router.tls.as_ref().expect("TLS").domains;
        assert_eq!(
            domains.iter().map(|domain| domain.main.as_str()).collect::<Vec<_>>(),
            ["b.test", "c.test"]
        );
        assert_eq!(domains[0].sans, ["*.b.test", "d.test"]);
        assert!(provided.config.http.middlewares.contains_key("m"));
        assert_eq!(provided.config.http.routers.len(), 1);
    }

    #[test]
    fn problems_name_the_label() {
        let labels = [
            ("traefik.http.routers.r.rul", "Host(`a.test`)"),
            ("traefik.http.routers.r.tls.domains[x].main", "a"),
            ("traefik.http..routers", "a"),
            ("traefik.http.services.s.loadbalancer.passhostheader", "yes"),
        ];
        let (node, problems) = read(labels, &["traefik"], label);
        let mut shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        shown.extend(decode_config(&node).problems.iter().map(ToString::to_string));
        assert_eq!(
            shown,
            [
                "container whoami, label traefik.http..routers: `http..routers` has an empty part: expected names \
                 between dots",
                "container whoami, label traefik.http.routers.r.tls.domains[x].main: router r: \
                 `domains[x]` in `http.routers.r.tls.domains[x].main`: expected an index like `[0]`",
                "container whoami, label traefik.http.routers.r.rul: router r: http.routers.r.rul: unknown key: did \
                 you mean `rule`?",
                "container whoami, label traefik.http.services.s.loadbalancer.passhostheader: service s: \
                 http.services.s.loadbalancer.passhostheader: invalid value `yes`: expected `true` or `false`",
            ]
        );
    }

    #[test]
    fn false_in_place_of_options_leaves_them_out() {
        let labels = [
            ("traefik.http.routers.r.rule", "Path(`/`)"),
            ("traefik.http.routers.r.tls", "false"),
            ("traefik.http.routers.r.observability.metrics", "false"),
        ];
        let (node, _) = read(labels, &["traefik"], label);
        let provided = decode_config(&node);
        assert_eq!(provided.problems, []);
        let router = &provided.config.http.routers["r"];
        assert_eq!(router.tls, None);
        assert_eq!(router.observability.as_ref().and_then(|own| own.metrics), Some(false));
    }

    #[test]
    fn huge_keys_are_refused() {
        let long = format!("traefik.{}", "a".repeat(MAX_KEY_LEN + 1));
        let deep = format!("traefik.{}", ["a"; MAX_KEY_DEPTH + 1].join("."));
        let (node, problems) = read([(long.as_str(), ""), (deep.as_str(), "")], &["traefik"], label);
        assert!(node.is_empty());
        assert_eq!(problems.len(), 2);
    }
}
