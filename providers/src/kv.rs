//! Converts trees of keys into configuration, for all key-value stores.
//!
//! As keys are written one by one, a change may be incomplete. An object that cannot be decoded keeps its
//! last good version, and the problem names the key.

use std::borrow::Cow;

use parking_lot::Mutex;
use tidegate_clients::OptionError;
use tidegate_config::Provided;
use tidegate_config::decode::decode_config;
use tidegate_config::formats::entries::EntryError;
use tidegate_config::formats::keys;

use crate::own_keys::OwnKeys;
use crate::workload::PREFIXES;

/// A key that is not UTF-8.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the key is not UTF-8 text")]
pub(crate) struct KeyNotText;

/// A tree of keys.
pub(crate) struct Tree {
    roots: Vec<String>,
    /// The last configuration, for its good objects.
    earlier: Mutex<Provided>,
}

impl Tree {
    /// Returns the tree below a root. With Traefik's default root, `tidegate` is read too and takes
    /// precedence.
    pub(crate) fn new(root: &str) -> Result<Self, OptionError> {
        let root = root.trim_matches('/');
        if root.is_empty() {
            return Err(OptionError::new("rootKey", "expected a key, such as `traefik`"));
        }
        let roots = match root {
            "traefik" => PREFIXES.map(str::to_owned).to_vec(),
            other => vec![other.to_owned()],
        };
        Ok(Self { roots, earlier: Mutex::default() })
    }

    /// Returns the roots, without a trailing slash.
    pub(crate) fn roots(&self) -> &[String] {
        &self.roots
    }

    /// Returns true for a key written by a gateway, which is not configuration.
    pub(crate) fn is_own(&self, key: &str, own_keys: &OwnKeys) -> bool {
        let rest = |root: &String| key.strip_prefix(&**root)?.strip_prefix('/');
        self.roots.iter().find_map(rest).is_some_and(|rest| own_keys.contains(key, rest))
    }

    /// Decodes the configuration in these keys. A value may be an error if it could not be read.
    pub(crate) fn read<'p>(
        &self,
        pairs: impl IntoIterator<Item = (&'p str, Result<&'p [u8], EntryError>)>,
        own_keys: &OwnKeys,
    ) -> Provided {
        let pairs = pairs.into_iter().filter(|(key, _)| !self.is_own(key, own_keys));
        let roots: Vec<&str> = self.roots.iter().map(String::as_str).collect();
        let read = keys::read(pairs, &roots);
        let mut provided = decode_config(&read.node);
        provided.add_problems(read.problems);
        let mut earlier = self.earlier.lock();
        provided.keep_last_good(&earlier);
        *earlier = provided.clone();
        provided
    }
}

/// Returns a key for display, and an error if it is not UTF-8.
pub(crate) fn shown(key: &[u8]) -> (Cow<'_, str>, Option<KeyNotText>) {
    let text = String::from_utf8_lossy(key);
    let error = matches!(text, Cow::Owned(_)).then_some(KeyNotText);
    (text, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tree: &Tree, pairs: &[(&str, &str)]) -> Provided {
        tree.read(pairs.iter().map(|(key, value)| (*key, Ok(value.as_bytes()))), &OwnKeys::default())
    }

    #[test]
    fn an_incomplete_change_keeps_the_last_good_version() {
        let tree = Tree::new("traefik").expect("valid");
        let whole = [
            ("traefik/http/services/s/loadBalancer/servers/0/url", "http://10.0.0.1"),
            ("traefik/http/services/s/loadBalancer/passHostHeader", "false"),
            ("traefik/http/services/t/loadBalancer/servers/0/url", "http://10.0.0.2"),
        ];
        let first = read(&tree, &whole);
        assert_eq!(first.problems, []);
        let mut broken = whole;
        broken[1].1 = "fals";
        broken[2].1 = "http://10.0.0.3";
        for _ in 0..2 {
            let second = read(&tree, &broken);
            assert_eq!(second.config.http.services["s"], first.config.http.services["s"]);
            assert_ne!(second.config.http.services["t"], first.config.http.services["t"]);
            let shown = second.problems[0].to_string();
            assert!(shown.contains("key traefik/http/services/s/loadBalancer/passHostHeader"), "{shown}");
            assert!(shown.contains("last good version"), "{shown}");
        }
        assert_eq!(read(&tree, &whole), first);
    }

    #[test]
    fn an_unreadable_key_keeps_the_last_good_version_or_breaks_its_object() {
        let tree = Tree::new("traefik").expect("valid");
        let whole = [
            ("traefik/http/routers/r/rule", "Path(`/`)"),
            ("traefik/http/routers/r/middlewares/0", "auth"),
            ("traefik/http/middlewares/auth/ipAllowList/sourceRange/0", "10.0.0.0/8"),
            ("traefik/tls/certificates/0/certFile", "a"),
            ("traefik/tls/certificates/0/keyFile", "k"),
        ];
        let first = read(&tree, &whole);
        assert_eq!(first.problems, []);
        for lost in [1, 2, 4] {
            for tree in [Some(&tree), None] {
                let fresh = Tree::new("traefik").expect("valid");
                let pairs = whole.iter().enumerate().map(|(number, (key, value))| {
                    (
                        *key,
                        if number == lost {
                            Err(EntryError::Unavailable("lost".into()))
                        } else {
                            Ok(value.as_bytes())
                        },
                    )
                });
                let second = tree.unwrap_or(&fresh).read(pairs, &OwnKeys::default());
                let [problem] = &second.problems[..] else { panic!("{:?}", second.problems) };
                if tree.is_some() {
                    assert_eq!(second.config, first.config);
                    assert!(problem.message.contains("last good"), "{problem}");
                } else {
                    assert!(problem.object.is_some(), "{problem}");
                    assert_eq!(second.config.http.routers["r"].rule, "Path(`/`)");
                    assert_eq!(second.config.http.middlewares.len(), usize::from(lost != 2));
                    assert_eq!(second.config.tls.certificates.len(), usize::from(lost != 4));
                }
            }
        }
        let mut stray = whole.to_vec();
        stray.push(("traefik/tls/certificates/0/certFil", "a"));
        assert_eq!(read(&tree, &stray).config, first.config);
    }

    #[test]
    fn keys_written_by_gateways_are_not_configuration() {
        let tree = Tree::new("traefik").expect("valid");
        let own = OwnKeys::new(["traefik/le".to_owned()]);
        let pairs = [
            ("tidegate/acme/le/live/account", "{}"),
            ("tidegate/c:{x}:members", "x"),
            ("traefik/le/live/leader", "{}"),
            ("tidegate/acmes/x", "no"),
            ("traefik/http/services/s/loadBalancer/servers/0/url", "http://10.0.0.1"),
        ];
        let read = tree.read(pairs.iter().map(|(key, value)| (*key, Ok(value.as_bytes()))), &own);
        let shown: Vec<String> = read.problems.iter().map(ToString::to_string).collect();
        assert!(matches!(&shown[..], [one] if one.contains("tidegate/acmes")), "{shown:?}");
        assert_eq!(read.config.http.services.len(), 1);
    }

    #[test]
    fn the_default_root_includes_tidegate() {
        assert_eq!(Tree::new("traefik").expect("valid").roots(), ["tidegate", "traefik"]);
        assert_eq!(Tree::new("/edge/").expect("valid").roots(), ["edge"]);
        assert!(Tree::new("/").is_err());
    }
}
