//! What is wrong with a rule, or with what other expressions ask as rules do.

use std::ops::RangeInclusive;

use tidegate_core::BuildError;
use tidegate_core::expression::{Comparison, SyntaxError, place};

/// Most characters of a rule in a message.
const LONGEST_SHOWN: usize = 2000;

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// There is no rule.
    #[error("the rule is empty: expected a matcher like Host(`…`)")]
    Empty,
    /// The rule is not an expression, or not one of known matchers.
    #[error("invalid rule \"{rule}\" at {place}: {source}")]
    Invalid {
        /// The rule as messages show it.
        rule: String,
        /// Line and column.
        place: String,
        /// The cause.
        source: Box<RuleFault>,
    },
}

/// What is wrong with a part of a rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RuleFault {
    /// The text is not an expression.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A call is compared with something.
    #[error("`{0}` cannot stand in a rule: matchers are combined by `&&`, `||` and `!`")]
    Comparison(Comparison),
    /// A name stands without parentheses.
    #[error("`{0}` must be called")]
    NotCalled(String),
    /// A call is not one of a matcher.
    #[error(transparent)]
    Matcher(#[from] MatcherError),
}

impl RuleError {
    /// The error about a text that is not an expression.
    pub(crate) fn syntax(rule: &str, error: SyntaxError) -> Self {
        let at = error.span.start.min(rule.trim_end().len());
        match rule.trim() {
            "" => Self::Empty,
            trimmed => {
                Self::Invalid { rule: shown(trimmed), place: place(rule, at), source: Box::new(error.into()) }
            }
        }
    }

    /// The error about a part of a rule, which stands at this byte.
    pub(crate) fn at(rule: &str, at: usize, fault: RuleFault) -> Self {
        Self::Invalid { rule: shown(rule), place: place(rule, at), source: Box::new(fault) }
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

/// What is wrong with the call of a matcher.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MatcherError {
    /// There is no matcher of this name.
    #[error("unknown matcher {name}{}", .hint.iter().map(|hint| format!(": {hint}")).collect::<String>())]
    Unknown {
        /// The name as written.
        name: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// A number is given.
    #[error("{name} takes strings: write `{number}` instead of {number}")]
    Number {
        /// Name of the matcher.
        name: &'static str,
        /// The number.
        number: f64,
    },
    /// No value is given.
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
        /// Its position, beginning with 1.
        position: usize,
    },
    /// The number of values is not one that the matcher takes.
    #[error("{name} takes {}, {} given{}", counted(.allowed), given(.values.len()), in_v3(name, .allowed, .values))]
    Count {
        /// Name of the matcher.
        name: &'static str,
        /// How many values it takes.
        allowed: RangeInclusive<usize>,
        /// The values.
        values: Vec<String>,
    },
    /// A value cannot be used.
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

/// The second syntax has matchers with several values, which are alternatives.
fn in_v3(name: &str, allowed: &RangeInclusive<usize>, values: &[String]) -> String {
    if *allowed.end() != 1 {
        return String::new();
    }
    let alternatives: Vec<String> = values.iter().map(|value| format!("{name}(`{value}`)")).collect();
    format!(": several are v2 syntax, in v3 it is {}", alternatives.join(" || "))
}

/// Why a matcher cannot use a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// An international name, which clients ask for in another form.
    #[error("`{written}` is not ASCII: write `{ascii}`")]
    NotAscii {
        /// The name as written.
        written: String,
        /// The form that clients ask for.
        ascii: String,
    },
    /// A pattern of names that clients never ask for.
    #[error("`{0}` is not ASCII: clients ask for the form `xn--…`")]
    PatternNotAscii(String),
    /// No host has this name.
    #[error("`{0}` is not a host name")]
    HostName(String),
    /// A path is not absolute.
    #[error("`{0}` does not begin with `/`")]
    RelativePath(String),
    /// No header has this name.
    #[error("invalid header name `{0}`")]
    HeaderName(String),
    /// A text is neither an address nor a network.
    #[error("invalid address or network `{0}`: expected one like `192.0.2.1` or `10.0.0.0/8`")]
    Network(String),
    /// Networks of TCP routers cannot be used.
    #[error(transparent)]
    Networks(#[from] BuildError),
    /// `{name:pattern}`, which the third syntax would compare letter by letter.
    #[error(
        "`{text}` is v2 syntax: in v3 patterns have no name and no braces, and stand in {matcher}, \
         like {matcher}(`{example}`)"
    )]
    NamedPattern {
        /// The value.
        text: String,
        /// The matcher that takes patterns.
        matcher: &'static str,
        /// A pattern for it.
        example: &'static str,
    },
    /// A protocol that is never routed.
    #[error("`{0}` is the gateway's own, for certificates")]
    OwnProtocol(String),
    /// A pattern cannot be compiled.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Why a regular expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid regular expression `{pattern}`: {reason}")]
pub struct PatternError {
    /// The expression as written.
    pub(super) pattern: String,
    /// What the compiler of expressions says, in simpler words where it is a common mistake.
    pub(super) reason: String,
}
