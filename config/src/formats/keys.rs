//! Keys in key-value stores: `traefik/http/routers/r/rule` = value.

use super::entries::{Entry, EntryError, MAX_KEY_DEPTH, MAX_KEY_LEN, Read, assemble};
use crate::origin::Origin;

/// Maximum length of a value in bytes.
const MAX_VALUE_LEN: usize = 1 << 20;

/// Reads the keys below one of the roots (`traefik`, without the slash), which is removed; other keys are
/// ignored. Where two roots give the same option, the first one wins. A key that ends with a slash is a
/// folder. A value may be replaced by the reason why it is missing.
///
/// A key that is invalid, or contradicts another, is a problem of the object that it names; the others are
/// read regardless.
pub fn read<'a>(
    pairs: impl IntoIterator<Item = (&'a str, Result<&'a [u8], EntryError>)>,
    roots: &[&str],
) -> Read {
    let entries = pairs.into_iter().filter_map(|(key, value)| {
        let (rank, rest) = below(key, roots)?;
        if rest.is_empty() || (rest.ends_with('/') && value.as_ref().is_ok_and(|value| value.is_empty())) {
            return None;
        }
        let begins = rest.split('/').filter(|step| !step.is_empty()).take(MAX_KEY_DEPTH).collect();
        Some(Entry { rank, key, steps: steps(rest), begins, value: value.and_then(text) })
    });
    assemble(entries, |key| Origin::Key(key.into()))
}

fn text(value: &[u8]) -> Result<&str, EntryError> {
    if value.len() > MAX_VALUE_LEN {
        return Err(EntryError::ValueTooLong { limit: MAX_VALUE_LEN });
    }
    std::str::from_utf8(value).map_err(|_| EntryError::ValueNotText)
}

fn below<'a>(key: &'a str, roots: &[&str]) -> Option<(usize, &'a str)> {
    roots.iter().enumerate().find_map(|(rank, root)| {
        let rest = key.strip_prefix(root)?.strip_prefix('/')?;
        Some((rank, rest))
    })
}

fn steps(key: &str) -> Result<Vec<&str>, EntryError> {
    if key.len() > MAX_KEY_LEN {
        return Err(EntryError::KeyTooLong);
    }
    let steps: Vec<&str> = key.split('/').collect();
    if steps.len() > MAX_KEY_DEPTH {
        return Err(EntryError::KeyTooDeep);
    }
    if steps.iter().any(|step| step.is_empty()) {
        return Err(EntryError::EmptyStep { key: key.to_owned(), separator: "slashes" });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::decode_config;
    use crate::tree::Node;

    fn read_text(pairs: &[(&str, &str)]) -> (Node, Vec<String>) {
        let pairs = pairs.iter().map(|(key, value)| (*key, Ok(value.as_bytes())));
        let read = read(pairs, &["tidegate", "traefik"]);
        (read.node, read.problems.iter().map(ToString::to_string).collect())
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
                "key traefik/http/routers/q/rule: `tidegate/http/routers/q/rule` takes precedence",
                "key traefik/http//routers: `http//routers` has an empty part: expected names between slashes",
                "key traefik/http/routers/r/rul: router r: http.routers.r.rul: unknown key: did you mean `rule`?",
            ]
        );
        assert_eq!(provided.config.http.routers["q"].rule, "ours");
    }

    #[test]
    fn a_lost_key_breaks_the_object_it_names() {
        let (rule, list) = ("traefik/http/routers/r/rule", "traefik/http/routers/r/middlewares");
        let (first, ours) = ("traefik/http/routers/r/middlewares/0", "tidegate/http/routers/r/middlewares");
        let odd = "traefik/http/routers/r//middlewares/0";
        let big = vec![b'x'; MAX_VALUE_LEN + 1];
        let cases: [&[(&str, &[u8])]; 7] = [
            &[(first, b"\xff")],
            &[(first, &big)],
            &[(odd, b"auth")],
            &[(list, b"strip"), (first, b"auth")],
            &[(first, b"auth"), (ours, b"strip")],
            &[(list, b"auth"), ("traefik/http/routers/R/Middlewares", b"strip")],
            &[("traefik/http/routers/r/middlewares/", b"auth")],
        ];
        for case in cases {
            let all = case.iter().copied().chain([(rule, &b"Path(`/`)"[..])]);
            let pairs = all.map(|(key, value)| (key, Ok(value)));
            let read = read(pairs, &["tidegate", "traefik"]);
            let [problem] = &read.problems[..] else { panic!("{:?}", read.problems) };
            let object = problem.object.as_ref().map(|object| format!("{} {}", object.kind, object.name));
            assert_eq!(object.as_deref().map(str::to_lowercase).as_deref(), Some("router r"), "{problem}");
            let shown = problem.to_string();
            assert!(case.iter().all(|(key, _)| shown.contains(key)), "{shown}");
            let mut provided = decode_config(&read.node);
            provided.add_problems(read.problems);
            assert_eq!(provided.config.http.routers.values().next().expect("it stays").rule, "Path(`/`)");
        }
    }

    #[test]
    fn equal_values_from_two_roots_are_not_a_problem() {
        let (node, problems) = read_text(&[
            ("traefik/http/routers/r/middlewares", "a, b"),
            ("traefik/http/routers/r/middlewares/0", "a"),
            ("traefik/http/routers/r/middlewares/1", "b"),
            ("traefik/http/routers/r/rule", "Path(`/`)"),
            ("traefik/http/routers/r/Rule", "Path(`/`)"),
            ("tidegate/http/routers/r/rule", "Path(`/`)"),
        ]);
        assert_eq!(problems, [""; 0]);
        assert_eq!(decode_config(&node).config.http.routers["r"].middlewares, ["a", "b"]);
    }

    #[test]
    fn only_a_lost_key_adds_its_router() {
        let read = read([("traefik/http/routers/r/rule", Ok(&b"\xff"[..]))], &["traefik"]);
        let mut provided = decode_config(&read.node);
        provided.add_problems(read.problems);
        assert!(provided.config.http.routers.contains_key("r"));
        assert_eq!(provided.origins.len(), 1);
    }

    #[test]
    fn a_stray_value_does_not_outweigh_a_section() {
        let all = [
            ("traefik/http/routers/r/rule", "Path(`/`)"),
            ("traefik/tcp/routers/r/rule", "HostSNI(`*`)"),
            ("traefik/udp/routers/r/service", "s"),
            ("traefik/tls/certificates/0/certFile", "a"),
        ];
        for (stray, value, problems) in [
            ("traefik/http", "x", 1),
            ("traefik/http/routers", "x", 1),
            ("traefik/http/services", "x", 1),
            ("traefik/tcp", "x", 1),
            ("traefik/udp", "x", 1),
            ("traefik/tls", "x", 1),
            ("traefik/tls/certificates", "x", 1),
            ("traefik/tls/certificates/a/certFile", "x", 1),
            ("traefik/http", "", 0),
            ("traefik/http/routers", "", 0),
        ] {
            let pairs: Vec<_> = all.iter().copied().chain([(stray, value)]).collect();
            let (node, mut shown) = read_text(&pairs);
            let provided = decode_config(&node);
            shown.extend(provided.problems.iter().map(ToString::to_string));
            assert_eq!(shown.len(), problems, "{stray}: {shown:?}");
            assert!(shown.iter().all(|line| line.contains(stray)), "{shown:?}");
            let config = &provided.config;
            let counts = (config.http.routers.len(), config.tcp.routers.len(), config.udp.routers.len());
            assert_eq!((counts, config.tls.certificates.len()), ((1, 1, 1), 1), "{stray}");
        }
    }

    #[test]
    fn an_entry_of_a_list_may_be_a_list_of_names() {
        let (node, problems) = read_text(&[
            ("traefik/http/routers/r/rule", "Host(`a`, `b`)"),
            ("traefik/http/routers/r/entryPoints/0", "web, tcp1"),
            ("traefik/http/routers/r/entryPoints/1", "tls"),
            ("traefik/http/routers/r/middlewares/0", "m1,m2"),
            ("traefik/http/middlewares/m/headers/accessControlAllowOriginListRegex/0", "^a{1,3}$"),
            ("traefik/http/middlewares/m/headers/customRequestHeaders/X", "a,b"),
        ]);
        let provided = decode_config(&node);
        assert_eq!((problems, &provided.problems), (vec![], &vec![]));
        let router = &provided.config.http.routers["r"];
        assert_eq!(router.entry_points, ["web", "tcp1", "tls"]);
        assert_eq!((router.rule.as_str(), router.middlewares.len()), ("Host(`a`, `b`)", 2));
        let headers = serde_json::to_value(&*provided.config.http.middlewares["m"]).expect("JSON");
        assert_eq!(headers["headers"]["accessControlAllowOriginListRegex"][0], "^a{1,3}$");
        assert_eq!(headers["headers"]["customRequestHeaders"]["X"], "a,b");
    }

    #[test]
    fn an_invalid_list_index_is_reported_as_written() {
        let (node, _) = read_text(&[
            ("traefik/http/services/s/loadBalancer/servers/0/url", "http://10.0.0.1"),
            ("traefik/http/services/s/loadBalancer/servers/a/url", "http://10.0.0.2"),
        ]);
        let shown = decode_config(&node).problems[0].to_string();
        assert_eq!(
            shown,
            "key traefik/http/services/s/loadBalancer/servers/a/url: service s: \
             http.services.s.loadBalancer.servers.a: invalid list index `a`: expected a number"
        );
    }

    proptest! {
        #[test]
        fn no_pair_panics(key in "(t/)?[a-z0-9/]{0,40}", value in prop::collection::vec(any::<u8>(), 0..20)) {
            let read = read([(key.as_str(), Ok(value.as_slice()))], &["t", "u"]);
            decode_config(&read.node);
        }
    }
}
