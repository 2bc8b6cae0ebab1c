//! Errors of template functions.

use super::limits::{MAX_INDENT, MAX_ITEMS, MAX_TEXT, MAX_UNIQUE};

/// Failure of a function.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FunctionError {
    /// There is no function of this name.
    #[error("no such function")]
    Unknown,
    /// An argument is missing.
    #[error("expected more than {given} arguments")]
    TooFewArguments {
        /// The number of arguments.
        given: usize,
    },
    /// The only argument is missing.
    #[error("expected an argument")]
    NoArgument,
    /// One of two arguments is missing.
    #[error("expected two arguments")]
    NotTwoArguments,
    /// An argument has another type.
    #[error("expected {expected}, not {actual}")]
    Type {
        /// The expected type.
        expected: &'static str,
        /// The type of the argument.
        actual: &'static str,
    },
    /// The text exceeds the maximum length.
    #[error("the result is longer than {MAX_TEXT} bytes")]
    ResultTooLong,
    /// The list exceeds the maximum length.
    #[error("more than {MAX_ITEMS} items")]
    TooManyItems,
    /// The list is too long to find duplicates.
    #[error("more than {MAX_UNIQUE} items")]
    TooManyToCompare,
    /// A negative repeat count.
    #[error("the count is negative")]
    NegativeCount,
    /// The number of spaces is negative or too large.
    #[error("expected 0 to {MAX_INDENT}")]
    Indent,
    /// The result exceeds 64 bits, or a number is divided by zero.
    #[error("the result is not a 64-bit integer")]
    Overflow,
    /// The number cannot be incremented.
    #[error("too large")]
    TooLarge,
    /// The value is neither text, nor a list, nor a table.
    #[error("{kind} has no length")]
    NoLength {
        /// The type of the value.
        kind: &'static str,
    },
    /// The index is out of range.
    #[error("{position} is out of range: the list has {length} items")]
    OutOfRange {
        /// The 0-based index.
        position: i64,
        /// The length of the list.
        length: usize,
    },
    /// The value is neither a list nor a table.
    #[error("{kind} cannot be indexed")]
    NotIndexable {
        /// The type of the value.
        kind: &'static str,
    },
    /// The values have no order.
    #[error("{left} and {right} cannot be compared")]
    NotComparable {
        /// The type of the first value.
        left: &'static str,
        /// The type of the second value.
        right: &'static str,
    },
    /// The text is not base64.
    #[error(transparent)]
    Base64(#[from] base64::DecodeError),
    /// The decoded text is not UTF-8.
    #[error(transparent)]
    NotText(#[from] std::string::FromUtf8Error),
    /// The pattern is not a regular expression.
    #[error(transparent)]
    Regex(#[from] regex::Error),
    /// The format of `printf` ends before its verb.
    #[error("the format ends in `%`")]
    UnfinishedFormat,
    /// The format of `printf` has more verbs than values.
    #[error("no value for `%{verb}`")]
    NoValue {
        /// The verb.
        verb: char,
    },
    /// The format of `printf` has an unknown verb.
    #[error("`%{verb}` is not supported")]
    UnsupportedVerb {
        /// The verb.
        verb: char,
    },
    /// The value would end a string of the rule.
    #[error("the value {value:?} has a backtick, which would end the rule's text")]
    Backtick {
        /// The value.
        value: String,
    },
    /// The template calls `fail` or `required` with this message.
    #[error("{0}")]
    Failed(String),
}
