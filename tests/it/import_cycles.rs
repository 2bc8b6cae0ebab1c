//! No two files of a crate need each other: whoever reads one can read on without coming back.
//!
//! A file needs another one when it imports from it, or names it by a path that begins at `crate`. What a module takes
//! from its own children, to pass it on, does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Names from the root of the crate: `["tls", "hosts"]`.
type Module = Vec<String>;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules below a source folder with their texts, tests left out.
fn modules(source: &Path) -> BTreeMap<Module, String> {
    let mut paths = Vec::new();
    files(source, &mut paths);
    let module = |path: &PathBuf| {
        let relative = path.strip_prefix(source).unwrap().with_extension("");
        let mut names: Module = relative.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        if names.iter().any(|name| name == "tests") {
            return None;
        }
        names.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap()).collect();
        Some((names, code.join("\n")))
    };
    paths.iter().filter_map(module).collect()
}

/// The paths that a `use` tree names: `super::{a, b::{C, D}}` names three.
fn expand(prefix: &[String], tree: &str, paths: &mut Vec<Module>) {
    let tree = tree.trim();
    let (head, group) = match tree.split_once('{') {
        Some((head, rest)) => (head, rest.strip_suffix('}')),
        None => (tree.split(" as ").next().unwrap(), None),
    };
    let names = head.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    let path: Module = prefix.iter().cloned().chain(names).collect();
    let Some(group) = group else { return paths.push(path) };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&path, &group[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !group[start..].trim().is_empty() {
        expand(&path, &group[start..], paths);
    }
}

/// The paths that a text names by `use`, or that begin at `crate`.
fn paths_in(text: &str) -> Vec<Module> {
    let mut paths = Vec::new();
    let is_start = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    for (at, _) in text.match_indices("use ").filter(|(at, _)| is_start(*at)) {
        let tree = text[at + 4..].split(';').next().unwrap();
        expand(&[], &tree.split_whitespace().collect::<Vec<_>>().join(" "), &mut paths);
    }
    for (at, _) in text.match_indices("crate::").filter(|(at, _)| is_start(*at)) {
        let end = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
        expand(&[], text[at..].split(end).next().unwrap(), &mut paths);
    }
    paths
}

/// Which modules each module needs.
fn needs(modules: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let target = |from: &Module, path: Module| {
        let mut names = path.into_iter().peekable();
        let mut base = match names.next_if(|name| matches!(name.as_str(), "crate" | "self"))?.as_str() {
            "crate" => Vec::new(),
            _ => from.clone(),
        };
        base.extend(names);
        while !modules.contains_key(&base) {
            base.pop()?;
        }
        Some(base).filter(|found| !found.is_empty() && found != from)
    };
    let absolute = |from: &Module, path: Module| {
        let ups = path.iter().take_while(|name| *name == "super").count();
        if ups == 0 {
            return path;
        }
        let above = from[..from.len().saturating_sub(ups)].iter();
        std::iter::once("crate".to_owned()).chain(above.cloned()).chain(path[ups..].iter().cloned()).collect()
    };
    let of = |(from, text): (&Module, &String)| {
        let paths = paths_in(text).into_iter();
        let found = paths.filter_map(|path| target(from, absolute(from, path))).collect();
        (from.clone(), found)
    };
    modules.iter().map(of).collect()
}

/// The modules that stand in a cycle, or need one that does.
fn in_cycles(mut needs: BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    loop {
        let free: BTreeSet<Module> =
            needs.iter().filter(|(_, needed)| needed.is_empty()).map(|(module, _)| module.clone()).collect();
        if free.is_empty() {
            return needs.keys().map(|module| module.join("::")).collect();
        }
        needs.retain(|module, _| !free.contains(module));
        for needed in needs.values_mut() {
            needed.retain(|module| !free.contains(module));
        }
    }
}

#[test]
fn no_two_files_of_a_crate_need_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = vec![root.join("src")];
    for entry in fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("Cargo.toml").exists() && folder.join("src").is_dir() {
            sources.push(folder.join("src"));
        }
    }
    assert!(sources.len() > 4, "{sources:?}");
    for source in sources {
        assert_eq!(in_cycles(needs(&modules(&source))), [""; 0], "{}", source.display());
    }
}

#[test]
fn cycles_are_found_through_all_forms_of_paths() {
    let modules = |texts: &[(&str, &str)]| {
        let module = |name: &str| -> Module { name.split("::").map(str::to_owned).collect() };
        texts.iter().map(|(name, text)| (module(name), (*text).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let cycle = modules(&[
        ("a", "pub use b::B;"),
        ("a::b", "use super::c::{self, C};\n"),
        ("a::c", "use crate::{d::D as E, f};"),
        ("d", "fn x() { crate::a::b::y() }"),
        ("f", "use std::fmt;"),
    ]);
    assert_eq!(in_cycles(needs(&cycle)), ["a::b", "a::c", "d"]);
    let line =
        modules(&[("a", "mod b;\nuse b::B;"), ("a::b", "use super::A;"), ("c", "use crate::a::{b::B, A};")]);
    assert_eq!(in_cycles(needs(&line)), [""; 0]);
}
