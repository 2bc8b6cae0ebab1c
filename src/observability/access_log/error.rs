//! What is wrong with options of the access log.

use tidegate_core::expression::{SyntaxError, place};
use tidegate_core::word::UnknownWord;

use crate::router::{MatcherError, PatternError};

/// Why `accessLog.filters.expression` cannot be used, and where.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {source}")]
pub struct ExpressionError {
    /// Line and column.
    place: String,
    source: ExpressionFault,
}

impl ExpressionError {
    /// The error about a text that is not an expression.
    pub(super) fn syntax(text: &str, error: SyntaxError) -> Self {
        let at = error.span.start.min(text.trim_end().len());
        Self { place: place(text, at), source: error.into() }
    }

    /// The error about the part that stands at this byte.
    pub(super) fn at(text: &str, at: usize, source: ExpressionFault) -> Self {
        Self { place: place(text, at), source }
    }
}

/// What is wrong with a part of the expression.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExpressionFault {
    /// The text is not an expression.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A call, or a field that is true or false, is compared with something.
    #[error("{0} is true or false and cannot be compared")]
    Boolean(String),
    /// A field is called.
    #[error("{0} is a field: it stands without parentheses")]
    FieldCalled(String),
    /// There are more calls than fit.
    #[error("at most {0} calls are allowed")]
    TooManyCalls(usize),
    /// A call is not one of a matcher of rules.
    #[error(transparent)]
    Matcher(#[from] MatcherError),
    /// There is no field of this name, but one of a similar name.
    #[error("{name} is not a field of the access log; did you mean {near}?")]
    SimilarField {
        /// The name as written.
        name: String,
        /// The similar name.
        near: &'static str,
    },
    /// There is no field of this name.
    #[error(
        "{0} is not a field of the access log: expected one of its JSON form, like DownstreamStatus, Duration or \
         request_User-Agent"
    )]
    UnknownField(String),
    /// A field of headers names none.
    #[error("{name}: expected the name of a header after `{prefix}`")]
    HeaderName {
        /// The name as written.
        name: String,
        /// The part that comes before the name of the header.
        prefix: &'static str,
    },
    /// A field stands alone.
    #[error("{name} is a {kind} and must be compared, like {name} {example}")]
    NotCompared {
        /// Name of the field.
        name: String,
        /// What it is.
        kind: &'static str,
        /// A comparison.
        example: &'static str,
    },
    /// A field is compared with a value of another kind.
    #[error("{name} is compared with a {kind}, like {name} {example}")]
    Kind {
        /// Name of the field.
        name: String,
        /// What it is.
        kind: &'static str,
        /// A comparison.
        example: &'static str,
    },
    /// A text is compared as only numbers are, or with a number.
    #[error("{0} is a text: it is compared by ==, !=, =~ or !~ with one in quotes")]
    Text(String),
    /// A field is compared with a pattern that cannot be compiled.
    #[error("{name}: {source}")]
    Pattern {
        /// Name of the field.
        name: String,
        /// The cause.
        source: PatternError,
    },
}

/// Why another option of the access log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionError {
    /// A name under `fields.headers.names` is none of a header.
    #[error("fields.headers.names.{0}: `{0}` is not a header name")]
    HeaderName(String),
    /// What becomes of a field or header.
    #[error("{option}: {source}")]
    Mode {
        /// The option.
        option: String,
        /// The cause.
        source: UnknownWord,
    },
    /// A status, or several.
    #[error("filters.statusCodes: `{0}` is neither a status nor a range like 400-499")]
    Statuses(String),
}
