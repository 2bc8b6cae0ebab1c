//! Keys that gateways write themselves into stores that may hold configuration too.
//!
//! They are recognised by where they are and by their shape, so a gateway also passes over what others write. Their
//! steps hold only characters that every store takes: Consul rejects `*` since 1.21.5.

use std::borrow::Cow;

/// Where Tidegate writes when the settings do not say otherwise.
const DEFAULT_PLACES: [&str; 2] = ["tidegate/acme", "tidegate/cluster"];
/// What keys of shared rate limits begin with.
pub const RATE_PREFIX: &str = "tidegate:rate:";
/// The sections of a configuration.
pub(crate) const SECTIONS: [&str; 4] = ["http", "tcp", "udp", "tls"];
/// What stands before the two digits of an encoded byte.
const ESCAPE: &[u8] = b"__";

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

/// Writes a name as one step of a key: letters, digits, `.`, `_` and `-` stay, every other byte becomes `__` and two
/// hexadecimal digits in upper case.
pub fn encode(name: &str) -> Cow<'_, str> {
    let bytes = name.as_bytes();
    let plain = |at: usize, byte: u8| match byte {
        // A path that has steps of dots only is another path.
        b'.' => at > 0 || !matches!(name, "." | ".."),
        b'_' => !is_escape(&bytes[at..]),
        _ => byte.is_ascii_alphanumeric() || byte == b'-',
    };
    if bytes.iter().enumerate().all(|(at, byte)| plain(at, *byte)) {
        return Cow::Borrowed(name);
    }
    let mut out = String::with_capacity(name.len() + 16);
    for (at, byte) in bytes.iter().enumerate() {
        match plain(at, *byte) {
            true => out.push(char::from(*byte)),
            false => out.push_str(&format!("__{byte:02X}")),
        }
    }
    Cow::Owned(out)
}

/// Writes each step of a path like [`encode`]. Empty steps are left out.
pub fn encode_path(path: &str) -> String {
    let steps: Vec<_> = path.split('/').filter(|step| !step.is_empty()).map(encode).collect();
    steps.join("/")
}

/// The name that [`encode`] has written. What it would not have written stays as it is.
pub fn decode(step: &str) -> Cow<'_, str> {
    let bytes = step.as_bytes();
    if !bytes.windows(4).any(is_escape) {
        return Cow::Borrowed(step);
    }
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 2..at + 4).filter(|_| is_escape(&bytes[at..]));
        let value = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match value.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 4;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(step), Cow::Owned)
}

/// True when these bytes begin with an encoded one.
fn is_escape(bytes: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
    bytes.strip_prefix(ESCAPE).is_some_and(|rest| rest.len() >= 2 && rest.iter().take(2).all(is_digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_steps() {
        for (name, step) in [
            ("a.test", "a.test"),
            ("my_resolver-1", "my_resolver-1"),
            ("le__2024", "le__5F_2024"),
            ("*.a.test", "__2A.a.test"),
            ("__2A.a", "__5F_2A.a"),
            ("_*", "___2A"),
            ("..", "__2E."),
            ("a/b c", "a__2Fb__20c"),
            ("lä", "l__C3__A4"),
        ] {
            assert_eq!(encode(name), step);
            assert_eq!(decode(step), name);
        }
        assert_eq!(encode_path("/t//*/acme/"), "t/__2A/acme");
        assert_eq!(decode("*.a.test"), "*.a.test", "as older versions wrote it");
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in "[_2AF*./é]{0,12}|.{0,20}") {
            let step = encode(&name);
            prop_assert!(step.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
            prop_assert_eq!(decode(&step), name.as_str());
            decode(&name);
        }
    }

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
