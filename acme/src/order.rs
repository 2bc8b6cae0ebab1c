//! One order, from the names to the certificate (RFC 8555 section 7.4).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::account::Account;
use super::certificate::issuers;
use super::challenge::{Proof, Prover};
use super::client::Answer;
use super::error::{Error, Kind, ProblemType};
use super::key::CertificateKey;
use super::protocol::{Identifier, Problem};
use crate::options::{Acme, KeyType};

/// Timeout for the authority to validate one name.
const VALIDATION: Duration = Duration::from_secs(150);
/// When the authority is asked how far it is: soon at first, then as it says.
const FIRST_LOOKS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];
const LOOK: Duration = Duration::from_secs(2);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(15);

/// A certificate to order.
pub(super) struct Request {
    /// The names; the first is the common name.
    pub(super) names: Vec<String>,
    pub(super) options: Arc<Acme>,
    pub(super) prover: Arc<dyn Prover>,
    /// The certificate that the new one replaces (RFC 9773 section 5).
    pub(super) replaces: Option<String>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

#[derive(Debug, Deserialize)]
struct Order {
    status: String,
    #[serde(default)]
    authorizations: Vec<String>,
    finalize: String,
    #[serde(default)]
    certificate: Option<String>,
    #[serde(default)]
    error: Option<Problem>,
}

#[derive(Debug, Deserialize)]
struct Authorization {
    status: String,
    identifier: Identifier,
    #[serde(default)]
    challenges: Vec<Challenge>,
}

#[derive(Debug, Deserialize)]
struct Challenge {
    #[serde(rename = "type")]
    kind: String,
    url: String,
    #[serde(default)]
    token: String,
    #[serde(default)]
    error: Option<Problem>,
}

/// An order that has been placed.
pub(super) struct Placed {
    url: String,
    order: Order,
}

/// Places an order. After an error there is none.
pub(super) async fn place(account: &Account, request: &Request) -> Result<Placed, Error> {
    let identifiers: Vec<Value> = request.names.iter().map(|name| identifier(name)).collect();
    let mut payload = json!({ "identifiers": identifiers });
    let directory = &account.server.directory;
    let profile = request.options.profile.as_str();
    if !profile.is_empty() {
        let known = &directory.meta.profiles;
        if !known.contains_key(profile) {
            let offered: Vec<&str> = known.keys().map(String::as_str).collect();
            return Err(Error::local(format!(
                "profile `{profile}` is not offered by the authority: it has {}",
                if offered.is_empty() { "none".to_owned() } else { offered.join(", ") }
            )));
        }
        payload["profile"] = json!(profile);
    }
    if directory.renewal_info.is_some()
        && let Some(replaced) = &request.replaces
    {
        payload["replaces"] = json!(replaced);
    }
    let mut answer = account.post_once(&directory.new_order, &payload).await;
    // An authority may no longer know the old certificate: some refuse the order, some fail.
    let may_be_about_replacing = |error: &Error| {
        let is_about_names = matches!(
            error.problem,
            Some(
                ProblemType::RejectedIdentifier
                    | ProblemType::UnsupportedIdentifier
                    | ProblemType::Caa
                    | ProblemType::Dns
            )
        );
        let is_internal = error.problem == Some(ProblemType::ServerInternal);
        error.kind == Kind::Refused && !is_about_names || is_internal
    };
    if payload.get("replaces").is_some() && answer.as_ref().is_err_and(may_be_about_replacing) {
        // The old certificate was replaced before, or is unknown: order without naming it.
        if let Some(payload) = payload.as_object_mut() {
            payload.remove("replaces");
        }
        answer = account.post_once(&directory.new_order, &payload).await;
    }
    let answer = answer?;
    let url = answer.header("location").map(str::to_owned);
    let url = url.ok_or_else(|| Error::network("the answer to a new order does not say where it is"))?;
    Ok(Placed { url, order: answer.json("new order")? })
}

/// Fulfils a placed order. Withdraws proofs and deactivates open authorizations in any case.
pub(super) async fn fulfil(account: &Account, request: &Request, placed: Placed) -> Result<Issued, Error> {
    let key_type = request.options.key_type.known().unwrap_or(KeyType::Rsa4096);
    // Generated meanwhile, because it takes a while.
    let key = tokio::task::spawn_blocking(move || CertificateKey::generate(key_type));
    if let Err(error) = authorise(account, request, &placed.order).await {
        give_up(account, &placed.order).await;
        return Err(error);
    }
    let key = key.await.map_err(|error| Error::local(error.to_string()))??;
    let order = ready(account, &placed).await?;
    let csr = BASE64_URL_SAFE_NO_PAD.encode(csr(request, &key)?);
    let order = match order.status.as_str() {
        "valid" => order,
        _ => {
            finalize(account, &placed.url, &order.finalize, csr, request.options.certificate_timeout.0)
                .await?
        }
    };
    let url = order.certificate.ok_or_else(|| Error::network("a valid order without a certificate"))?;
    let chain = download(account, &url, &request.options.preferred_chain).await?;
    Ok(Issued { chain, key: key.pem })
}

fn identifier(name: &str) -> Value {
    let kind = if name.parse::<IpAddr>().is_ok() { "ip" } else { "dns" };
    json!({ "type": kind, "value": name })
}

/// Proves all names whose authorization is still pending.
async fn authorise(account: &Account, request: &Request, order: &Order) -> Result<(), Error> {
    let mut open = Vec::new();
    for url in &order.authorizations {
        let authorization: Authorization = account.post(url, None).await?.json("authorization")?;
        let name = &authorization.identifier.value;
        match authorization.status.as_str() {
            "valid" => continue,
            "pending" => {}
            status => return Err(failed(&authorization, status).of(name)),
        }
        let wanted = request.prover.kind();
        let offered = authorization.challenges.iter().find(|challenge| challenge.kind == wanted);
        let Some(challenge) = offered else {
            let all: Vec<&str> = authorization.challenges.iter().map(|c| c.kind.as_str()).collect();
            let message = format!("{name}: the authority does not offer {wanted}, only {}", all.join(", "));
            return Err(Error::refused(message).of(name));
        };
        let proof = Proof {
            name: name.clone(),
            token: challenge.token.clone(),
            key_authorization: format!("{}.{}", challenge.token, account.key.thumbprint()),
        };
        open.push((url.clone(), challenge.url.clone(), proof));
    }
    if open.is_empty() {
        return Ok(());
    }
    let proofs: Vec<Proof> = open.iter().map(|(_, _, proof)| proof.clone()).collect();
    let outcome = prove(account, request, &open, &proofs).await;
    for proof in &proofs {
        request.prover.withdraw(proof).await;
    }
    outcome
}

async fn prove(
    account: &Account,
    request: &Request,
    open: &[(String, String, Proof)],
    proofs: &[Proof],
) -> Result<(), Error> {
    for proof in proofs {
        request.prover.present(proof).await?;
    }
    request.prover.settle(proofs).await?;
    for (_, challenge, _) in open {
        account.post(challenge, Some(&json!({}))).await?;
    }
    let mut failures = Vec::new();
    for (url, _, proof) in open {
        let mut looks = Looks::new(VALIDATION);
        loop {
            let answer = account.post(url, None).await?;
            let authorization: Authorization = answer.json("authorization")?;
            match authorization.status.as_str() {
                "valid" => break,
                "pending" | "processing" => looks.wait(&answer, "the check of a proof").await?,
                status => {
                    failures.push(failed(&authorization, status).of(&proof.name));
                    break;
                }
            }
        }
    }
    // One error that names all failed names.
    failures
        .into_iter()
        .reduce(|mut all, next| {
            all.message = format!("{}; {}", all.message, next.message);
            all.names.extend(next.names);
            all
        })
        .map_or(Ok(()), Err)
}

/// Returns why an authorization is invalid.
fn failed(authorization: &Authorization, status: &str) -> Error {
    let name = &authorization.identifier.value;
    let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
    match problem {
        Some(problem) => {
            let mut error = problem.error(None).at(name);
            error.names.clear();
            // Whatever the reason, trying again soon does not help.
            error.kind = if error.kind == Kind::Dns { Kind::Dns } else { Kind::Refused };
            error
        }
        None => Error::refused(format!("{name}: the authorisation is {status}")),
    }
}

/// Deactivates pending authorizations, so that they do not count against the account.
async fn give_up(account: &Account, order: &Order) {
    for url in &order.authorizations {
        let pending = match account.post_once_get(url).await {
            Ok(answer) => answer.json::<Authorization>("").is_ok_and(|a| a.status == "pending"),
            Err(_) => false,
        };
        if pending && let Err(error) = account.post_once(url, &json!({ "status": "deactivated" })).await {
            tracing::debug!(%error, "an open authorisation could not be given up");
        }
    }
}

async fn ready(account: &Account, placed: &Placed) -> Result<Order, Error> {
    let mut looks = Looks::new(VALIDATION);
    loop {
        let answer = account.post(&placed.url, None).await?;
        let order: Order = answer.json("order")?;
        match order.status.as_str() {
            "ready" | "valid" => return Ok(order),
            "pending" | "processing" => looks.wait(&answer, "an order to be ready").await?,
            status => return Err(order_failed(&order, status)),
        }
    }
}

async fn finalize(
    account: &Account,
    order_url: &str,
    url: &str,
    csr: String,
    timeout: Duration,
) -> Result<Order, Error> {
    let sent = account.post(url, Some(&json!({ "csr": csr }))).await;
    if let Err(error) = sent
        // The response to an earlier request was lost, but the request worked.
        && error.problem != Some(ProblemType::OrderNotReady)
    {
        return Err(error);
    }
    let mut looks = Looks::new(if timeout.is_zero() { VALIDATION } else { timeout });
    loop {
        let answer = account.post(order_url, None).await?;
        let order: Order = answer.json("order")?;
        match order.status.as_str() {
            "valid" => return Ok(order),
            "processing" | "ready" => looks.wait(&answer, "the certificate").await?,
            status => return Err(order_failed(&order, status)),
        }
    }
}

fn order_failed(order: &Order, status: &str) -> Error {
    match &order.error {
        Some(problem) => problem.error(None),
        None => Error::refused(format!("the order is {status}")),
    }
}

/// Downloads the chain in PEM: the one whose last certificate has the preferred issuer, or else the default one.
async fn download(account: &Account, url: &str, preferred: &str) -> Result<String, Error> {
    let answer = account.post(url, None).await?;
    let first = text(&answer)?;
    let fits = |chain: &str| issuers(chain).last().is_some_and(|issuer| issuer == preferred);
    if preferred.is_empty() || fits(&first) {
        return Ok(first);
    }
    for alternate in alternates(&answer) {
        let chain = text(&account.post(&alternate, None).await?)?;
        if fits(&chain) {
            return Ok(chain);
        }
    }
    tracing::warn!(preferred, "the authority offers no chain of this issuer: its default is taken");
    Ok(first)
}

fn text(answer: &Answer) -> Result<String, Error> {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(text),
        false => Err(Error::network(format!("the certificate is no PEM: {}", answer.excerpt()))),
    }
}

/// Returns the URLs of alternate chains: `Link: <…>;rel="alternate"` (RFC 8555 section 7.4.2).
fn alternates(answer: &Answer) -> Vec<String> {
    let links = answer.headers.get_all(http::header::LINK).into_iter();
    let parts = links.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    parts
        .filter(|part| part.contains("rel=\"alternate\"") || part.contains("rel=alternate"))
        .filter_map(|part| Some(part.split_once('<')?.1.split_once('>')?.0.to_owned()))
        .collect()
}

/// Builds the certificate request (DER).
fn csr(request: &Request, key: &CertificateKey) -> Result<Vec<u8>, Error> {
    let bad = |error: rcgen::Error| Error::local(format!("cannot make a certificate request: {error}"));
    let mut params = rcgen::CertificateParams::new(request.names.clone()).map_err(bad)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    // RFC 5280 allows 64 characters; addresses do not belong there.
    if let Some(main) = request.names.first()
        && !request.options.disable_common_name
        && main.len() <= 64
        && main.parse::<IpAddr>().is_err()
    {
        params.distinguished_name.push(rcgen::DnType::CommonName, main.as_str());
    }
    for address in &request.options.email_addresses {
        let address = address.as_str().try_into().map_err(bad)?;
        params.subject_alt_names.push(rcgen::SanType::Rfc822Name(address));
    }
    let request = params.serialize_request(&key.pair).map_err(bad)?;
    Ok(request.der().to_vec())
}

/// Paces polling, up to a deadline.
struct Looks {
    end: Instant,
    first: std::slice::Iter<'static, Duration>,
}

impl Looks {
    fn new(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, first: FIRST_LOOKS.iter() }
    }

    async fn wait(&mut self, answer: &Answer, what: &str) -> Result<(), Error> {
        let pause = match self.first.next() {
            Some(pause) => *pause,
            None => answer.retry_after().unwrap_or(LOOK).clamp(LOOK, MAX_POLL_INTERVAL),
        };
        if Instant::now() + pause > self.end {
            return Err(Error::refused(format!("waited in vain for {what}")));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
