//! Removes a prefix from the path.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Middleware, Next, Prediction, Reason, Request,
    Response, reply,
};

use crate::path;

/// Carries the removed part of the path to the service.
pub(crate) const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Traefik's `stripPrefix`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StripPrefix {
    /// Prefixes to remove, unescaped. The first match is removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<String>,
    /// Deprecated in Traefik and without effect: the remaining path always starts with a slash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_slash: Option<bool>,
}

impl Build for StripPrefix {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.force_slash.is_some() {
            tracing::warn!(middleware = context.name, "`forceSlash` is deprecated, remove it");
        }
        let prefixes = self.prefixes.iter().map(|prefix| {
            let prefix = prefix.trim();
            let value = HeaderValue::from_bytes(prefix.as_bytes());
            value.map_err(|_| BuildError::new(format!("prefixes: control characters in `{prefix}`")))
        });
        Ok(Arc::new(Strip(BuildErrors::collect(prefixes)?)))
    }
}

struct Strip(Vec<HeaderValue>);

impl Middleware for Strip {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let found = self.0.iter().find_map(|prefix| {
            path::strip_decoded_prefix(request.path(), prefix.as_bytes()).map(|rest| (prefix, rest))
        });
        let Some((prefix, rest)) = found else { return next.run(request) };
        let stripped = path::after_prefix(rest).into_owned();
        continue_at(&stripped, prefix.clone(), request, next)
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

/// Passes the request on with the remaining path, unless that is not clean: it could then reach something
/// that the router's rule did not match.
pub(crate) fn continue_at<'a>(
    stripped: &str,
    prefix: HeaderValue,
    mut request: Request,
    next: &'a Next,
) -> BoxFuture<'a, Response> {
    if !path::is_clean(stripped) || request.set_path(stripped).is_err() {
        return crate::ready(reply::error(StatusCode::BAD_REQUEST, "Bad Request", Reason::PathRefused));
    }
    request.head.headers.append(FORWARDED_PREFIX, prefix);
    next.run(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get};
    use tidegate_core::Body;

    fn options(prefixes: &[&str]) -> StripPrefix {
        StripPrefix { prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(), force_slash: None }
    }

    fn path_after(prefixes: &[&str], target: &str) -> (String, Option<String>) {
        let seen = testing::request_after(options(prefixes), get(&format!("http://h.test{target}")));
        let header = seen.head.headers.get(FORWARDED_PREFIX).map(|v| v.to_str().unwrap().to_owned());
        (seen.head.uri.to_string(), header)
    }

    #[test]
    fn the_first_matching_prefix_is_removed() {
        for (prefixes, target, expected, header) in [
            (&["/api"][..], "/api/x?q=1", "/x?q=1", Some("/api")),
            (&["/api"], "/api", "/", Some("/api")),
            (&["/api"], "/apix", "/x", Some("/api")),
            (&["/api/"], "/api/x", "/x", Some("/api/")),
            (&["/api"], "/other", "/other", None),
            (&["/a", "/ab"], "/abc", "/bc", Some("/a")),
            (&[" /a "], "/a/b", "/b", Some("/a")),
            (&["/a b"], "/a%20b/c%2Fd", "/c%2Fd", Some("/a b")),
        ] {
            let header = header.map(str::to_owned);
            assert_eq!(path_after(prefixes, target), (expected.to_owned(), header), "{prefixes:?} {target}");
        }
    }

    #[test]
    fn a_path_that_is_not_clean_is_refused() {
        for target in ["/api//x", "/api../x", "/api/%2e%2e/x", "/api./y", "/api/./y"] {
            let response =
                testing::response_of(options(&["/api"]), get(&format!("http://h.test{target}")), |_| {
                    Response::new(Body::full("reached"))
                });
            assert_eq!(response.status(), 400, "{target}");
            assert_eq!(testing::text(response), "Bad Request\n");
        }
    }

    #[test]
    fn force_slash_changes_nothing() {
        let forced = StripPrefix { force_slash: Some(true), ..options(&["/api"]) };
        assert_eq!(testing::request_after(forced.clone(), get("http://h.test/api")).path(), "/");
        assert_eq!(testing::request_after(forced, get("http://h.test/api/x")).path(), "/x");
    }

    #[test]
    fn options_serialise_as_in_the_api() {
        assert_eq!(serde_json::to_string(&options(&["/a"])).unwrap(), r#"{"prefixes":["/a"]}"#);
    }
}
