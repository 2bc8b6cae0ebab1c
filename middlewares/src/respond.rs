//! Responds with what is configured, without a service.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Middleware, Next, Prediction, Reason, Request,
    Response, reply,
};

use crate::sniff;

/// Maximum length of a body in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// Statuses whose responses have no body.
const WITHOUT_BODY: [u16; 3] = [204, 205, 304];

/// Not in Traefik. The request does not reach the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Respond {
    /// Status of the response.
    pub status: u16,
    /// Headers of the response. `Content-Type` is guessed from the content if it is missing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Body of the response.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// File with the body. It is watched.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
}

impl Default for Respond {
    fn default() -> Self {
        Self { status: 200, headers: BTreeMap::new(), body: String::new(), file: String::new() }
    }
}

impl Build for Respond {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let status =
            StatusCode::from_u16(self.status).ok().filter(|status| (200..600).contains(&status.as_u16()));
        let status = status.ok_or_else(|| {
            BuildError::new(format!("status: invalid status `{}`: expected 200 to 599", self.status))
        });
        let (status, (mut headers, body)) =
            BuildErrors::both(status, BuildErrors::both(self.headers(), self.content(context)))?;
        if WITHOUT_BODY.contains(&self.status) && !body.is_empty() {
            return Err(BuildError::new(format!("status: responses with {status} have no body")));
        }
        if !body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
            let content_type = sniff::content_type(&body);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if !WITHOUT_BODY.contains(&self.status) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        Ok(Arc::new(Fixed { status, headers, body }))
    }
}

impl Respond {
    fn headers(&self) -> Result<HeaderMap, BuildError> {
        let headers = self.headers.iter().map(|(name, value)| {
            let wrong = |message: &str| BuildError::new(format!("headers.{name}: {message}"));
            let parsed: HeaderName = name.parse().map_err(|_| wrong("invalid name of a header"))?;
            if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(&parsed) {
                return Err(wrong("is set by the gateway"));
            }
            let value = HeaderValue::from_str(value).map_err(|_| wrong("invalid value of a header"))?;
            Ok((parsed, value))
        });
        Ok(BuildErrors::collect(headers)?.into_iter().collect())
    }

    fn content(&self, context: &BuildContext<'_>) -> Result<Bytes, BuildError> {
        let content = match (self.body.is_empty(), self.file.is_empty()) {
            (false, false) => return Err(BuildError::new("expected `body` or `file`, not both")),
            (_, true) => Bytes::copy_from_slice(self.body.as_bytes()),
            (true, false) => {
                let content = context.file(&self.file);
                content.map_err(|error| error.map(|message| format!("file: {message}")))?.into()
            }
        };
        if content.len() > MAX_BODY {
            return Err(BuildError::new(format!("the body is longer than {MAX_BODY} bytes")));
        }
        Ok(content)
    }
}

struct Fixed {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Middleware for Fixed {
    fn handle<'a>(&'a self, _: Request, _: &'a Next) -> BoxFuture<'a, Response> {
        let mut response = reply::bare(self.status, self.body.clone(), Reason::Configured);
        response.headers_mut().clone_from(&self.headers);
        crate::ready(response)
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, World, block_on};

    fn built(options: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        let mut world = World::default();
        world.files.insert("/page.html".into(), b"<p>hi".to_vec());
        world.files.insert("/large".into(), vec![b'a'; MAX_BODY + 1]);
        let options: Respond = serde_json::from_str(options).unwrap();
        options.build(&BuildContext::new("m@file", &world))
    }

    #[test]
    fn the_configured_response_is_returned() {
        for (options, status, content_type, body) in [
            ("{}", 200, None, ""),
            (r#"{"body": "hi"}"#, 200, Some("text/plain; charset=utf-8"), "hi"),
            (r#"{"status": 503, "file": "/page.html"}"#, 503, Some("text/html; charset=utf-8"), "<p>hi"),
            (
                r#"{"body": "{}", "headers": {"content-type": "application/json"}}"#,
                200,
                Some("application/json"),
                "{}",
            ),
            (r#"{"status": 204, "headers": {"X-A": "b"}}"#, 204, None, ""),
        ] {
            let middleware = built(options).unwrap();
            let never = testing::Service(|_| panic!("the service is not reached"));
            let response = block_on(testing::run(&middleware, testing::get("http://h.test/"), &never));
            assert_eq!((response.status().as_u16(), response.reason), (status, Some(Reason::Configured)));
            let of =
                |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(of("content-type").as_deref(), content_type, "{options}");
            assert_eq!(of("content-length"), (status != 204).then(|| body.len().to_string()), "{options}");
            assert_eq!(of("x-a").is_some(), status == 204);
            assert_eq!(testing::text(response), body, "{options}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (options, expected) in [
            (r#"{"status": 101}"#, "status: invalid status `101`: expected 200 to 599"),
            (r#"{"status": 204, "body": "a"}"#, "status: responses with 204 No Content have no body"),
            (r#"{"body": "a", "file": "/page.html"}"#, "expected `body` or `file`, not both"),
            (r#"{"file": "/none"}"#, "file: /none: no such file"),
            (r#"{"file": "/large"}"#, "the body is longer than 1048576 bytes"),
            (r#"{"headers": {"a b": "c"}}"#, "headers.a b: invalid name of a header"),
            (r#"{"headers": {"a": "c\r\nd: e"}}"#, "headers.a: invalid value of a header"),
            (r#"{"headers": {"Content-Length": "3"}}"#, "headers.Content-Length: is set by the gateway"),
        ] {
            assert_eq!(built(options).err().expect(options).to_string(), expected);
        }
    }
}
