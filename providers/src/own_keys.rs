//! Keys that gateways write themselves into stores that may hold configuration too.
//!
//! They are recognised by where they are and by their shape, so a gateway also passes over what others write.

/// Where Tidegate writes when the settings do not say otherwise.
const DEFAULT_PLACES: [&str; 2] = ["tidegate/acme", "tidegate/cluster"];
/// What keys of shared rate limits begin with.
pub const RATE_PREFIX: &str = "tidegate:rate:";
/// The sections of a configuration.
pub(crate) const SECTIONS: [&str; 4] = ["http", "tcp", "udp", "tls"];

/// The places where gateways write.
#[derive(Clone, Debug)]
pub struct OwnKeys {
    /// Prefixes without a separator at the end.
    places: Vec<String>,
}

impl Default for OwnKeys {
    fn default() -> Self {
        Self::new([])
    }
}

impl OwnKeys {
    /// The default places and these, which follow from the settings.
    pub fn new(places: impl IntoIterator<Item = String>) -> Self {
        let mut all: Vec<String> = DEFAULT_PLACES.map(str::to_owned).into();
        all.extend(places);
        Self { places: all }
    }

    /// True for a key that a gateway has written. A key in a section of the configuration (`rest` begins with it) is taken for one only
    /// below a known place.
    pub(crate) fn contains(&self, key: &str, rest: &str) -> bool {
        let section = rest.split('/').next().unwrap_or_default();
        let in_section = SECTIONS.iter().any(|name| name.eq_ignore_ascii_case(section));
        has_own_shape(key) && (!in_section || self.places.iter().any(|place| is_below(key, place)))
    }

    /// True when a known place lies below this root, or the root below the place.
    pub(crate) fn meets(&self, root: &str) -> bool {
        self.places.iter().any(|place| place == root || is_below(place, root) || is_below(root, place))
    }

    /// True for a folder (`tidegate/acme/`) in which there are only known places.
    pub(crate) fn leads_to(&self, folder: &str) -> bool {
        self.places.iter().any(|place| format!("{place}/").starts_with(folder))
    }
}

fn is_below(key: &str, place: &str) -> bool {
    key.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', ':']))
}

/// True for a key that looks like one of those that certificate resolvers, clusters and shared limits write.
fn has_own_shape(key: &str) -> bool {
    if key.starts_with(RATE_PREFIX) {
        return true;
    }
    if let Some((before, what)) = key.rsplit_once("}:") {
        return before.contains(":{") && matches!(what, "members" | "leader");
    }
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let steps: Vec<&str> = key.split('/').collect();
    match steps.as_slice() {
        [.., _, "live", "account" | "leader"]
        | [.., _, "live", "replicas" | "proofs" | "failures" | "renew", _]
        | [.., _, "members", _]
        | [.., _, "leader"] => true,
        [.., _, "certificates", _, hash] => is_hash(hash),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_keys_are_known_by_place_and_shape() {
        let own = OwnKeys::new(["traefik/http/routers".to_owned(), "traefik".to_owned()]);
        let is_own = |key: &str| own.contains(key, key.split_once('/').unwrap_or(("", key)).1);
        for key in [
            "tidegate/acme/le/live/account",
            "tidegate/acme/le/live/renew/*.a.test",
            "tidegate/acme/le/certificates/*.a.test/0123456789abcdef",
            "tidegate/elsewhere/le/live/proofs/token",
            "tidegate/cluster/shop/members/gw-1",
            "tidegate/cluster/shop/leader",
            "traefik/http/routers/live/leader",
            "tidegate/c:{shop}:members",
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
