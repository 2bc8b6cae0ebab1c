//! `cloudflare`: records in a zone of Cloudflare.

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_core::BoxFuture;

use super::query::Resolvers;
use super::variables::Variables;
use super::{Patience, Provider, Record};
use crate::client::{Http, Message};
use crate::error::Error;

const BASE: &str = "https://api.cloudflare.com/client/v4";
/// Cloudflare's minimum time to live, in seconds.
const MIN_TTL: u32 = 120;

pub(super) struct Cloudflare {
    base: String,
    /// Credentials for records.
    records: Identity,
    /// Credentials for looking up zones.
    zones: Identity,
    ttl: u32,
    http: Http,
    patience: Patience,
}

#[derive(Clone)]
enum Identity {
    Token(String),
    Key { email: String, key: String },
}

#[derive(Deserialize)]
struct Reply {
    success: bool,
    #[serde(default)]
    errors: Vec<Value>,
    #[serde(default)]
    result: Value,
}

impl Cloudflare {
    /// Reads `CF_DNS_API_TOKEN` and `CF_ZONE_API_TOKEN`, or `CF_API_EMAIL` and `CF_API_KEY`; also with `CLOUDFLARE_`.
    pub(super) fn new(variables: &Variables<'_>) -> Result<Self, Error> {
        let dns = variables.first(&["CF_DNS_API_TOKEN", "CLOUDFLARE_DNS_API_TOKEN"]);
        let zone = variables.first(&["CF_ZONE_API_TOKEN", "CLOUDFLARE_ZONE_API_TOKEN"]);
        let email = variables.first(&["CF_API_EMAIL", "CLOUDFLARE_EMAIL"]);
        let key = variables.first(&["CF_API_KEY", "CLOUDFLARE_API_KEY"]);
        let records = match (dns, email, key) {
            (Some(token), ..) => Identity::Token(token),
            (None, Some(email), Some(key)) => Identity::Key { email, key },
            _ => {
                return Err(Error::local(
                    "some credentials information are missing: CF_DNS_API_TOKEN, or CF_API_EMAIL and CF_API_KEY \
                     (in `credentials`, in the environment, or as CF_DNS_API_TOKEN_FILE and so on)",
                ));
            }
        };
        let ttl = variables.number(&["CF_TTL", "CLOUDFLARE_TTL"], MIN_TTL)?;
        if ttl < MIN_TTL {
            return Err(Error::local(format!(
                "CLOUDFLARE_TTL: {ttl} is too short: expected at least {MIN_TTL}"
            )));
        }
        let base =
            variables.first(&["CF_BASE_URL", "CLOUDFLARE_BASE_URL"]).unwrap_or_else(|| BASE.to_owned());
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            zones: zone.map_or_else(|| records.clone(), Identity::Token),
            records,
            ttl,
            http: Http::plain(variables.seconds(&["CF_HTTP_TIMEOUT", "CLOUDFLARE_HTTP_TIMEOUT"], 30)?),
            patience: variables.patience("CLOUDFLARE", 120, 2)?,
        })
    }

    async fn call(
        &self,
        who: &Identity,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Error> {
        let headers = match who {
            Identity::Token(token) => vec![("authorization", format!("Bearer {token}"))],
            Identity::Key { email, key } => {
                vec![("x-auth-email", email.clone()), ("x-auth-key", key.clone())]
            }
        };
        let message = Message {
            content_type: "application/json",
            headers,
            body: body.map(|body| body.to_string().into_bytes()).unwrap_or_default(),
        };
        let url = format!("{}{path}", self.base);
        let answer = self.http.send(method, &url, message).await;
        let answer = answer.map_err(|error| Error::dns(error.message))?;
        let reply: Result<Reply, _> = serde_json::from_slice(&answer.body);
        match reply {
            Ok(reply) if reply.success => Ok(reply.result),
            Ok(reply) => {
                let errors: Vec<String> = reply.errors.iter().map(Value::to_string).collect();
                Err(Error::dns(format!("{path}: status {}: {}", answer.status, errors.join(", "))))
            }
            Err(_) => Err(Error::dns(format!("{path}: status {}: {}", answer.status, answer.excerpt()))),
        }
    }

    async fn zone(&self, record: &Record, dns: &Resolvers) -> Result<String, Error> {
        let zone = dns.zone(&record.name).await?;
        let path = format!("/zones?name={}&per_page=50", encoded(&zone));
        let found = self.call(&self.zones, Method::GET, &path, None).await?;
        let id = found.get(0).and_then(|zone| zone["id"].as_str()).map(str::to_owned);
        id.ok_or_else(|| Error::dns(format!("zone {zone} is not found with these credentials")))
    }

    async fn set(&self, record: &Record, dns: &Resolvers) -> Result<(), Error> {
        let zone = self.zone(record, dns).await?;
        let body = json!({
            "type": "TXT",
            "name": record.name,
            "content": format!("\"{}\"", record.value),
            "ttl": self.ttl,
        });
        self.call(&self.records, Method::POST, &format!("/zones/{zone}/dns_records"), Some(body)).await?;
        Ok(())
    }

    async fn remove(&self, record: &Record, dns: &Resolvers) -> Result<(), Error> {
        let zone = self.zone(record, dns).await?;
        let path = format!("/zones/{zone}/dns_records?type=TXT&name={}&per_page=100", encoded(&record.name));
        let found = self.call(&self.records, Method::GET, &path, None).await?;
        for one in found.as_array().into_iter().flatten() {
            let is_ours = one["content"].as_str().is_some_and(|text| text.trim_matches('"') == record.value);
            if let (true, Some(id)) = (is_ours, one["id"].as_str()) {
                let path = format!("/zones/{zone}/dns_records/{id}");
                self.call(&self.records, Method::DELETE, &path, None).await?;
            }
        }
        Ok(())
    }
}

impl Provider for Cloudflare {
    fn present<'a>(&'a self, record: &'a Record, dns: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.set(record, dns))
    }

    fn clean_up<'a>(&'a self, record: &'a Record, dns: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.remove(record, dns))
    }

    fn patience(&self) -> Patience {
        self.patience
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
