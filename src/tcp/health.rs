//! Health checks of TCP servers: connect, perhaps say something, perhaps expect an answer.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_config::tcp::TcpHealthCheck;
use tidegate_core::BuildError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;

use super::server::Server;

/// Longest text that is sent or expected, in bytes (Traefik's limit).
const MAX_PAYLOAD: usize = 65_535;

/// Checks the options.
pub(super) fn check_options(options: &TcpHealthCheck) -> Result<(), BuildError> {
    let bad = |why: String| Err(BuildError::new(format!("healthCheck: {why}")));
    if options.interval.is_zero() || options.timeout.is_zero() {
        return bad("interval and timeout must be longer than zero".into());
    }
    for (name, text) in [("send", &options.send), ("expect", &options.expect)] {
        if text.len() > MAX_PAYLOAD {
            return bad(format!("{name} has {} bytes: at most {MAX_PAYLOAD} are allowed", text.len()));
        }
    }
    Ok(())
}

/// Starts, replaces or stops the health check of a server. A check with the same options goes on.
pub(super) fn set_check(server: &Arc<Server>, options: Option<TcpHealthCheck>, control: &Handle) {
    let weak = Arc::downgrade(server);
    server.replace_check(options, |options| control.spawn(run(options, weak)).abort_handle());
}

/// Checks a server, at once and then at intervals, until it is gone.
async fn run(options: TcpHealthCheck, server: Weak<Server>) {
    loop {
        let Some(known) = server.upgrade() else { return };
        let found = tokio::time::timeout(options.timeout.0, ask(&options, &known)).await;
        let found =
            found.unwrap_or_else(|_| Err(io::Error::other(format!("no answer within {}", options.timeout))));
        if known.checked(found.is_ok()) {
            match &found {
                Ok(()) => tracing::info!(server = known.address(), "health check: up"),
                Err(why) => tracing::warn!(server = known.address(), "health check: down: {why}"),
            }
        }
        drop(known);
        tokio::time::sleep(pause(&options, found.is_ok())).await;
    }
}

fn pause(options: &TcpHealthCheck, up: bool) -> Duration {
    match options.unhealthy_interval {
        Some(interval) if !up && !interval.is_zero() => interval.0,
        _ => options.interval.0,
    }
}

async fn ask(options: &TcpHealthCheck, server: &Server) -> io::Result<()> {
    let mut stream = server.probe(options.port).await?;
    if !options.send.is_empty() {
        stream.write_all(options.send.as_bytes()).await?;
        stream.flush().await?;
    }
    if !options.expect.is_empty() {
        let mut answer = vec![0; options.expect.len()];
        stream.read_exact(&mut answer).await?;
        if answer != options.expect.as_bytes() {
            return Err(io::Error::other("the answer is not the expected one"));
        }
    }
    Ok(())
}
