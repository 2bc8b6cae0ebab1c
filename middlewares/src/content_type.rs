//! Guesses the content type of responses that lack one.

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use http_body::Body as _;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Request, Response, boxed,
};

use crate::{peek, sniff};

/// Traefik's `contentType`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ContentType {
    /// Deprecated in Traefik: `false` turns the middleware off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_detect: Option<bool>,
}

impl Build for ContentType {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.auto_detect.is_some() {
            tracing::warn!(middleware = context.name, "`autoDetect` is deprecated, remove it");
        }
        Ok(Arc::new(Detect { enabled: self.auto_detect != Some(false) }))
    }
}

struct Detect {
    enabled: bool,
}

impl Middleware for Detect {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if !self.enabled || request.head.method == Method::HEAD {
            return next.run(request);
        }
        let response = next.run(request);
        boxed(move || async move {
            let response = response.await;
            if wants_type(&response) { with_type(response).await } else { response }
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

/// Returns true for a response that has a body but no type.
fn wants_type(response: &Response) -> bool {
    let headers = response.headers();
    !headers.contains_key(CONTENT_TYPE)
        && headers.get(CONTENT_ENCODING).is_none_or(HeaderValue::is_empty)
        && !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        && !response.status().is_informational()
        && !response.body().is_end_stream()
}

async fn with_type(mut response: Response) -> Response {
    let (beginning, body) = peek::prefix(response.body).await;
    response.body = body;
    if !beginning.is_empty() {
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(sniff::content_type(&beginning)));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get};
    use tidegate_core::Body;

    fn detected(options: ContentType, response: impl Fn() -> Response + Send + Sync + 'static) -> Response {
        testing::response_of(options, get("http://h.test/"), move |_| response())
    }

    #[test]
    fn a_missing_type_is_detected_and_the_body_stays_intact() {
        let text = "hello ".repeat(400);
        let expected = text.clone();
        let response = detected(ContentType::default(), move || Response::new(Body::full(text.clone())));
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(response.body().size_hint().exact(), Some(2400));
        assert_eq!(testing::text(response), expected);
    }

    #[test]
    fn responses_with_a_type_or_without_a_body_are_unchanged() {
        let with = |name: &'static str| {
            detected(ContentType::default(), move || {
                let mut response = Response::new(Body::full("x"));
                response.headers_mut().insert(name, HeaderValue::from_static("a"));
                response
            })
        };
        assert_eq!(with("content-type").headers()["content-type"], "a");
        assert!(!with("content-encoding").headers().contains_key("content-type"));
        let empty = detected(ContentType::default(), || Response::new(Body::empty()));
        assert!(!empty.headers().contains_key("content-type"));
        let off = detected(ContentType { auto_detect: Some(false) }, || Response::new(Body::full("x")));
        assert!(!off.headers().contains_key("content-type"));
    }
}
