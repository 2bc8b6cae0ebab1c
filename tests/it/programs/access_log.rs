//! The access log beside that of real Traefik, for the same requests.

use std::net::SocketAddr;

use serde_json::Value;

use crate::access_log::{World, flags, gateway, lines};
use crate::support::outside::{Running, program};
use crate::support::{eventually, free_port, get};

/// Fields that differ between two runs of the same program.
const VOLATILE: [&str; 12] = [
    "StartUTC",
    "StartLocal",
    "time",
    "Duration",
    "OriginDuration",
    "ErrorPageDuration",
    "Overhead",
    "ClientAddr",
    "ClientPort",
    "RequestCount",
    "FailedAttempts",
    "RetryAttempts",
];

#[test]
#[ignore = "needs traefik"]
fn lines_are_traefiks_but_for_pages() {
    let world = World::new();
    let (gateway, folder) = gateway(&world);
    let ours = lines(gateway.web(), &folder.path().join("log"));
    let (traefik, port) = (tempfile::tempdir().unwrap(), free_port());
    let log = traefik.path().join("access");
    std::fs::write(traefik.path().join("routes.yml"), world.routes()).unwrap();
    let mut command = std::process::Command::new(program("traefik"));
    command
        .args(flags(&log))
        .arg(format!("--entryPoints.web.address=127.0.0.1:{port}"))
        .arg(format!("--providers.file.filename={}", traefik.path().join("routes.yml").display()));
    let _running = Running::start(&mut command, traefik.path());
    let web = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("Traefik serves", || {
        std::net::TcpStream::connect(web).is_ok() && get(web, "plain", "/x").status == 200
    });
    let theirs = lines(web, &log);
    let keys = |line: &Value| -> Vec<String> { line.as_object().unwrap().keys().cloned().collect() };
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let name = ours["RequestHost"].as_str().unwrap();
        let mut differ = keys(ours);
        differ.extend(keys(theirs));
        differ.sort();
        differ.dedup();
        differ.retain(|key| ours.get(key) != theirs.get(key) && !VOLATILE.contains(&key.as_str()));
        // Who responded and why. Traefik has neither.
        differ.retain(|key| !["Origin", "Reason"].contains(&key.as_str()) || theirs.get(key).is_some());
        let with_page = ours.get("ErrorPageStatus").is_some();
        let known = |key: &String| match key.as_str() {
            "ServiceName" | "ServiceURL" | "ServiceAddr" | "OriginStatus" | "OriginContentSize"
            | "origin_X-From" | "GzipRatio" => with_page,
            key => key.starts_with("ErrorPage"),
        };
        // Listed in docs/differences.md.
        let buffering = name == "buffering"
            && differ
                .iter()
                .all(|key| ["OriginStatus", "OriginContentSize", "GzipRatio"].contains(&key.as_str()));
        assert!(buffering || differ.iter().all(known), "{name}: {differ:?}\n{ours}\n{theirs}");
    }
    assert_eq!(ours.len(), theirs.len());
}
