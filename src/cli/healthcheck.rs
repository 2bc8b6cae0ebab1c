//! `tidegate healthcheck`: asks a running gateway's `/ping`, for container health checks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tidegate_core::building::ClientTls;
use tidegate_core::{Body, Connection, Context, Request};

use crate::service::Registry;
use crate::settings::{Address, Settings};

/// Longest time for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks, by the settings that the gateway itself was started with. `Ok` holds the line for a healthy gateway, `Err` the
/// one for any other.
pub(super) fn ask(settings: &Settings) -> Result<String, String> {
    let failed = |error: &dyn std::fmt::Display| format!("Error calling healthcheck: {error}");
    let ping = settings.ping.as_ref().ok_or_else(|| failed(&"please enable `ping` to use health check"))?;
    let entry_point = settings
        .entry_points
        .get(&ping.entry_point)
        .ok_or_else(|| failed(&format!("ping: missing {} entry point", ping.entry_point)))?;
    let address: Address = entry_point.address.parse().map_err(|error| failed(&error))?;
    let scheme = if entry_point.http.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/ping", reachable(&address)?);
    let status = fetch(&url).map_err(|error| failed(&error))?;
    if status == http::StatusCode::OK {
        Ok(format!("OK: {url}"))
    } else {
        Err(format!("Bad healthcheck status: {status}"))
    }
}

/// The address to connect to: one that is bound to all interfaces is asked over the loopback.
fn reachable(address: &Address) -> Result<String, String> {
    let host = if address.host.is_empty() { "127.0.0.1" } else { &address.host };
    let ip = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() && ip.is_ipv4() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Ok(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        Ok(ip) => ip,
        Err(_) => return Ok(format!("{host}:{}", address.port)),
    };
    Ok(SocketAddr::new(ip, address.port).to_string())
}

fn fetch(url: &str) -> Result<http::StatusCode, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let client = Registry::new(1, runtime.handle().clone()).client();
    let head = http::Request::head(url).body(()).map_err(|error| error.to_string())?.into_parts().0;
    let nobody = std::sync::Arc::new(Connection::plain((Ipv4Addr::LOCALHOST, 0).into()));
    let request = Request::new(head, Body::empty(), Context::new(nobody));
    // The gateway's own certificate need not carry the name of the loopback.
    let tls = ClientTls { insecure_skip_verify: true, ..ClientTls::default() };
    let answer = runtime.block_on(client.send(request, &tls, PATIENCE));
    answer.map(|response| response.status()).map_err(|error| error.to_string())
}
