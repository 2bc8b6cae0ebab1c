//! Rewrites the path with a regular expression.

use std::sync::Arc;

use http::StatusCode;
use regex::bytes::Regex;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Reason, Request, Response,
    reply,
};

use crate::path::{self, UrlPath};
use crate::pattern::{self, Template};
use crate::replace_path::set_replaced_path;

/// Traefik's `replacePathRegex`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ReplacePathRegex {
    /// An expression in Go's syntax, matched against the escaped path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub regex: String,
    /// Replacement for every match; `$1` and `${name}` refer to groups.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub replacement: String,
}

impl Build for ReplacePathRegex {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let regex = pattern::compile(self.regex.trim())
            .map_err(|error| BuildError::new(format!("regex: {error}")))?;
        let template = Template::new(self.replacement.trim(), &regex);
        Ok(Arc::new(Replace { regex, template }))
    }
}

struct Replace {
    regex: Regex,
    template: Template,
}

impl Middleware for Replace {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let Some(raw) = self.template.replace_all(&self.regex, request.path()) else {
            return next.run(request);
        };
        let path = match path::unescape(&raw) {
            Ok(path) => path,
            Err(error) => {
                return crate::ready(reply::error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &error.to_string(),
                    Reason::PathRefused,
                ));
            }
        };
        let escaped = UrlPath { path, raw }.escaped();
        let target = path::with_leading_slash(&escaped);
        set_replaced_path(&mut request);
        if !path::is_clean(&target) || request.set_path(&target).is_err() {
            return crate::ready(reply::error(StatusCode::BAD_REQUEST, "Bad Request", Reason::PathRefused));
        }
        next.run(request)
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replace_path::REPLACED_PATH;
    use crate::testing::{self, get};
    use tidegate_core::Body;

    fn options(regex: &str, replacement: &str) -> ReplacePathRegex {
        ReplacePathRegex { regex: regex.to_owned(), replacement: replacement.to_owned() }
    }

    #[test]
    fn the_path_is_rewritten() {
        for (regex, replacement, expected, replaced) in [
            ("^/foo/(.*)", "/bar/$1", "/bar/x%2Fy?q=1", true),
            ("^/foo/(.*)", "/bar/${1}z", "/bar/x%2Fyz?q=1", true),
            ("^/foo/(.*)", "/bar/$1z", "/bar/?q=1", true),
            ("^/nope/(.*)", "/bar/$1", "/foo/x%2Fy?q=1", false),
            ("^.*$", "", "/?q=1", true),
            (" ^/foo ", " /b c ", "/b%20c/x/y?q=1", true),
        ] {
            let seen =
                testing::request_after(options(regex, replacement), get("http://h.test/foo/x%2Fy?q=1"));
            assert_eq!(seen.head.uri.to_string(), expected, "{regex} {replacement}");
            assert_eq!(seen.head.headers.contains_key(REPLACED_PATH), replaced, "{regex}");
        }
    }

    #[test]
    fn a_path_that_is_not_clean_is_refused() {
        for (replacement, status) in
            [("/$1", 400), ("/..$1", 400), ("/%2e%2e$1", 400), ("/a/./b", 400), ("/%zz", 500)]
        {
            let response = testing::response_of(
                options("^/foo(.*)", replacement),
                get("http://h.test/foo/admin"),
                |_| Response::new(Body::empty()),
            );
            assert_eq!(response.status(), status, "{replacement}");
        }
    }
}
