//! Why a function of a template fails.

use super::limits::{LONGEST, MAX_INDENT, MAX_ITEMS, MAX_UNIQUE};

/// Failure of a function.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FunctionError {
    /// There is no function of this name.
    #[error("no such function")]
    Unknown,
    /// An argument is missing.
    #[error("expected more than {given} arguments")]
    TooFewArguments {
        /// The number of arguments that are given.
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
        /// The type that is needed.
        expected: &'static str,
        /// The type of the argument.
        actual: &'static str,
    },
    /// The text exceeds the maximum length.
    #[error("the result is longer than {LONGEST} bytes")]
    ResultTooLong,
    /// The list exceeds the maximum length.
    #[error("more than {MAX_ITEMS} items")]
    TooManyItems,
    /// The list is too long to look for duplicates.
    #[error("more than {MAX_UNIQUE} items")]
    TooManyToCompare,
    /// Something is to be repeated less than zero times.
    #[error("the count is negative")]
    NegativeCount,
    /// The number of spaces is negative or too large.
    #[error("expected 0 to {MAX_INDENT}")]
    Indent,
    /// The result exceeds 64 bits, or a number is divided by zero.
    #[error("the result is not a whole number that fits")]
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
    /// The list has no such item.
    #[error("{position} is out of range: the list has {length} items")]
    OutOfRange {
        /// The position, from 0.
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
    /// The format of `printf` has more verbs than there are values.
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
    /// The value would end a text of the rule.
    #[error("the value {value:?} has a backtick, which would end the rule's text")]
    Backtick {
        /// The value.
        value: String,
    },
    /// The template fails on purpose, by `fail` or `required`, with this message.
    #[error("{0}")]
    Failed(String),
}
