//! Rules of TCP routers.

use std::net::IpAddr;

use regex::Regex;
use tidegate_core::client_ip::IpRanges;
use tidegate_core::expression::{self, Argument, Call, Expression};

use crate::router::{
    MatcherError, Misplaced, RuleError, Tree, ValueError, go_regex, known_name, not_ascii, texts,
};

/// The names of matchers, which may also be written in lower, upper or title case.
const NAMES: [&str; 4] = ["HostSNI", "HostSNIRegexp", "ClientIP", "ALPN"];
/// The ALPN protocol of certificate challenges, which is never routed.
pub const ACME_PROTOCOL: &str = "acme-tls/1";

/// The properties of a connection that rules match.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The server name in lower case; empty without TLS or SNI.
    pub server_name: &'a str,
    /// The client's address.
    pub peer: IpAddr,
    /// The protocols that the client offers (ALPN).
    pub protocols: &'a [Vec<u8>],
}

/// A validated rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) tree: Tree<Matcher>,
    catch_all: bool,
}

/// A parsed rule, whose matchers may be invalid.
#[derive(Clone, Debug)]
pub struct Read {
    /// The values of all `HostSNI` matchers that are not negated, in lower case and in the order of the rule.
    pub names: Vec<String>,
    /// The rule, or the error of a matcher.
    pub rule: Result<Rule, RuleError>,
}

/// A condition on a connection.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    /// Any connection, with a server name or without (`*`).
    Anything,
    Name(Box<str>),
    /// One label before this suffix (`*.suffix`).
    NameBelow(Box<str>),
    NamePattern(Box<Regex>),
    ClientIp(IpRanges),
    Protocol(Box<str>),
}

/// Parses a rule. Returns an error if it is not an expression of known matchers.
pub fn read(text: &str) -> Result<Read, RuleError> {
    let expression = expression::parse(text).map_err(|error| RuleError::syntax(text, error))?;
    let mut names = Vec::new();
    check(&expression, &mut names).map_err(|misplaced| misplaced.in_rule(text))?;
    let tree = Tree::new(&expression, &matcher).map_err(|misplaced| misplaced.in_rule(text));
    let rule = tree.map(|tree| Rule { catch_all: matches!(tree, Tree::Matcher(Matcher::Anything)), tree });
    Ok(Read { names, rule })
}

/// Returns the default priority of a rule: its length in bytes, or -1 if it matches everything.
pub fn priority(text: &str) -> i64 {
    let everything = |tree: &Tree<Matcher>| matches!(tree, Tree::Matcher(Matcher::Anything));
    let catches_all = read(text).ok().and_then(|read| read.rule.ok()).is_some_and(|rule| match &rule.tree {
        // As in Traefik, negation is ignored here.
        Tree::Not(inner) => everything(inner),
        tree => everything(tree),
    });
    if catches_all { -1 } else { i64::try_from(text.len()).unwrap_or(i64::MAX) }
}

impl Rule {
    /// Returns true for exactly `` HostSNI(`*`) ``.
    pub fn is_catch_all(&self) -> bool {
        self.catch_all
    }

    /// Returns true if the rule matches the connection.
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

/// Checks that the expression has only calls of known matchers with strings, and collects the server names.
fn check(expression: &Expression, names: &mut Vec<String>) -> Result<(), Misplaced> {
    match expression {
        Expression::And(left, right) | Expression::Or(left, right) => {
            check(left, names)?;
            check(right, names)
        }
        // Negated names are not collected.
        Expression::Not(inner) => check(inner, &mut Vec::new()),
        Expression::Call(call) => {
            let wrong = |error| Misplaced::matcher(call, error);
            let name = known_name(&call.name, &NAMES, |_| None).map_err(wrong)?;
            for argument in &call.arguments {
                match argument {
                    &Argument::Number(number) => return Err(wrong(MatcherError::Number { name, number })),
                    Argument::Text(text) if name == "HostSNI" => names.push(text.to_lowercase()),
                    Argument::Text(_) => {}
                }
            }
            Ok(())
        }
        Expression::Compare { call, operator, .. } => Err(Misplaced::comparison(call, *operator)),
        Expression::Field(field) => Err(Misplaced::field(field)),
    }
}

fn matcher(call: &Call) -> Result<Matcher, MatcherError> {
    let name = known_name(&call.name, &NAMES, |_| None)?;
    let texts = texts(name, call, 1..=1)?;
    let text = texts.first().copied().unwrap_or("");
    build(name, text).map_err(|source| MatcherError::Value { name, source })
}

fn build(name: &str, text: &str) -> Result<Matcher, ValueError> {
    Ok(match name {
        "HostSNI" => host_sni(text)?,
        "HostSNIRegexp" if !text.is_ascii() => return Err(ValueError::PatternNotAscii(text.to_owned())),
        "HostSNIRegexp" => Matcher::NamePattern(Box::new(go_regex(text)?)),
        "ClientIP" => Matcher::ClientIp(IpRanges::parse(&[text])?),
        _ if text == ACME_PROTOCOL => return Err(ValueError::OwnProtocol(text.to_owned())),
        _ => Matcher::Protocol(text.into()),
    })
}

fn host_sni(text: &str) -> Result<Matcher, ValueError> {
    if text == "*" {
        return Ok(Matcher::Anything);
    }
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:".contains(&byte);
    if bare.is_empty() || !bare.bytes().all(fits) {
        return Err(match text.is_ascii() {
            true => ValueError::HostName(text.to_owned()),
            false => not_ascii(text),
        });
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

    fn matches_rule(rule: &str, server_name: &str, protocols: &[&str]) -> bool {
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
        let peer = "::ffff:10.1.2.3".parse().unwrap();
        read(rule).unwrap().rule.unwrap().matches(&View { server_name, peer, protocols: &protocols })
    }

    #[test]
    fn matchers_agree_with_traefik() {
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
            assert_eq!(matches_rule(rule, name, protocols), expected, "{rule} on {name:?} {protocols:?}");
        }
    }

    #[test]
    fn default_priorities_equal_those_of_traefik() {
        assert_eq!(priority("HostSNI(`*`)"), -1);
        assert_eq!(priority("hostsni(\"*\")"), -1);
        assert_eq!(priority("HostSNI(`*`) && ClientIP(`1.1.1.1`)"), 35);
        assert_eq!(priority("!HostSNI(`*`)"), -1);
        assert_eq!(priority("HostSNI(`a.test`)"), 17);
    }

    #[test]
    fn errors_have_a_column_and_what_was_expected() {
        for (rule, error) in [
            ("Nope(`x`)", "column 1: unknown matcher Nope"),
            ("HostSNI(`a`", "column 1: the call of HostSNI is never closed"),
            ("HostSNI(`a`) && HostSNI(5)", "column 17: HostSNI takes strings: write `5` instead of 5"),
        ] {
            assert_eq!(read(rule).unwrap_err().to_string(), format!("invalid rule {rule:?} at {error}"));
        }
        for (rule, error) in [
            ("HostSNI()", "HostSNI is called without a value: expected HostSNI(`…`)"),
            ("HostSNI(``)", "the value of HostSNI is empty"),
            (
                "HostSNI(`a`,`b`)",
                "HostSNI takes one value, 2 are given: several are v2 syntax, in v3 it is HostSNI(`a`) || HostSNI(`b`)",
            ),
            ("HostSNI(`a b`)", "HostSNI: `a b` is not a host name"),
            ("HostSNI(`*a`)", "HostSNI: `*a` is not a host name"),
            (
                "HostSNI(`bücher.example`)",
                "HostSNI: `bücher.example` is not ASCII: write `xn--bcher-kva.example`",
            ),
            ("HostSNIRegexp(`bü`)", "HostSNIRegexp: `bü` is not ASCII: clients ask for the form `xn--…`"),
            ("ALPN(`acme-tls/1`)", "ALPN: `acme-tls/1` is the gateway's own, for certificates"),
            ("HostSNIRegexp(`(`)", "HostSNIRegexp: invalid regular expression `(`: a closing `)` is missing"),
            (
                "ClientIP(`x`)",
                "ClientIP: invalid address or network `x`: expected one like `192.0.2.1` or `10.0.0.0/8`",
            ),
        ] {
            let found = read(rule).unwrap().rule.unwrap_err().to_string();
            assert_eq!(found, format!("invalid rule {rule:?} at column 1: {error}"));
        }
        assert_eq!(read("HostSNI(`A`) || !HostSNI(`b`)").unwrap().names, ["a"]);
    }
}
