//! The keys of policies: what requests that share a bucket have in common.

use std::fmt::Write as _;
use std::net::IpAddr;

use http::HeaderName;
use sha2::{Digest, Sha256};
use tidegate_core::client_ip::ClientIp;
use tidegate_core::expression::nearest;
use tidegate_core::{AuthMethod, BuildError, BuildErrors, Request, forwarded};

use super::super::buckets::{MAX_KEY_LEN, hashed};

/// Maximum number of parts.
const MAX_PARTS: usize = 16;
/// Names of parts, for suggestions.
const PARTS: &[&str] = &[
    "client.ip",
    "consumer",
    "identity",
    "group(…)",
    "label(…)",
    "header(…)",
    "host",
    "method",
    "path",
    "path.prefix(…)",
    "jwt.sub",
    "router",
];

/// A list of parts.
#[derive(Debug)]
pub(super) struct Key(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    /// The client's address, or its IPv6 network of this length.
    Address(Option<u8>),
    Consumer,
    Identity,
    /// The first of these groups that the client has.
    Group(Vec<String>),
    Label(String),
    Header(HeaderName),
    Host,
    Method,
    Path,
    /// The first segments of the path.
    PathPrefix(usize),
    /// A claim of the token that identified the client.
    Claim(String),
    Router,
}

impl Key {
    /// Parses the parts; by the client's address if there are none.
    pub(super) fn parse(parts: &[String]) -> Result<Self, BuildError> {
        if parts.is_empty() {
            return Ok(Self(vec![Part::Address(None)]));
        }
        if parts.len() > MAX_PARTS {
            return Err(BuildError::new(format!("key: expected at most {MAX_PARTS} parts")));
        }
        BuildErrors::collect(parts.iter().map(|part| Part::parse(part.trim()))).map(Self)
    }

    /// Returns the key of a request. It shows no values of headers.
    pub(super) fn of(&self, request: &Request, client: &ClientIp) -> String {
        let mut key = String::with_capacity(32);
        for (at, part) in self.0.iter().enumerate() {
            if at > 0 {
                key.push('|');
            }
            part.append(request, client, &mut key);
        }
        if key.len() > MAX_KEY_LEN { hashed(&key) } else { key }
    }
}

impl Part {
    fn parse(text: &str) -> Result<Self, BuildError> {
        let (name, argument) = match text.split_once('(') {
            Some((name, rest)) => match rest.strip_suffix(')') {
                Some(argument) => (name, Some(argument.trim().trim_matches(['`', '"']))),
                None => return Err(BuildError::new(format!("key: `{text}`: expected `)` at the end"))),
            },
            None => (text, None),
        };
        let text_of = |argument: &str| match argument {
            "" => Err(BuildError::new(format!("key: `{text}`: expected a name in the parentheses"))),
            argument => Ok(argument.to_owned()),
        };
        Ok(match (name, argument) {
            ("client.ip", None) => Self::Address(None),
            ("consumer", None) => Self::Consumer,
            ("identity", None) => Self::Identity,
            ("host", None) => Self::Host,
            ("method", None) => Self::Method,
            ("path", None) => Self::Path,
            ("router", None) => Self::Router,
            ("group", Some(names)) => {
                let name = |name: &str| text_of(name.trim().trim_matches(['`', '"']));
                Self::Group(names.split(',').map(name).collect::<Result<_, _>>()?)
            }
            ("label", Some(name)) => Self::Label(text_of(name)?),
            ("header", Some(name)) => Self::Header(
                name.parse().map_err(|_| BuildError::new(format!("key: invalid header name `{name}`")))?,
            ),
            ("path.prefix", Some(number)) => match number.parse() {
                Ok(number @ 1..=32) => Self::PathPrefix(number),
                _ => return Err(BuildError::new(format!("key: `{text}`: expected a number from 1 to 32"))),
            },
            (name, None) => match (name.strip_prefix("client.ip/"), name.strip_prefix("jwt.")) {
                (Some(bits), _) => match bits.parse() {
                    Ok(bits @ 1..=128) => Self::Address(Some(bits)),
                    _ => {
                        let error = format!("key: `{text}`: expected a prefix length from 1 to 128");
                        return Err(BuildError::new(error));
                    }
                },
                (_, Some(claim)) if !claim.is_empty() => Self::Claim(claim.to_owned()),
                _ => return Err(unknown(text)),
            },
            _ => return Err(unknown(text)),
        })
    }

    fn append(&self, request: &Request, client: &ClientIp, key: &mut String) {
        let identity = request.context.identity.as_deref();
        match self {
            Self::Address(bits) => append_address(request, client, *bits, key),
            // Clients without identity are counted by their address, each IPv6 network as one.
            Self::Consumer => match identity.and_then(|identity| identity.consumer.as_ref()) {
                Some(consumer) => append_named('c', &consumer.name, key),
                None => append_address(request, client, Some(64), key),
            },
            Self::Identity => match identity {
                Some(identity) => append_named('i', &identity.subject, key),
                None => append_address(request, client, Some(64), key),
            },
            Self::Claim(claim) => {
                let token =
                    identity.filter(|identity| matches!(identity.method, AuthMethod::Jwt | AuthMethod::Oidc));
                let value = token.and_then(|identity| match claim.as_str() {
                    "sub" => Some(identity.subject.as_str()),
                    claim => identity.labels.get(claim).map(String::as_str),
                });
                match value {
                    Some(value) => append_named('j', value, key),
                    None => append_address(request, client, Some(64), key),
                }
            }
            Self::Group(names) => {
                let group =
                    names.iter().find(|name| identity.is_some_and(|identity| identity.is_in_group(name)));
                append_text(group.map_or("", String::as_str), key);
            }
            Self::Label(name) => {
                append_text(identity.and_then(|identity| identity.label(name)).unwrap_or_default(), key);
            }
            Self::Header(name) => append_header(request, name, key),
            Self::Host => append_text(&host(request).to_ascii_lowercase(), key),
            Self::Method => append_text(request.head.method.as_str(), key),
            Self::Path => append_text(request.path(), key),
            Self::PathPrefix(segments) => append_text(prefix(request.path(), *segments), key),
            Self::Router => append_text(request.context.exchange.router(), key),
        }
    }
}

fn unknown(text: &str) -> BuildError {
    let name = text.split(['(', '/']).next().unwrap_or(text);
    let bare = PARTS.iter().map(|part| part.split('(').next().unwrap_or(part));
    let hint = match nearest(name, bare) {
        Some(known) if known != name => format!("did you mean `{known}`?"),
        _ => format!("expected one of {}", PARTS.join(", ")),
    };
    BuildError::new(format!("key: unknown part `{text}`: {hint}"))
}

/// Appends a value so that it cannot be confused with another part.
fn append_text(value: &str, key: &mut String) {
    for char in value.chars() {
        match char {
            '|' | '%' => drop(write!(key, "%{:02X}", char as u32)),
            char if char.is_control() => drop(write!(key, "%{:02X}", char as u32)),
            char => key.push(char),
        }
    }
}

/// Appends a name, which cannot be confused with an address.
fn append_named(kind: char, name: &str, key: &mut String) {
    key.push(kind);
    key.push('=');
    append_text(name, key);
}

fn append_address(request: &Request, client: &ClientIp, bits: Option<u8>, key: &mut String) {
    match client.address(request) {
        Some(IpAddr::V6(address)) => {
            let network = bits.and_then(|bits| ipnet::Ipv6Net::new(address, bits).ok());
            let address = network.map_or(address, |network| network.network());
            key.push_str(&forwarded::address_text(address.into()));
        }
        Some(address) => key.push_str(&forwarded::address_text(address)),
        // An entry of `X-Forwarded-For` that is not an address.
        None => append_named('x', &client.of(request), key),
    }
}

/// Appends what stands for the values of a header, which may be secrets.
fn append_header(request: &Request, name: &HeaderName, key: &mut String) {
    let mut values = request.head.headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return;
    }
    let mut digest = Sha256::new();
    for value in values {
        digest.update((value.len() as u64).to_be_bytes());
        digest.update(value.as_bytes());
    }
    for byte in &digest.finalize()[..16] {
        let _ = write!(key, "{byte:02x}");
    }
}

/// Returns the host without port.
fn host(request: &Request) -> &str {
    let host = request.host();
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Returns the first segments of a path.
fn prefix(path: &str, segments: usize) -> &str {
    match path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').nth(segments) {
        Some((end, _)) => &path[..end],
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate_core::{Body, Connection, Consumer, Context, Identity};

    use super::*;

    fn request(address: &str, headers: &[(&str, &str)], identity: Option<Identity>) -> Request {
        let mut builder = http::Request::get("/api/v1/users?x=1").header("host", "A.Test:80");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let address: IpAddr = address.parse().unwrap();
        let mut context = Context::new(Arc::new(Connection::plain((address, 4000).into())));
        context.identity = identity.map(Arc::new);
        Request::new(builder.body(()).unwrap().into_parts().0, Body::empty(), context)
    }

    fn of(parts: &[&str], request: &Request) -> String {
        let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
        Key::parse(&parts).unwrap().of(request, &ClientIp::default())
    }

    #[test]
    fn each_part_reads_its_property() {
        let acme = Consumer { name: "acme@file".into(), ..Consumer::default() };
        let ann = Identity {
            groups: vec!["ops".into()],
            ..Identity::new("ann", AuthMethod::Jwt, "m@file".into()).of_consumer(Some(Arc::new(acme)))
        };
        let known = request("192.0.2.1", &[("x-tenant", "blue")], Some(ann));
        for (parts, expected) in [
            (&["client.ip"][..], "192.0.2.1"),
            (&["consumer", "method"], "c=acme@file|GET"),
            (&["identity"], "i=ann"),
            (&["jwt.sub", "path.prefix(2)"], "j=ann|/api/v1"),
            (&["group(`dev`, `ops`)"], "ops"),
            (&["label(team)", "host"], "|a.test"),
            (&["path"], "/api/v1/users"),
            (&["path.prefix(9)"], "/api/v1/users"),
        ] {
            assert_eq!(of(parts, &known), expected, "{parts:?}");
        }
        let tenant = of(&["header(X-Tenant)"], &known);
        assert!(tenant.len() == 32 && !tenant.contains("blue"), "{tenant}");
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_unknown_clients_are_counted_by_it() {
        let (one, other) = (request("2001:db8::1", &[], None), request("2001:db8::ffff:2", &[], None));
        assert_ne!(of(&["client.ip"], &one), of(&["client.ip"], &other));
        for part in ["client.ip/64", "consumer", "identity", "jwt.sub", "jwt.tenant"] {
            assert_eq!(of(&[part], &one), "2001:db8::", "{part}");
            assert_eq!(of(&[part], &other), "2001:db8::", "{part}");
        }
        assert_eq!(of(&["client.ip/64"], &request("::ffff:192.0.2.7", &[], None)), "192.0.2.7");
    }

    #[test]
    fn parts_cannot_be_confused() {
        let named = |subject: &str| {
            request("192.0.2.1", &[], Some(Identity::new(subject, AuthMethod::Jwt, "m".into())))
        };
        assert_ne!(of(&["identity", "method"], &named("a|GET")), of(&["identity", "method"], &named("a")));
        assert_eq!(of(&["identity"], &named("a|b%\n")), "i=a%7Cb%25%0A");
        assert_ne!(
            of(&["identity"], &named("192.0.2.1")),
            of(&["identity"], &request("192.0.2.1", &[], None))
        );
        let two = request("192.0.2.1", &[("x", "a"), ("x", "b")], None);
        let joined = request("192.0.2.1", &[("x", "ab")], None);
        assert_ne!(of(&["header(x)"], &two), of(&["header(x)"], &joined));
        let long = |subject: String| of(&["identity"], &named(&subject));
        assert!(long("x".repeat(100_000)).len() <= MAX_KEY_LEN);
        assert_ne!(long("x".repeat(100_000)), long("x".repeat(100_001)));
    }

    #[test]
    fn a_header_does_not_change_the_address() {
        let spoofed =
            request("192.0.2.1", &[("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=1.2.3.4")], None);
        assert_eq!(of(&["client.ip"], &spoofed), "192.0.2.1");
    }

    #[test]
    fn mistakes_are_named() {
        for (part, expected) in [
            ("client.pi", "key: unknown part `client.pi`: did you mean `client.ip`?"),
            ("client.ip/0", "key: `client.ip/0`: expected a prefix length from 1 to 128"),
            ("client.ip/x", "key: `client.ip/x`: expected a prefix length from 1 to 128"),
            ("header(a b)", "key: invalid header name `a b`"),
            ("header(X", "key: `header(X`: expected `)` at the end"),
            ("path.prefix(0)", "key: `path.prefix(0)`: expected a number from 1 to 32"),
            ("label()", "key: `label()`: expected a name in the parentheses"),
            ("host(x)", "key: unknown part `host(x)`: expected one of client.ip"),
        ] {
            let error = Key::parse(&[part.to_owned()]).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
