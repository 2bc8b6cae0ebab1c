//! A rule: matchers joined by `&&`, `||` and `!`.

use tidegate_core::Request;
use tidegate_core::expression::{self, Expression, SyntaxError};

use super::matcher::{Matcher, Refused};
use super::view::View;

/// A checked rule (Traefik's v3 rule language).
#[derive(Clone, Debug)]
pub struct Rule {
    text: Box<str>,
    tree: Tree,
}

/// A rule's shape. Chains are flat, so that walking it never goes deeper than the rule's parentheses.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    All(Box<[Tree]>),
    Any(Box<[Tree]>),
    Not(Box<Tree>),
    Matcher(Matcher),
}

impl Rule {
    /// Parses and checks a rule. The error says what was expected and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let failed = |reason: String| format!("error while parsing rule {text}: {reason}");
        let expression = expression::parse(text)
            .map_err(|e| failed(format!("parsing rule {text}: {}", located(text, &e))))?;
        let tree = tree(&expression).map_err(|refused| {
            failed(match refused {
                Refused::Parsing(reason) => format!("parsing rule {text}: {reason}"),
                Refused::Adding(reason) => format!("adding rule {text}: {reason}"),
            })
        })?;
        Ok(Self { text: text.into(), tree })
    }

    /// The rule as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Values of its `Host` matchers that are not negated, in lower case and in the order of the rule.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = Vec::new();
        self.tree.collect_hosts(false, &mut hosts);
        hosts
    }

    /// True when the rule takes the request: the plain evaluation that the index must agree with.
    pub fn matches(&self, request: &Request) -> bool {
        self.tree.matches(&View::new(request))
    }

    pub(super) fn into_tree(self) -> Tree {
        self.tree
    }
}

impl Tree {
    /// True when the request fits.
    pub(super) fn matches(&self, view: &View<'_>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(view)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(view)),
            Self::Not(part) => !part.matches(view),
            Self::Matcher(matcher) => matcher.matches(view),
        }
    }

    fn collect_hosts(&self, negated: bool, hosts: &mut Vec<String>) {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().for_each(|part| part.collect_hosts(negated, hosts));
            }
            Self::Not(part) => part.collect_hosts(!negated, hosts),
            Self::Matcher(_) if negated => {}
            Self::Matcher(Matcher::Host(host)) => hosts.push(host.to_string()),
            Self::Matcher(Matcher::HostBelow(suffix)) => hosts.push(format!("*.{suffix}")),
            Self::Matcher(Matcher::AnyHost) => hosts.push("*".to_owned()),
            Self::Matcher(_) => {}
        }
    }
}

fn tree(expression: &Expression) -> Result<Tree, Refused> {
    let mut parts = Vec::new();
    match expression {
        Expression::And(..) => flatten(expression, true, &mut parts).map(|()| Tree::All(parts.into())),
        Expression::Or(..) => flatten(expression, false, &mut parts).map(|()| Tree::Any(parts.into())),
        Expression::Not(inner) => match tree(inner)? {
            Tree::Not(twice) => Ok(*twice),
            inner => Ok(Tree::Not(Box::new(inner))),
        },
        Expression::Call(call) => Matcher::new(call).map(Tree::Matcher),
        Expression::Compare { operator, .. } => Err(Refused::Parsing(format!("{operator} is not supported"))),
    }
}

/// Collects the operands of a chain of `&&` (or of `||`).
fn flatten(expression: &Expression, all: bool, parts: &mut Vec<Tree>) -> Result<(), Refused> {
    match (expression, all) {
        (Expression::And(left, right), true) | (Expression::Or(left, right), false) => {
            flatten(left, all, parts)?;
            flatten(right, all, parts)
        }
        _ => tree(expression).map(|part| parts.push(part)),
    }
}

/// A syntax error with line and column, as Go writes them. Where Go has the same error, so does this.
fn located(text: &str, error: &SyntaxError) -> String {
    let at_end = error.message.ends_with("found the end") || error.message == "empty expression";
    let never_closed = error.message.starts_with("the call of") && error.message.ends_with("is never closed");
    let end = text.trim_end().len();
    let (at, message) = match () {
        () if never_closed && !text.trim_end().ends_with(['(', ',']) => {
            (end, "missing ',' before newline in argument list")
        }
        () if at_end && error.message.contains("expected a call") || error.message == "empty expression" => {
            (end, "expected operand, found 'EOF'")
        }
        () => (error.span.start, error.message.as_str()),
    };
    let before = text.get(..at).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.rfind('\n').map_or(before.len(), |newline| before.len() - newline - 1) + 1;
    format!("{line}:{column}: {message}")
}
