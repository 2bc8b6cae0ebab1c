//! Which requests share a stored response: the primary key, the fields that `Vary` names, and names for a purge.

mod tags;
mod template;
mod vary;

pub use tags::{CACHE_TAG, MAX_TAG_BYTES, SURROGATE_KEY, Tag, tags};
pub use template::{Key, KeyTooLong, Query, Target, Template};
pub use vary::{MAX_NAMES, MAX_VALUE_BYTES, Variant, VaryNames};
