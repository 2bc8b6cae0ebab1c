//! Accounts that Tidegate takes over, and gives back to Traefik: each keeps its key, and no other key signs for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::acme_faults::within;
use crate::support::jws::{PublicKey, Signed};
use crate::support::outside::{Running, program};
use crate::support::pebble::{Options, Pebble, Recorder, routes, served, stored};
use crate::support::{Backend, Gateway, eventually};

/// Flags for both, with the authority behind a server that records.
fn flags(pebble: &Pebble, recorded: &Recorder) -> Vec<String> {
    let server = "--certificatesResolvers.le.acme.caServer=";
    let mut flags = pebble.flags("httpChallenge.entryPoint=web");
    flags.retain(|flag| !flag.starts_with(server));
    flags.push(format!("{server}{}", recorded.directory()));
    flags
}

fn tidegate(flags: &[String], routes: &str) -> Gateway {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Gateway::with(&flags, routes)
}

/// The content of a storage; null while Traefik writes it.
fn content(storage: &Path) -> Value {
    let text = fs::read_to_string(storage).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Checks who signed all requests: the account's key, by its URL but for the registrations, whose number is returned.
fn check_signatures(recorded: &Recorder, storage: &Path) -> usize {
    let key = PublicKey::stored(storage);
    let account = content(storage)["le"]["Account"]["Registration"]["uri"].clone();
    let signed = Signed::all(&recorded.seen());
    for one in &signed {
        key.check(one);
        assert!(one.registers() || one.header["kid"] == account, "{} is not of {account}", one.header);
    }
    assert!(signed.len() >= 8, "{} signed requests", signed.len());
    let registrations = signed.iter().filter(|one| one.registers());
    // With a rejected nonce, the same request is sent again.
    let distinct: std::collections::HashSet<String> =
        registrations.map(|one| one.payload.to_string()).collect();
    distinct.len()
}

/// An account with this key, which the authority does not know yet, keeps it from the registration to a revocation.
fn keeps_its_key(key: &[u8], algorithm: &str) {
    let variables = vec![("PEBBLE_WFE_NONCEREJECT", "80")];
    let (pebble, backend) = (Pebble::start(Options { variables, ..Options::default() }), Backend::echo("a"));
    let recorded = pebble.recorded();
    let storage = pebble.storage();
    let key = BASE64_STANDARD.encode(key);
    let account = json!({ "Email": "ops@example.test", "Registration": null, "PrivateKey": key });
    fs::write(&storage, json!({ "le": { "Account": account, "Certificates": null } }).to_string()).unwrap();
    fs::set_permissions(&storage, fs::Permissions::from_mode(0o600)).unwrap();
    let flags = flags(&pebble, &recorded);
    let gateway = tidegate(&flags, &routes(&["Host(`one.test`)", "Host(`two.test`)"], &backend.url()));
    let roots = pebble.roots();
    for name in ["one.test", "two.test"] {
        within(60, name, || served(pebble.secure(), name, &roots).is_ok());
    }
    eventually("both are stored", || stored(&storage).len() == 2);
    gateway.shutdown();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(["certs", "revoke", "two.test"]).args(&flags).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stored(&storage), ["one.test"]);
    assert_eq!(content(&storage)["le"]["Account"]["PrivateKey"], key);
    assert_eq!(PublicKey::stored(&storage).algorithm, algorithm);
    assert_eq!(check_signatures(&recorded, &storage), 1);
}

#[test]
#[ignore = "needs pebble"]
fn traefiks_rsa_key_signs_everything_while_four_of_five_nonces_are_rejected() {
    let text = include_str!("../../../acme/src/fixtures/traefik-acme.json");
    let whole: Value = serde_json::from_str(text).unwrap();
    let key = BASE64_STANDARD.decode(whole["le"]["Account"]["PrivateKey"].as_str().unwrap()).unwrap();
    keeps_its_key(&key, "RS256");
}

#[test]
#[ignore = "needs pebble"]
fn a_p384_key_signs_everything_while_four_of_five_nonces_are_rejected() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    keeps_its_key(&pair.serialize_der(), "ES384");
}

#[test]
#[ignore = "needs pebble"]
fn a_p256_key_signs_everything_while_four_of_five_nonces_are_rejected() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    keeps_its_key(&pair.serialize_der(), "ES256");
}

/// Obtains a certificate with real Traefik, which is stopped then.
fn by_traefik(flags: &[String], storage: &Path, name: &str, url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.yml");
    fs::write(&file, routes(&[&format!("Host(`{name}`)")], url)).unwrap();
    let mut command = Command::new(program("traefik"));
    command.args(flags).arg("--log.level=DEBUG");
    command.arg(format!("--providers.file.filename={}", file.display()));
    let _running = Running::start(&mut command, folder.path());
    let has = || content(storage)["le"]["Certificates"].to_string().contains(&format!("\"{name}\""));
    let obtained = crate::support::wait_until(Duration::from_secs(60), has);
    let log = || fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(obtained.is_some(), "{name}: {}", log());
}

/// Obtains a certificate with Tidegate, which is stopped then.
fn by_tidegate(flags: &[String], storage: &Path, name: &str, url: &str) {
    let gateway = tidegate(flags, &routes(&[&format!("Host(`{name}`)")], url));
    within(60, name, || stored(storage).iter().any(|stored| stored == name));
    gateway.shutdown();
}

type Gatherer = fn(&[String], &Path, &str, &str);

/// One account serves both in turn, and is registered once.
fn take_turns(first: Gatherer, second: Gatherer) {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let recorded = pebble.recorded();
    let (flags, storage, url) = (flags(&pebble, &recorded), pebble.storage(), backend.url());
    first(&flags, &storage, "one.test", &url);
    // Each of them leaves out other members of the object that the authority has sent.
    let account = || {
        let account = &content(&storage)["le"]["Account"];
        [&account["PrivateKey"], &account["Registration"]["uri"], &account["Email"]].map(Value::clone)
    };
    let known = account();
    assert!(known[1].as_str().is_some_and(|uri| uri.starts_with("https://")), "{known:?}");
    second(&flags, &storage, "two.test", &url);
    first(&flags, &storage, "three.test", &url);
    assert_eq!(account(), known);
    assert_eq!(stored(&storage).len(), 3);
    assert_eq!(check_signatures(&recorded, &storage), 1);
}

#[test]
#[ignore = "needs pebble and traefik"]
fn traefiks_account_serves_tidegate_and_traefik_again() {
    take_turns(by_traefik, by_tidegate);
}

#[test]
#[ignore = "needs pebble and traefik"]
fn traefik_starts_on_an_account_of_tidegates_without_registering() {
    take_turns(by_tidegate, by_traefik);
}
