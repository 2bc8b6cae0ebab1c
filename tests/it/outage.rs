//! All servers stop under load and start again: what clients see with the options against that.

use std::path::Path;

use crate::support::outage::{Load, Servers, Sights, Stop, URLS};
use crate::support::{Gateway, eventually};

const PER_SECOND: u32 = 200;
/// Enough requests to know how the others end.
const SOME: usize = 60;

/// The options against an outage of all servers.
#[derive(Clone, Copy, Debug)]
pub enum Against {
    Nothing,
    Hold,
    Stale,
    StaleAndHold,
    Page,
}

impl Against {
    pub const ALL: [Self; 5] = [Self::Nothing, Self::Hold, Self::Stale, Self::StaleAndHold, Self::Page];

    /// Returns routes to these servers. `page` is a file.
    pub fn routes(self, servers: &str, page: &Path) -> String {
        let (middleware, hold) = match self {
            Self::Nothing => ("", ""),
            Self::Hold => ("", "hold: {maxWait: 10s, maxQueue: 10000}, "),
            Self::Stale => ("cache: {cache: {}}", ""),
            // If a request with a stale response waited, it would do so longer than any test.
            Self::StaleAndHold => ("cache: {cache: {}}", "hold: {maxWait: 10m, maxQueue: 10000}, "),
            Self::Page => ("PAGE", "hold: {maxWait: 1s, maxQueue: 10000}, "),
        };
        let page = format!("page: {{errorPages: {{pages: {{503: ['{}']}}}}}}", page.display());
        let middleware = middleware.replace("PAGE", &page);
        let name = middleware.split(':').next().unwrap_or_default();
        format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [{name}]}}
  middlewares: {{{middleware}}}
  services:
    a: {{loadBalancer: {{{hold}servers: {servers}}}}}
"
        )
    }
}

struct Outage {
    load: Load,
    servers: Servers,
    gateway: Gateway,
    _folder: tempfile::TempDir,
}

impl Outage {
    fn new(against: Against) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.html");
        std::fs::write(&page, "the page").unwrap();
        let servers = Servers::start(2);
        let gateway = Gateway::serve(&against.routes(&servers.list(), &page));
        assert_eq!(gateway.problems(), [""; 0]);
        let load = Load::start(gateway.web(), PER_SECOND);
        Self { gateway, servers, load, _folder: folder }
    }

    /// Waits until this many more requests have ended so.
    fn seen(&self, what: &str, count: impl Fn(&Sights) -> usize) {
        let before = count(&self.load.sights());
        eventually(what, || count(&self.load.sights()) >= before + SOME);
    }
}

fn from_server(sights: &Sights) -> usize {
    sights.count(|sight| sight.status == Ok(200) && sight.body == "from a server")
}

fn all(sights: &Sights) -> usize {
    sights.count(|_| true)
}

#[test]
fn with_hold_no_client_notices() {
    for how in [Stop::Graceful, Stop::Abrupt] {
        let mut outage = Outage::new(Against::Hold);
        outage.seen("requests are served", from_server);
        outage.servers.stop(how);
        let held = || {
            let service = outage.gateway.api("/api/http/services/a@file");
            let number = service.split("\"heldRequests\":").nth(1)?.split([',', '}']).next()?.parse().ok()?;
            Some::<usize>(number)
        };
        eventually("requests wait", || held().is_some_and(|held| held >= SOME));
        outage.servers.start_again();
        outage.seen("requests are served again", from_server);
        let sights = outage.load.finish();
        assert_eq!(from_server(&sights), all(&sights), "{how:?}\n{}", sights.table());
    }
}

#[test]
fn a_cache_answers_for_servers_that_are_down() {
    for (against, how) in [
        (Against::Stale, Stop::Graceful),
        (Against::Stale, Stop::Abrupt),
        (Against::StaleAndHold, Stop::Graceful),
        (Against::StaleAndHold, Stop::Abrupt),
    ] {
        let mut outage = Outage::new(against);
        let hits = |sights: &Sights| sights.count(|sight| sight.cache.starts_with("hit"));
        let stored = |sights: &Sights| sights.count(|sight| sight.cache == "fwd=uri-miss; stored");
        eventually("all is stored", || stored(&outage.load.sights()) == URLS);
        outage.seen("stored responses are sent", hits);
        outage.servers.stop(how);
        let stale = |sights: &Sights| sights.count(|sight| sight.cache.contains("ttl<0"));
        outage.seen("stale responses are sent", stale);
        outage.servers.start_again();
        outage.seen("fresh ones are sent again", hits);
        let sights = outage.load.finish();
        assert_eq!(from_server(&sights), all(&sights), "{against:?}, {how:?}\n{}", sights.table());
    }
}

#[test]
fn those_who_wait_in_vain_get_the_page() {
    for how in [Stop::Graceful, Stop::Abrupt] {
        let mut outage = Outage::new(Against::Page);
        outage.seen("requests are served", from_server);
        outage.servers.stop(how);
        let pages = |sights: &Sights| {
            sights.count(|sight| {
                sight.status == Ok(503)
                    && sight.body == "the page"
                    && sight.retry_after.as_deref() == Some("5")
            })
        };
        outage.seen("the page is sent", pages);
        outage.servers.start_again();
        outage.seen("requests are served again", from_server);
        let sights = outage.load.finish();
        assert_eq!(from_server(&sights) + pages(&sights), all(&sights), "{how:?}\n{}", sights.table());
    }
}
