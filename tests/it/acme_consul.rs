//! Certificates that gateways are to share in a Consul that is not there.

use crate::support::backend::unused_address;
use crate::support::pebble::routes;
use crate::support::{Gateway, eventually};

pub fn start(flags: &[String], routes: &str) -> Gateway {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Gateway::with(&flags, routes)
}

pub fn leads(gateway: &Gateway) -> bool {
    gateway.leadership().iter().all(|one| one.leads)
}

#[test]
fn a_store_that_never_existed_is_reported() {
    let le = "--certificatesResolvers.le.acme";
    let flags = [
        format!("{le}.storage=consul://{}/t", unused_address()),
        format!("{le}.tlsChallenge=true"),
        format!("{le}.caServer=http://{}/dir", unused_address()),
    ];
    let gateway = start(&flags, &routes(&["Host(`a.test`)"], "http://127.0.0.1:1"));
    eventually("it is told", || gateway.leadership()[0].error.contains("cannot connect"));
    assert!(!leads(&gateway));
}
