//! Addresses in `X-Forwarded-For` and similar headers: the only parser for them.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use http::{HeaderMap, HeaderName};

/// The list that proxies append to.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers whose value is the client's address, or a list of addresses.
const ADDRESS_HEADERS: [&str; 9] = [
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-envoy-external-address",
];

/// Parses the address in an entry of such a list, without port and zone; IPv4-mapped IPv6 addresses become
/// IPv4.
///
/// Accepts `203.0.113.1`, `203.0.113.1:5000` (Azure), `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:5000`,
/// each with an optional IPv6 zone (`%eth0`), in double quotes, or as the `for` parameter of an RFC 7239
/// element (`for="[2001:db8::1]:5000"`). Returns `None` for anything else, such as `unknown` and obfuscated
/// names (`_hidden`).
pub fn parse_address(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    // Fast path for the common form.
    if let Ok(address) = IpAddr::from_str(entry) {
        return Some(address.to_canonical());
    }
    let node = match entry.contains('=') {
        true => for_parameter(entry)?,
        false => entry,
    };
    let node = match node.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?.trim(),
        None => node,
    };
    let address = match node.strip_prefix('[') {
        Some(bracketed) => {
            let (address, port) = bracketed.split_once(']')?;
            if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
                return None;
            }
            IpAddr::V6(without_zone(address)?.parse().ok()?)
        }
        None => match node.split_once(':') {
            Some((address, port)) if !port.contains(':') && is_port(port) => {
                IpAddr::V4(address.parse().ok()?)
            }
            _ => without_zone(node)?.parse().ok()?,
        },
    };
    Some(address.to_canonical())
}

/// Returns the value of `for` in an element of `Forwarded`: pairs separated by semicolons, names in any case.
fn for_parameter(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| value.trim())
    })
}

/// Returns true for a number, or an obfuscated port (`_abc`, RFC 7239 section 6.3).
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        }
        None => text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok(),
    }
}

/// Removes the zone of an IPv6 address, which is meaningful only on the host that wrote it.
fn without_zone(text: &str) -> Option<&str> {
    match text.split_once('%') {
        Some((address, zone)) if zone.is_empty() || !address.contains(':') => None,
        Some((address, _)) => Some(address),
        None => Some(text),
    }
}

/// Returns the entries in all lines of a list header, from the client's to that of the last proxy.
///
/// A line that is not text keeps its entries: omitting it would shift the others towards the trusted
/// position.
pub fn entries<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Like [`parse_address`], for an entry in bytes.
pub fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(entry).ok().and_then(parse_address)
}

/// Returns a canonical name for an entry: its address in canonical form, or else the entry itself.
pub fn entry_name(entry: &[u8]) -> String {
    match parse_entry(entry) {
        Some(address) => address_text(address),
        None => String::from_utf8_lossy(entry).into_owned(),
    }
}

/// Returns an address as text, as its `Display` writes it.
pub fn address_text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else { return address.to_string() };
    let mut text = String::with_capacity(16);
    write_ipv4(address, |byte| text.push(char::from(byte)));
    text
}

/// Appends an address as its `Display` writes it. Limits and the log need the text of an address for each request, and
/// the formatting machinery takes ten times as long for IPv4.
pub fn push_address(text: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => write_ipv4(address, |byte| text.push(byte)),
        // Writing to a Vec cannot fail.
        IpAddr::V6(address) => drop(write!(text, "{address}")),
    }
}

#[inline]
fn write_ipv4(address: Ipv4Addr, mut push: impl FnMut(u8)) {
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            push(b'.');
        }
        if octet >= 100 {
            push(b'0' + octet / 100);
        }
        if octet >= 10 {
            push(b'0' + octet / 10 % 10);
        }
        push(b'0' + octet % 10);
    }
}

/// Returns true if the header's value is an address or a list of addresses.
pub fn is_address_header(name: &HeaderName) -> bool {
    ADDRESS_HEADERS.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_display_writes_them() {
        for octet in 0..=u8::MAX {
            let address = IpAddr::from([octet, 255 - octet, 10, octet / 3]);
            assert_eq!(address_text(address), address.to_string());
        }
        for address in ["::1", "2001:db8::ff00:42:8329", "::ffff:192.0.2.1"] {
            assert_eq!(address_text(address.parse().unwrap()), address);
        }
    }
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn all_forms_of_an_address_are_parsed() {
        for (text, expected) in [
            ("203.0.113.1", Some("203.0.113.1")),
            (" 203.0.113.1:5000 ", Some("203.0.113.1")),
            ("203.0.113.1:_obfuscated", Some("203.0.113.1")),
            ("\"203.0.113.1:80\"", Some("203.0.113.1")),
            ("[::ffff:203.0.113.1]:5000", Some("203.0.113.1")),
            ("::ffff:203.0.113.1", Some("203.0.113.1")),
            ("2001:DB8:0::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:5000", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("[fe80::1%25eth0]:80", Some("fe80::1")),
            ("for=192.0.2.60", Some("192.0.2.60")),
            ("proto=http; For=\"[2001:db8:cafe::17]:4711\" ;by=203.0.113.43", Some("2001:db8:cafe::17")),
            ("for=\"_hidden\"", None),
            ("by=203.0.113.43", None),
            ("unknown", None),
            ("", None),
            ("203.0.113.1:", None),
            ("203.0.113.1:99999", None),
            ("203.0.113.1:+80", None),
            ("203.0.113.1%eth0", None),
            ("[203.0.113.1]:80", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]5000", None),
            ("fe80::1%", None),
            ("\"203.0.113.1", None),
            ("127.1", None),
        ] {
            assert_eq!(parse_address(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_line_that_is_not_text_keeps_its_position() {
        let mut headers = HeaderMap::new();
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("10.0.0.1"));
        headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff, 203.0.113.1:80").unwrap());
        let names: Vec<String> = entries(&headers, &X_FORWARDED_FOR).map(entry_name).collect();
        assert_eq!(names, ["10.0.0.1", "\u{fffd}", "203.0.113.1"]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-f:.%\\[\\]\"=;for_ ]{0,40}") {
            let _ = parse_address(&text);
        }
    }
}
