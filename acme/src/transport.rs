//! Carries the requests of the ACME library (instant-acme) to the authority.
//!
//! The library signs with keys on P-256 only, retries a rejected nonce three times, and takes an answer that it does
//! not expect for the end of an order. So each of its requests is taken apart here and signed again with the account's
//! own key, by [`Server::post`]; the key and the nonces that the library knows are placeholders, which never leave the
//! process. Answers are brought into the form that the library reads, and the last one is kept for what it leaves out:
//! `Retry-After`, alternate chains, the account object.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{LINK, LOCATION, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::authority::{Directory, Repeat, Server, error_of};
use super::client::{Answer, Message};
use super::error::Error;
use super::jws::Signer;
use super::key::AccountKey;

/// The library's URL of the directory, which has been read before.
pub(super) const DIRECTORY: &str = "/directory";
/// The library's URL of nonces.
const NONCE: &str = "/nonce";

/// The states of an order, an authorization and a challenge that the library knows (RFC 8555 section 7.1.6).
const ORDER: [&str; 5] = ["pending", "ready", "processing", "valid", "invalid"];
const AUTHORIZATION: [&str; 6] = ["pending", "valid", "invalid", "revoked", "expired", "deactivated"];
const CHALLENGE: [&str; 4] = ["pending", "processing", "valid", "invalid"];

/// The library's way to the authority, for requests that follow each other.
#[derive(Clone)]
pub(super) struct Transport(Arc<Inner>);

struct Inner {
    server: Arc<Server>,
    key: Arc<AccountKey>,
    /// The external account that a new account is bound to.
    binding: Option<Value>,
    last: Mutex<Option<Answer>>,
    impatient: AtomicBool,
}

/// A request as the library signs it.
#[derive(Deserialize)]
struct Jws {
    protected: String,
    payload: String,
}

/// What its signature covers beside the payload.
#[derive(Deserialize)]
struct Protected {
    url: String,
    /// The account; a new one has none.
    kid: Option<String>,
}

impl Transport {
    pub(super) fn new(server: Arc<Server>, key: Arc<AccountKey>, binding: Option<Value>) -> Self {
        let impatient = AtomicBool::new(false);
        Self(Arc::new(Inner { server, key, binding, last: Mutex::default(), impatient }))
    }

    /// From now on, no request is repeated after network failures.
    pub(super) fn hurry(&self) {
        self.0.impatient.store(true, Ordering::Relaxed);
    }

    /// Returns the delay that the last answer asks for.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.0.last.lock().as_ref()?.retry_after()
    }

    /// Returns the body of the last answer.
    pub(super) fn body(&self) -> Bytes {
        self.0.last.lock().as_ref().map(|answer| answer.body.clone()).unwrap_or_default()
    }

    /// Returns the URLs of alternate chains in the last answer: `Link: <…>;rel="alternate"` (RFC 8555 section 7.4.2).
    pub(super) fn alternates(&self) -> Vec<String> {
        let last = self.0.last.lock();
        let links = last.iter().flat_map(|answer| answer.headers.get_all(LINK));
        let parts = links.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        parts
            .filter(|part| part.contains("rel=\"alternate\"") || part.contains("rel=alternate"))
            .filter_map(|part| Some(part.split_once('<')?.1.split_once('>')?.0.to_owned()))
            .collect()
    }

    async fn carry(&self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let (head, body) = request.into_parts();
        match head.method {
            Method::HEAD => respond(Response::builder().header("replay-nonce", "none"), Bytes::new()),
            Method::GET if head.uri == DIRECTORY => respond(Response::builder(), self.directory()),
            Method::GET => self.get(&head.uri.to_string()).await,
            _ => match body.collect().await {
                Ok(body) => self.post(&body.to_bytes()).await,
                Err(never) => match never {},
            },
        }
    }

    /// Returns the directory with what the library uses of it.
    fn directory(&self) -> Bytes {
        let Directory { new_account, new_order, revoke_cert, renewal_info, .. } = &self.0.server.directory;
        let renewal_info = renewal_info.as_ref().map(|url| url.trim_end_matches('/'));
        let directory = json!({
            "newNonce": NONCE,
            "newAccount": new_account,
            "newOrder": new_order,
            "revokeCert": revoke_cert,
            "renewalInfo": renewal_info,
        });
        directory.to_string().into()
    }

    /// Gets renewal information, which is not signed.
    async fn get(&self, url: &str) -> Result<BytesResponse, Error> {
        let answer = self.0.server.http.send(Method::GET, url, Message::default()).await?;
        if !answer.status.is_success() {
            return Err(Error::network(format!("{url}: status {}: {}", answer.status, answer.excerpt())));
        }
        let body = answer.body.clone();
        *self.0.last.lock() = Some(answer);
        // The library insists on the header, and panics on a large number.
        respond(Response::builder().header(RETRY_AFTER, "0"), body)
    }

    async fn post(&self, body: &[u8]) -> Result<BytesResponse, Error> {
        let Inner { server, key, binding, last, impatient } = &*self.0;
        let (Protected { url, kid }, mut payload) = opened(body)?;
        let signer = match &kid {
            Some(account) => Signer::Account(key, account),
            None => Signer::New(key),
        };
        if kid.is_none()
            && let Some(binding) = binding
        {
            payload["externalAccountBinding"] = binding.clone();
        }
        let repeat = match url == server.directory.new_order || impatient.load(Ordering::Relaxed) {
            true => Repeat::Never,
            false => Repeat::Safe,
        };
        let text = if payload.is_null() { String::new() } else { payload.to_string() };
        let answer = server.post(signer, &url, text.as_bytes(), repeat).await?;
        let shown = match payload.as_object().is_some_and(Map::is_empty) {
            // The answer to a challenge is of no use: its authorization is asked for afterwards.
            true => json!({ "type": "", "url": url, "status": "pending" }).to_string().into(),
            false => readable(&answer.body, payload.get("replaces"))?,
        };
        let mut response = Response::builder();
        if let Some(location) = answer.headers.get(LOCATION) {
            response = response.header(LOCATION, location);
        }
        *last.lock() = Some(answer);
        respond(response, shown)
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            this.carry(request).await.map_err(|error| instant_acme::Error::Other(Box::new(error)))
        })
    }
}

/// Converts an error of the library; those of [`Transport`] pass through it unchanged.
pub(super) fn error_from(what: &str, error: instant_acme::Error) -> Error {
    match error {
        instant_acme::Error::Other(inner) => match inner.downcast::<Error>() {
            Ok(own) => *own,
            Err(inner) => Error::network(format!("{what}: {inner}")),
        },
        instant_acme::Error::Api(problem) => error_of(&problem, None),
        instant_acme::Error::Json(error) => {
            Error::network(format!("{what}: the answer is no JSON of the expected form: {error}"))
        }
        error => Error::network(format!("{what}: {error}")),
    }
}

fn respond(head: http::response::Builder, body: Bytes) -> Result<BytesResponse, Error> {
    let response = head.status(StatusCode::OK).body(());
    let (parts, ()) = response.map_err(|error| Error::network(error.to_string()))?.into_parts();
    Ok(BytesResponse { parts, body: Box::new(body) })
}

/// Takes a request of the library apart. The payload of a POST-as-GET is null.
fn opened(body: &[u8]) -> Result<(Protected, Value), Error> {
    let bad = |error: &dyn std::fmt::Display| {
        Error::local(format!("a request of the ACME library cannot be read: {error}"))
    };
    let jws: Jws = serde_json::from_slice(body).map_err(|error| bad(&error))?;
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|error| bad(&error));
    let protected = serde_json::from_slice(&decode(&jws.protected)?).map_err(|error| bad(&error))?;
    let payload = match jws.payload.as_str() {
        "" => Value::Null,
        text => serde_json::from_slice(&decode(text)?).map_err(|error| bad(&error))?,
    };
    Ok((protected, payload))
}

/// Brings an order or an authorization into the form that the library reads; other bodies stay as they are.
///
/// `replaces` is what a new order has asked for: the library gives up one whose answer does not repeat it.
fn readable(body: &Bytes, replaces: Option<&Value>) -> Result<Bytes, Error> {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(body) else { return Ok(body.clone()) };
    let status = object.get("status").and_then(Value::as_str).unwrap_or_default().to_owned();
    if object.contains_key("finalize") {
        if !ORDER.contains(&status.as_str()) {
            return Err(Error::refused(format!("the order is {status}")));
        }
        object.entry("authorizations").or_insert_with(|| json!([]));
        // The library gives up an order with an error, even one that is valid by now.
        if status != "invalid" {
            object.remove("error");
        }
        object.insert("replaces".into(), replaces.cloned().unwrap_or_default());
    } else if object.contains_key("identifier") {
        if status == "processing" {
            object.insert("status".into(), "pending".into());
        } else if !AUTHORIZATION.contains(&status.as_str()) {
            let name = object["identifier"]["value"].as_str().unwrap_or_default();
            return Err(Error::refused(format!("{name}: the authorisation is {status}")).of(name));
        }
        let challenges = object.entry("challenges").or_insert_with(|| json!([]));
        for challenge in challenges.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            let known = challenge.get("status").and_then(Value::as_str);
            if !known.is_some_and(|status| CHALLENGE.contains(&status)) {
                challenge.insert("status".into(), "pending".into());
            }
        }
    } else {
        return Ok(body.clone());
    }
    Ok(Value::Object(object).to_string().into())
}

#[cfg(test)]
mod tests {
    use instant_acme::{AuthorizationState, AuthorizationStatus, OrderState, OrderStatus};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(body: Value, replaces: Option<Value>) -> Result<T, Error> {
        let body = readable(&body.to_string().into(), replaces.as_ref())?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn orders_and_authorizations_of_any_authority_are_read() {
        let order = json!({ "status": "ready", "finalize": "https://ca/f", "replaces": 7, "error": "old" });
        let read_order: OrderState = read(order.clone(), None).unwrap();
        assert_eq!((read_order.status, read_order.replaces), (OrderStatus::Ready, None));
        assert!(read_order.error.is_none());
        let read_order: OrderState = read(order, Some(json!("YQ.Yg"))).unwrap();
        assert_eq!(read_order.replaces.unwrap().to_string(), "YQ.Yg");
        let authorization = json!({
            "status": "processing",
            "identifier": { "type": "dns", "value": "a.test" },
            "challenges": [{ "type": "odd-01", "url": "https://ca/c", "status": "queued" }],
        });
        let read: AuthorizationState = read(authorization, None).unwrap();
        assert_eq!((read.status, read.challenges.len()), (AuthorizationStatus::Pending, 1));
    }

    #[test]
    fn states_that_nobody_knows_are_refusals() {
        let order = json!({ "status": "frozen", "finalize": "https://ca/f" });
        let error = read::<OrderState>(order, None).unwrap_err();
        assert_eq!(error, Error::refused("the order is frozen"));
        let identifier = json!({ "type": "dns", "value": "a.test" });
        let authorization = json!({ "status": "frozen", "identifier": identifier, "challenges": [] });
        let error = read::<AuthorizationState>(authorization, None).unwrap_err();
        assert_eq!(error, Error::refused("a.test: the authorisation is frozen").of("a.test"));
    }
}
