//! Examples in `examples/` and `docs/` are read by the decoder that reads everybody's files.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_config::{Config, Origin, Provided, formats};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn decode(name: &str, text: &str) -> Provided {
    let node = formats::read(name, text.as_bytes()).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
    tidegate_config::decode_config(&node)
}

#[test]
fn the_examples_say_the_same_in_both_forms() {
    for kind in ["file", "streams"] {
        let read =
            |name: String| decode(&name, &fs::read_to_string(root().join("examples").join(&name)).unwrap());
        let (yaml, toml) = (read(format!("{kind}/routes.yml")), read(format!("{kind}-toml/routes.toml")));
        let problems = [yaml.problems, toml.problems].concat();
        assert!(problems.is_empty(), "{kind}: {problems:?}");
        assert_eq!(yaml.config, toml.config, "{kind}");
    }
}

#[test]
fn the_examples_of_the_pages_decode() {
    let mut examples = 0;
    for page in pages("docs") {
        let mut forms = Vec::new();
        for (language, body) in blocks(&fs::read_to_string(&page).unwrap()) {
            let begins = body.trim_start_matches('[');
            let is_route = ["http", "tcp", "udp"].iter().any(|part| begins.starts_with(part));
            // A template is no YAML before it has run.
            let is_template = body.contains("{{");
            if !["yaml", "toml"].contains(&language.as_str()) || !is_route || is_template {
                continue;
            }
            let provided = decode(&format!("{}.{language}", page.display()), &body);
            assert!(provided.problems.is_empty(), "{}: {:?}\n{body}", page.display(), provided.problems);
            forms.push(provided.config);
            examples += 1;
        }
        // The YAML form is followed by the TOML form of the same.
        for pair in forms.chunks(2) {
            if let [yaml, toml] = pair {
                assert_eq!(yaml, toml, "{}", page.display());
            }
        }
    }
    assert!(examples > 20, "only {examples} examples were found");
}

#[test]
fn pages_of_objects_say_the_same_as_yaml_toml_and_labels() {
    let middlewares = pages("docs/middlewares");
    assert!(middlewares.len() >= tidegate_middlewares::KINDS.len(), "{middlewares:?}");
    let services = pages("docs/services");
    assert!(services.len() >= 8, "{services:?}");
    let mut examples = 0;
    let alone = [root().join("docs/consumers.md")];
    for page in middlewares.into_iter().chain(services).chain(pages("docs/routing")).chain(alone) {
        let name = page.display().to_string();
        let (mut yaml, mut toml, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for (language, body) in blocks(&fs::read_to_string(&page).unwrap()) {
            match language.as_str() {
                "yaml" if body.starts_with("labels:") => labels.push(decode_labels(&name, &body)),
                "yaml" => yaml.push(decode(&format!("{name}.yaml"), &body).config),
                "toml" => toml.push(decode(&format!("{name}.toml"), &body).config),
                _ => {}
            }
        }
        assert!(!yaml.is_empty(), "{name}: no example");
        assert_eq!(yaml, toml, "{name}: YAML and TOML");
        assert_eq!(yaml, labels, "{name}: YAML and labels");
        examples += yaml.len();
    }
    eprintln!("{examples} examples say the same in three forms");
}

#[test]
fn the_labels_of_all_pages_decode() {
    let mut examples = 0;
    // The pages of providers show Compose files and tags, too.
    for page in pages("docs").into_iter().filter(|page| !page.to_string_lossy().contains("/providers/")) {
        for (_, body) in blocks(&fs::read_to_string(&page).unwrap()) {
            // A template is no label before it has run.
            if body.starts_with("labels:") && !body.contains("{{") {
                decode_labels(&page.display().to_string(), &body);
                examples += 1;
            }
        }
    }
    assert!(examples > 30, "only {examples} examples were found");
}

/// What every page on an option of routers, services and middlewares has an example for.
#[test]
fn every_option_of_a_router_and_every_kind_of_service_has_an_example() {
    let mut config = Config::default();
    for page in pages("docs/services").into_iter().chain(pages("docs/routing")) {
        for (language, body) in blocks(&fs::read_to_string(&page).unwrap()) {
            if language == "toml" {
                let one = decode(&format!("{}.toml", page.display()), &body).config;
                for (at, (name, router)) in one.http.routers.into_iter().enumerate() {
                    config.http.routers.insert(format!("{name}{at}{}", config.http.routers.len()), router);
                }
                for (at, (name, service)) in one.http.services.into_iter().enumerate() {
                    config.http.services.insert(format!("{name}{at}{}", config.http.services.len()), service);
                }
            }
        }
    }
    let (routers, services) = (config.http.routers.values(), config.http.services.values());
    let named = |wanted: &[&str], shown: String| {
        let missing: Vec<_> = wanted.iter().filter(|key| !shown.contains(&format!("\"{key}\":"))).collect();
        assert!(missing.is_empty(), "no example for {missing:?}");
    };
    let options =
        ["entryPoints", "middlewares", "service", "rule", "parentRefs", "priority", "tls", "observability"];
    named(&options, serde_json::to_string(&routers.collect::<Vec<_>>()).unwrap());
    let kinds =
        ["loadBalancer", "weighted", "highestRandomWeight", "mirroring", "failover", "static", "middlewares"];
    named(&kinds, serde_json::to_string(&services.collect::<Vec<_>>()).unwrap());
}

/// Labels that speak to a provider and say nothing of routes.
const DOCKERS: [&str; 6] =
    [".enable", ".docker.network", ".docker.allownonrunning", ".swarm.network", ".swarm.lbswarm", ".connect"];

/// What a Compose file's list of labels says. There `$$` stands for `$`.
fn decode_labels(page: &str, body: &str) -> Config {
    let labels: Vec<(String, String)> = body
        .lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .map(|line| {
            let quoted = line.trim().strip_prefix("- '").and_then(|line| line.strip_suffix('\''));
            let label =
                quoted.unwrap_or_else(|| panic!("{page}: expected `- '…'`: {line}")).replace("''", "'");
            let (key, value) =
                label.split_once('=').unwrap_or_else(|| panic!("{page}: expected key=value: {line}"));
            // A container is one server. What Docker knows of it (`server.port`) is not an option of the service.
            (key.replace(".loadbalancer.server.", ".loadbalancer.servers[0]."), value.replace("$$", "$"))
        })
        .filter(|(key, _)| !key.ends_with("servers[0].port") && !key.ends_with("servers[0].scheme"))
        .filter(|(key, _)| !DOCKERS.iter().any(|end| key.ends_with(end)))
        .collect();
    let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let origin = |key: &str| Origin::Label { container: "example".into(), label: key.into() };
    let (node, problems) = formats::labels::read(labels, &["tidegate", "traefik"], origin);
    assert!(problems.is_empty(), "{page}: {problems:?}");
    let provided = tidegate_config::decode_config(&node);
    assert!(provided.problems.is_empty(), "{page}: {:?}\n{body}", provided.problems);
    provided.config
}

/// The Compose files of the repository.
pub const COMPOSE: [&str; 5] = [
    "docker-compose.yml",
    "examples/cache/docker-compose.yml",
    "examples/docker/docker-compose.yml",
    "examples/from-traefik/docker-compose.yml",
    "examples/monitoring/docker-compose.yml",
];

#[test]
fn the_labels_of_the_compose_files_decode() {
    for file in COMPOSE {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let labels: Vec<String> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- "))
            .map(|label| label.trim_matches('\'').replace("$$", "$"))
            .filter(|label| label.starts_with("traefik.") || label.starts_with("tidegate."))
            .filter(|label| !label.starts_with("traefik.enable=") && !label.starts_with("tidegate.enable="))
            .filter(|label| !label.contains(".server.port="))
            .collect();
        assert!(labels.len() >= 3, "{file}: {labels:?}");
        let pairs = labels.iter().map(|label| label.split_once('=').unwrap());
        let origin = |key: &str| Origin::Label { container: file.into(), label: key.into() };
        let (node, problems) = formats::labels::read(pairs, &["tidegate", "traefik"], origin);
        assert!(problems.is_empty(), "{file}: {problems:?}");
        let provided = tidegate_config::decode_config(&node);
        assert!(provided.problems.is_empty(), "{file}: {:?}", provided.problems);
    }
}

/// Our image exposes port 80, so that is the lowest exposed port of every service in it.
#[test]
fn the_backends_of_the_compose_files_listen_where_the_gateway_looks() {
    for file in COMPOSE {
        let text = fs::read_to_string(root().join(file)).unwrap();
        for service in text.split("image: tidegate:dev") {
            let Some((_, rest)) = service.split_once("command: demo backend --address=:") else { continue };
            let port = rest.split_whitespace().next().unwrap();
            let label = format!("loadbalancer.server.port={port}\n");
            assert!(port == "80" || service.contains(&label), "{file}: port {port} of {service}");
        }
    }
}

#[test]
fn the_set_up_for_traefik_is_read_completely() {
    let folder = root().join("examples/from-traefik");
    let text = fs::read_to_string(folder.join("docker-compose.yml")).unwrap();
    let flags: Vec<String> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- --"))
        // The folder stands elsewhere in the container.
        .map(|flag| {
            format!("--{flag}").replace("/etc/traefik/dynamic", &folder.join("dynamic").display().to_string())
        })
        .collect();
    assert!(flags.len() >= 15, "{flags:?}");
    let loaded = tidegate::settings::load(&flags, &[]).unwrap_or_else(|problems| panic!("{problems:?}"));
    let entry_points: Vec<&String> = loaded.settings.entry_points.keys().collect();
    // The last is where `/ping` is answered.
    assert_eq!(entry_points, ["postgres", "traefik", "web", "websecure"]);
    assert!(loaded.settings.certificates_resolvers.contains_key("letsencrypt"));
    let name = folder.join("dynamic/middlewares.yml");
    let provided = decode(&name.display().to_string(), &fs::read_to_string(&name).unwrap());
    assert!(provided.problems.is_empty(), "{:?}", provided.problems);
    // What labels name of other providers is there.
    for reference in ["security@file", "compress@file"] {
        assert!(text.contains(reference), "{reference}");
        assert!(
            provided.config.http.middlewares.contains_key(reference.trim_end_matches("@file")),
            "{reference}"
        );
    }
    let page = fs::read_to_string(root().join("docs/from-traefik.md")).unwrap();
    assert!(page.contains("examples/from-traefik/docker-compose.yml"));
}

#[test]
fn the_setting_that_keeps_routes_is_equal_in_every_form() {
    let page = fs::read_to_string(root().join("docs/providers/docker.md")).unwrap();
    let section = page.split("## Keeping routes").nth(1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut read = Vec::new();
    for (language, body) in blocks(section).into_iter().take(2) {
        let file = folder.path().join(format!("tidegate.{language}"));
        fs::write(&file, body).unwrap();
        let flag = format!("--configFile={}", file.display());
        read.push(tidegate::settings::load(&[flag], &[]).unwrap().settings.providers);
    }
    let flag = section.split('`').find(|text| text.starts_with("--")).unwrap().to_owned();
    read.push(tidegate::settings::load(&[flag], &[]).unwrap().settings.providers);
    let kept = tidegate_core::values::Duration::from_secs(30);
    for providers in &read {
        assert_eq!(providers.docker.as_ref().unwrap().keep_routes, kept);
        assert_eq!(providers, &read[0]);
    }
    assert_eq!(read.len(), 3);
}

#[test]
fn the_links_between_pages_lead_somewhere() {
    let mut wrong = Vec::new();
    let mut links = 0;
    for page in pages("docs").into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&page).unwrap();
        let prose: String = text.split("```").step_by(2).collect();
        for link in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or("");
            if path.is_empty() || path.contains("://") {
                continue;
            }
            links += 1;
            if !page.parent().unwrap().join(path).exists() {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(links > 40, "only {links} links were found");
}

#[test]
fn the_index_names_every_page() {
    let index = fs::read_to_string(root().join("docs/README.md")).unwrap();
    let docs = root().join("docs");
    let missing: Vec<_> = pages("docs")
        .iter()
        .map(|page| page.strip_prefix(&docs).unwrap().display().to_string())
        .filter(|page| page != "README.md" && !index.contains(&format!("]({page})")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// All pages of a folder and those in it.
fn pages(folder: &str) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The fenced blocks of a page: language and text.
fn blocks(text: &str) -> Vec<(String, String)> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks
        .filter_map(|block| block.split_once('\n'))
        .map(|(language, body)| (language.trim().to_owned(), body.to_owned()))
        .collect()
}

/// The table of DNS providers names those whose APIs have a stand-in.
#[test]
fn the_table_of_dns_providers_names_the_stand_ins() {
    let table = tidegate_acme::dns_providers();
    let rows = table.lines().filter(|row| row.ends_with("| Pebble and a stand-in of its API |"));
    let listed: Vec<&str> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
    assert!(listed.len() >= 8, "{listed:?}");
    let tests = [include_str!("programs/acme_dns.rs"), include_str!("programs/acme_dns_apis.rs")].concat();
    for name in &listed {
        let is_tested =
            [format!("(\"{name}\", "), format!(", \"{name}\", ")].iter().any(|call| tests.contains(call));
        assert!(is_tested, "{name} has no stand-in");
    }
    // And the other way round.
    for call in tests.split("    both(").skip(1) {
        let name = call.split('"').nth(1).unwrap();
        assert!(listed.contains(&name), "the table does not say that {name} has a stand-in");
    }
}
