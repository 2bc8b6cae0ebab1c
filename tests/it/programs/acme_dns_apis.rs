//! Certificates with DNS records that are set by the APIs of providers, as their documentation describes them.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::acme_dns::zone_server;
use crate::support::apis::Apis;
use crate::support::backend::Seen;
use crate::support::pebble::{Options, Pebble, get_over_tls, routes, tell_dns};
use crate::support::process::Process;
use crate::support::{Backend, eventually};

/// The record that proves `z.test`, below its zone.
const LABEL: &str = "_acme-challenge";
/// What a stand-in has beside the values of challenges, and must keep.
const OTHER: &str = "somebody-else";

/// TXT records of one name, each with a number, which Pebble's DNS shows.
#[derive(Clone)]
struct Records {
    management: u16,
    hosts: Arc<Vec<String>>,
    values: Arc<Mutex<Vec<(u64, String)>>>,
    /// The greatest number of values at once, and the number of the next one.
    counts: Arc<Mutex<(usize, u64)>>,
}

impl Records {
    /// Creates records of these names.
    fn new(pebble: &Pebble, hosts: &[&str]) -> Self {
        let hosts = hosts.iter().map(|host| format!("{host}.")).collect();
        Self {
            management: pebble.dns_management(),
            hosts: Arc::new(hosts),
            values: Arc::default(),
            counts: Arc::default(),
        }
    }

    /// Has a record of somebody else.
    fn with_other(self) -> Self {
        self.add(OTHER);
        self
    }

    fn list(&self) -> Vec<(u64, String)> {
        self.values.lock().unwrap().clone()
    }

    fn texts(&self) -> Vec<String> {
        self.list().into_iter().map(|(_, value)| value).collect()
    }

    /// Returns all values as they are written in a zone file.
    fn quoted(&self) -> Vec<String> {
        self.texts().iter().map(|value| format!("\"{value}\"")).collect()
    }

    fn add(&self, value: &str) -> u64 {
        let mut counts = self.counts.lock().unwrap();
        counts.1 += 1;
        let mut values = self.values.lock().unwrap();
        assert!(!values.iter().any(|(_, known)| known == value), "{value} is there already");
        values.push((counts.1, value.to_owned()));
        counts.0 = counts.0.max(values.len());
        self.show(&values);
        counts.1
    }

    /// Keeps some of the values.
    fn retain(&self, keep: impl Fn(u64, &str) -> bool) {
        let mut values = self.values.lock().unwrap();
        values.retain(|(id, value)| keep(*id, value));
        self.show(&values);
    }

    /// Replaces all values by these, which are written as in a zone file.
    fn replace(&self, values: &[Value]) {
        let values: Vec<String> =
            values.iter().map(|value| value.as_str().unwrap().trim_matches('"').to_owned()).collect();
        self.retain(|_, value| values.iter().any(|kept| kept == value));
        let known = self.texts();
        for value in values.iter().filter(|value| !known.contains(value)) {
            self.add(value);
        }
    }

    fn show(&self, values: &[(u64, String)]) {
        for host in self.hosts.iter() {
            tell_dns(self.management, "clear-txt", &json!({ "host": host }).to_string());
            for (_, value) in values {
                tell_dns(self.management, "set-txt", &json!({ "host": host, "value": value }).to_string());
            }
        }
    }

    /// Returns the greatest number of values that there were at once.
    fn most(&self) -> usize {
        self.counts.lock().unwrap().0
    }
}

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.body).unwrap_or_default()
}

fn ok(body: &Value) -> (u16, String) {
    (200, body.to_string())
}

/// Runs a gateway that gets certificates for these rules from a provider, and waits for the names. Returns its log.
fn obtained(
    pebble: &Pebble,
    command: &str,
    provider: &str,
    variables: &[(&str, &str)],
    rules: &[&str],
    names: &[&str],
) -> Process {
    let backend = Backend::echo("a");
    let dns = "--certificatesResolvers.le.acme.dnsChallenge";
    let mut flags = pebble.flags(&format!("dnsChallenge.provider={provider}"));
    flags.push(format!("{dns}.resolvers={}", zone_server("z.test")));
    flags.push(format!("{dns}.propagation.disableChecks=true"));
    // Whatever may be logged is.
    flags.push("--log.level=TRACE".to_owned());
    let crates = ["dns_update", "reqwest", "hyper", "hyper_util", "rustls", "tower", "h2"];
    let filter: Vec<String> = crates.iter().map(|name| format!("{name}=TRACE")).collect();
    flags.push(format!("--log.filter={}", filter.join(",")));
    flags.extend(variables.iter().map(|(name, value)| format!("{dns}.credentials.{name}={value}")));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Process::start_by(command, &flags, &routes(rules, &backend.url()));
    let roots = pebble.roots();
    for name in names {
        eventually(&format!("{provider}: {name}"), || {
            get_over_tls(pebble.secure(), name, &roots).is_ok_and(|status| status == 200)
        });
    }
    let log = gateway.log();
    assert!(!log.contains("s3cret"), "a secret is in the log: {log}");
    gateway
}

/// Obtains a certificate for `z.test` and `*.z.test`: two values of one name, beside that of somebody else.
fn both(
    provider: &str,
    host: &'static str,
    variables: &[(&str, &str)],
    api: impl Fn(&Records, &Seen) -> (u16, String) + Send + Sync + 'static,
) {
    let pebble = Pebble::start(Options::default());
    let records = Records::new(&pebble, &["_acme-challenge.z.test"]).with_other();
    let kept = records.clone();
    let apis = Apis::start(&[host], move |asked, seen| {
        assert_eq!(asked, host);
        api(&kept, seen)
    });
    let rules = ["Host(`z.test`) || Host(`*.z.test`)"];
    let _gateway = obtained(&pebble, &apis.command(), provider, variables, &rules, &["any.z.test"]);
    eventually("our values are removed, and no other", || records.texts() == [OTHER]);
    assert_eq!(records.most(), 3, "both values were there at the same time");
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_hetzner() {
    both("hetzner", "api.hetzner.cloud", &[("HETZNER_API_TOKEN", "s3cret")], |records, seen| {
        assert_eq!(seen.header("authorization"), Some("Bearer s3cret"));
        let action = seen.target().strip_prefix("/v1/zones/z.test/rrsets/_acme-challenge/TXT/actions/");
        let body = body(seen);
        let values = || {
            let all = body["records"].as_array().unwrap().iter();
            all.map(|one| one["value"].as_str().unwrap().trim_matches('"').to_owned()).collect::<Vec<_>>()
        };
        match (seen.method(), action) {
            ("POST", Some("add_records")) => {
                values().iter().for_each(|value| {
                    records.add(value);
                });
            }
            ("POST", Some("remove_records")) => {
                records.retain(|_, value| !values().iter().any(|gone| gone == value));
            }
            ("POST", Some("change_ttl")) => assert_eq!(body["ttl"], 120),
            other => panic!("{other:?}"),
        }
        (201, json!({"action": {"id": 1, "status": "success"}}).to_string())
    });
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_digitalocean() {
    both("digitalocean", "api.digitalocean.com", &[("DO_AUTH_TOKEN", "s3cret")], |records, seen| {
        assert_eq!(seen.header("authorization"), Some("Bearer s3cret"));
        let record = |(id, value): &(u64, String)| json!({"id": id, "type": "TXT", "name": LABEL, "data": value, "priority": null, "ttl": 30});
        let path = seen.target().strip_prefix("/v2/domains/z.test/records").unwrap();
        match (seen.method(), path.split('?').next().unwrap()) {
            ("GET", "") => {
                assert!(path.contains("name=_acme-challenge.z.test&type=TXT"), "{path}");
                let all: Vec<Value> = records.list().iter().map(record).collect();
                ok(&json!({"domain_records": all, "links": {}, "meta": {"total": all.len()}}))
            }
            ("POST", "") => {
                let body = body(seen);
                assert_eq!(
                    (&body["type"], &body["name"], &body["ttl"]),
                    (&json!("TXT"), &json!(LABEL), &json!(30))
                );
                let value = body["data"].as_str().unwrap().to_owned();
                let id = records.add(&value);
                (201, json!({"domain_record": record(&(id, value))}).to_string())
            }
            ("DELETE", id) => {
                let gone: u64 = id.trim_start_matches('/').parse().unwrap();
                records.retain(|id, _| id != gone);
                (204, String::new())
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_desec() {
    both("desec", "desec.io", &[("DESEC_TOKEN", "s3cret")], |records, seen| {
        assert_eq!(seen.header("authorization"), Some("Token s3cret"));
        let set = || {
            let time = "2026-01-01T00:00:00.000000Z";
            json!({"created": time, "touched": time, "domain": "z.test", "subname": LABEL, "type": "TXT", "ttl": 3600,
                "name": "_acme-challenge.z.test.", "records": records.quoted()})
        };
        let path = seen.target().strip_prefix("/api/v1/domains/z.test/").unwrap();
        match (seen.method(), path) {
            ("GET", "") => ok(&json!({"name": "z.test", "minimum_ttl": 3600})),
            ("GET", "rrsets/_acme-challenge/TXT/") => ok(&set()),
            ("PUT", "rrsets/_acme-challenge/TXT/") => {
                let body = body(seen);
                assert_eq!(body["ttl"], 3600);
                records.replace(body["records"].as_array().unwrap());
                ok(&set())
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_gandi() {
    let variables = [("GANDIV5_PERSONAL_ACCESS_TOKEN", "s3cret")];
    both("gandiv5", "api.gandi.net", &variables, |records, seen| {
        assert_eq!(seen.header("authorization"), Some("Bearer s3cret"));
        assert_eq!(seen.target(), "/v5/livedns/domains/z.test/records/_acme-challenge/TXT");
        match seen.method() {
            "GET" => ok(&json!({"rrset_name": LABEL, "rrset_type": "TXT", "rrset_ttl": 300,
                "rrset_values": records.quoted()})),
            "PUT" => {
                let body = body(seen);
                assert_eq!(body["rrset_ttl"], 300);
                records.replace(body["rrset_values"].as_array().unwrap());
                (201, json!({"message": "DNS Record Created"}).to_string())
            }
            other => panic!("{other}"),
        }
    });
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_porkbun() {
    let variables = [("PORKBUN_API_KEY", "pk1_s3cret"), ("PORKBUN_SECRET_API_KEY", "sk1_s3cret")];
    both("porkbun", "api.porkbun.com", &variables, |records, seen| {
        let body = body(seen);
        assert_eq!((&body["apikey"], &body["secretapikey"]), (&json!("pk1_s3cret"), &json!("sk1_s3cret")));
        let record = |(id, value): (u64, String)| {
            json!({"id": id.to_string(), "name": "_acme-challenge.z.test", "type": "TXT", "content": value, "ttl": "300",
                "prio": null, "notes": ""})
        };
        let path = seen.target().strip_prefix("/api/json/v3/dns/").unwrap();
        match path {
            "retrieveByNameType/z.test/TXT/_acme-challenge" => {
                let all: Vec<Value> = records.list().into_iter().map(record).collect();
                ok(&json!({"status": "SUCCESS", "records": all}))
            }
            "create/z.test" => {
                assert_eq!((&body["name"], &body["type"]), (&json!(LABEL), &json!("TXT")));
                ok(&json!({"status": "SUCCESS", "id": records.add(body["content"].as_str().unwrap())}))
            }
            other => {
                let gone: u64 = other.strip_prefix("delete/z.test/").unwrap().parse().unwrap();
                records.retain(|id, _| id != gone);
                ok(&json!({"status": "SUCCESS"}))
            }
        }
    });
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_ovh() {
    let variables = [
        ("OVH_ENDPOINT", "ovh-ca"),
        ("OVH_APPLICATION_KEY", "app-s3cret"),
        ("OVH_APPLICATION_SECRET", "secret-s3cret"),
        ("OVH_CONSUMER_KEY", "consumer-s3cret"),
    ];
    both("ovh", "ca.api.ovh.com", &variables, |records, seen| {
        let (target, time) = (seen.target(), seen.header("x-ovh-timestamp").unwrap());
        let signed = format!(
            "secret-s3cret+consumer-s3cret+{}+https://ca.api.ovh.com{target}+{}+{time}",
            seen.method(),
            String::from_utf8_lossy(&seen.body)
        );
        let digest: String = Sha1::digest(signed).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(seen.header("x-ovh-signature"), Some(format!("$1${digest}").as_str()));
        let path = target.strip_prefix("/1.0/domain/zone/z.test").unwrap();
        let record = |id: u64, value: &str| {
            json!({"id": id, "zone": "z.test", "subDomain": LABEL, "fieldType": "TXT",
                "target": format!("\"{value}\""), "ttl": 120})
        };
        match (seen.method(), path) {
            ("GET", "") => ok(&json!({"name": "z.test"})),
            ("GET", "/record?fieldType=TXT&subDomain=_acme-challenge") => {
                ok(&records.list().iter().map(|(id, _)| *id).collect())
            }
            ("POST", "/record") => {
                let body = body(seen);
                assert_eq!((&body["fieldType"], &body["subDomain"]), (&json!("TXT"), &json!(LABEL)));
                let value = body["target"].as_str().unwrap();
                ok(&record(records.add(value), value))
            }
            ("POST", "/refresh") => (200, "null".to_owned()),
            (method, path) => {
                let wanted: u64 = path.strip_prefix("/record/").unwrap().parse().unwrap();
                if method == "DELETE" {
                    records.retain(|id, _| id != wanted);
                    return (200, "null".to_owned());
                }
                let all = records.list();
                let (id, value) = all.iter().find(|(id, _)| *id == wanted).unwrap();
                ok(&record(*id, value))
            }
        }
    });
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_powerdns() {
    let pebble = Pebble::start(Options::default());
    let records = Records::new(&pebble, &["_acme-challenge.z.test"]).with_other();
    let kept = records.clone();
    let api = Backend::with(move |seen, stream| {
        assert_eq!(seen.header("x-api-key"), Some("s3cret"));
        assert!(seen.target().starts_with("/api/v1/servers/localhost/zones/z.test."), "{}", seen.target());
        if seen.method() == "PATCH" {
            let body = body(seen);
            let set = &body["rrsets"][0];
            assert_eq!(
                (&set["name"], &set["changetype"]),
                (&json!("_acme-challenge.z.test."), &json!("REPLACE"))
            );
            let contents = set["records"].as_array().unwrap().iter().map(|record| record["content"].clone());
            kept.replace(&contents.collect::<Vec<_>>());
            return std::io::Write::write_all(stream, b"HTTP/1.1 204 No Content\r\n\r\n").is_ok();
        }
        let all: Vec<Value> =
            kept.quoted().iter().map(|value| json!({"content": value, "disabled": false})).collect();
        let set = json!({"name": "_acme-challenge.z.test.", "type": "TXT", "ttl": 120, "records": all});
        let body = json!({"id": "z.test.", "name": "z.test.", "rrsets": [set]}).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        std::io::Write::write_all(stream, (head + &body).as_bytes()).is_ok()
    });
    let url = api.url();
    let variables = [("PDNS_API_URL", url.as_str()), ("PDNS_API_KEY", "s3cret")];
    let rules = ["Host(`z.test`) || Host(`*.z.test`)"];
    let _gateway = obtained(&pebble, r#"exec "$0" "$@""#, "pdns", &variables, &rules, &["any.z.test"]);
    eventually("our values are removed, and no other", || records.texts() == [OTHER]);
    assert_eq!(records.most(), 3);
}

/// A name, its wildcard and another name at one host, whose DNS holds one value: they take turns, in one order and
/// between orders, which run at the same time.
#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_duckdns_one_at_a_time() {
    let pebble = Pebble::start(Options::default());
    let hosts = ["_acme-challenge.home.duckdns.org", "_acme-challenge.b.a.home.duckdns.org"];
    let records = Records::new(&pebble, &hosts);
    let kept = records.clone();
    let apis = Apis::start(&["www.duckdns.org"], move |_, seen| {
        let query = seen.target().strip_prefix("/update?domains=home&token=s3cret&txt=").unwrap();
        match query {
            "" => kept.retain(|_, _| false),
            value => {
                kept.retain(|_, _| false);
                kept.add(value);
            }
        }
        (200, "OK".to_owned())
    });
    let variables = [("DUCKDNS_TOKEN", "s3cret"), ("DUCKDNS_SEQUENCE_INTERVAL", "1")];
    let rules = ["Host(`home.duckdns.org`) || Host(`*.home.duckdns.org`)", "Host(`b.a.home.duckdns.org`)"];
    let names = ["home.duckdns.org", "any.home.duckdns.org", "b.a.home.duckdns.org"];
    let _gateway = obtained(&pebble, &apis.command(), "duckdns", &variables, &rules, &names);
    eventually("the value is removed", || records.texts().is_empty());
    assert_eq!(records.most(), 1);
}

/// The service refuses the credentials, or the host cannot be reached: what is reported names the variable, and not its
/// value.
#[test]
#[ignore = "needs pebble"]
fn failures_of_apis_are_reported_without_secrets() {
    let pebble = Pebble::start(Options::default());
    let apis = Apis::start(&["desec.io"], |_, _| (401, json!({"detail": "Invalid token."}).to_string()));
    // The stand-in's certificate is not valid for this host.
    for (provider, variable, expected) in [
        ("desec", "DESEC_TOKEN", "the service refuses the credentials (401): DESEC_TOKEN"),
        ("duckdns", "DUCKDNS_TOKEN", "token=xxxx&txt="),
    ] {
        let dns = "--certificatesResolvers.le.acme.dnsChallenge";
        let mut flags = pebble.flags(&format!("dnsChallenge.provider={provider}"));
        flags.push(format!("{dns}.resolvers={}", zone_server("z.test")));
        flags.push(format!("{dns}.credentials.{variable}=s3cret"));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let backend = Backend::echo("a");
        let gateway =
            Process::start_by(&apis.command(), &flags, &routes(&["Host(`z.test`)"], &backend.url()));
        eventually(expected, || gateway.log().contains(expected));
        assert!(!gateway.log().contains("s3cret"), "{}", gateway.log());
    }
}

/// Without certificate authorities the library's client would panic.
#[test]
#[ignore = "needs pebble"]
fn a_machine_without_authorities_is_reported() {
    let pebble = Pebble::start(Options::default());
    let empty = tempfile::NamedTempFile::new().unwrap();
    let command = format!(r#"exec env -u SSL_CERT_DIR SSL_CERT_FILE={} "$0" "$@""#, empty.path().display());
    let mut flags = pebble.flags("dnsChallenge.provider=desec");
    flags.push("--certificatesResolvers.le.acme.dnsChallenge.credentials.DESEC_TOKEN=s3cret".to_owned());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let backend = Backend::echo("a");
    let gateway = Process::start_by(&command, &flags, &routes(&["Host(`z.test`)"], &backend.url()));
    let expected = tidegate_clients::tls::TlsError::NoSystemRoots.to_string();
    eventually(&expected, || gateway.log().contains(&expected));
    assert!(!gateway.log().contains("panic"), "{}", gateway.log());
}
