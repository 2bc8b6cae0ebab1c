//! The shape of a rule, and how it is made of an expression, whatever is asked about: a request or a connection.

use tidegate_core::expression::{Call, Expression, nearest};

/// A rule's shape. Chains are flat, so that walking it never goes deeper than the rule's parentheses.
#[derive(Clone, Debug)]
pub(crate) enum Tree<M> {
    /// All of these.
    All(Box<[Tree<M>]>),
    /// Any of these.
    Any(Box<[Tree<M>]>),
    /// Not this.
    Not(Box<Tree<M>>),
    /// One question.
    Matcher(M),
}

impl<M> Tree<M> {
    /// Makes a tree of an expression; `matcher` of each call. What is no call is refused.
    pub(crate) fn new<E: From<String>>(
        expression: &Expression,
        matcher: &impl Fn(&Call) -> Result<M, E>,
    ) -> Result<Self, E> {
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
            Expression::Call(call) => matcher(call).map(Self::Matcher),
            Expression::Compare { operator, .. } => Err(format!("{operator} is not supported").into()),
            Expression::Field(field) => Err(format!("`{}` must be called", field.name).into()),
        }
    }

    /// True when the answers to its questions are such that the rule takes what is asked about.
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
fn flatten<M, E: From<String>>(
    expression: &Expression,
    all: bool,
    matcher: &impl Fn(&Call) -> Result<M, E>,
    parts: &mut Vec<Tree<M>>,
) -> Result<(), E> {
    match (expression, all) {
        (Expression::And(left, right), true) | (Expression::Or(left, right), false) => {
            flatten(left, all, matcher, parts)?;
            flatten(right, all, matcher, parts)
        }
        _ => Tree::new(expression, matcher).map(|part| parts.push(part)),
    }
}

/// The matcher's own name for a name as written: it may be in lower, upper or title case. `hint` says more of a name
/// that there is not, if it can; else the nearest one is named.
pub(crate) fn known_name(
    written: &str,
    names: &[&'static str],
    hint: impl FnOnce(&str) -> Option<&'static str>,
) -> Result<&'static str, String> {
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
    let near = || nearest(written, names.iter().copied()).map(|near| format!("; did you mean {near}?"));
    let hint = hint(written).map(|hint| format!("; {hint}")).or_else(near);
    Err(format!("unsupported function: {written}{}", hint.unwrap_or_default()))
}
