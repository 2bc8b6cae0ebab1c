//! `tidegate healthcheck`: asks a running gateway's `/ping`, for container health checks.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::StatusCode;
use tidegate_core::building::ClientTls;
use tidegate_core::{Body, Connection, Context, Request, UpstreamError};

use crate::service::Registry;
use crate::settings::{Address, AddressError, Settings};

/// Longest time for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a gateway is not healthy, or was not asked. The texts are Traefik's.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthcheckError {
    /// The gateway does not answer such questions.
    #[error("Error calling healthcheck: please enable `ping` to use health check")]
    NoPing,
    /// The entry point of `ping` is not there.
    #[error("Error calling healthcheck: ping: missing {0} entry point")]
    NoEntryPoint(String),
    /// The entry point of `ping` has an address that cannot be read.
    #[error("Error calling healthcheck: {0}")]
    Address(#[from] AddressError),
    /// The entry point of `ping` has an address that cannot be asked.
    #[error("Error calling healthcheck: {0}")]
    Url(#[from] http::Error),
    /// The threads for it cannot be started.
    #[error("Error calling healthcheck: {0}")]
    Runtime(#[from] io::Error),
    /// The gateway cannot be reached.
    #[error("Error calling healthcheck: {0}")]
    Upstream(#[from] UpstreamError),
    /// The gateway says that it is not healthy.
    #[error("Bad healthcheck status: {0}")]
    Status(StatusCode),
}

/// Asks, by the settings that the gateway itself was started with. Returns the line for a healthy gateway.
pub(super) fn ask(settings: &Settings) -> Result<String, HealthcheckError> {
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

/// The address to connect to: one that is bound to all interfaces is asked over the loopback.
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
    // The gateway's own certificate need not carry the name of the loopback.
    let tls = ClientTls { insecure_skip_verify: true, ..ClientTls::default() };
    let answer = runtime.block_on(client.send(request, &tls, PATIENCE));
    Ok(answer.map(|response| response.status())?)
}
