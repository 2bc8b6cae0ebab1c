//! Adds a prefix to the path.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Reason, Request, Response,
    reply,
};

use crate::path::{self, UrlPath};

/// Traefik's `addPrefix`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AddPrefix {
    /// Prefix to add, unescaped, with its leading slash.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

impl Build for AddPrefix {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.prefix.is_empty() {
            return Err(BuildError::new("prefix cannot be empty"));
        }
        let prefix = path::with_leading_slash(&self.prefix).into_owned();
        let is_plain = path::escape(prefix.as_bytes()) == prefix;
        Ok(Arc::new(Add { prefix, is_plain }))
    }
}

struct Add {
    prefix: String,
    /// True when the prefix contains nothing to escape and can be prepended as it is.
    is_plain: bool,
}

impl Add {
    fn target(&self, escaped: &str) -> Option<String> {
        if self.is_plain {
            return Some(format!("{}{escaped}", self.prefix));
        }
        let UrlPath { path, raw } = UrlPath::parse(escaped).ok()?;
        let path = [self.prefix.as_bytes(), &path].concat();
        let raw = if raw.is_empty() { raw } else { format!("{}{raw}", self.prefix) };
        Some(UrlPath { path, raw }.escaped())
    }
}

impl Middleware for Add {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        match self.target(request.path()).map(|target| request.set_path(&target)) {
            Some(Ok(())) => next.run(request),
            _ => crate::ready(reply::empty(StatusCode::BAD_REQUEST, Reason::PathRefused)),
        }
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get};

    #[test]
    fn the_prefix_is_added_to_the_path() {
        for (prefix, target, expected) in [
            ("/api", "/a?b=c", "/api/a?b=c"),
            ("api", "/a", "/api/a"),
            ("/api/", "/a", "/api//a"),
            ("/a b", "/c", "/a%20b/c"),
            ("/a b", "/c%2Fd", "/a%20b/c/d"),
            ("/api", "/c%2Fd", "/api/c%2Fd"),
        ] {
            let options = AddPrefix { prefix: prefix.into() };
            let seen = testing::request_after(options, get(&format!("http://h.test{target}")));
            assert_eq!(seen.head.uri.to_string(), expected, "{prefix} {target}");
        }
    }

    #[test]
    fn a_prefix_is_required() {
        let error = testing::build_in(&testing::World::default(), AddPrefix::default()).err();
        assert_eq!(error, Some(BuildError::new("prefix cannot be empty")));
    }
}
