//! Runs active health checks: immediately, then at intervals.

use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::check::Check;
use super::server::Server;

/// Starts, replaces or stops the health check of a server. An equivalent check keeps running.
pub(super) fn set_check(server: &Arc<Server>, check: Option<Check>, control: &Handle) {
    let weak = Arc::downgrade(server);
    server.replace_check(check, |check| control.spawn(run(check, weak)).abort_handle());
}

/// Checks a server until it is dropped.
async fn run(check: Check, server: Weak<Server>) {
    let endpoint = match check.own_endpoint() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            tracing::error!(url = %check.url(), "health check: {error}");
            return;
        }
    };
    loop {
        let found = check.check(&endpoint).await;
        let Some(server) = server.upgrade() else { return };
        if server.checked(found.is_ok()) {
            match &found {
                Ok(()) => tracing::info!(server = %server.endpoint().url(), "health check: up"),
                Err(why) => tracing::warn!(server = %server.endpoint().url(), "health check: down: {why}"),
            }
        }
        drop(server);
        tokio::time::sleep(check.pause(found.is_ok())).await;
    }
}
