//! What a machine can check of the tree itself: sizes, headers, pages, paths.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folders of the crates beside the gateway itself.
const CRATES: [&str; 8] = ["wire", "cache", "core", "middlewares", "config", "clients", "acme", "providers"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = CRATES
        .iter()
        .map(|folder| format!("{folder}/src"))
        .chain(["src", "tests", "benches"].map(str::to_owned))
        .map(|folder| root().join(folder))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn files_are_short_and_have_a_summary() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let lines = before_tests(&text).lines().count();
        if lines > 600 {
            wrong.push(format!("{}: {lines} lines before its tests, at most 600", path.display()));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{}: does not begin with //!", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_unfinished() {
    // In two parts each, so that this file has none.
    let marks = [("to", "do!"), ("unimpl", "emented!"), ("FIX", "ME"), ("#[ign", "ore]")];
    let marks = marks.map(|(begin, end)| format!("{begin}{end}"));
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for mark in &marks {
            if text.contains(mark.as_str()) {
                wrong.push(format!("{}: {mark}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let folder = root().join("tests/it");
    let helpers = folder.join("support/time.rs");
    let mut wrong = Vec::new();
    for path in sources().into_iter().filter(|path| path.starts_with(&folder) && *path != helpers) {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            // In two parts, so that this file has none.
            if line.contains(concat!("sleep", "(")) || line.contains(concat!("::", "sleep")) {
                wrong.push(format!("{}:{}: expected a helper of support::time", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(fs::read_to_string(helpers).unwrap().contains(concat!("sleep", "(")), "the helpers have moved");
}

#[test]
fn errors_are_types_and_not_texts() {
    let mut wrong = Vec::new();
    // A test that fails shows its error to a person, and a text does.
    let is_test = |path: &Path| {
        let path = path.strip_prefix(root()).unwrap();
        path.components().any(|part| ["tests", "tests.rs"].iter().any(|name| part.as_os_str() == *name))
    };
    for path in sources().into_iter().filter(|path| !is_test(path)) {
        let text = fs::read_to_string(&path).unwrap();
        for line in string_errors(before_tests(&text)) {
            wrong.push(format!("{}:{line}: `Result<_, String>`: expected an error type", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The lines on which a `Result` with the error type `String` begins.
fn string_errors(text: &str) -> Vec<usize> {
    let begins = text.match_indices("Result<").map(|(at, begin)| (at, at + begin.len()));
    let is_string = |from: usize| {
        let (mut depth, mut last, mut before) = (1, None, ' ');
        for (at, c) in text[from..].char_indices() {
            match c {
                '<' | '(' | '[' | '{' => depth += 1,
                '>' if matches!(before, '-' | '=') => {}
                '>' | ')' | ']' | '}' => depth -= 1,
                ',' if depth == 1 && text[from..][at + 1..].trim_start().starts_with('>') => {}
                ',' if depth == 1 => last = Some(at + 1),
                _ => {}
            }
            if depth == 0 {
                let error = last.map(|last| text[from..][last..at].trim().trim_end_matches(','));
                return error == Some("String");
            }
            before = c;
        }
        false
    };
    begins.filter(|(_, from)| is_string(*from)).map(|(at, _)| text[..at].matches('\n').count() + 1).collect()
}

#[test]
fn string_errors_are_found_in_any_layout() {
    let text = "fn a() -> Result<(), String> {}\n\
                fn b() -> Result<\n    Vec<(u8, String)>,\n    String,\n> {}\n\
                fn c() -> Result<String, Error> {}\n\
                fn d() -> Result<fn(&str) -> Result<u8, String>, Error> {}\n\
                fn e() -> io::Result<String> {}\n";
    assert_eq!(string_errors(text), [1, 2, 7]);
}

#[test]
fn the_model_keeps_its_field_names() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let in_model =
            path.starts_with(root().join("config/src")) || path.starts_with(root().join("middlewares/src"));
        if in_model && (text.contains("serde(flatten") || text.contains("serde(untagged")) {
            wrong.push(format!("{}: flatten or untagged", path.display()));
        }
        let on_the_request_path =
            ["src/router", "src/service", "src/upstream"].iter().any(|f| path.starts_with(root().join(f)));
        if on_the_request_path && (text.contains("derive(Serialize") || text.contains("Deserialize)]")) {
            wrong.push(format!("{}: serde on the request path", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_takes_the_shared_lints() {
    let manifests = CRATES.map(|folder| format!("{folder}/Cargo.toml"));
    for manifest in manifests.iter().map(String::as_str).chain(["Cargo.toml"]) {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{manifest}");
    }
}

/// The column "uses" of the table in ARCHITECTURE.md, and its line of crates.
#[test]
fn crates_use_what_the_architecture_says() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let line = text.split('`').find(|quoted| quoted.contains(" ← ")).unwrap();
    let order: Vec<&str> = line.split(" ← ").collect();
    for folder in CRATES {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        // Tests may use more.
        let manifest = manifest.split("[dev-dependencies]").next().unwrap();
        let name = |line: &str| {
            line.strip_prefix("tidegate-").map(|rest| rest.split('.').next().unwrap().to_owned())
        };
        let mut used: Vec<String> = manifest.lines().filter_map(name).collect();
        let row = text.lines().find(|row| row.starts_with(&format!("| `{folder}/src` |"))).unwrap();
        let cell = row.split('|').nth(3).unwrap().trim();
        let mut said: Vec<String> = cell.split(", ").filter(|one| *one != "–").map(str::to_owned).collect();
        used.sort();
        said.sort();
        assert_eq!(used, said, "{folder}");
        let place = |name: &str| order.iter().position(|one| *one == name);
        assert!(
            used.iter().all(|one| place(one).is_some() && place(one) < place(folder)),
            "{folder}: {used:?}"
        );
    }
}

#[test]
fn every_middleware_has_its_page() {
    let missing: Vec<_> = tidegate_middlewares::KINDS
        .iter()
        .map(|kind| root().join(format!("docs/middlewares/{}.md", kebab(kind))))
        .filter(|page| !page.exists())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_provider_has_its_page() {
    let missing: Vec<_> = tidegate_providers::KINDS
        .iter()
        .map(|kind| root().join(format!("docs/providers/{}.md", kebab(kind))))
        .filter(|page| !page.exists())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// `passTLSClientCert` → `pass-tls-client-cert`.
fn kebab(kind: &str) -> String {
    let letters: Vec<char> = kind.chars().collect();
    let mut name = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let after_lower = i > 0 && letters[i - 1].is_lowercase();
        let before_lower = i > 0 && letters.get(i + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_lower || before_lower) {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

#[test]
fn names_become_page_names() {
    assert_eq!(kebab("passTLSClientCert"), "pass-tls-client-cert");
    assert_eq!(kebab("ipAllowList"), "ip-allow-list");
}

/// The functions of a file in this folder.
fn functions_of(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let name = |rest: &str| rest.split('(').next().unwrap_or_default().to_owned();
    text.split("\nfn ").skip(1).map(name).collect()
}

/// `cargo test` runs what stands beside the folder, and needs nothing for it but time.
#[test]
fn tests_that_need_programs_have_a_folder_of_their_own() {
    let (tests, programs) = (root().join("tests/it"), root().join("tests/it/programs"));
    let times = ["a minute", "75 s of time"].map(|time| format!("#[ignore = \"needs {time}\"]"));
    let (mut wrong, mut found) = (Vec::new(), 0);
    for path in sources().into_iter().filter(|path| path.starts_with(&tests)) {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[test]") {
            let needs_program =
                pair[1].starts_with("#[ignore = \"needs ") && !times.iter().any(|time| time == pair[1]);
            found += usize::from(needs_program);
            if needs_program != path.starts_with(&programs) {
                wrong.push(format!("{}: {}", path.display(), pair[1]));
            }
        }
    }
    assert!(wrong.is_empty(), "in the wrong folder:\n{}", wrong.join("\n"));
    assert!(found > 50, "only {found} tests need a program");
}

/// Tests that documents name as `file::test`, and the cases of the table in docs/security.md.
#[test]
fn the_tests_that_documents_cite_exist() {
    let folder = root().join("tests/it");
    let mut wrong = Vec::new();
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for cited in text.split('`').skip(1).step_by(2) {
            let Some((file, test)) = cited.rsplit_once("::") else { continue };
            let file = folder.join(format!("{}.rs", file.replace("::", "/")));
            if file.exists() && !functions_of(&file).iter().any(|function| function == test) {
                wrong.push(format!("{}: {cited}", page.display()));
            }
        }
    }
    let files = sources().into_iter().filter(|path| path.starts_with(&folder));
    let all: Vec<String> = files.flat_map(|file| functions_of(&file)).collect();
    let text = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let (before, table) = text.split_once("| case | attack |").unwrap();
    let named: Vec<u32> =
        before.rsplit("## ").next().unwrap().split(['(', ')', ',']).filter_map(number).collect();
    let mut cases = 0;
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cell = row.split('|').nth(1).unwrap();
        for case in cell.split(',').flat_map(numbers) {
            cases += 1;
            let prefix = format!("case_{case:02}_");
            let has_test =
                all.iter().any(|name| name.starts_with(&prefix) || name.contains(&format!("_{case}_")));
            if !has_test && !named.contains(&case) {
                wrong.push(format!("docs/security.md: no test for case {case}"));
            }
        }
    }
    assert!(cases > 60, "only {cases} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn number(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

/// `7`, or `16 – 19`.
fn numbers(text: &str) -> Vec<u32> {
    match text.split_once('–') {
        Some((first, last)) => {
            number(first).zip(number(last)).map_or_else(Vec::new, |(a, b)| (a..=b).collect())
        }
        None => number(text).into_iter().collect(),
    }
}

/// Longest line of a document, in characters. Tables and code are as long as they have to be.
const MAX_COLUMNS: usize = 120;

#[test]
fn documents_are_wrapped() {
    let listed = Command::new("git").args(["ls-files", "*.md"]).current_dir(root()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut wrong = Vec::new();
    for path in listed.lines() {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let mut in_code = false;
        for (number, line) in text.lines().enumerate() {
            let is_fence = line.trim_start().starts_with("```");
            in_code ^= is_fence;
            let is_free =
                in_code || is_fence || line.trim_start().starts_with('|') || line.starts_with("    ");
            if !is_free && line.chars().count() > MAX_COLUMNS {
                wrong.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert!(listed.lines().count() > 50, "{listed}");
    assert!(wrong.is_empty(), "longer than {MAX_COLUMNS} columns:\n{}", wrong.join("\n"));
}

#[test]
fn commit_messages_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("message");
    let longest = format!("Add {}", "x".repeat(68));
    for (message, is_right) in [
        ("Add per-router timeouts\n\nThe problem.\n", true),
        ("Add it\n# a comment of git\n\nThe problem.\n", true),
        (&format!("{longest}\n\nThe problem.\n"), true),
        (&format!("{longest}x\n\nThe problem.\n"), false),
        ("fixup! Add it\n", true),
        ("Add it\n", false),
        ("Add it\nThe problem.\n", false),
        ("Add it.\n\nThe problem.\n", false),
        ("Added it\n\nThe problem.\n", false),
        ("add it\n\nThe problem.\n", false),
        ("", false),
    ] {
        fs::write(&path, message).unwrap();
        let output = Command::new(root().join("scripts/hooks/commit-msg")).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), is_right, "{message:?}: {said}");
        assert_eq!(said.is_empty(), is_right, "{message:?}: {said}");
    }
}

/// A path that is followed by a name stands for a function or type of that file.
#[test]
fn the_symbols_of_the_architecture_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let pieces: Vec<&str> = text.split('`').collect();
    let (mut wrong, mut found) = (Vec::new(), 0);
    for at in (1..pieces.len()).step_by(2) {
        let [path, " ", symbol] = pieces[at..(at + 3).min(pieces.len())] else { continue };
        found += 1;
        let source = fs::read_to_string(root().join(path)).unwrap_or_default();
        let declares = |kind: &str| {
            let declared = format!("{kind} {symbol}");
            source.match_indices(&declared).any(|(at, _)| {
                let next = source[at + declared.len()..].chars().next();
                next.is_some_and(|next| !next.is_alphanumeric() && next != '_')
            })
        };
        if !["fn", "struct", "enum", "trait", "type"].iter().any(|kind| declares(kind)) {
            wrong.push(format!("{path}: {symbol}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found >= 20, "only {found} symbols are named");
}

#[test]
fn the_paths_in_the_documents_exist() {
    let mut wrong = Vec::new();
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let quoted = text.split('`').skip(1).step_by(2).map(str::to_owned);
        let linked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned);
        for path in quoted.chain(linked) {
            let path = path.split('#').next().unwrap_or_default();
            let is_path = path.contains('/')
                && !path.contains([' ', '<', '*', '…', '$', ':', '{', '='])
                && !path.starts_with(['/', '-', '.']);
            if is_path && !path.starts_with("target/") && !root().join(path).exists() {
                wrong.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
