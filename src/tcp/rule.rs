//! A rule of a TCP router: what is asked about a connection before any server sees it.

use std::net::IpAddr;

use regex::Regex;
use tidegate_core::client_ip::IpRanges;
use tidegate_core::expression::{self, Argument, Call, Expression};

use crate::router::{Tree, go_position, go_regex, known_name};

/// The matchers by name; a rule may also write them in lower, upper or title case.
const NAMES: [&str; 4] = ["HostSNI", "HostSNIRegexp", "ClientIP", "ALPN"];
/// The protocol of certificate challenges, which is never routed.
pub const ACME_PROTOCOL: &str = "acme-tls/1";

/// What is known of a connection when its router is looked for.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The server name in lower case; empty without TLS, or when the client sent none.
    pub server_name: &'a str,
    /// The client's address.
    pub peer: IpAddr,
    /// Protocols that the client offers (ALPN).
    pub protocols: &'a [Vec<u8>],
}

/// A checked rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) tree: Tree<Matcher>,
    catch_all: bool,
}

/// A rule that was read, but perhaps cannot be used.
#[derive(Clone, Debug)]
pub struct Read {
    /// The values of all `HostSNI` matchers that are not negated, in lower case and in the order of the rule.
    pub names: Vec<String>,
    /// The rule, or what is wrong with a matcher, in Traefik's words.
    pub rule: Result<Rule, String>,
}

/// One question about a connection.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    /// Any connection, with a server name or without (`*`).
    Anything,
    Name(Box<str>),
    /// One label in front of this (`*.suffix`).
    NameBelow(Box<str>),
    NamePattern(Box<Regex>),
    ClientIp(IpRanges),
    Protocol(Box<str>),
}

/// Reads a rule. The error is Traefik's for a rule that is no expression.
pub fn read(text: &str) -> Result<Read, String> {
    let invalid = |reason: String| format!("invalid rule: {text:?} , {reason}");
    let expression = expression::parse(text).map_err(|error| invalid(go_position(text, &error)))?;
    let mut names = Vec::new();
    check(&expression, &mut names).map_err(invalid)?;
    let tree = Tree::new(&expression, &matcher)
        .map_err(|reason: String| format!("error while adding rule {text}: {reason}"));
    let rule = tree.map(|tree| Rule { catch_all: matches!(tree, Tree::Matcher(Matcher::Anything)), tree });
    Ok(Read { names, rule })
}

/// The priority of a router that gives none: the length of its rule in bytes, and -1 for one that takes everything.
pub fn priority(text: &str) -> i64 {
    let everything = |tree: &Tree<Matcher>| matches!(tree, Tree::Matcher(Matcher::Anything));
    let catches_all = read(text).ok().and_then(|read| read.rule.ok()).is_some_and(|rule| match &rule.tree {
        // Traefik does not look at the negation here.
        Tree::Not(inner) => everything(inner),
        tree => everything(tree),
    });
    if catches_all { -1 } else { i64::try_from(text.len()).unwrap_or(i64::MAX) }
}

impl Rule {
    /// True for exactly `` HostSNI(`*`) ``.
    pub fn is_catch_all(&self) -> bool {
        self.catch_all
    }

    /// True when the rule takes the connection.
    pub fn matches(&self, view: &View<'_>) -> bool {
        self.tree.matches(&|matcher| matcher.matches(view))
    }
}

impl Matcher {
    fn matches(&self, view: &View<'_>) -> bool {
        match self {
            Self::Anything => true,
            Self::Name(name) => **name == *view.server_name,
            Self::NameBelow(suffix) => {
                view.server_name.split_once('.').is_some_and(|(_, rest)| *rest == **suffix)
            }
            Self::NamePattern(pattern) => pattern.is_match(view.server_name),
            Self::ClientIp(ranges) => ranges.contains(view.peer),
            Self::Protocol(protocol) => view.protocols.iter().any(|one| one == protocol.as_bytes()),
        }
    }
}

/// Checks that there are only calls of known matchers with strings, and collects the server names.
fn check(expression: &Expression, names: &mut Vec<String>) -> Result<(), String> {
    match expression {
        Expression::And(left, right) | Expression::Or(left, right) => {
            check(left, names)?;
            check(right, names)
        }
        // A name that is ruled out is none that is asked for.
        Expression::Not(inner) => check(inner, &mut Vec::new()),
        Expression::Compare { operator, .. } => Err(format!("{operator} is not supported")),
        Expression::Field(field) => Err(format!("`{}` must be called", field.name)),
        Expression::Call(call) => {
            let name = known_name(&call.name, &NAMES, |_| None)?;
            for argument in &call.arguments {
                match argument {
                    Argument::Number(number) => {
                        return Err(format!("{name} takes strings: write `{number}` instead of {number}"));
                    }
                    Argument::Text(text) if name == "HostSNI" => names.push(text.to_lowercase()),
                    Argument::Text(_) => {}
                }
            }
            Ok(())
        }
    }
}

fn matcher(call: &Call) -> Result<Matcher, String> {
    let name = known_name(&call.name, &NAMES, |_| None)?;
    let texts: Vec<&str> = call
        .arguments
        .iter()
        .filter_map(|argument| match argument {
            Argument::Text(text) => Some(text.as_str()),
            Argument::Number(_) => None,
        })
        .collect();
    if texts.is_empty() {
        return Err(format!("no args for matcher {name}"));
    }
    if texts.iter().any(|text| text.is_empty()) {
        return Err(format!("empty args for matcher {name}, [{}]", texts.join(" ")));
    }
    let [text] = texts[..] else {
        return Err(format!("unexpected number of parameters; got {}, expected 1", texts.len()));
    };
    match name {
        "HostSNI" => host_sni(text),
        "HostSNIRegexp" if !text.is_ascii() => {
            Err(format!("invalid value for HostSNIRegexp matcher, {text:?} is not a valid hostname"))
        }
        "HostSNIRegexp" => go_regex(text)
            .map(|pattern| Matcher::NamePattern(Box::new(pattern)))
            .map_err(|error| format!("compiling HostSNIRegexp matcher: {error}")),
        "ClientIP" => IpRanges::parse(&[text])
            .map(Matcher::ClientIp)
            .map_err(|error| format!("initializing IP checker for ClientIP matcher: {error}")),
        _ if text == ACME_PROTOCOL => {
            Err(format!("invalid protocol value for ALPN matcher, {text:?} is not allowed"))
        }
        _ => Ok(Matcher::Protocol(text.into())),
    }
}

fn host_sni(text: &str) -> Result<Matcher, String> {
    if text == "*" {
        return Ok(Matcher::Anything);
    }
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:".contains(&byte);
    if bare.is_empty() || !bare.bytes().all(fits) {
        return Err(format!("invalid value for HostSNI matcher, {text:?} is not a valid hostname"));
    }
    let name = text.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    Ok(match name.strip_prefix("*.") {
        Some(suffix) => Matcher::NameBelow(suffix.into()),
        None => Matcher::Name(name.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rule: &str, server_name: &str, protocols: &[&str]) -> bool {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
        let peer = "::ffff:10.1.2.3".parse().unwrap();
        read(rule).unwrap().rule.unwrap().matches(&View { server_name, peer, protocols: &protocols })
    }

    #[test]
    fn matchers_take_what_traefik_takes() {
        for (rule, name, protocols, expected) in [
            ("HostSNI(`*`)", "", &[][..], true),
            ("HostSNI(`*`)", "a.test", &[], true),
            ("HostSNI(`A.test`)", "a.test", &[], true),
            ("HostSNI(`a.test.`)", "a.test", &[], true),
            ("HostSNI(`a.test`)", "", &[], false),
            ("HostSNI(`*.test`)", "a.test", &[], true),
            ("HostSNI(`*.test`)", "b.a.test", &[], false),
            ("HostSNI(`*.test`)", "test", &[], false),
            ("HostSNIRegexp(`^.+\\.test$`)", "b.a.test", &[], true),
            ("HostSNIRegexp(`^.+\\.test$`)", "b.a.testing", &[], false),
            ("ClientIP(`10.0.0.0/8`)", "", &[], true),
            ("ClientIP(`10.1.2.4`)", "", &[], false),
            ("ALPN(`mqtt`)", "", &["h2", "mqtt"], true),
            ("ALPN(`mqtt`)", "", &["h2"], false),
            ("HostSNI(`a`) && !ALPN(`h2`) || ClientIP(`10.1.2.3/32`)", "b", &["h2"], true),
            ("!HostSNI(`a`)", "", &[], true),
            ("HOSTSNI(`a`) && alpn(`h2`)", "a", &["h2"], true),
        ] {
            assert_eq!(taken(rule, name, protocols), expected, "{rule} on {name:?} {protocols:?}");
        }
    }

    #[test]
    fn priorities_are_those_of_traefik() {
        assert_eq!(priority("HostSNI(`*`)"), -1);
        assert_eq!(priority("hostsni(\"*\")"), -1);
        assert_eq!(priority("HostSNI(`*`) && ClientIP(`1.1.1.1`)"), 35);
        assert_eq!(priority("!HostSNI(`*`)"), -1);
        assert_eq!(priority("HostSNI(`a.test`)"), 17);
    }

    #[test]
    fn errors_are_those_of_traefik() {
        for (rule, error) in [
            ("Nope(`x`)", "invalid rule: \"Nope(`x`)\" , unsupported function: Nope"),
            (
                "HostSNI(`a`",
                "invalid rule: \"HostSNI(`a`\" , 1:12: missing ',' before newline in argument list",
            ),
        ] {
            assert_eq!(read(rule).unwrap_err(), error);
        }
        for (rule, error) in [
            ("HostSNI()", "no args for matcher HostSNI"),
            ("HostSNI(``)", "empty args for matcher HostSNI, []"),
            ("HostSNI(`a`,`b`)", "unexpected number of parameters; got 2, expected 1"),
            ("HostSNI(`a b`)", "invalid value for HostSNI matcher, \"a b\" is not a valid hostname"),
            ("HostSNI(`*a`)", "invalid value for HostSNI matcher, \"*a\" is not a valid hostname"),
            ("ALPN(`acme-tls/1`)", "invalid protocol value for ALPN matcher, \"acme-tls/1\" is not allowed"),
            (
                "HostSNIRegexp(`(`)",
                "compiling HostSNIRegexp matcher: error parsing regexp: missing closing ): `(`",
            ),
            (
                "ClientIP(`x`)",
                "initializing IP checker for ClientIP matcher: parsing CIDR trusted IPs <nil>: invalid CIDR address: x",
            ),
        ] {
            let found = read(rule).unwrap().rule.unwrap_err();
            assert_eq!(found, format!("error while adding rule {rule}: {error}"));
        }
        assert_eq!(read("HostSNI(`A`) || !HostSNI(`b`)").unwrap().names, ["a"]);
    }
}
