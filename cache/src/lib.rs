//! A shared HTTP cache (RFC 9111): its rules, keys and stores. The crate knows no runtime and sends nothing: whoever
//! handles requests asks it what to do, and tells it what came of it.
//!
//! A request takes these steps:
//!
//! 1. [`rules::inspect`] says whether it takes part, and [`key::Template::key`] what it looks for.
//! 2. A store returns what it has for the key and the request's fields.
//! 3. [`rules::reuse`] says whether that may be sent, and [`rules::is_not_modified`] and [`rules::range::select`] how
//!    much of it.
//! 4. If not, [`rules::validate`] or [`rules::remove_conditions`] prepare the request to the server.
//! 5. [`rules::storable`] says whether the response is stored, and [`rules::select`] and [`rules::freshen`] what a 304
//!    changes.

pub mod cache_status;
mod catalog;
pub mod collapse;
mod contents;
pub mod disk;
mod head;
pub mod key;
pub mod memory;
mod not_kept;
mod purge;
pub mod rules;
mod time;
mod uses;

pub use contents::{Listed, StoredObject};
pub use head::Head;
pub use not_kept::NotKept;
pub use purge::{Epoch, Purge};
pub use time::{MAX_SECONDS, Timestamp};
pub use uses::UseCounter;
