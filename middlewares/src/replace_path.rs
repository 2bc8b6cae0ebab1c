//! Replaces the path with a fixed one.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Reason, Request, Response,
    reply,
};

use crate::path::{self, EscapeError, UrlPath};

/// Carries the original path to the service.
pub(crate) const REPLACED_PATH: HeaderName = HeaderName::from_static("x-replaced-path");

/// Traefik's `replacePath`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ReplacePath {
    /// The new path, escaped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

impl Build for ReplacePath {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let target = path::unescape(&self.path).map(|path| {
            let escaped = UrlPath { path, raw: self.path.clone() }.escaped();
            path::with_leading_slash(&escaped).into_owned()
        });
        Ok(Arc::new(Replace { target }))
    }
}

struct Replace {
    /// The path, or why the configured one is invalid: Traefik builds such a middleware and responds to every
    /// request with the error.
    target: Result<String, EscapeError>,
}

impl Middleware for Replace {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let internal_error = http::StatusCode::INTERNAL_SERVER_ERROR;
        let target = match &self.target {
            Ok(target) => target,
            Err(error) => {
                return crate::ready(reply::error(internal_error, &error.to_string(), Reason::PathRefused));
            }
        };
        set_replaced_path(&mut request);
        if let Err(error) = request.set_path(target) {
            return crate::ready(reply::error(internal_error, &error.to_string(), Reason::PathRefused));
        }
        next.run(request)
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

/// Adds the current path as `X-Replaced-Path`.
pub(crate) fn set_replaced_path(request: &mut Request) {
    if let Ok(before) = HeaderValue::from_bytes(request.path().as_bytes()) {
        request.head.headers.append(REPLACED_PATH, before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get};
    use tidegate_core::Body;

    fn options(path: &str) -> ReplacePath {
        ReplacePath { path: path.to_owned() }
    }

    #[test]
    fn the_path_is_replaced_and_the_query_kept() {
        for (path, expected) in [
            ("/new", "/new?q=1"),
            ("", "/?q=1"),
            ("new", "/new?q=1"),
            ("/a%2Fb", "/a%2Fb?q=1"),
            ("/a b", "/a%20b?q=1"),
            ("/a?b=c", "/a%3Fb=c?q=1"),
        ] {
            let seen = testing::request_after(options(path), get("http://h.test/old%2Fone?q=1"));
            assert_eq!(seen.head.uri.to_string(), expected, "{path}");
            assert_eq!(seen.head.headers[REPLACED_PATH], "/old%2Fone");
        }
    }

    #[test]
    fn a_bad_escape_answers_500() {
        let response =
            testing::response_of(options("/%zz"), get("http://h.test/"), |_| Response::new(Body::empty()));
        assert_eq!(response.status(), 500);
        assert_eq!(testing::text(response), "invalid URL escape \"%zz\"\n");
    }
}
