//! Errors in rules, and in other expressions that use matchers.

use std::ops::RangeInclusive;

use tidegate_core::BuildError;
use tidegate_core::expression::{Comparison, SyntaxError, place};

/// Maximum number of characters of a rule in a message.
const MAX_SHOWN_LEN: usize = 2000;

/// Why a rule is invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// The rule is empty.
    #[error("the rule is empty: expected a matcher like Host(`…`)")]
    Empty,
    /// The rule is not an expression of known matchers.
    #[error("invalid rule \"{rule}\" at {place}: {source}")]
    Invalid {
        /// The rule as shown in messages.
        rule: String,
        /// Line and column.
        place: String,
        /// The cause.
        source: Box<RuleFault>,
    },
}

/// Why a part of a rule is invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuleFault {
    /// The text is not an expression.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A call is compared with something.
    #[error("`{0}` cannot stand in a rule: matchers are combined by `&&`, `||` and `!`")]
    Comparison(Comparison),
    /// A name has no parentheses.
    #[error("`{0}` must be called")]
    NotCalled(String),
    /// A call is not a valid matcher.
    #[error(transparent)]
    Matcher(#[from] MatcherError),
}

impl RuleError {
    /// Creates the error for a text that is not an expression.
    pub(crate) fn syntax(rule: &str, error: SyntaxError) -> Self {
        let at = error.span.start.min(rule.trim_end().len());
        match rule.trim() {
            "" => Self::Empty,
            trimmed => {
                Self::Invalid { rule: shown(trimmed), place: place(rule, at), source: Box::new(error.into()) }
            }
        }
    }

    /// Creates the error for the part of a rule at this byte offset.
    pub(crate) fn at(rule: &str, at: usize, fault: RuleFault) -> Self {
        Self::Invalid { rule: shown(rule), place: place(rule, at), source: Box::new(fault) }
    }
}

/// Returns a rule for messages: on one line, and truncated if it is long.
fn shown(rule: &str) -> String {
    let one = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let mut shown: String = rule.chars().take(MAX_SHOWN_LEN).map(one).collect();
    if rule.chars().nth(MAX_SHOWN_LEN).is_some() {
        shown += &format!("… ({} bytes)", rule.len());
    }
    shown
}

/// Why the call of a matcher is invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MatcherError {
    /// Unknown matcher.
    #[error("unknown matcher {name}{}", .hint.iter().map(|hint| format!(": {hint}")).collect::<String>())]
    Unknown {
        /// The name as written.
        name: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A number instead of a string.
    #[error("{name} takes strings: write `{number}` instead of {number}")]
    Number {
        /// Name of the matcher.
        name: &'static str,
        /// The number.
        number: f64,
    },
    /// No values.
    #[error("{name} is called without a value: expected {name}({})", vec!["`…`"; *.most].join(", "))]
    NoValue {
        /// Name of the matcher.
        name: &'static str,
        /// Maximum number of values.
        most: usize,
    },
    /// The only value is empty.
    #[error("the value of {0} is empty")]
    EmptyValue(&'static str),
    /// One of several values is empty.
    #[error("value {position} of {name} is empty")]
    EmptyValueOf {
        /// Name of the matcher.
        name: &'static str,
        /// Its position, starting at 1.
        position: usize,
    },
    /// The number of values is not supported.
    #[error("{name} takes {}, {} given{}", counted(.allowed), given(.values.len()), in_v3(name, .allowed, .values))]
    Count {
        /// Name of the matcher.
        name: &'static str,
        /// The supported numbers of values.
        allowed: RangeInclusive<usize>,
        /// The values.
        values: Vec<String>,
    },
    /// A value is invalid.
    #[error("{name}: {source}")]
    Value {
        /// Name of the matcher.
        name: &'static str,
        /// The cause.
        source: ValueError,
    },
}

fn counted(allowed: &RangeInclusive<usize>) -> String {
    match (allowed.start(), allowed.end()) {
        (1, 1) => "one value".to_owned(),
        (least, most) if least == most => format!("{most} values"),
        (least, most) => format!("{least} or {most} values"),
    }
}

fn given(count: usize) -> String {
    match count {
        1 => "one is".to_owned(),
        many => format!("{many} are"),
    }
}

/// Suggests the v3 form: in v2, matchers with several values are alternatives.
fn in_v3(name: &str, allowed: &RangeInclusive<usize>, values: &[String]) -> String {
    if *allowed.end() != 1 {
        return String::new();
    }
    let alternatives: Vec<String> = values.iter().map(|value| format!("{name}(`{value}`)")).collect();
    format!(": several are v2 syntax, in v3 it is {}", alternatives.join(" || "))
}

/// Why a value is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// An international name, which clients send in another form.
    #[error("`{written}` is not ASCII: write `{ascii}`")]
    NotAscii {
        /// The name as written.
        written: String,
        /// The form that clients send.
        ascii: String,
    },
    /// A pattern for names that clients never send.
    #[error("`{0}` is not ASCII: clients ask for the form `xn--…`")]
    PatternNotAscii(String),
    /// Not a host name.
    #[error("`{0}` is not a host name")]
    HostName(String),
    /// A path that is not absolute.
    #[error("`{0}` does not begin with `/`")]
    RelativePath(String),
    /// An invalid header name.
    #[error("invalid header name `{0}`")]
    HeaderName(String),
    /// Neither an address nor a network.
    #[error("invalid address or network `{0}`: expected one like `192.0.2.1` or `10.0.0.0/8`")]
    Network(String),
    /// An invalid network of a TCP router.
    #[error(transparent)]
    Networks(#[from] BuildError),
    /// `{name:pattern}`, which v3 would compare literally.
    #[error(
        "`{text}` is v2 syntax: in v3 patterns have no name and no braces, and stand in {matcher}, \
         like {matcher}(`{example}`)"
    )]
    NamedPattern {
        /// The value.
        text: String,
        /// The matcher that takes patterns.
        matcher: &'static str,
        /// An example of its pattern.
        example: &'static str,
    },
    /// A protocol that is never routed.
    #[error("`{0}` is the gateway's own, for certificates")]
    OwnProtocol(String),
    /// A pattern does not compile.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Why a regular expression is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid regular expression `{pattern}`: {reason}")]
pub struct PatternError {
    /// The expression as written.
    pub(super) pattern: String,
    /// The compiler's message, simplified for common mistakes.
    pub(super) reason: String,
}
