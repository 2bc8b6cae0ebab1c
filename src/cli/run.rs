//! Runs the gateway until a signal ends it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::gateway::{Gateway, Options};
use crate::settings::Settings;

/// Runs until SIGTERM or SIGINT; a second one ends it at once. SIGHUP makes all providers read their sources again.
pub(super) fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut waiting = signals.block_on(async { Signals::new() })?;
    let gateway = Gateway::start(settings, Options::default())?;
    signals.block_on(async {
        waiting.stop().await;
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
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
