//! `route53`: records in a hosted zone of AWS.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use tidegate_core::BoxFuture;
use tokio::sync::Mutex;

use super::query::Resolvers;
use super::variables::Variables;
use super::{Patience, Provider, Record};
use crate::client::{Http, Message};
use crate::error::Error;

mod credentials;
mod signing;

use credentials::CredentialChain;
use signing::{Unsigned, encoded};

const ENDPOINT: &str = "https://route53.amazonaws.com";
const VERSION: &str = "2013-04-01";
/// Route 53 is one service for all regions.
const SCOPE: (&str, &str) = ("us-east-1", "route53");
/// Interval of checking whether a change has reached all servers.
const SYNC_INTERVAL: Duration = Duration::from_secs(4);

pub(super) struct Route53 {
    endpoint: String,
    keys: CredentialChain,
    zone: Option<String>,
    private: bool,
    wait: bool,
    ttl: u32,
    http: Http,
    /// Serializes changes, which read and rewrite a set of records.
    changes: Mutex<()>,
    patience: Patience,
}

impl Route53 {
    /// Finds keys as described in `credentials`, and reads `AWS_HOSTED_ZONE_ID`, `AWS_PRIVATE_ZONE`, `AWS_TTL`,
    /// `AWS_PROPAGATION_TIMEOUT`, `AWS_POLLING_INTERVAL`, `AWS_WAIT_FOR_RECORD_SETS_CHANGED` and `AWS_ENDPOINT_URL`.
    pub(super) fn new(variables: &Variables<'_>) -> Result<Self, Error> {
        let endpoint = variables.first(&["AWS_ENDPOINT_URL_ROUTE_53", "AWS_ENDPOINT_URL"]);
        Ok(Self {
            endpoint: endpoint.unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            keys: CredentialChain::find(variables)?,
            zone: variables.first(&["AWS_HOSTED_ZONE_ID"]),
            private: variables.is_true("AWS_PRIVATE_ZONE"),
            wait: variables.first(&["AWS_WAIT_FOR_RECORD_SETS_CHANGED"]).is_none_or(|value| value != "false"),
            ttl: variables.number(&["AWS_TTL"], 10)?,
            http: Http::plain(Duration::from_secs(30)),
            changes: Mutex::new(()),
            patience: variables.patience("AWS", 120, 4)?,
        })
    }

    /// Sends a signed request, and returns the body of a successful response.
    async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: String,
    ) -> Result<String, Error> {
        let query: BTreeMap<&str, &str> = query.iter().copied().collect();
        let query: Vec<String> =
            query.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))).collect();
        let path = format!("/{VERSION}/{path}");
        let url = match query.is_empty() {
            true => format!("{}{path}", self.endpoint),
            false => format!("{}{path}?{}", self.endpoint, query.join("&")),
        };
        let host =
            url::Url::parse(&url).map_err(|error| Error::local(format!("AWS_ENDPOINT_URL: {error}")))?;
        let host = host[url::Position::BeforeHost..url::Position::BeforePath].to_owned();
        let query = query.join("&");
        let request = Unsigned {
            method: method.as_str(),
            host: &host,
            path: &path,
            query: &query,
            body: body.as_bytes(),
            scope: SCOPE,
        };
        let headers = self.keys.keys().await?.sign(&request, time::OffsetDateTime::now_utc());
        let message = Message {
            content_type: if body.is_empty() { "" } else { "application/xml" },
            headers,
            body: body.into_bytes(),
        };
        let answer = self.http.send(method, &url, message).await;
        let answer = answer.map_err(|error| Error::dns(error.message))?;
        match answer.status.is_success() {
            true => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
            false => Err(Error::dns(format!("{path}: status {}: {}", answer.status, answer.excerpt()))),
        }
    }

    async fn zone(&self, record: &Record, dns: &Resolvers) -> Result<String, Error> {
        if let Some(zone) = &self.zone {
            return Ok(zone.trim_start_matches("/hostedzone/").to_owned());
        }
        let zone = dns.zone(&record.name).await?;
        let text = self.call(Method::GET, "hostedzonesbyname", &[("dnsname", &zone)], String::new()).await?;
        let found = elements(&text, "HostedZone").find(|one| {
            let private = elements(one, "PrivateZone").next() == Some("true");
            elements(one, "Name").next().is_some_and(|name| name.trim_end_matches('.') == zone)
                && private == self.private
        });
        let id = found.and_then(|one| elements(one, "Id").next());
        let id = id.ok_or_else(|| Error::dns(format!("zone {zone} is not found with these credentials")))?;
        Ok(id.trim_start_matches("/hostedzone/").to_owned())
    }

    /// Adds a value to the existing ones, or removes it.
    async fn change(&self, record: &Record, dns: &Resolvers, add: bool) -> Result<(), Error> {
        let _one = self.changes.lock().await;
        let zone = self.zone(record, dns).await?;
        let path = format!("hostedzone/{zone}/rrset");
        let fqdn = format!("{}.", record.name);
        let query = [("maxitems", "1"), ("name", fqdn.as_str()), ("type", "TXT")];
        let listed = self.call(Method::GET, &path, &query, String::new()).await?;
        let (ttl, mut values) = existing(&listed, &fqdn).unwrap_or((self.ttl.to_string(), Vec::new()));
        let value = format!("\"{}\"", record.value);
        let is_there = values.contains(&value);
        let (action, values) = match (add, is_there) {
            (true, true) | (false, false) => return Ok(()),
            (true, false) => {
                values.push(value);
                ("UPSERT", values)
            }
            (false, true) if values.len() == 1 => ("DELETE", values),
            (false, true) => {
                values.retain(|other| *other != value);
                ("UPSERT", values)
            }
        };
        let answer = self.call(Method::POST, &path, &[], batch(action, &fqdn, &ttl, &values)).await?;
        match elements(&answer, "Id").next() {
            Some(id) if add && self.wait => self.synchronised(id).await,
            _ => Ok(()),
        }
    }

    async fn synchronised(&self, id: &str) -> Result<(), Error> {
        let end = tokio::time::Instant::now() + self.patience.timeout;
        let path = format!("change/{}", id.trim_start_matches("/change/"));
        loop {
            let text = self.call(Method::GET, &path, &[], String::new()).await?;
            if elements(&text, "Status").next() == Some("INSYNC") {
                return Ok(());
            }
            if tokio::time::Instant::now() + SYNC_INTERVAL > end {
                return Err(Error::dns(format!(
                    "{path} has not reached all servers in {:?}",
                    self.patience.timeout
                )));
            }
            tokio::time::sleep(SYNC_INTERVAL).await;
        }
    }
}

impl Provider for Route53 {
    fn present<'a>(&'a self, record: &'a Record, dns: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.change(record, dns, true))
    }

    fn clean_up<'a>(&'a self, record: &'a Record, dns: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.change(record, dns, false))
    }

    fn patience(&self) -> Patience {
        self.patience
    }
}

/// Returns time to live and values of the TXT records of a name, from a list of sets.
fn existing(list: &str, fqdn: &str) -> Option<(String, Vec<String>)> {
    let set = elements(list, "ResourceRecordSet").find(|set| {
        elements(set, "Name").next() == Some(fqdn) && elements(set, "Type").next() == Some("TXT")
    })?;
    let values = elements(set, "Value").map(|value| value.replace("&quot;", "\"").replace("&amp;", "&"));
    Some((elements(set, "TTL").next()?.to_owned(), values.collect()))
}

fn batch(action: &str, fqdn: &str, ttl: &str, values: &[String]) -> String {
    let values: String = values
        .iter()
        .map(|value| {
            let value = value.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
            format!("<ResourceRecord><Value>{value}</Value></ResourceRecord>")
        })
        .collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ChangeResourceRecordSetsRequest \
         xmlns=\"https://route53.amazonaws.com/doc/{VERSION}/\"><ChangeBatch><Changes><Change><Action>{action}</Action>\
         <ResourceRecordSet><Name>{fqdn}</Name><Type>TXT</Type><TTL>{ttl}</TTL><ResourceRecords>{values}\
         </ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>"
    )
}

/// Returns the contents of the elements with a name, without nested ones.
fn elements<'t>(text: &'t str, name: &str) -> impl Iterator<Item = &'t str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (inside, after) = after.split_once(&close)?;
        rest = after;
        Some(inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_others_are_kept() {
        let list = "<ResourceRecordSets><ResourceRecordSet><Name>_acme-challenge.a.test.</Name><Type>TXT</Type>\
                    <TTL>10</TTL><ResourceRecords><ResourceRecord><Value>&quot;one&quot;</Value></ResourceRecord>\
                    <ResourceRecord><Value>\"two\"</Value></ResourceRecord></ResourceRecords></ResourceRecordSet>\
                    </ResourceRecordSets>";
        let (ttl, values) = existing(list, "_acme-challenge.a.test.").unwrap();
        assert_eq!((ttl.as_str(), &values[..]), ("10", &["\"one\"".to_owned(), "\"two\"".to_owned()][..]));
        assert!(existing(list, "b.test.").is_none());
        let again = batch("UPSERT", "_acme-challenge.a.test.", &ttl, &values);
        assert_eq!(existing(&again, "_acme-challenge.a.test.").unwrap().1, values);
    }
}
