//! Keys of stores: `traefik/http/routers/r/rule` = value.

use std::collections::BTreeMap;

use crate::origin::{Origin, Problem};
use crate::tree::Node;

/// Longest key and longest value that are read, in bytes.
const LONGEST_KEY: usize = 4096;
const LONGEST_VALUE: usize = 1 << 20;
/// Most steps in a key.
const DEEPEST_KEY: usize = 32;

/// Reads the keys below one of the roots (`traefik`, without the slash); the root is taken off, and other keys are
/// passed over. Where two roots say the same, the first one counts. A key that ends with a slash is a folder.
///
/// A key that cannot be read is a problem, and the others are read all the same.
pub fn read<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    roots: &[&str],
) -> (Node, Vec<Problem>) {
    let origin = |key: &str| Origin::Key(key.into());
    let problem =
        |key: &str, message: String| Problem { origin: origin(key), object: None, message, excerpt: None };
    let mut problems = Vec::new();
    let mut chosen: BTreeMap<&str, (usize, &str, &[u8])> = BTreeMap::new();
    for (key, value) in pairs {
        let Some((rank, rest)) = below(key, roots) else { continue };
        if rest.is_empty() || rest.ends_with('/') {
            continue;
        }
        match chosen.get(rest) {
            Some((other, winner, _)) if *other < rank => {
                problems.push(problem(key, format!("`{winner}` is given too and wins")));
                continue;
            }
            Some((_, loser, _)) => problems.push(problem(loser, format!("`{key}` is given too and wins"))),
            None => {}
        }
        chosen.insert(rest, (rank, key, value));
    }
    let mut node = Node::table(origin(""));
    for (rest, (_, key, value)) in chosen {
        let read = steps(rest).and_then(|steps| {
            if value.len() > LONGEST_VALUE {
                return Err(format!("the value is longer than {LONGEST_VALUE} bytes"));
            }
            let text = std::str::from_utf8(value).map_err(|_| "the value is not UTF-8 text".to_owned())?;
            node.set(&steps, &origin(key), text).map_err(|conflict| conflict.to_string())
        });
        if let Err(message) = read {
            problems.push(problem(key, message));
        }
    }
    (node, problems)
}

fn below<'a>(key: &'a str, roots: &[&str]) -> Option<(usize, &'a str)> {
    roots.iter().enumerate().find_map(|(rank, root)| {
        let rest = key.strip_prefix(root)?.strip_prefix('/')?;
        Some((rank, rest))
    })
}

fn steps(key: &str) -> Result<Vec<&str>, String> {
    if key.len() > LONGEST_KEY {
        return Err(format!("the key is longer than {LONGEST_KEY} bytes"));
    }
    let steps: Vec<&str> = key.split('/').collect();
    if steps.len() > DEEPEST_KEY {
        return Err(format!("the key has more than {DEEPEST_KEY} parts"));
    }
    if steps.iter().any(|step| step.is_empty()) {
        return Err(format!("`{key}` has an empty part: expected names between slashes"));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::decode_config;

    fn read_text(pairs: &[(&str, &str)]) -> (Node, Vec<String>) {
        let pairs = pairs.iter().map(|(key, value)| (*key, value.as_bytes()));
        let (node, problems) = read(pairs, &["tidegate", "traefik"]);
        (node, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn keys_become_objects() {
        let (node, problems) = read_text(&[
            ("traefik/", ""),
            ("traefik/http/routers/a.b/rule", "Host(`a.test`)"),
            ("traefik/http/routers/a.b/entryPoints/0", "web"),
            ("traefik/http/routers/a.b/entryPoints/1", "websecure"),
            ("traefik/http/routers/a.b/middlewares", "m, n"),
            ("traefik/http/routers/a.b/tls", "true"),
            ("traefik/http/routers/a.b/tls/domains/0/sans/1", "y.test"),
            ("traefik/http/routers/a.b/tls/domains/0/sans/0", "x.test"),
            ("traefik/http/services/s/weighted/services/0/name", "t"),
            ("traefik/http/services/s/weighted/services/0/weight", "3"),
            ("traefik/http/services/t/loadbalancer/SERVERS/0/url", "http://10.0.0.1"),
            ("traefik/http/services/t/", ""),
            ("traefikx/http/routers/q/rule", "no"),
            ("other", "x"),
        ]);
        assert_eq!(problems, [""; 0]);
        let provided = decode_config(&node);
        assert_eq!(provided.problems, []);
        let router = &provided.config.http.routers["a.b"];
        assert_eq!(router.entry_points, ["web", "websecure"]);
        assert_eq!(router.middlewares, ["m", "n"]);
        assert_eq!(router.tls.as_ref().expect("TLS").domains[0].sans, ["x.test", "y.test"]);
        let weighted = provided.config.http.services["s"].weighted.as_ref().expect("weighted");
        assert_eq!(weighted.services[0].weight, Some(3));
        let balancer = provided.config.http.services["t"].load_balancer.as_ref().expect("a balancer");
        assert_eq!(balancer.servers[0].url, "http://10.0.0.1");
        assert_eq!(provided.config.http.routers.len(), 1);
    }

    #[test]
    fn problems_name_the_key() {
        let (node, mut problems) = read_text(&[
            ("traefik/http/routers/r/rul", "x"),
            ("traefik/http//routers", "x"),
            ("traefik/http/routers/q/rule", "theirs"),
            ("tidegate/http/routers/q/rule", "ours"),
        ]);
        let provided = decode_config(&node);
        problems.extend(provided.problems.iter().map(ToString::to_string));
        assert_eq!(
            problems,
            [
                "key traefik/http/routers/q/rule: `tidegate/http/routers/q/rule` is given too and wins",
                "key traefik/http//routers: `http//routers` has an empty part: expected names between slashes",
                "key traefik/http/routers/r/rul: router r: http.routers.r.rul: unknown key: did you mean `rule`?",
            ]
        );
        assert_eq!(provided.config.http.routers["q"].rule, "ours");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(key in "(t/)?[a-z0-9/]{0,40}", value in prop::collection::vec(any::<u8>(), 0..20)) {
            let (node, _) = read([(key.as_str(), value.as_slice())], &["t", "u"]);
            decode_config(&node);
        }
    }
}
