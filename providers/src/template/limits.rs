//! Limits of one function call.

/// Maximum number of items in a result.
pub(super) const MAX_ITEMS: i64 = 100_000;
/// Maximum length of a result in bytes.
pub(super) const MAX_TEXT: usize = 4 << 20;
/// Maximum length of a list for `uniq`.
pub(super) const MAX_UNIQUE: usize = 5000;
/// Maximum number of spaces that `indent` adds to a line.
pub(super) const MAX_INDENT: usize = 1000;
