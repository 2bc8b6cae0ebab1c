//! Counted runs in which all servers stop under load and start again (`make outage`).

use std::time::Duration;

use crate::outage::Against;
use crate::support::outage::{Load, Servers, Stop};
use crate::support::pause_for;
use crate::support::process::Process;

/// Seconds without servers, unless the environment says otherwise (`make outage`: 5).
const OUTAGE: u64 = 1;
const SECONDS: &str = "TIDEGATE_OUTAGE";
const PER_SECOND: u32 = 500;

#[test]
#[ignore = "needs half a minute"]
fn all_servers_stop_under_load() {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(OUTAGE);
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    std::fs::write(&page, "the page").unwrap();
    for against in Against::ALL {
        for how in [Stop::Graceful, Stop::Abrupt] {
            let mut servers = Servers::start(2);
            let gateway = Process::start(&[], &against.routes(&servers.list(), &page));
            let load = Load::start(gateway.web(), PER_SECOND);
            pause_for(Duration::from_secs(2));
            servers.stop(how);
            pause_for(Duration::from_secs(seconds));
            servers.start_again();
            pause_for(Duration::from_secs(2));
            let sights = load.finish();
            println!("\n{against:?}, {how:?}, {seconds} s without servers:\n\n{}", sights.table());
            let unexpected = sights.count(|sight| match against {
                Against::Nothing => sight.status.is_err(),
                Against::Hold | Against::Stale | Against::StaleAndHold => sight.status != Ok(200),
                Against::Page => sight.status != Ok(200) && sight.body != "the page",
            });
            assert_eq!(unexpected, 0, "{against:?}, {how:?}\n{}", sights.table());
        }
    }
}
