//! Health checks of TCP servers: connect, optionally send a payload and expect a response.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_config::tcp::TcpHealthCheck;
use tidegate_core::BuildError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;

use super::server::Server;

/// Maximum length of the text to send or expect, in bytes (Traefik's limit).
const MAX_PAYLOAD: usize = 65_535;

/// Validates the options.
pub(super) fn check_options(options: &TcpHealthCheck) -> Result<(), BuildError> {
    let bad = |why: String| Err(BuildError::new(format!("healthCheck: {why}")));
    if options.interval.is_zero() || options.timeout.is_zero() {
        return bad("interval and timeout must be greater than zero".into());
    }
    for (name, text) in [("send", &options.send), ("expect", &options.expect)] {
        if text.len() > MAX_PAYLOAD {
            return bad(format!("{name} is too long: {} bytes, expected at most {MAX_PAYLOAD}", text.len()));
        }
    }
    Ok(())
}

/// Starts, replaces or stops the health check of a server. A check with equal options keeps running.
pub(super) fn set_check(server: &Arc<Server>, options: Option<TcpHealthCheck>, control: &Handle) {
    let weak = Arc::downgrade(server);
    server.replace_check(options, |options| control.spawn(run(options, weak)).abort_handle());
}

/// Checks a server immediately and then at intervals, until it is dropped.
async fn run(options: TcpHealthCheck, server: Weak<Server>) {
    loop {
        let Some(known) = server.upgrade() else { return };
        let found = tokio::time::timeout(options.timeout.0, probe(&options, &known)).await;
        let found = found
            .unwrap_or_else(|_| Err(io::Error::other(format!("no response within {}", options.timeout))));
        if known.checked(found.is_ok()) {
            match &found {
                Ok(()) => tracing::info!(server = known.address(), "health check: up"),
                Err(why) => tracing::warn!(server = known.address(), "health check: down: {why}"),
            }
        }
        drop(known);
        tokio::time::sleep(next_delay(&options, found.is_ok())).await;
    }
}

fn next_delay(options: &TcpHealthCheck, up: bool) -> Duration {
    match options.unhealthy_interval {
        Some(interval) if !up && !interval.is_zero() => interval.0,
        _ => options.interval.0,
    }
}

async fn probe(options: &TcpHealthCheck, server: &Server) -> io::Result<()> {
    let mut stream = server.probe(options.port).await?;
    if !options.send.is_empty() {
        stream.write_all(options.send.as_bytes()).await?;
        stream.flush().await?;
    }
    if !options.expect.is_empty() {
        let mut answer = vec![0; options.expect.len()];
        stream.read_exact(&mut answer).await?;
        if answer != options.expect.as_bytes() {
            return Err(io::Error::other("unexpected response"));
        }
    }
    Ok(())
}
