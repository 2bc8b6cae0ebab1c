//! Matching requests to routers: Traefik's v3 rules, and an index whose cost does not grow with their number.
//!
//! [`Rule`] parses a rule and evaluates it for one request. [`Index`] holds the rules of an entry point: it
//! finds the few routes that may match by host and path, and evaluates only those in order of priority.

mod cover;
mod coverage;
mod error;
mod index;
mod matcher;
mod paths;
mod pattern;
mod rule;
mod tree;
mod unmet;
mod view;

pub use coverage::{Closeness, Coverage, HostSet};
pub use error::{MatcherError, PatternError, RuleError, RuleFault, ValueError};
pub use index::{Entry, Index};
pub(crate) use matcher::not_ascii;
pub(crate) use pattern::compile as go_regex;
pub use rule::Rule;
pub(crate) use tree::{Misplaced, Tree, known_name, texts};
pub use unmet::{Unmet, unmet};
pub(crate) use view::without_port;

#[cfg(test)]
mod testing {
    use std::sync::Arc;

    use tidegate_core::{Body, Connection, Context, Request};

    /// Returns a request from 127.0.0.1.
    pub(super) fn request(method: &str, host: &str, target: &str, headers: &[(&str, &str)]) -> Request {
        let mut builder = http::Request::builder().method(method).uri(target).header("host", host);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let (head, ()) = builder.body(()).unwrap().into_parts();
        let peer = "[::ffff:127.0.0.1]:5000".parse().unwrap();
        Request::new(head, Body::empty(), Context::new(Arc::new(Connection::plain(peer))))
    }
}
