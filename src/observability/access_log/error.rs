//! Errors in the options of the access log.

use tidegate_core::expression::{SyntaxError, place};
use tidegate_core::word::UnknownWord;

use crate::router::{MatcherError, PatternError};

/// Why `accessLog.filters.expression` is invalid, and where.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {source}")]
pub struct ExpressionError {
    /// Line and column.
    place: String,
    source: ExpressionFault,
}

impl ExpressionError {
    /// Creates the error for a syntax error.
    pub(super) fn syntax(text: &str, error: SyntaxError) -> Self {
        let at = error.span.start.min(text.trim_end().len());
        Self { place: place(text, at), source: error.into() }
    }

    /// Creates the error for the part that starts at byte `at`.
    pub(super) fn at(text: &str, at: usize, source: ExpressionFault) -> Self {
        Self { place: place(text, at), source }
    }
}

/// Why a part of the expression is invalid.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExpressionFault {
    /// The text is not an expression.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A call or a boolean field is compared.
    #[error("{0} is true or false and cannot be compared")]
    Boolean(String),
    /// A field is called.
    #[error("{0} is a field: it stands without parentheses")]
    FieldCalled(String),
    /// There are too many calls.
    #[error("at most {0} calls are allowed")]
    TooManyCalls(usize),
    /// A call is not a matcher of rules.
    #[error(transparent)]
    Matcher(#[from] MatcherError),
    /// There is no field with this name, but one with a similar name.
    #[error("{name} is not a field of the access log; did you mean {near}?")]
    SimilarField {
        /// The name as written.
        name: String,
        /// The similar name.
        near: &'static str,
    },
    /// There is no field with this name.
    #[error(
        "{0} is not a field of the access log: expected one of its JSON form, like DownstreamStatus, Duration or \
         request_User-Agent"
    )]
    UnknownField(String),
    /// The name of a header is missing.
    #[error("{name}: expected the name of a header after `{prefix}`")]
    HeaderName {
        /// The name as written.
        name: String,
        /// The part before the name of the header.
        prefix: &'static str,
    },
    /// A field is not compared.
    #[error("{name} is a {kind} and must be compared, like {name} {example}")]
    NotCompared {
        /// Name of the field.
        name: String,
        /// What it is.
        kind: &'static str,
        /// A comparison.
        example: &'static str,
    },
    /// A field is compared with a value of another type.
    #[error("{name} is compared with a {kind}, like {name} {example}")]
    Kind {
        /// Name of the field.
        name: String,
        /// What it is.
        kind: &'static str,
        /// A comparison.
        example: &'static str,
    },
    /// A text is compared like a number, or with one.
    #[error("{0} is a text: it is compared by ==, !=, =~ or !~ with one in quotes")]
    Text(String),
    /// A field is compared with an invalid pattern.
    #[error("{name}: {source}")]
    Pattern {
        /// Name of the field.
        name: String,
        /// The cause.
        source: PatternError,
    },
}

/// Why another option of the access log is invalid.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionError {
    /// A key of `fields.headers.names` is not a header name.
    #[error("fields.headers.names.{0}: `{0}` is not a header name")]
    HeaderName(String),
    /// The mode of a field or header is unknown.
    #[error("{option}: {source}")]
    Mode {
        /// The option.
        option: String,
        /// The cause.
        source: UnknownWord,
    },
    /// A status or range of statuses is invalid.
    #[error("filters.statusCodes: `{0}` is neither a status nor a range like 400-499")]
    Statuses(String),
}

/// Why `accessLog.template` is invalid.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is no template, or only white space.
    #[error("is empty: expected a line like `{{StartUTC}} {{RequestHost}} {{DownstreamStatus}}`")]
    Empty,
    /// The template has a line feed or another control character.
    #[error("expected one line without control characters")]
    Control,
    /// A brace stands alone.
    #[error("{place}: `{brace}` has no match: expected `{{Field}}`, or the brace twice for itself")]
    Brace {
        /// Line and column.
        place: String,
        /// The brace.
        brace: String,
    },
    /// A field is unknown.
    #[error("{place}: {source}")]
    Field {
        /// Line and column.
        place: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why `accessLog.sampling` is invalid.
#[derive(Debug, thiserror::Error)]
pub enum SamplingError {
    /// There are too many rules.
    #[error("rules: at most {0} are allowed")]
    TooMany(usize),
    /// A rate is not between 0 and 1.
    #[error("{option}: `{rate}` is not a rate: expected a number from 0 to 1, like 0.1")]
    Rate {
        /// The option.
        option: String,
        /// The value.
        rate: f64,
    },
    /// The expression of a rule is invalid.
    #[error("rules[{number}].expression: {source}")]
    Expression {
        /// Number of the rule, from 0.
        number: usize,
        /// The cause.
        source: ExpressionError,
    },
}
