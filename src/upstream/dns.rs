//! Resolves the names of servers: `/etc/hosts` first, then the system's name servers, cached by their TTL.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;

/// How often the system's files are looked at for changes.
const CHECK_FILES: Duration = Duration::from_secs(5);
/// What the resolver was made from.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

static CURRENT: LazyLock<ArcSwapOption<Made>> = LazyLock::new(ArcSwapOption::empty);

struct Made {
    resolver: Option<TokioResolver>,
    stamps: [Option<SystemTime>; 2],
    checked: parking_lot::Mutex<Instant>,
}

/// The addresses of a name, in the order in which they are to be tried.
pub(super) async fn lookup(name: &str) -> io::Result<Vec<IpAddr>> {
    let made = current();
    if let Some(resolver) = &made.resolver {
        let found = resolver.lookup_ip(name).await.map_err(|e| io::Error::other(e.to_string()))?;
        return Ok(found.iter().collect());
    }
    // Without a readable resolv.conf the C library knows best.
    Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

/// The resolver, made anew when one of its files has changed: a container's hosts file may change while it runs.
fn current() -> Arc<Made> {
    if let Some(made) = CURRENT.load_full() {
        let mut checked = made.checked.lock();
        if checked.elapsed() < CHECK_FILES {
            drop(checked);
            return made;
        }
        *checked = Instant::now();
        drop(checked);
        if made.stamps == stamps() {
            return made;
        }
    }
    let made = Arc::new(make());
    CURRENT.store(Some(made.clone()));
    made
}

fn make() -> Made {
    let stamps = stamps();
    let resolver = TokioResolver::builder_tokio()
        .map(|mut builder| {
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder
        })
        .and_then(|builder| builder.build())
        .inspect_err(|e| tracing::warn!("resolver: {e}; using the C library's"))
        .ok();
    Made { resolver, stamps, checked: parking_lot::Mutex::new(Instant::now()) }
}

fn stamps() -> [Option<SystemTime>; 2] {
    FILES.map(|file| std::fs::metadata(file).and_then(|m| m.modified()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_hosts_file_is_honoured() {
        let addresses = lookup("localhost").await.unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty(), "{addresses:?}");
    }
}
