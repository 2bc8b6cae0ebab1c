//! Which router takes a request: Traefik's v3 rules, and an index whose cost does not grow with their number.
//!
//! [`Rule`] reads a rule and decides about one request. [`Index`] holds the rules of an entry point: it finds, by
//! host and path, the few routes that may take a request, and evaluates only those, in order of priority.

mod cover;
mod index;
mod matcher;
mod paths;
mod pattern;
mod rule;
mod view;

pub use index::{Entry, Index};
pub use rule::Rule;
