//! Examples in `examples/` and `docs/` are read by the decoder that reads everybody's files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_config::{Config, Origin, Provided, formats};

fn root() -> &'static Path {
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
fn every_middleware_page_says_the_same_as_yaml_toml_and_labels() {
    let pages = pages("docs/middlewares");
    assert!(pages.len() >= tidegate_middlewares::KINDS.len(), "{pages:?}");
    for page in pages {
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
    }
}

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
            (key.to_owned(), value.replace("$$", "$"))
        })
        .collect();
    let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let origin = |key: &str| Origin::Label { container: "example".into(), label: key.into() };
    let (node, problems) = formats::labels::read(labels, &["tidegate", "traefik"], origin);
    assert!(problems.is_empty(), "{page}: {problems:?}");
    let provided = tidegate_config::decode_config(&node);
    assert!(provided.problems.is_empty(), "{page}: {:?}\n{body}", provided.problems);
    provided.config
}

#[test]
#[ignore = "needs Docker Compose"]
fn the_compose_files_are_read_by_compose() {
    for file in ["docker-compose.yml", "examples/docker/docker-compose.yml"] {
        let output =
            Command::new("docker-compose").arg("-f").arg(root().join(file)).arg("config").output().unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_labels_of_the_compose_files_decode() {
    for file in ["docker-compose.yml", "examples/docker/docker-compose.yml"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let labels: Vec<String> = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- "))
            .map(|label| label.trim_matches('\'').replace("$$", "$"))
            .filter(|label| label.starts_with("traefik.") || label.starts_with("tidegate."))
            .filter(|label| !label.starts_with("traefik.enable=") && !label.starts_with("tidegate.enable="))
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
