//! One order, from the names to the certificate (RFC 8555 section 7.4).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    AuthorizationState, AuthorizationStatus, CertificateIdentifier, Challenge, ChallengeType, Identifier,
    NewOrder, OrderStatus,
};
use tokio::time::Instant;

use super::account::Account;
use super::authority::{Repeat, error_of};
use super::certificate::issuers;
use super::challenge::{Proof, Prover};
use super::error::{Error, Kind, ProblemType};
use super::key::CertificateKey;
use super::transport::{Transport, error_from};
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
    pub(super) replaces: Option<CertificateIdentifier<'static>>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: String,
}

/// An order that has been placed.
pub(super) struct Placed {
    order: instant_acme::Order,
    transport: Transport,
}

impl Placed {
    /// Asks for the current state.
    async fn refresh(&mut self) -> Result<OrderStatus, Error> {
        let state = self.order.refresh().await.map_err(|error| error_from("order", error))?;
        match state.status {
            OrderStatus::Invalid => Err(match &state.error {
                Some(problem) => error_of(problem, None),
                None => Error::refused("the order is invalid"),
            }),
            status => Ok(status),
        }
    }
}

/// Places an order. After an error there is none.
pub(super) async fn place(account: &Account, request: &Request) -> Result<Placed, Error> {
    let directory = &account.server.directory;
    let profile = request.options.profile.as_str();
    let known = &directory.meta.profiles;
    if !profile.is_empty() && !known.contains_key(profile) {
        let offered: Vec<&str> = known.keys().map(String::as_str).collect();
        return Err(Error::local(format!(
            "profile `{profile}` is not offered by the authority: it has {}",
            if offered.is_empty() { "none".to_owned() } else { offered.join(", ") }
        )));
    }
    let identifiers: Vec<Identifier> = request.names.iter().map(|name| identifier(name)).collect();
    let mut replaced = request.replaces.clone().filter(|_| directory.renewal_info.is_some());
    let (library, transport) = account.library().await?;
    loop {
        let mut new = NewOrder::new(&identifiers);
        if !profile.is_empty() {
            new = new.profile(profile);
        }
        if let Some(id) = &replaced {
            new = new.replaces(id.clone());
        }
        match library.new_order(&new).await.map_err(|error| error_from("new order", error)) {
            Ok(order) => return Ok(Placed { order, transport }),
            // The old certificate was replaced before, or is unknown: order without naming it.
            Err(error) if replaced.is_some() && may_be_about_replacing(&error) => replaced = None,
            Err(error) => return Err(error),
        }
    }
}

/// An authority may no longer know the old certificate: some refuse the order, some fail.
fn may_be_about_replacing(error: &Error) -> bool {
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
}

/// Fulfils a placed order. Withdraws proofs and deactivates open authorizations in any case.
pub(super) async fn fulfil(
    account: &Account,
    request: &Request,
    mut placed: Placed,
) -> Result<Issued, Error> {
    let key_type = request.options.key_type.known().unwrap_or(KeyType::Rsa4096);
    // Generated meanwhile, because it takes a while.
    let key = tokio::task::spawn_blocking(move || CertificateKey::generate(key_type));
    if let Err(error) = authorise(account, request, &mut placed).await {
        give_up(&mut placed).await;
        return Err(error);
    }
    let key = key.await.map_err(|error| Error::local(error.to_string()))??;
    if ready(&mut placed).await? != OrderStatus::Valid {
        let csr = csr(request, &key)?;
        finalize(&mut placed, &csr, request.options.certificate_timeout.0).await?;
    }
    let chain = download(account, &mut placed, &request.options.preferred_chain).await?;
    Ok(Issued { chain, key: key.pem })
}

fn identifier(name: &str) -> Identifier {
    match name.parse() {
        Ok(address) => Identifier::Ip(address),
        Err(_) => Identifier::Dns(name.to_owned()),
    }
}

/// Proves all names whose authorization is still pending.
async fn authorise(account: &Account, request: &Request, placed: &mut Placed) -> Result<(), Error> {
    let thumbprint = account.key.thumbprint();
    let wanted = request.prover.kind();
    let mut proofs = Vec::new();
    let mut authorizations = placed.order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization.map_err(|error| error_from("authorization", error))?;
        let name = name_of(&authorization);
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => return Err(failed(&authorization).of(&name)),
        }
        let Some(challenge) = authorization.challenges.iter().find(|one| kind_of(one) == wanted) else {
            let all: Vec<&str> = authorization.challenges.iter().map(kind_of).collect();
            let message = format!("{name}: the authority does not offer {wanted}, only {}", all.join(", "));
            return Err(Error::refused(message).of(&name));
        };
        let token = challenge.token.clone();
        // The library's own would name its placeholder of a key.
        let key_authorization = format!("{token}.{thumbprint}");
        proofs.push(Proof { name, token, key_authorization });
    }
    // All at the same time, unless the prover cannot: some DNS providers keep one value for a name.
    for proofs in proofs.chunks(request.prover.at_once()) {
        let outcome = prove(request, placed, proofs).await;
        for proof in proofs {
            request.prover.withdraw(proof).await;
        }
        outcome?;
    }
    Ok(())
}

async fn prove(request: &Request, placed: &mut Placed, proofs: &[Proof]) -> Result<(), Error> {
    for proof in proofs {
        request.prover.present(proof).await?;
    }
    request.prover.settle(proofs).await?;
    let Placed { order, transport } = placed;
    let wrong = |error| error_from("authorization", error);
    let is_proved = |challenge: &Challenge| {
        kind_of(challenge) == request.prover.kind()
            && proofs.iter().any(|proof| proof.token == challenge.token)
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(wrong)?;
        let is_wanted = |challenge: &&Challenge| is_proved(challenge);
        let kind = authorization.challenges.iter().find(is_wanted).map(|one| one.r#type.clone());
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = kind.and_then(|kind| authorization.challenge(kind))
        {
            challenge.set_ready().await.map_err(wrong)?;
        }
    }
    let mut failures = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(wrong)?;
        let mut looks = Looks::new(VALIDATION);
        // The others follow.
        if !authorization.challenges.iter().any(is_proved) {
            continue;
        }
        while authorization.status == AuthorizationStatus::Pending {
            authorization.refresh().await.map_err(wrong)?;
            match authorization.status {
                AuthorizationStatus::Valid => {}
                AuthorizationStatus::Pending => looks.wait(transport, "the check of a proof").await?,
                _ => failures.push(failed(&authorization).of(&name_of(&authorization))),
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

/// Returns the name of an authorization, without `*.`.
fn name_of(authorization: &AuthorizationState) -> String {
    authorization.identifier().identifier.authorized(false).to_string()
}

/// Returns the type of a challenge as the authority writes it.
fn kind_of(challenge: &Challenge) -> &str {
    match &challenge.r#type {
        ChallengeType::Http01 => "http-01",
        ChallengeType::Dns01 => "dns-01",
        ChallengeType::TlsAlpn01 => "tls-alpn-01",
        ChallengeType::DeviceAttest01 => "device-attest-01",
        ChallengeType::Unknown(kind) => kind,
        _ => "another one",
    }
}

/// Returns why an authorization is invalid.
fn failed(authorization: &AuthorizationState) -> Error {
    let name = name_of(authorization);
    let problem = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
    match problem {
        Some(problem) => {
            let mut error = error_of(problem, None).at(&name);
            error.names.clear();
            // Whatever the reason, trying again soon does not help.
            error.kind = if error.kind == Kind::Dns { Kind::Dns } else { Kind::Refused };
            error
        }
        None => {
            let status = format!("{:?}", authorization.status).to_lowercase();
            Error::refused(format!("{name}: the authorisation is {status}"))
        }
    }
}

/// Deactivates pending authorizations, so that they do not count against the account.
async fn give_up(placed: &mut Placed) {
    placed.transport.hurry();
    let mut authorizations = placed.order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { continue };
        if authorization.refresh().await.is_ok()
            && authorization.status == AuthorizationStatus::Pending
            && let Err(error) = authorization.deactivate().await
        {
            let error = error_from("authorization", error);
            tracing::debug!(%error, "an open authorisation could not be given up");
        }
    }
}

async fn ready(placed: &mut Placed) -> Result<OrderStatus, Error> {
    let mut looks = Looks::new(VALIDATION);
    loop {
        match placed.refresh().await? {
            OrderStatus::Pending | OrderStatus::Processing => {
                looks.wait(&placed.transport, "an order to be ready").await?;
            }
            status => return Ok(status),
        }
    }
}

async fn finalize(placed: &mut Placed, csr: &[u8], timeout: Duration) -> Result<(), Error> {
    match placed.order.finalize_csr(csr).await {
        // The order is asked for below, so it does not matter what the answer says.
        Ok(()) | Err(instant_acme::Error::Json(_)) => {}
        Err(error) => {
            let error = error_from("finalizing the order", error);
            // The response to an earlier request was lost, but the request worked.
            if error.problem != Some(ProblemType::OrderNotReady) {
                return Err(error);
            }
        }
    }
    let mut looks = Looks::new(if timeout.is_zero() { VALIDATION } else { timeout });
    while placed.refresh().await? != OrderStatus::Valid {
        looks.wait(&placed.transport, "the certificate").await?;
    }
    Ok(())
}

/// Downloads the chain in PEM: the one whose last certificate has the preferred issuer, or else the default one.
async fn download(account: &Account, placed: &mut Placed, preferred: &str) -> Result<String, Error> {
    if placed.order.state().certificate.is_none() {
        return Err(Error::network("a valid order without a certificate"));
    }
    let first = placed.order.certificate().await.map_err(|error| error_from("the certificate", error))?;
    let first = pem(first.unwrap_or_default())?;
    let fits = |chain: &str| issuers(chain).last().is_some_and(|issuer| issuer == preferred);
    if preferred.is_empty() || fits(&first) {
        return Ok(first);
    }
    for alternate in placed.transport.alternates() {
        let answer = account.post(&alternate, None, Repeat::Safe).await?;
        let chain = pem(String::from_utf8_lossy(&answer.body).into_owned())?;
        if fits(&chain) {
            return Ok(chain);
        }
    }
    tracing::warn!(preferred, "the authority offers no chain of this issuer: its default is taken");
    Ok(first)
}

fn pem(text: String) -> Result<String, Error> {
    match text.contains("-----BEGIN CERTIFICATE-----") {
        true => Ok(text),
        false => {
            let excerpt: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
            Err(Error::network(format!("the certificate is no PEM: {excerpt}")))
        }
    }
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

    async fn wait(&mut self, transport: &Transport, what: &str) -> Result<(), Error> {
        let pause = match self.first.next() {
            Some(pause) => *pause,
            None => transport.retry_after().unwrap_or(LOOK).clamp(LOOK, MAX_POLL_INTERVAL),
        };
        if Instant::now() + pause > self.end {
            return Err(Error::refused(format!("waited in vain for {what}")));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
