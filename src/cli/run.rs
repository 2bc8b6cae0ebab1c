//! Runs the gateway until a signal stops it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::entrypoint::Passed;
use crate::gateway::{Gateway, Options};
use crate::observability::log::ProcessLog;
use crate::settings::Settings;

/// Runs until SIGTERM or SIGINT; a second signal stops immediately. SIGHUP makes all providers reread their
/// sources.
pub(super) fn run(settings: Settings, log: &ProcessLog) -> Result<(), Box<dyn std::error::Error>> {
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut waiting = signals.block_on(async { Signals::new() })?;
    crate::entrypoint::raise_descriptor_limit();
    let gateway =
        Gateway::start(settings, Options { passed: Passed::from_environment(), ..Options::default() })?;
    signals.block_on(async {
        waiting.stopping(&gateway, log).await;
        tracing::info!("stopping: open requests may finish");
        tokio::select! {
            () = gateway.shutdown() => {}
            () = waiting.stop() => tracing::warn!("stopped at once"),
        }
    });
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user_1: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Handles signals until one requests a shutdown.
    async fn stopping(&mut self, gateway: &Gateway, log: &ProcessLog) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => gateway.reload(),
                _ = self.user_1.recv() => {
                    gateway.reopen_log();
                    if let Err(error) = log.reopen() {
                        tracing::error!("cannot reopen the log: {error}");
                    }
                }
            }
        }
    }
}
