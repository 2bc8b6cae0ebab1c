//! Puts a prefix before the path.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_core::{BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Request, Response, reply};

/// Traefik's `addPrefix`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AddPrefix {
    /// What is put before the path, with its leading slash.
    pub prefix: String,
}

impl Build for AddPrefix {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.prefix.is_empty() {
            return Err(BuildError::new("prefix cannot be empty"));
        }
        Ok(Arc::new(self.clone()))
    }
}

impl Middleware for AddPrefix {
    fn handle<'a>(&'a self, mut request: Request, next: Next<'a>) -> BoxFuture<'a, Response> {
        let slash = if self.prefix.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{}{}", self.prefix, request.path());
        match request.set_path(&path) {
            Ok(()) => next.run(request),
            Err(_) => Box::pin(std::future::ready(reply::empty(http::StatusCode::BAD_REQUEST))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get};

    #[test]
    fn the_path_gets_the_prefix() {
        let seen = testing::request_after(AddPrefix { prefix: "/api".into() }, get("http://h.test/a?b=c"));
        assert_eq!(seen.head.uri, "/api/a?b=c");
    }
}
