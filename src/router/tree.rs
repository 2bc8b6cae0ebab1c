//! The shape of a rule, and how it is made of an expression, whatever is asked about: a request or a connection.

use tidegate_core::expression::{Argument, Call, Expression, nearest, place};

/// Most characters of a rule in a message.
const LONGEST_SHOWN: usize = 2000;

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

/// What is wrong with a part of a rule, and at which byte of the rule.
#[derive(Clone, Debug)]
pub(crate) struct Misplaced {
    pub(crate) at: usize,
    pub(crate) reason: String,
}

impl Misplaced {
    /// A reason that is about a call.
    pub(crate) fn new(call: &Call, reason: String) -> Self {
        Self { at: call.span.start, reason }
    }

    /// A part that no rule has: a comparison or a field.
    pub(crate) fn foreign(expression: &Expression) -> Option<Self> {
        match expression {
            Expression::Compare { call, operator, .. } => Some(Self::new(
                call,
                format!("`{operator}` cannot stand in a rule: matchers are combined by `&&`, `||` and `!`"),
            )),
            Expression::Field(field) => {
                let reason = format!("`{}` must be called", field.name);
                Some(Self { at: field.span.start, reason })
            }
            _ => None,
        }
    }

    /// The message about the rule.
    pub(crate) fn message(&self, rule: &str) -> String {
        invalid(rule, &format!("{}: {}", place(rule, self.at), self.reason))
    }
}

/// The message about a rule that is none; `reason` begins with its place.
pub(crate) fn invalid(rule: &str, reason: &str) -> String {
    match rule.is_empty() {
        true => "the rule is empty: expected a matcher like Host(`…`)".to_owned(),
        false => format!("invalid rule \"{}\" at {reason}", shown(rule)),
    }
}

/// A rule as messages show it: whole, unless nobody would read it all, and on one line.
fn shown(rule: &str) -> String {
    let one = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let mut shown: String = rule.chars().take(LONGEST_SHOWN).map(one).collect();
    if rule.chars().nth(LONGEST_SHOWN).is_some() {
        shown += &format!("… ({} bytes)", rule.len());
    }
    shown
}

impl<M> Tree<M> {
    /// Makes a tree of an expression; `matcher` of each call. What is not a call is refused.
    pub(crate) fn new(
        expression: &Expression,
        matcher: &impl Fn(&Call) -> Result<M, String>,
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
                matcher(call).map(Self::Matcher).map_err(|reason| Misplaced::new(call, reason))
            }
            other => Err(Misplaced::foreign(other)
                .unwrap_or_else(|| Misplaced { at: 0, reason: "this cannot stand in a rule".into() })),
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
fn flatten<M>(
    expression: &Expression,
    all: bool,
    matcher: &impl Fn(&Call) -> Result<M, String>,
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
    let near = || nearest(written, names.iter().copied()).map(|near| format!(": did you mean {near}?"));
    let hint = hint(written).map(|hint| format!(": {hint}")).or_else(near);
    Err(format!("unknown matcher {written}{}", hint.unwrap_or_default()))
}

/// The arguments of a matcher that takes as many as `allowed` says, each of them a text.
pub(crate) fn texts<'a>(
    name: &str,
    call: &'a Call,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<Vec<&'a str>, String> {
    let text = |argument| match argument {
        &Argument::Number(number) => {
            Err(format!("{name} takes strings: write `{number}` instead of {number}"))
        }
        Argument::Text(text) => Ok(text.as_str()),
    };
    let texts = call.arguments.iter().map(text).collect::<Result<Vec<&str>, _>>()?;
    if texts.is_empty() {
        let form = vec!["`…`"; *allowed.end()].join(", ");
        return Err(format!("{name} is called without a value: expected {name}({form})"));
    }
    if let Some(number) = texts.iter().position(|text| text.is_empty()) {
        return Err(match texts.len() {
            1 => format!("the value of {name} is empty"),
            _ => format!("value {} of {name} is empty", number + 1),
        });
    }
    if allowed.contains(&texts.len()) {
        return Ok(texts);
    }
    let wanted = match (allowed.start(), allowed.end()) {
        (1, 1) => "one value".to_owned(),
        (least, most) if least == most => format!("{most} values"),
        (least, most) => format!("{least} or {most} values"),
    };
    let mut message = format!(
        "{name} takes {wanted}, {} given",
        match texts.len() {
            1 => "one is".to_owned(),
            many => format!("{many} are"),
        }
    );
    if *allowed.end() == 1 {
        let alternatives: Vec<String> = texts.iter().map(|text| format!("{name}(`{text}`)")).collect();
        message += &format!(": several are v2 syntax, in v3 it is {}", alternatives.join(" || "));
    }
    Err(message)
}
