//! Removes a match of a regular expression from the start of the path.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use regex::bytes::Regex;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Reason, Request, Response,
    reply,
};

use crate::strip_prefix::continue_at;
use crate::{path, pattern};

/// Traefik's `stripPrefixRegex`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StripPrefixRegex {
    /// Expressions in Go's syntax, matched against the unescaped path. The first that matches at the start of
    /// the path is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regex: Vec<String>,
}

impl Build for StripPrefixRegex {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let expressions =
            self.regex.iter().map(|text| pattern::compile(text.trim())).collect::<Result<_, _>>()?;
        Ok(Arc::new(Strip(expressions)))
    }
}

struct Strip(Vec<Regex>);

impl Middleware for Strip {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let Ok(decoded) = path::unescape(request.path()) else {
            return crate::ready(reply::error(StatusCode::BAD_REQUEST, "Bad Request", Reason::PathRefused));
        };
        let found = self.0.iter().find_map(|expression| {
            let found = expression.find(&decoded)?.as_bytes();
            (!found.is_empty() && decoded.starts_with(found)).then_some(found)
        });
        let Some(prefix) = found else { return next.run(request) };
        let rest = path::strip_decoded_prefix(request.path(), prefix)
            .map(|rest| path::after_prefix(rest).into_owned());
        match (rest, HeaderValue::from_bytes(prefix)) {
            (Some(rest), Ok(prefix)) => continue_at(&rest, prefix, request, next),
            // A prefix with a line feed is not a valid header value for the service.
            _ => crate::ready(reply::error(StatusCode::BAD_REQUEST, "Bad Request", Reason::PathRefused)),
        }
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strip_prefix::FORWARDED_PREFIX;
    use crate::testing::{self, get};
    use tidegate_core::Body;

    fn options(expressions: &[&str]) -> StripPrefixRegex {
        StripPrefixRegex { regex: expressions.iter().map(|e| (*e).to_owned()).collect() }
    }

    #[test]
    fn what_matches_at_the_start_is_removed() {
        for (expressions, target, expected, header) in [
            (&["^/api/[0-9]+"][..], "/api/12/x?q", "/x?q", Some("/api/12")),
            (&["/[a-z]+/"], "/foo/bar", "/bar", Some("/foo/")),
            (&["/b"], "/a/b", "/a/b", None),
            (&["x", "/a"], "/a/b", "/b", Some("/a")),
            (&["x*"], "/a", "/a", None),
            (&["^/a b"], "/a%20b/c", "/c", Some("/a b")),
        ] {
            let seen = testing::request_after(options(expressions), get(&format!("http://h.test{target}")));
            assert_eq!(seen.head.uri.to_string(), expected, "{expressions:?} {target}");
            let found = seen.head.headers.get(FORWARDED_PREFIX).map(|v| v.to_str().unwrap());
            assert_eq!(found, header, "{expressions:?} {target}");
        }
    }

    #[test]
    fn a_path_that_is_not_clean_is_refused() {
        for target in ["/api../x", "/api//x", "/api%0A/x"] {
            let request = get(&format!("http://h.test{target}"));
            let response =
                testing::response_of(options(&["(?s)^/api\n?"]), request, |_| Response::new(Body::empty()));
            assert_eq!(response.status(), 400, "{target}");
        }
    }

    #[test]
    fn an_invalid_expression_is_reported() {
        let error = testing::build_in(&testing::World::default(), options(&["("])).err().unwrap();
        assert!(error.to_string().contains("`(`"), "{error}");
    }
}
