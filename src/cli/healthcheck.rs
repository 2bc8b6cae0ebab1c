//! `tidegate healthcheck`: requests `/ping` from a running gateway, for container health checks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::StatusCode;
use tidegate_core::building::ClientTls;
use tidegate_core::{Body, Connection, Context, Request, UpstreamError};

use crate::service::Registry;
use crate::settings::{Address, AddressError, Settings};

/// Timeout for the response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why a gateway is unhealthy, or could not be checked. The texts are Traefik's.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthcheckError {
    /// `ping` is not enabled.
    #[error("Error calling healthcheck: please enable `ping` to use health check")]
    NoPing,
    /// The entry point of `ping` does not exist.
    #[error("Error calling healthcheck: ping: missing {0} entry point")]
    NoEntryPoint(String),
    /// The entry point of `ping` has an invalid address.
    #[error("Error calling healthcheck: {0}")]
    Address(#[from] AddressError),
    /// The entry point of `ping` has an address that cannot be connected to.
    #[error("Error calling healthcheck: {0}")]
    Url(#[from] http::Error),
    /// The runtime could not be started.
    #[error("Error calling healthcheck: {0}")]
    Runtime(#[from] io::Error),
    /// The gateway is unreachable.
    #[error("Error calling healthcheck: {0}")]
    Upstream(#[from] UpstreamError),
    /// The gateway reports that it is unhealthy.
    #[error("Bad healthcheck status: {0}")]
    Status(StatusCode),
}

/// Requests `/ping` according to the gateway's own settings. Returns the line for a healthy gateway.
pub(super) fn check(settings: &Settings) -> Result<String, HealthcheckError> {
    let ping = settings.ping.as_ref().ok_or(HealthcheckError::NoPing)?;
    let entry_point = settings
        .entry_points
        .get(&ping.entry_point)
        .ok_or_else(|| HealthcheckError::NoEntryPoint(ping.entry_point.clone()))?;
    let address: Address = entry_point.address.parse()?;
    let scheme = if entry_point.http.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/ping", reachable(&address));
    match fetch(&url)? {
        StatusCode::OK => Ok(format!("OK: {url}")),
        status => Err(HealthcheckError::Status(status)),
    }
}

/// Returns the address to connect to: the loopback address if the gateway listens on all interfaces.
fn reachable(address: &Address) -> String {
    let host = if address.host.is_empty() { "127.0.0.1" } else { &address.host };
    let ip = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() && ip.is_ipv4() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Ok(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        Ok(ip) => ip,
        Err(_) => return format!("{host}:{}", address.port),
    };
    SocketAddr::new(ip, address.port).to_string()
}

fn fetch(url: &str) -> Result<StatusCode, HealthcheckError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = Registry::new(1, runtime.handle().clone()).client();
    let head = http::Request::head(url).body(())?.into_parts().0;
    let nobody = std::sync::Arc::new(Connection::plain((Ipv4Addr::LOCALHOST, 0).into()));
    let request = Request::new(head, Body::empty(), Context::new(nobody));
    // The gateway's own certificate need not contain the name of the loopback address.
    let tls = ClientTls { insecure_skip_verify: true, ..ClientTls::default() };
    let answer = runtime.block_on(client.send(request, &tls, TIMEOUT));
    Ok(answer.map(|response| response.status())?)
}
