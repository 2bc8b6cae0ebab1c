//! Traefik's whole reference of dynamic options, as YAML, TOML and labels: each key is shown by `/api/rawdata`, or
//! refused for a reason that `docs/differences.md` names.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_config::formats;
use tidegate_config::tree;

use crate::support::{Backend, Gateway, eventually};

const KEYS: &str = include_str!("reference/keys.txt");
const YAML: &str = include_str!("reference/routes.yml");
const TOML: &str = include_str!("reference/routes.toml");
const LABELS: &str = include_str!("reference/labels.txt");

/// Fewer keys than this would mean that the list was cut.
const LEAST_KEYS: usize = 370;

#[test]
fn every_key_is_taken_as_yaml() {
    let files = files();
    let gateway = Gateway::with(&borrowed(&settings(files.path())), &filled(YAML, files.path()));
    judge("YAML", "file", &gateway, files.path());
}

#[test]
fn every_key_is_taken_as_toml() {
    let files = files();
    let gateway = Gateway::with(&borrowed(&settings(files.path())), "");
    gateway.write("routes.toml", &filled(TOML, files.path()));
    eventually("the TOML form is served", || gateway.api("/api/rawdata").contains("appRoot@file"));
    judge("TOML", "file", &gateway, files.path());
}

#[test]
fn every_key_is_taken_as_labels() {
    let files = files();
    let engine = engine(&filled(LABELS, files.path()));
    let mut flags = settings(files.path());
    flags.push(format!("--providers.docker.endpoint=tcp://{}", engine.address));
    let gateway = Gateway::with(&borrowed(&flags), "");
    eventually("the labels are served", || gateway.api("/api/rawdata").contains("appRoot@docker"));
    judge("labels", "docker", &gateway, files.path());
}

/// What became of a key.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It is in the running configuration with the value that was written.
    Taken,
    /// A message names this part of it, and `docs/differences.md` does, too.
    Refused(String),
    /// Neither.
    Lost,
}

/// Counts the keys, prints the count, and fails when one is lost.
fn judge(form: &str, provider: &str, gateway: &Gateway, files: &Path) {
    let written = plain(&formats::read("routes.yml", filled(YAML, files).as_bytes()).unwrap());
    let shown: Value = serde_json::from_str(&gateway.api("/api/rawdata")).unwrap();
    let config = serde_json::to_value(gateway.config()).unwrap();
    let problems = gateway.problems();
    let differences =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/differences.md")).unwrap();
    let world = World { provider, written, shown, config, problems, differences };
    let keys: Vec<&str> = KEYS.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(keys.len() >= LEAST_KEYS, "only {} keys", keys.len());
    let fates: BTreeMap<&str, Fate> = keys.into_iter().map(|key| (key, world.fate(key))).collect();
    let lost: Vec<&&str> =
        fates.iter().filter(|(_, fate)| **fate == Fate::Lost).map(|(key, _)| key).collect();
    let refused: Vec<_> = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Refused(_))).collect();
    eprintln!(
        "{form}: {} keys, {} taken, {} refused with a documented reason, {} lost",
        fates.len(),
        fates.len() - lost.len() - refused.len(),
        refused.len(),
        lost.len()
    );
    assert!(lost.is_empty(), "{form}: {lost:#?}\n{:#?}", world.problems);
}

/// What the written configuration became.
struct World<'a> {
    provider: &'a str,
    written: Value,
    shown: Value,
    config: Value,
    problems: Vec<String>,
    differences: String,
}

impl World<'_> {
    /// The best of all places where the key is written.
    fn fate(&self, key: &str) -> Fate {
        let steps: Vec<&str> = key.split('.').collect();
        let (section, rest) = match steps.as_slice() {
            ["tls", "certificates[]", rest @ ..] => return self.fate_of_certificates(rest),
            [protocol, kind, "*", rest @ ..] => ([*protocol, *kind], rest),
            other => panic!("{other:?}"),
        };
        let objects = self.written[section[0]][section[1]].as_object().unwrap();
        let fates = objects.iter().filter_map(|(name, object)| self.fate_in(section, name, object, rest));
        fates.min().unwrap_or_else(|| panic!("{key} is nowhere in routes.yml"))
    }

    fn fate_in(&self, section: [&str; 2], name: &str, object: &Value, rest: &[&str]) -> Option<Fate> {
        let wanted = find(object, rest);
        if wanted.is_empty() {
            return None;
        }
        let plain = name;
        let name = format!("{name}@{}", self.provider);
        let known = match shown_as(section) {
            Some(section) => &self.shown[section][&name],
            None => {
                // The default store belongs to nobody.
                let all = &self.config[section[0]][section[1]];
                all.get(&name).unwrap_or(&all[plain])
            }
        };
        let kind = match section[0] {
            "tcp" => "TCP ",
            "udp" => "UDP ",
            "tls" => "TLS ",
            _ => "",
        };
        let kind = format!(
            "{kind}{}",
            section[1].trim_end_matches('s').replace("serversTransport", "servers transport")
        );
        let about = format!(" {name}: ");
        let problems: Vec<&String> = self
            .problems
            .iter()
            .filter(|problem| problem.contains(&about) && problem.contains(kind.trim_end()))
            .collect();
        if problems.is_empty() && known.get("error").is_none() {
            let found = find(known, rest);
            let taken = wanted.iter().any(|wanted| found.iter().any(|found| self.is_same(wanted, found)));
            return Some(if taken { Fate::Taken } else { Fate::Lost });
        }
        Some(self.refusal(&problems, rest))
    }

    /// Certificates have no names.
    fn fate_of_certificates(&self, rest: &[&str]) -> Fate {
        let places = |tree: &Value| -> Vec<Value> {
            tree["tls"]["certificates"].as_array().into_iter().flatten().cloned().collect()
        };
        let (written, known) = (places(&self.written), places(&self.config));
        let taken = written.iter().flat_map(|one| find(one, rest)).any(|wanted| {
            known.iter().flat_map(|one| find(one, rest)).any(|found| self.is_same(wanted, found))
        });
        let problems: Vec<&String> =
            self.problems.iter().filter(|problem| problem.contains("certificates")).collect();
        if taken { Fate::Taken } else { self.refusal(&problems, &[&["certificates"], rest].concat()) }
    }

    /// A refusal counts when a message names a part of the key, and the page on differences does.
    fn refusal(&self, problems: &[&String], rest: &[&str]) -> Fate {
        let parts: Vec<&str> = rest.iter().map(|part| part.trim_end_matches("[]")).collect();
        for (at, part) in parts.iter().enumerate() {
            let named = problems.iter().any(|problem| {
                let message = problem.split(": expected").next().unwrap_or_default();
                message.split(|c: char| !c.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case(part))
            });
            let documented =
                (0..=at).any(|from| self.differences.contains(&format!("`{}`", parts[from..=at].join("."))));
            if named && documented {
                return Fate::Refused((*part).to_owned());
            }
        }
        Fate::Lost
    }

    /// True when `found` says what was `wanted`; the provider's name may have been added, and secrets are not shown.
    fn is_same(&self, wanted: &Value, found: &Value) -> bool {
        match (wanted, found) {
            (Value::Object(wanted), Value::Object(_)) => wanted.iter().all(|(key, wanted)| {
                find(found, &[key]).first().is_some_and(|found| self.is_same(wanted, found))
            }),
            (Value::Array(wanted), Value::Array(found)) => {
                wanted.len() == found.len()
                    && wanted.iter().zip(found).all(|(wanted, found)| self.is_same(wanted, found))
            }
            (Value::String(wanted), found) => {
                let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
                found == *wanted || found == "xxxx" || found == format!("{wanted}@{}", self.provider)
            }
            _ => false,
        }
    }
}

/// Where raw data shows a kind of object. It does not show transports and TLS, in Traefik neither.
fn shown_as(section: [&str; 2]) -> Option<&'static str> {
    Some(match section {
        ["http", "routers"] => "routers",
        ["http", "services"] => "services",
        ["http", "middlewares"] => "middlewares",
        ["tcp", "routers"] => "tcpRouters",
        ["tcp", "services"] => "tcpServices",
        ["tcp", "middlewares"] => "tcpMiddlewares",
        ["udp", "routers"] => "udpRouters",
        ["udp", "services"] => "udpServices",
        _ => return None,
    })
}

/// All values at a path; `x[]` stands for every element of the list `x`. Keys are compared without case.
fn find<'v>(value: &'v Value, path: &[&str]) -> Vec<&'v Value> {
    let Some((first, rest)) = path.split_first() else { return vec![value] };
    let name = first.trim_end_matches("[]");
    let members = value.as_object().into_iter().flatten();
    let inner = members.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    if name == *first {
        return inner.flat_map(|value| find(value, rest)).collect();
    }
    inner.filter_map(Value::as_array).flatten().flat_map(|value| find(value, rest)).collect()
}

/// A tree with every leaf as text.
fn plain(node: &tree::Node) -> Value {
    match &node.value {
        tree::Value::Null => Value::Object(serde_json::Map::new()),
        tree::Value::Leaf(text) => text.clone().into(),
        tree::Value::List(list) => list.iter().map(plain).collect(),
        tree::Value::Table(table) => {
            Value::Object(table.iter().map(|(key, node)| (key.to_owned(), plain(node))).collect())
        }
    }
}

/// A folder with everything that the reference names.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["example.com".to_owned()]).unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("ca.pem", &made.cert.pem());
    put("cert.pem", &made.cert.pem());
    put("key.pem", &made.signing_key.serialize_pem());
    put("users", "third:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/\n");
    put("digests", "third:traefik:a2688e031edb4be6a3797f3882655c05\n");
    folder
}

fn filled(text: &str, files: &Path) -> String {
    text.replace("@DIR@", files.to_str().unwrap())
}

/// What must be there for the reference: entry points for datagrams, and a resolver whose authority is silent.
fn settings(files: &Path) -> Vec<String> {
    let resolver = "--certificatesResolvers.proofs.acme";
    vec![
        "--entryPoints.dns.address=127.0.0.1:0/udp".into(),
        "--entryPoints.dns2.address=127.0.0.1:0/udp".into(),
        format!("{resolver}.email=somebody@example.com"),
        format!("{resolver}.storage={}", files.join("acme.json").display()),
        format!("{resolver}.caServer=http://{}/", crate::support::backend::unused_address()),
        format!("{resolver}.tlsChallenge=true"),
    ]
}

fn borrowed(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// A Docker Engine with one container that has these labels.
fn engine(labels: &str) -> Backend {
    let labels: BTreeMap<&str, &str> = labels
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once('=').unwrap())
        .collect();
    let networks = json!({"bridge": {"IPAddress": "127.0.0.1"}});
    let list = json!([{"Id": "c1", "Names": ["/all"], "State": "running", "Labels": labels}]).to_string();
    let container = json!({
        "Id": "c1", "Name": "/all", "State": {"Status": "running", "Running": true},
        "Config": {"Labels": labels, "ExposedPorts": {"9/tcp": {}}},
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Ports": {"9/tcp": null}, "Networks": networks},
    })
    .to_string();
    Backend::with(move |seen, stream| {
        let target = seen.target().to_owned();
        if target.contains("/events") {
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head.as_bytes());
            // Nothing happens until the gateway goes.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
            let _ = std::io::Read::read(stream, &mut [0]);
            return false;
        }
        let body = match target.as_str() {
            ping if ping.contains("/_ping") => "OK",
            one if one.contains("/containers/c1") => &container,
            _ => &list,
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).is_ok()
    })
}
