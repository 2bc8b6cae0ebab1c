//! `httpreq`: a custom HTTP service sets and removes the record. Called as by lego.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use serde_json::json;
use tidegate_core::BoxFuture;

use super::query::Resolvers;
use super::variables::Variables;
use super::{Patience, Provider, Record};
use crate::client::{Http, Message};
use crate::error::Error;

pub(super) struct HttpReq {
    endpoint: String,
    raw: bool,
    /// `Authorization`, if user or password are set.
    authorization: Option<String>,
    http: Http,
    patience: Patience,
}

impl HttpReq {
    /// Reads `HTTPREQ_ENDPOINT`, `HTTPREQ_MODE` (`RAW`), `HTTPREQ_USERNAME`, `HTTPREQ_PASSWORD`,
    /// `HTTPREQ_HTTP_TIMEOUT`, `HTTPREQ_PROPAGATION_TIMEOUT` and `HTTPREQ_POLLING_INTERVAL`.
    pub(super) fn new(variables: &Variables<'_>) -> Result<Self, Error> {
        let endpoint = variables.required(&["HTTPREQ_ENDPOINT"])?;
        if url::Url::parse(&endpoint).map_or(true, |url| !url.has_host()) {
            return Err(Error::local(format!("HTTPREQ_ENDPOINT: `{endpoint}` is no URL")));
        }
        let user = variables.first(&["HTTPREQ_USERNAME"]);
        let password = variables.first(&["HTTPREQ_PASSWORD"]);
        let pair = format!("{}:{}", user.as_deref().unwrap_or(""), password.as_deref().unwrap_or(""));
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            raw: variables.first(&["HTTPREQ_MODE"]).as_deref() == Some("RAW"),
            authorization: (pair.len() > 1).then(|| format!("Basic {}", BASE64_STANDARD.encode(pair))),
            http: Http::plain(variables.seconds(&["HTTPREQ_HTTP_TIMEOUT"], 30)?.max(Duration::from_secs(1))),
            patience: variables.patience("HTTPREQ", 60, 2)?,
        })
    }

    async fn send(&self, what: &str, record: &Record) -> Result<(), Error> {
        let body = match self.raw {
            true => {
                json!({ "domain": record.domain, "token": record.token, "keyAuth": record.key_authorization })
            }
            false => json!({ "fqdn": format!("{}.", record.name), "value": record.value }),
        };
        let url = format!("{}/{what}", self.endpoint);
        let message = Message {
            content_type: "application/json",
            headers: self.authorization.iter().map(|value| ("authorization", value.clone())).collect(),
            body: body.to_string().into_bytes(),
        };
        let answer = self.http.send(Method::POST, &url, message).await;
        let answer = answer.map_err(|error| Error::dns(error.message))?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(Error::dns(format!("{url}: status {}: {}", answer.status, answer.excerpt()))),
        }
    }
}

impl Provider for HttpReq {
    fn present<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.send("present", record))
    }

    fn clean_up<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.send("cleanup", record))
    }

    fn patience(&self) -> Patience {
        self.patience
    }
}
