//! The structure of a rule, built from an expression, for requests and for connections.

use std::ops::RangeInclusive;

use tidegate_core::expression::{Argument, Call, Comparison, Expression, Field, nearest};

use super::error::{MatcherError, RuleError, RuleFault};

/// The structure of a rule. Chains are flat, so that recursion never goes deeper than the rule's parentheses.
#[derive(Clone, Debug)]
pub(crate) enum Tree<M> {
    /// All of these.
    All(Box<[Tree<M>]>),
    /// Any of these.
    Any(Box<[Tree<M>]>),
    /// Not this.
    Not(Box<Tree<M>>),
    /// A single matcher.
    Matcher(M),
}

/// An error in a part of a rule, with its byte offset.
#[derive(Clone, Debug)]
pub(crate) struct Misplaced {
    at: usize,
    fault: RuleFault,
}

impl Misplaced {
    /// Creates the error for an invalid matcher.
    pub(crate) fn matcher(call: &Call, error: MatcherError) -> Self {
        Self { at: call.span.start, fault: error.into() }
    }

    /// Creates the error for a comparison, which is not allowed in rules.
    pub(crate) fn comparison(call: &Call, operator: Comparison) -> Self {
        Self { at: call.span.start, fault: RuleFault::Comparison(operator) }
    }

    /// Creates the error for a field, which is not allowed in rules.
    pub(crate) fn field(field: &Field) -> Self {
        Self { at: field.span.start, fault: RuleFault::NotCalled(field.name.clone()) }
    }

    /// Converts it to an error of the whole rule.
    pub(crate) fn in_rule(self, rule: &str) -> RuleError {
        RuleError::at(rule, self.at, self.fault)
    }
}

impl<M> Tree<M> {
    /// Builds a tree from an expression; `matcher` converts each call. Anything else is an error.
    pub(crate) fn new(
        expression: &Expression,
        matcher: &impl Fn(&Call) -> Result<M, MatcherError>,
    ) -> Result<Self, Misplaced> {
        let mut parts = Vec::new();
        match expression {
            Expression::And(..) => {
                flatten(expression, true, matcher, &mut parts)?;
                Ok(Self::All(parts.into()))
            }
            Expression::Or(..) => {
                flatten(expression, false, matcher, &mut parts)?;
                Ok(Self::Any(parts.into()))
            }
            Expression::Not(inner) => Ok(match Self::new(inner, matcher)? {
                Self::Not(twice) => *twice,
                inner => Self::Not(Box::new(inner)),
            }),
            Expression::Call(call) => {
                matcher(call).map(Self::Matcher).map_err(|error| Misplaced::matcher(call, error))
            }
            Expression::Compare { call, operator, .. } => Err(Misplaced::comparison(call, *operator)),
            Expression::Field(field) => Err(Misplaced::field(field)),
        }
    }

    /// Evaluates the tree; `fits` evaluates a matcher.
    pub(crate) fn matches(&self, fits: &impl Fn(&M) -> bool) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(fits)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(fits)),
            Self::Not(part) => !part.matches(fits),
            Self::Matcher(matcher) => fits(matcher),
        }
    }
}

/// Collects the operands of a chain of `&&` (or of `||`).
fn flatten<M>(
    expression: &Expression,
    all: bool,
    matcher: &impl Fn(&Call) -> Result<M, MatcherError>,
    parts: &mut Vec<Tree<M>>,
) -> Result<(), Misplaced> {
    match (expression, all) {
        (Expression::And(left, right), true) | (Expression::Or(left, right), false) => {
            flatten(left, all, matcher, parts)?;
            flatten(right, all, matcher, parts)
        }
        _ => Tree::new(expression, matcher).map(|part| parts.push(part)),
    }
}

/// Returns the canonical name of a matcher, which may be written in lower, upper or title case. For an
/// unknown name, the error contains `hint`, or else the most similar name.
pub(crate) fn known_name(
    written: &str,
    names: &[&'static str],
    hint: impl FnOnce(&str) -> Option<&'static str>,
) -> Result<&'static str, MatcherError> {
    let title = |name: &str| {
        let mut title = name.to_ascii_lowercase();
        title[..1].make_ascii_uppercase();
        title
    };
    let is = |name: &&&str| {
        written == **name
            || written == name.to_ascii_lowercase()
            || written == name.to_ascii_uppercase()
            || written == title(name)
    };
    if let Some(name) = names.iter().find(is) {
        return Ok(name);
    }
    let near = || nearest(written, names.iter().copied()).map(|near| format!("did you mean {near}?"));
    let hint = hint(written).map(str::to_owned).or_else(near);
    Err(MatcherError::Unknown { name: written.to_owned(), hint })
}

/// Returns the arguments of a matcher, which must be texts; `allowed` is their supported number.
pub(crate) fn texts<'a>(
    name: &'static str,
    call: &'a Call,
    allowed: RangeInclusive<usize>,
) -> Result<Vec<&'a str>, MatcherError> {
    let text = |argument| match argument {
        &Argument::Number(number) => Err(MatcherError::Number { name, number }),
        Argument::Text(text) => Ok(text.as_str()),
    };
    let texts = call.arguments.iter().map(text).collect::<Result<Vec<&str>, _>>()?;
    if texts.is_empty() {
        return Err(MatcherError::NoValue { name, most: *allowed.end() });
    }
    if let Some(at) = texts.iter().position(|text| text.is_empty()) {
        return Err(match texts.len() {
            1 => MatcherError::EmptyValue(name),
            _ => MatcherError::EmptyValueOf { name, position: at + 1 },
        });
    }
    if allowed.contains(&texts.len()) {
        return Ok(texts);
    }
    let values = texts.into_iter().map(str::to_owned).collect();
    Err(MatcherError::Count { name, allowed, values })
}
