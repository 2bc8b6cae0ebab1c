//! Whose address counts: IP strategies and source criteria (Traefik's `ipStrategy` and `sourceCriterion`).

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::values::is_default;
use crate::{BuildError, Request};

/// How to find the client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IpStrategy {
    /// The address at this position of `X-Forwarded-For`, counted from the right; 0 means the TCP peer.
    #[serde(skip_serializing_if = "is_default")]
    pub depth: usize,
    /// Addresses of `X-Forwarded-For` to pass over, from the right. Not looked at when `depth` is set.
    #[serde(rename = "excludedIPs", skip_serializing_if = "Vec::is_empty")]
    pub excluded_ips: Vec<String>,
    /// For IPv6 clients: the length of the prefix that counts as one client.
    #[serde(rename = "ipv6Subnet", skip_serializing_if = "Option::is_none")]
    pub ipv6_subnet: Option<u8>,
}

/// What makes two requests come from the same source: exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SourceCriterion {
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategy>,
    /// The value of a request header.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_header_name: String,
    /// The requested host.
    #[serde(skip_serializing_if = "is_default")]
    pub request_host: bool,
}

/// A set of address ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpRanges(Vec<IpNet>);

impl IpRanges {
    /// Reads ranges in CIDR notation or as single addresses.
    pub fn parse<S: AsRef<str>>(ranges: &[S]) -> Result<Self, BuildError> {
        ranges
            .iter()
            .map(|text| {
                let text = text.as_ref().trim();
                IpNet::from_str(text).or_else(|_| IpAddr::from_str(text).map(IpNet::from)).map_err(|_| {
                    BuildError(format!("parsing CIDR trusted IPs <nil>: invalid CIDR address: {text}"))
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// True when the address lies in one of the ranges. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|range| range.contains(&address))
    }

    /// True when there is no range.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A checked [`IpStrategy`].
#[derive(Clone, Debug, Default)]
pub struct ClientIp {
    depth: usize,
    excluded: Option<IpRanges>,
    ipv6_subnet: Option<u8>,
}

impl ClientIp {
    /// Checks the options.
    pub fn new(options: &IpStrategy) -> Result<Self, BuildError> {
        if let Some(bits) = options.ipv6_subnet.filter(|bits| !(1..=128).contains(bits)) {
            return Err(BuildError(format!(
                "invalid IPv6 subnet {bits} value, should be greater to 0 and lower or equal to 128"
            )));
        }
        let excluded =
            (!options.excluded_ips.is_empty()).then(|| IpRanges::parse(&options.excluded_ips)).transpose()?;
        Ok(Self { depth: options.depth, excluded, ipv6_subnet: options.ipv6_subnet })
    }

    /// The client's address as text; empty when `X-Forwarded-For` has too few entries or none that counts.
    pub fn of(&self, request: &Request) -> String {
        if self.depth > 0 {
            let forwarded = forwarded_for(request);
            let found =
                forwarded.len().checked_sub(self.depth).and_then(|i| forwarded.get(i)).map(|s| s.to_string());
            return self.masked(found.unwrap_or_default());
        }
        if let Some(excluded) = &self.excluded {
            let forwarded = forwarded_for(request);
            let found = forwarded.iter().rev().find(|text| {
                !text.is_empty() && IpAddr::from_str(text).map_or(true, |address| !excluded.contains(address))
            });
            return found.map(|s| s.to_string()).unwrap_or_default();
        }
        self.masked(request.context.connection.peer.ip().to_canonical().to_string())
    }

    fn masked(&self, text: String) -> String {
        match (self.ipv6_subnet, IpAddr::from_str(&text)) {
            (Some(bits), Ok(IpAddr::V6(address))) => {
                ipnet::Ipv6Net::new(address, bits).map(|net| net.network().to_string()).unwrap_or(text)
            }
            _ => text,
        }
    }
}

fn forwarded_for(request: &Request) -> Vec<&str> {
    request
        .head
        .headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect()
}

/// A checked [`SourceCriterion`]: what a limit counts by.
#[derive(Clone, Debug)]
pub enum Source {
    /// The client's address.
    Ip(ClientIp),
    /// The value of a request header.
    Header(http::HeaderName),
    /// The requested host.
    Host,
}

impl Source {
    /// Checks the options; `default` is used when none is given.
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
            return Err(BuildError(format!("{pair} are mutually exclusive")));
        }
        if let Some(strategy) = &options.ip_strategy {
            return ClientIp::new(strategy).map(Self::Ip);
        }
        if !options.request_header_name.is_empty() {
            return http::HeaderName::from_str(&options.request_header_name)
                .map(Self::Header)
                .map_err(|_| BuildError(format!("`{}` is no header name", options.request_header_name)));
        }
        Ok(if options.request_host { Self::Host } else { default })
    }

    /// The key of a request's source.
    pub fn of(&self, request: &Request) -> String {
        match self {
            Self::Ip(strategy) => strategy.of(request),
            Self::Header(name) => request
                .head
                .headers
                .get(name)
                .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
                .unwrap_or_default(),
            Self::Host => request.host().to_owned(),
        }
    }
}
