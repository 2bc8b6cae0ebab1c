//! Which client a request comes from: Traefik's `ipStrategy` and `sourceCriterion`.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::forwarded::{self, X_FORWARDED_FOR};
use crate::values::is_default;
use crate::{BuildError, BuildErrors, Request};

/// How to determine the client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IpStrategy {
    /// Position of the address in `X-Forwarded-For`, counted from the right; 0 means the TCP peer.
    #[serde(skip_serializing_if = "is_default")]
    pub depth: usize,
    /// Addresses in `X-Forwarded-For` to skip, from the right. Ignored if `depth` is set.
    #[serde(rename = "excludedIPs", skip_serializing_if = "Vec::is_empty")]
    pub excluded_ips: Vec<String>,
    /// For IPv6 clients, the prefix length that identifies a client.
    #[serde(rename = "ipv6Subnet", skip_serializing_if = "Option::is_none")]
    pub ipv6_subnet: Option<u8>,
}

/// How requests are grouped into sources: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SourceCriterion {
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategy>,
    /// The value of a request header.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_header_name: String,
    /// The host of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub request_host: bool,
    /// The client's identity, if a middleware has established it; otherwise its address. Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub identity: bool,
}

/// A set of address ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpRanges(Vec<IpNet>);

impl IpRanges {
    /// Parses ranges in CIDR notation and single addresses.
    pub fn parse<S: AsRef<str>>(ranges: &[S]) -> Result<Self, BuildError> {
        let range = |text: &str| {
            IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from)).map_err(|_| {
                BuildError::new(format!(
                    "invalid address or network `{text}`: expected one like `192.0.2.1` or `10.0.0.0/8`"
                ))
            })
        };
        BuildErrors::collect(ranges.iter().map(|text| range(text.as_ref().trim()))).map(Self)
    }

    /// Returns true when the address is in one of the ranges. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|range| range.contains(&address))
    }

    /// Returns true if there are no ranges.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A validated [`IpStrategy`].
#[derive(Clone, Debug, Default)]
pub struct ClientIp {
    depth: usize,
    excluded: Option<IpRanges>,
    ipv6_subnet: Option<u8>,
}

impl ClientIp {
    /// Validates the options.
    pub fn new(options: &IpStrategy) -> Result<Self, BuildError> {
        if let Some(bits) = options.ipv6_subnet.filter(|bits| !(1..=128).contains(bits)) {
            return Err(BuildError::new(format!(
                "invalid IPv6 subnet {bits} value, should be greater to 0 and lower or equal to 128"
            )));
        }
        let excluded =
            (!options.excluded_ips.is_empty()).then(|| IpRanges::parse(&options.excluded_ips)).transpose()?;
        Ok(Self { depth: options.depth, excluded, ipv6_subnet: options.ipv6_subnet })
    }

    /// Returns the client's address in canonical form. An entry of `X-Forwarded-For` that is not an address
    /// is returned as it is; the result is empty if there is no matching entry.
    pub fn of(&self, request: &Request) -> String {
        match self.find(request) {
            Client::Address(address) => forwarded::address_text(address),
            Client::Other(entry) => String::from_utf8_lossy(entry).into_owned(),
        }
    }

    /// Returns the client's address, if it is valid.
    pub fn address(&self, request: &Request) -> Option<IpAddr> {
        match self.find(request) {
            Client::Address(address) => Some(address),
            Client::Other(_) => None,
        }
    }

    fn find<'a>(&self, request: &'a Request) -> Client<'a> {
        let read =
            |entry: &'a [u8]| forwarded::parse_entry(entry).map_or(Client::Other(entry), Client::Address);
        // Looked up only if it matters.
        let entries = || forwarded::entries(&request.head.headers, &X_FORWARDED_FOR);
        if self.depth > 0 {
            return self.masked(entries().nth_back(self.depth - 1).map_or(Client::NONE, read));
        }
        if let Some(excluded) = &self.excluded {
            let counts = |client: &Client<'_>| match client {
                Client::Address(address) => !excluded.contains(*address),
                Client::Other(entry) => !entry.is_empty(),
            };
            return entries().rev().map(read).find(counts).unwrap_or(Client::NONE);
        }
        self.masked(Client::Address(request.context.exchange.connection.peer.ip().to_canonical()))
    }

    fn masked<'a>(&self, client: Client<'a>) -> Client<'a> {
        match (self.ipv6_subnet, client) {
            (Some(bits), Client::Address(IpAddr::V6(address))) => {
                let network = ipnet::Ipv6Net::new(address, bits).map_or(address, |net| net.network());
                Client::Address(IpAddr::V6(network))
            }
            (_, client) => client,
        }
    }
}

/// The client of a request.
enum Client<'a> {
    Address(IpAddr),
    /// An entry that is not an address; empty if there is none.
    Other(&'a [u8]),
}

impl Client<'_> {
    const NONE: Self = Self::Other(b"");
}

/// A validated [`SourceCriterion`].
#[derive(Clone, Debug)]
pub enum Source {
    /// The client's address.
    Ip(ClientIp),
    /// The value of a request header.
    Header(http::HeaderName),
    /// The host of the request.
    Host,
    /// The client's identity, or its address if that is unknown.
    Identity,
}

impl Source {
    /// Validates the options; returns `default` if none are given.
    pub fn new(options: Option<&SourceCriterion>, default: Source) -> Result<Self, BuildError> {
        let Some(options) = options else { return Ok(default) };
        let given = usize::from(options.ip_strategy.is_some())
            + usize::from(!options.request_header_name.is_empty())
            + usize::from(options.request_host);
        if given > 1 {
            let pair = match (&options.ip_strategy, options.request_host) {
                (None, _) => "requestHost and RequestHeaderName",
                (Some(_), true) => "iPStrategy and RequestHost",
                (Some(_), false) => "iPStrategy and RequestHeaderName",
            };
            return Err(BuildError::new(format!("{pair} are mutually exclusive")));
        }
        if options.identity {
            let error = || BuildError::new("identity is mutually exclusive with the other criteria");
            return if given == 0 { Ok(Self::Identity) } else { Err(error()) };
        }
        if let Some(strategy) = &options.ip_strategy {
            return ClientIp::new(strategy).map(Self::Ip);
        }
        if !options.request_header_name.is_empty() {
            return http::HeaderName::from_str(&options.request_header_name).map(Self::Header).map_err(
                |_| BuildError::new(format!("invalid header name `{}`", options.request_header_name)),
            );
        }
        Ok(if options.request_host { Self::Host } else { default })
    }

    /// Returns the key of a request's source.
    pub fn of(&self, request: &Request) -> String {
        match self {
            Self::Ip(strategy) => strategy.of(request),
            Self::Header(name) => {
                let Some(value) = request.head.headers.get(name) else { return String::new() };
                if forwarded::is_address_header(name) {
                    // The same client may use another port or write its address differently.
                    let entries = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                    return entries.map(forwarded::entry_name).collect::<Vec<_>>().join(", ");
                }
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            }
            Self::Host => request.host().to_owned(),
            Self::Identity => match &request.context.identity {
                // Addresses cannot start like this.
                Some(identity) => format!("identity {}", identity.subject),
                None => ClientIp::default().of(request),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AuthMethod, Body, Connection, Context, Identity};
    use std::sync::Arc;

    /// Returns the key of a request that has `value` in the header `name`.
    fn source(criterion: &SourceCriterion, name: &str, value: &str) -> String {
        let source = Source::new(Some(criterion), Source::Host).unwrap();
        let head = http::Request::get("/").header(name, value).body(()).unwrap().into_parts().0;
        let connection = Connection::plain(([127, 0, 0, 1], 4000).into());
        source.of(&Request::new(head, Body::empty(), Context::new(Arc::new(connection))))
    }

    #[test]
    fn known_clients_are_grouped_by_name_and_others_by_address() {
        let criterion = SourceCriterion { identity: true, ..SourceCriterion::default() };
        let by_identity = Source::new(Some(&criterion), Source::Host).unwrap();
        let request = |port, subject: Option<&str>| {
            let connection = Connection::plain(([127, 0, 0, 1], port).into());
            let mut context = Context::new(Arc::new(connection));
            context.identity =
                subject.map(|subject| Arc::new(Identity::new(subject, AuthMethod::Basic, "m@file".into())));
            Request::new(http::Request::new(()).into_parts().0, Body::empty(), context)
        };
        let of = |port, subject| by_identity.of(&request(port, subject));
        assert_eq!(of(1, Some("ann")), of(2, Some("ann")));
        assert_ne!(of(1, Some("ann")), of(1, Some("bob")));
        assert_eq!(of(1, None), "127.0.0.1");
        assert_ne!(of(1, Some("127.0.0.1")), of(1, None), "a name is not confused with an address");
        let both = SourceCriterion { request_host: true, ..criterion };
        assert!(Source::new(Some(&both), Source::Host).is_err());
    }

    fn by(strategy: IpStrategy) -> SourceCriterion {
        SourceCriterion { ip_strategy: Some(strategy), ..SourceCriterion::default() }
    }

    #[test]
    fn all_forms_of_an_address_are_one_source() {
        let depth = by(IpStrategy { depth: 1, ..IpStrategy::default() });
        let excluded = by(IpStrategy { excluded_ips: vec!["10.0.0.0/8".into()], ..IpStrategy::default() });
        let subnet = by(IpStrategy { depth: 1, ipv6_subnet: Some(64), ..IpStrategy::default() });
        for (criterion, value, expected) in [
            (&depth, "203.0.113.1:5000", "203.0.113.1"),
            (&depth, "6.6.6.6, [2001:DB8::1%eth0]:5000", "2001:db8::1"),
            (&depth, "for=\"203.0.113.1:1\"", "203.0.113.1"),
            (&depth, "unknown", "unknown"),
            (&excluded, "203.0.113.1:5000, 10.1.1.1:80, [::ffff:10.1.1.2]:80", "203.0.113.1"),
            (&subnet, "[2001:db8::1:2:3:4]:5000", "2001:db8::"),
        ] {
            assert_eq!(source(criterion, "x-forwarded-for", value), expected, "{criterion:?} {value}");
        }
        for (name, value, expected) in [
            ("x-real-ip", "203.0.113.1:5000", "203.0.113.1"),
            ("forwarded", "for=203.0.113.1;proto=http, for=\"[::1]:9\"", "203.0.113.1, ::1"),
            ("x-server", "203.0.113.1:5000", "203.0.113.1:5000"),
        ] {
            let criterion =
                SourceCriterion { request_header_name: name.to_owned(), ..SourceCriterion::default() };
            assert_eq!(source(&criterion, name, value), expected, "{name}: {value}");
        }
    }
}
