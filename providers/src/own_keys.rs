//! Keys that gateways write to stores that may also hold configuration.
//!
//! They are recognised by prefix and shape, so that a gateway also ignores the keys of others.

/// Default prefixes of keys.
const DEFAULT_PREFIXES: [&str; 2] = ["tidegate/acme", "tidegate/cluster"];
/// Prefix of keys of shared rate limits.
pub const RATE_PREFIX: &str = "tidegate:rate:";
/// The sections of a configuration.
pub(crate) const SECTIONS: [&str; 4] = ["http", "tcp", "udp", "tls"];

/// The keys that gateways write.
#[derive(Clone, Debug)]
pub struct OwnKeys {
    /// Prefixes without a trailing separator.
    prefixes: Vec<String>,
}

impl Default for OwnKeys {
    fn default() -> Self {
        Self::new([])
    }
}

impl OwnKeys {
    /// Returns the default prefixes and those from the settings.
    pub fn new(prefixes: impl IntoIterator<Item = String>) -> Self {
        let mut all: Vec<String> = DEFAULT_PREFIXES.map(str::to_owned).into();
        all.extend(prefixes);
        Self { prefixes: all }
    }

    /// Returns true for a key written by a gateway. A key in a section of the configuration (the start of
    /// `rest`) counts only below a known prefix.
    pub(crate) fn contains(&self, key: &str, rest: &str) -> bool {
        let section = rest.split('/').next().unwrap_or_default();
        let in_section = SECTIONS.iter().any(|name| name.eq_ignore_ascii_case(section));
        has_own_shape(key) && (!in_section || self.prefixes.iter().any(|prefix| is_below(key, prefix)))
    }

    /// Returns true if a known prefix is below this root, or the root below the prefix.
    pub(crate) fn meets(&self, root: &str) -> bool {
        self.prefixes.iter().any(|prefix| prefix == root || is_below(prefix, root) || is_below(root, prefix))
    }

    /// Returns true for a path (`tidegate/acme/`) that contains only known prefixes.
    pub(crate) fn leads_to(&self, folder: &str) -> bool {
        self.prefixes.iter().any(|prefix| format!("{prefix}/").starts_with(folder))
    }
}

fn is_below(key: &str, prefix: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(['/', ':']))
}

/// Returns true for a key shaped like those of certificate resolvers, clusters and shared limits.
fn has_own_shape(key: &str) -> bool {
    if key.starts_with(RATE_PREFIX) {
        return true;
    }
    if let Some((before, what)) = key.rsplit_once("}:") {
        return before.contains(":{") && matches!(what, "members" | "leader" | "announced" | "announcements");
    }
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let steps: Vec<&str> = key.split('/').collect();
    match steps.as_slice() {
        [.., _, "live", "account" | "leader"]
        | [.., _, "live", "replicas" | "proofs" | "failures" | "renew", _]
        | [.., _, "members", _]
        | [.., _, "announcements", _]
        | [.., _, "leader"] => true,
        [.., _, "certificates", _, hash] => is_hash(hash),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_keys_are_recognised_by_prefix_and_shape() {
        let own = OwnKeys::new(["traefik/http/routers".to_owned(), "traefik".to_owned()]);
        let is_own = |key: &str| own.contains(key, key.split_once('/').unwrap_or(("", key)).1);
        for key in [
            "tidegate/acme/le/live/account",
            "tidegate/acme/le/live/renew/*.a.test",
            "tidegate/acme/le/certificates/*.a.test/0123456789abcdef",
            "tidegate/elsewhere/le/live/proofs/token",
            "tidegate/cluster/shop/members/gw-1",
            "tidegate/cluster/shop/leader",
            "tidegate/cluster/shop/announcements/00000000000000000007",
            "traefik/http/routers/live/leader",
            "tidegate/c:{shop}:members",
            "tidegate/c:{shop}:announcements",
            "tidegate:rate:m@consul:10.0.0.1/32",
        ] {
            assert!(is_own(key), "{key}");
        }
        for key in [
            "tidegate/acme/le/certificates/a.test/certFile",
            "tidegate/acme/le/other",
            "traefik/http/routers/live/rule",
            "tidegate/http/services/certificates/loadBalancer/passHostHeader",
            "tidegate/htp/routers/r/rule",
        ] {
            assert!(!is_own(key), "{key}");
        }
        assert!(own.meets("tidegate") && own.meets("traefik/http") && !own.meets("edge"));
        assert!(!OwnKeys::default().meets("traefik") && OwnKeys::default().leads_to("tidegate/"));
        assert!(!OwnKeys::default().contains("traefik/tcp/services/x/leader", "tcp/services/x/leader"));
    }
}
