//! The matchers of a rule.

use std::net::IpAddr;
use std::str::FromStr;

use http::HeaderName;
use ipnet::IpNet;
use regex::Regex;
use tidegate_core::expression::Call;

use super::error::{MatcherError, ValueError};
use super::pattern;
use super::tree::{known_name, texts};
use super::view::{View, unescaped, without_port};

/// The matchers by name; a rule may also write them in lower, upper or title case.
const NAMES: [&str; 14] = [
    "Host",
    "HostRegexp",
    "Path",
    "PathPrefix",
    "PathRegexp",
    "Method",
    "Header",
    "HeaderRegexp",
    "Query",
    "QueryRegexp",
    "ClientIP",
    "User",
    "Group",
    "Label",
];

/// A condition on a request.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    /// The host is this one.
    Host(Box<str>),
    /// The host is one label followed by this suffix (`*.suffix`).
    HostBelow(Box<str>),
    /// Any host (`*`).
    AnyHost,
    HostRegexp(Box<Regex>),
    Path(Box<str>),
    PathPrefix(Box<str>),
    PathRegexp(Box<Regex>),
    Method(Box<str>),
    /// A value of the header is this text.
    Header(Box<(HeaderName, Box<str>)>),
    HeaderRegexp(Box<(HeaderName, Regex)>),
    /// A value of the query parameter is this text.
    Query(Box<(Box<str>, Box<str>)>),
    QueryRegexp(Box<(Box<str>, Regex)>),
    ClientIp(IpNet),
    /// The client has this name.
    User(Box<str>),
    /// The client belongs to this group.
    Group(Box<str>),
    /// The client has this label, with this value.
    Label(Box<(String, Box<str>)>),
    /// Nothing matches.
    Nothing,
}

impl Matcher {
    /// Validates a call.
    pub(super) fn new(call: &Call) -> Result<Self, MatcherError> {
        let name = known_name(&call.name, &NAMES, hint)?;
        let allowed = match name {
            "Header" | "HeaderRegexp" | "Label" => 2..=2,
            "Query" | "QueryRegexp" => 1..=2,
            _ => 1..=1,
        };
        let arguments = texts(name, call, allowed)?;
        build(name, &arguments).map_err(|source| MatcherError::Value { name, source })
    }

    /// Returns true if the request matches.
    pub(super) fn matches(&self, view: &View<'_>) -> bool {
        let request = view.request;
        match self {
            Self::Host(host) => **host == *view.host(),
            Self::HostBelow(suffix) => view.host().split_once('.').is_some_and(|(_, rest)| *rest == **suffix),
            Self::AnyHost => true,
            Self::HostRegexp(pattern) => pattern.is_match(view.dotted_host()),
            Self::Path(path) => **path == *view.path,
            Self::PathPrefix(prefix) => view.path.starts_with(&**prefix),
            Self::PathRegexp(pattern) => pattern.is_match(&view.path),
            Self::Method(method) => **method == *request.head.method.as_str(),
            Self::Header(wanted) => {
                request.head.headers.get_all(&wanted.0).iter().any(|v| v.as_bytes() == wanted.1.as_bytes())
            }
            Self::HeaderRegexp(wanted) => {
                let mut values = request.head.headers.get_all(&wanted.0).iter();
                values.any(|value| wanted.1.is_match(&String::from_utf8_lossy(value.as_bytes())))
            }
            Self::Query(wanted) => view.query().any(|(key, value)| {
                unescaped(key).eq(wanted.0.bytes()) && unescaped(value).eq(wanted.1.bytes())
            }),
            Self::QueryRegexp(wanted) => view.query().any(|(key, value)| {
                unescaped(key).eq(wanted.0.bytes()) && {
                    let value: Vec<u8> = unescaped(value).collect();
                    wanted.1.is_match(&String::from_utf8_lossy(&value))
                }
            }),
            Self::ClientIp(range) => range.contains(&view.peer),
            Self::User(name) => view.identity().is_some_and(|identity| identity.subject == **name),
            Self::Group(name) => view.identity().is_some_and(|identity| identity.is_in_group(name)),
            Self::Label(wanted) => view
                .identity()
                .and_then(|identity| identity.label(&wanted.0))
                .is_some_and(|value| *value == *wanted.1),
            Self::Nothing => false,
        }
    }
}

/// Returns a hint for an unknown name.
fn hint(written: &str) -> Option<&'static str> {
    Some(match written {
        "Headers" => "that is v2 syntax, in v3 it is Header(`name`, `value`)",
        "HeadersRegexp" => "that is v2 syntax, in v3 it is HeaderRegexp(`name`, `pattern`)",
        "HostHeader" => "that is v2 syntax, in v3 it is Host(`name`)",
        "HostSNI" | "HostSNIRegexp" | "ALPN" => "it belongs to TCP routers",
        _ => return None,
    })
}

fn build(name: &str, arguments: &[&str]) -> Result<Matcher, ValueError> {
    let first = arguments.first().copied().unwrap_or("");
    let second = arguments.get(1).copied();
    if matches!(name, "HostRegexp" | "PathPrefix" | "Path" | "Host") {
        refuse_v2_pattern(name, first)?;
    }
    Ok(match name {
        "Host" => host(first)?,
        "HostRegexp" if !first.is_ascii() => {
            return Err(ValueError::PatternNotAscii(first.to_owned()));
        }
        "HostRegexp" => Matcher::HostRegexp(Box::new(pattern::compile(first)?)),
        "Path" => Matcher::Path(rooted(first)?.into()),
        "PathPrefix" => Matcher::PathPrefix(rooted(first)?.into()),
        "PathRegexp" => Matcher::PathRegexp(Box::new(pattern::compile(first)?)),
        "Method" => Matcher::Method(first.to_uppercase().into()),
        "Header" if is_host(first) => Matcher::Nothing,
        "Header" => Matcher::Header(Box::new((header_name(first)?, second.unwrap_or("").into()))),
        "HeaderRegexp" => {
            let compiled = pattern::compile(second.unwrap_or(""))?;
            match is_host(first) {
                true => Matcher::Nothing,
                false => Matcher::HeaderRegexp(Box::new((header_name(first)?, compiled))),
            }
        }
        "QueryRegexp" if second.is_some() => {
            Matcher::QueryRegexp(Box::new((first.into(), pattern::compile(second.unwrap_or(""))?)))
        }
        // With one argument, both match a parameter without a value.
        "Query" | "QueryRegexp" => Matcher::Query(Box::new((first.into(), second.unwrap_or("").into()))),
        "User" => Matcher::User(first.into()),
        "Group" => Matcher::Group(first.into()),
        "Label" => Matcher::Label(Box::new((first.to_owned(), second.unwrap_or("").into()))),
        _ => Matcher::ClientIp(range(first)?),
    })
}

/// Traefik does not keep `Host` among the headers, so matching it there finds nothing.
fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host")
}

fn host(written: &str) -> Result<Matcher, ValueError> {
    if !written.is_ascii() {
        return Err(not_ascii(written));
    }
    let host = written.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    Ok(match host.strip_prefix("*.") {
        _ if written == "*" => Matcher::AnyHost,
        Some(suffix) if !suffix.is_empty() => Matcher::HostBelow(suffix.into()),
        // A port or a bare `*.` never matches in Traefik either.
        _ if host.starts_with('[') => Matcher::Host(without_port(host).into()),
        _ => Matcher::Host(host.into()),
    })
}

/// Returns the error for a name that is not ASCII, with the form to write.
pub(crate) fn not_ascii(written: &str) -> ValueError {
    let written = written.to_owned();
    match ascii_form(&written) {
        Some(ascii) => ValueError::NotAscii { written, ascii },
        None => ValueError::HostName(written),
    }
}

/// Returns the form of an international name that clients send (RFC 5891): `xn--bcher-kva.example`.
fn ascii_form(name: &str) -> Option<String> {
    let (star, rest) = name.strip_prefix("*.").map_or(("", name), |rest| ("*.", rest));
    match url::Host::parse(rest.trim_end_matches('.')) {
        Ok(url::Host::Domain(ascii)) => Some(format!("{star}{ascii}")),
        _ => None,
    }
}

fn rooted(path: &str) -> Result<&str, ValueError> {
    match path.starts_with('/') {
        true => Ok(path),
        false => Err(ValueError::RelativePath(path.to_owned())),
    }
}

fn header_name(written: &str) -> Result<HeaderName, ValueError> {
    HeaderName::from_str(written).map_err(|_| ValueError::HeaderName(written.to_owned()))
}

fn range(written: &str) -> Result<IpNet, ValueError> {
    let parsed = IpAddr::from_str(written).map(IpNet::from).or_else(|_| IpNet::from_str(written));
    let range = parsed.map_err(|_| ValueError::Network(written.to_owned()))?;
    // `::ffff:10.0.0.0/104` is `10.0.0.0/8`: clients are compared in IPv4 form.
    Ok(match range {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(range, IpNet::V4),
            None => range,
        },
        _ => range,
    })
}

/// Refuses `{name:pattern}`, which v3 would silently compare literally.
fn refuse_v2_pattern(name: &str, text: &str) -> Result<(), ValueError> {
    let is_v2 = text.split('{').skip(1).any(|after| {
        let named = after.split_once(':').map_or("", |(named, _)| named);
        named.starts_with(|c: char| c.is_ascii_alphabetic())
            && named.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    });
    if !is_v2 {
        return Ok(());
    }
    let (matcher, example) = match name {
        "Host" | "HostRegexp" => ("HostRegexp", "^[a-z]+\\.example\\.com$"),
        _ => ("PathRegexp", "^/products/[0-9]+"),
    };
    Err(ValueError::NamedPattern { text: text.to_owned(), matcher, example })
}
