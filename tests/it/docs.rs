//! Examples in `examples/` and `docs/` are read by the decoder that reads everybody's files.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_config::{Provided, formats};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn decode(name: &str, text: &str) -> Provided {
    let node = formats::read(name, text.as_bytes()).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
    tidegate_config::decode_config(&node)
}

#[test]
fn the_example_says_the_same_in_both_forms() {
    let read = |name: &str| decode(name, &fs::read_to_string(root().join("examples/file").join(name)).unwrap());
    let (yaml, toml) = (read("routes.yml"), read("routes.toml"));
    assert!(yaml.problems.is_empty() && toml.problems.is_empty(), "{:?} {:?}", yaml.problems, toml.problems);
    assert_eq!(yaml.config, toml.config);
}

#[test]
fn the_examples_of_the_pages_decode() {
    let mut pages = Vec::new();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() { folders.push(path) } else { pages.push(path) }
        }
    }
    let mut examples = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let mut forms = Vec::new();
        for block in text.split("```").skip(1).step_by(2) {
            let (language, body) = block.split_once('\n').unwrap_or((block, ""));
            let is_route = body.starts_with("http:") || body.starts_with("[http") || body.starts_with("[[http");
            if !["yaml", "toml"].contains(&language.trim()) || !is_route {
                continue;
            }
            let provided = decode(&format!("{}.{}", page.display(), language.trim()), body);
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
