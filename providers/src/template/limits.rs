//! What one call of a function may make.

/// Most items that a function makes.
pub(super) const MAX_ITEMS: i64 = 100_000;
/// Longest text that a function makes, in bytes.
pub(super) const LONGEST: usize = 4 << 20;
/// Longest list whose duplicates are removed.
pub(super) const MAX_UNIQUE: usize = 5000;
/// Maximum number of spaces that `indent` adds to a line.
pub(super) const MAX_INDENT: usize = 1000;
