//! Questions to CrowdSec's AppSec component: a copy of the request, whose body is limited.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, USER_AGENT,
};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use http_body::Body as _;
use serde::Deserialize;
use tidegate_core::building::ClientTls;
use tidegate_core::forwarded::address_text;
use tidegate_core::{Body, BodyError, CollectError, Collected, HttpClient, Request};

use super::decisions::Remediation;

const PREFIX: &str = "x-crowdsec-appsec-";
const API_KEY: HeaderName = HeaderName::from_static("x-crowdsec-appsec-api-key");
const CLIENT: HeaderName = HeaderName::from_static("x-crowdsec-appsec-ip");
const VERB: HeaderName = HeaderName::from_static("x-crowdsec-appsec-verb");
const AUTHORITY: HeaderName = HeaderName::from_static("x-crowdsec-appsec-host");
const TARGET: HeaderName = HeaderName::from_static("x-crowdsec-appsec-uri");
const AGENT: HeaderName = HeaderName::from_static("x-crowdsec-appsec-user-agent");
const VERSION: HeaderName = HeaderName::from_static("x-crowdsec-appsec-http-version");

/// Headers that describe the client's connection or the length of its body.
const NOT_COPIED: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
];

/// Maximum length of an answer in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Asks the AppSec component.
pub(super) struct Appsec {
    pub(super) client: Arc<dyn HttpClient>,
    pub(super) tls: ClientTls,
    pub(super) timeout: Duration,
    pub(super) url: Uri,
    pub(super) key: Option<HeaderValue>,
    /// Number of bytes of a body that are inspected; zero for none.
    pub(super) body_limit: u64,
    pub(super) blocks_failure: bool,
    pub(super) blocks_unreachable: bool,
    pub(super) blocks_unreadable: bool,
}

/// What the component says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opinion {
    Allowed,
    Refused(Remediation),
    /// It does not answer as it should, and requests are refused then.
    Unavailable,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    action: String,
}

impl Appsec {
    /// Asks about a request, whose body is the same afterwards.
    pub(super) async fn ask(&self, request: &mut Request, address: IpAddr) -> Opinion {
        let body = match self.inspected(request).await {
            Ok(Some(body)) => body,
            Ok(None) => return Opinion::Refused(Remediation::Ban),
            Err(error) => {
                request.body = Body::failed(error);
                return Opinion::Unavailable;
            }
        };
        let question = self.question(request, address, body);
        let exchange = async {
            let response = self
                .client
                .send(question, &self.tls, self.timeout)
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status();
            let body = match status {
                StatusCode::FORBIDDEN => response.into_body().collect(MAX_ANSWER).await.ok(),
                _ => None,
            };
            Ok::<_, String>((status, body.unwrap_or_default()))
        };
        let answer = tokio::time::timeout(self.timeout, exchange).await;
        match answer.unwrap_or_else(|_| Err(format!("no complete answer within {:?}", self.timeout))) {
            Ok((status, body)) => self.opinion(status, &body.bytes),
            Err(error) => {
                tracing::warn!(url = %self.url, error, "CrowdSec's AppSec is unreachable");
                unless(self.blocks_unreachable)
            }
        }
    }

    fn opinion(&self, status: StatusCode, body: &[u8]) -> Opinion {
        match status.as_u16() {
            200 => return Opinion::Allowed,
            403 => {
                let action = serde_json::from_slice::<Answer>(body).map(|answer| answer.action);
                let is_captcha = action.is_ok_and(|action| action.eq_ignore_ascii_case("captcha"));
                return Opinion::Refused(if is_captcha { Remediation::Captcha } else { Remediation::Ban });
            }
            _ => tracing::warn!(url = %self.url, status = status.as_u16(), "CrowdSec's AppSec has failed"),
        }
        match status.as_u16() {
            500 => unless(self.blocks_failure),
            502..=504 => unless(self.blocks_unreachable),
            // Such as 401, for a wrong key.
            _ => Opinion::Unavailable,
        }
    }

    /// Returns the part of the body that is inspected; `None` if the request is refused because of its body.
    async fn inspected(&self, request: &mut Request) -> Result<Option<Bytes>, BodyError> {
        let length = request.body.size_hint().exact();
        if length == Some(0) {
            return Ok(Some(Bytes::new()));
        }
        if length.is_none() && request.head.version >= Version::HTTP_2 {
            // Such as a stream of gRPC, which may never end.
            let bodiless = [Method::CONNECT, Method::GET, Method::HEAD, Method::OPTIONS];
            let has_body = !bodiless.contains(&request.head.method);
            return Ok((!(self.blocks_unreadable && has_body)).then(Bytes::new));
        }
        if self.body_limit == 0 {
            return Ok(Some(Bytes::new()));
        }
        let (read, body) = beginning(std::mem::take(&mut request.body), self.body_limit).await?;
        request.body = body;
        Ok(Some(read))
    }

    fn question(&self, request: &Request, address: IpAddr, body: Bytes) -> Request {
        let mut head = http::Request::new(()).into_parts().0;
        head.method = if body.is_empty() { Method::GET } else { Method::POST };
        head.uri = self.url.clone();
        head.headers = self.headers(request, address);
        if !body.is_empty() {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        Request::new(head, Body::full(body), request.context.aside())
    }

    fn headers(&self, request: &Request, address: IpAddr) -> HeaderMap {
        let original = &request.head.headers;
        let named = original.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let named: Vec<&str> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
        let is_copied = |name: &HeaderName| {
            !NOT_COPIED.contains(name)
                && !name.as_str().starts_with(PREFIX)
                && !named.iter().any(|named| name.as_str().eq_ignore_ascii_case(named))
        };
        let mut headers = HeaderMap::with_capacity(original.len() + 8);
        for (name, value) in original.iter().filter(|(name, _)| is_copied(name)) {
            headers.append(name, value.clone());
        }
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(CLIENT, &address_text(address));
        set(VERB, request.head.method.as_str());
        set(AUTHORITY, request.host());
        set(TARGET, request.head.uri.path_and_query().map_or("/", |target| target.as_str()));
        set(VERSION, version(request.head.version));
        set(HOST, self.url.authority().map_or("", |authority| authority.as_str()));
        let agent = original.get(USER_AGENT).cloned().unwrap_or(HeaderValue::from_static(""));
        headers.insert(AGENT, agent);
        headers.insert(USER_AGENT, HeaderValue::from_static("tidegate"));
        if let Some(key) = &self.key {
            headers.insert(API_KEY, key.clone());
        }
        headers
    }
}

fn unless(blocks: bool) -> Opinion {
    if blocks { Opinion::Unavailable } else { Opinion::Allowed }
}

/// Returns the version of HTTP as two digits.
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "10",
        Version::HTTP_2 => "20",
        Version::HTTP_3 => "30",
        _ => "11",
    }
}

/// Returns the beginning of a body, at most `limit` bytes, and the whole body.
async fn beginning(body: Body, limit: u64) -> Result<(Bytes, Body), BodyError> {
    let unfinished = match body.collect(limit).await {
        Ok(collected) => return Ok((collected.bytes.clone(), collected.into())),
        Err(CollectError::Failed(error)) => return Err(error),
        Err(CollectError::TooLarge { body, .. }) => body,
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut rest = unfinished.rest;
    let mut read = BytesMut::from(&unfinished.read[..]);
    while read.len() < limit
        && let Some(frame) = rest.frame().await
    {
        match frame?.into_data() {
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => {
                rest = Collected { bytes: Bytes::new(), trailers: frame.into_trailers().ok() }.into();
                break;
            }
        }
    }
    let read = read.freeze();
    Ok((read.slice(..read.len().min(limit)), Body::prefixed([read], rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::block_on;

    #[test]
    fn the_beginning_of_a_body_is_read_and_the_body_stays_whole() {
        block_on(async {
            for (body, expected) in [
                (Body::full("abcdef"), "abcd"),
                (Body::full("abc"), "abc"),
                (pieces(&["ab", "cdef", "gh"]), "abcd"),
                (pieces(&["a", "b"]), "ab"),
            ] {
                let (read, body) = beginning(body, 4).await.unwrap();
                assert_eq!(read, expected);
                let whole = body.collect(100).await.unwrap().bytes;
                assert!(
                    whole.starts_with(&read) && (whole.len() > 4 || whole.len() == read.len()),
                    "{whole:?}"
                );
            }
        });
    }
}
