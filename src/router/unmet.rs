//! Finds the condition that keeps a rule from matching a request.
//!
//! The rule is parsed again, and each matcher is evaluated with the code that requests use, so that the result cannot
//! differ from routing. Later matchers are not even compiled once one does not hold.

use tidegate_core::Request;
use tidegate_core::expression::{self, Call};

use super::error::RuleError;
use super::matcher::Matcher;
use super::tree::{Misplaced, Tree};
use super::view::View;

/// Maximum number of characters of a condition.
const MAX_SHOWN: usize = 500;

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The condition as in the rule.
    pub condition: String,
    /// What the request has instead, without values of headers and query parameters.
    pub because: String,
}

/// Returns the first condition of a rule that does not hold for a request; `None` if the rule matches.
pub fn unmet(rule: &str, request: &Request) -> Result<Option<Unmet>, RuleError> {
    let expression = expression::parse(rule).map_err(|error| RuleError::syntax(rule, error))?;
    let tree =
        Tree::new(&expression, &|call| Ok(call.clone())).map_err(|misplaced| misplaced.in_rule(rule))?;
    let view = View::new(request);
    first_unmet(&tree, &view).map_err(|misplaced| misplaced.in_rule(rule))
}

fn first_unmet(tree: &Tree<Call>, view: &View<'_>) -> Result<Option<Unmet>, Misplaced> {
    match tree {
        Tree::All(parts) => {
            for part in parts {
                if let Some(unmet) = first_unmet(part, view)? {
                    return Ok(Some(unmet));
                }
            }
            Ok(None)
        }
        Tree::Any(parts) => {
            let mut reasons: Vec<String> = Vec::new();
            for part in parts {
                match first_unmet(part, view)? {
                    None => return Ok(None),
                    Some(unmet) if reasons.contains(&unmet.because) => {}
                    Some(unmet) => reasons.push(unmet.because),
                }
            }
            Ok(Some(Unmet { condition: shown(tree), because: shortened(reasons.join("; ")) }))
        }
        Tree::Not(part) => Ok(match first_unmet(part, view)? {
            Some(_) => None,
            None => Some(Unmet { condition: shown(tree), because: "it holds".to_owned() }),
        }),
        Tree::Matcher(call) => {
            let matcher = Matcher::new(call).map_err(|error| Misplaced::matcher(call, error))?;
            Ok((!matcher.matches(view))
                .then(|| Unmet { condition: shown(tree), because: shortened(because(&matcher, view)) }))
        }
    }
}

/// Returns what the request has instead of what a matcher expects.
fn because(matcher: &Matcher, view: &View<'_>) -> String {
    let identity = view.identity();
    let client = || match identity {
        Some(identity) => format!("the client is `{}`", identity.subject),
        None => "the client is not authenticated before routing".to_owned(),
    };
    match matcher {
        Matcher::Host(_) | Matcher::HostBelow(_) | Matcher::AnyHost | Matcher::HostRegexp(_) => {
            format!("the host is `{}`", view.dotted_host())
        }
        Matcher::Path(_) | Matcher::PathPrefix(_) | Matcher::PathRegexp(_) => {
            format!("the path is `{}`", view.path)
        }
        Matcher::Method(_) => format!("the method is `{}`", view.request.head.method),
        Matcher::Header(wanted) => header(view, &wanted.0),
        Matcher::HeaderRegexp(wanted) => header(view, &wanted.0),
        Matcher::Query(_) | Matcher::QueryRegexp(_) => match view.request.head.uri.query() {
            Some(_) => "the query has no such parameter".to_owned(),
            None => "there is no query".to_owned(),
        },
        Matcher::ClientIp(_) => format!("the client is {}", view.peer),
        Matcher::User(_) | Matcher::Group(_) | Matcher::Label(_) => client(),
        Matcher::Nothing => "it never holds: `Host` is not among the headers".to_owned(),
    }
}

fn header(view: &View<'_>, name: &http::HeaderName) -> String {
    match view.request.head.headers.contains_key(name) {
        true => format!("the header `{name}` has another value"),
        false => format!("the header `{name}` is absent"),
    }
}

/// Formats a part of a rule.
fn shown(tree: &Tree<Call>) -> String {
    fn joined(parts: &[Tree<Call>], operator: &str, out: &mut String) {
        for (place, part) in parts.iter().enumerate() {
            if place > 0 {
                out.push_str(operator);
            }
            grouped(part, out);
        }
    }
    fn grouped(tree: &Tree<Call>, out: &mut String) {
        let is_joined = matches!(tree, Tree::All(_) | Tree::Any(_));
        out.push_str(if is_joined { "(" } else { "" });
        write(tree, out);
        out.push_str(if is_joined { ")" } else { "" });
    }
    fn write(tree: &Tree<Call>, out: &mut String) {
        // What follows is cut off.
        if out.len() > 4 * MAX_SHOWN {
            return;
        }
        match tree {
            Tree::All(parts) => joined(parts, " && ", out),
            Tree::Any(parts) => joined(parts, " || ", out),
            Tree::Not(part) => {
                out.push('!');
                grouped(part, out);
            }
            Tree::Matcher(call) => out.push_str(&call.to_string()),
        }
    }
    let mut out = String::new();
    write(tree, &mut out);
    shortened(out)
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate_core::{Body, Connection, Context};

    use super::*;
    use crate::router::Rule;

    fn request(method: &str, target: &str, host: &str) -> Request {
        let builder = http::Request::builder().method(method).uri(target).header("host", host);
        let head = builder.header("x-key", "secret").body(()).unwrap().into_parts().0;
        let connection = Connection::plain(([10, 0, 0, 7], 4000).into());
        Request::new(head, Body::empty(), Context::new(Arc::new(connection)))
    }

    #[test]
    fn the_first_condition_that_fails_is_found() {
        for (rule, expected) in [
            ("Host(`a.test`) && PathPrefix(`/x`)", None),
            ("Host(`b.test`) && HostRegexp(`(`)", Some(("Host(`b.test`)", "the host is `a.test`"))),
            (
                "Host(`a.test`) && (Path(`/y`) || Path(`/z`))",
                Some(("Path(`/y`) || Path(`/z`)", "the path is `/x`")),
            ),
            ("!Host(`a.test`)", Some(("!Host(`a.test`)", "it holds"))),
            ("!(Host(`a.test`) && Path(`/x`))", Some(("!(Host(`a.test`) && Path(`/x`))", "it holds"))),
            ("Method(`POST`)", Some(("Method(`POST`)", "the method is `GET`"))),
            ("Header(`X-Key`, `1`)", Some(("Header(`X-Key`, `1`)", "the header `x-key` has another value"))),
            ("Header(`X-No`, `1`)", Some(("Header(`X-No`, `1`)", "the header `x-no` is absent"))),
            ("Query(`a`, `2`)", Some(("Query(`a`, `2`)", "the query has no such parameter"))),
            ("ClientIP(`192.0.2.0/24`)", Some(("ClientIP(`192.0.2.0/24`)", "the client is 10.0.0.7"))),
            ("User(`ann`)", Some(("User(`ann`)", "the client is not authenticated before routing"))),
        ] {
            let request = request("GET", "/x?a=1", "a.test");
            let found = unmet(rule, &request).unwrap();
            assert_eq!(
                found.as_ref().map(|unmet| (unmet.condition.as_str(), unmet.because.as_str())),
                expected,
                "{rule}"
            );
            if let Ok(parsed) = Rule::parse(rule) {
                assert_eq!(parsed.matches(&request), found.is_none(), "{rule}");
            }
        }
        let invalid = unmet("Hst(`a`)", &request("GET", "/", "a")).unwrap_err().to_string();
        assert!(invalid.contains("did you mean"), "{invalid}");
    }

    #[test]
    fn long_conditions_are_cut_off() {
        let all: Vec<String> = (0..2000).map(|number| format!("Host(`h{number}.test`)")).collect();
        let found = unmet(&all.join(" || "), &request("GET", "/", "a.test")).unwrap().unwrap();
        assert!(found.condition.len() < 1000 && found.condition.ends_with('…'));
    }
}
