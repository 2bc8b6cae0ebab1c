//! Files that come, change, break and go.

use std::time::Duration;

use tidegate_config::Provided;
use tokio::sync::mpsc;

use super::*;
use crate::{Handle, Update, start};

struct Fixture {
    folder: tempfile::TempDir,
    updates: mpsc::Receiver<Update>,
    _handle: Handle,
}

impl Fixture {
    fn on_folder() -> Self {
        Self::with(|folder| Options { directory: folder.display().to_string(), ..Options::default() })
    }

    fn with(options: impl FnOnce(&std::path::Path) -> Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let provider = File::new(options(folder.path())).unwrap();
        let (sender, updates) = mpsc::channel(16);
        Self { _handle: start("file", std::sync::Arc::new(provider), sender), folder, updates }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// The first state for which the condition holds.
    async fn until(&mut self, condition: impl Fn(&Provided) -> bool) -> Provided {
        let found = async {
            loop {
                let update = self.updates.recv().await.expect("the provider ended");
                if condition(&update.state) {
                    return Provided::clone(&update.state);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(15), found).await.expect("no such state came")
    }
}

fn router(name: &str) -> String {
    format!("http: {{routers: {{{name}: {{rule: 'Host(`{name}`)', service: s}}}}}}\n")
}

fn has(state: &Provided, name: &str) -> bool {
    state.config.http.routers.contains_key(name)
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut fixture = Fixture::on_folder();
    fixture.until(|state| state.config.http.routers.is_empty()).await;
    fixture.write("a.yml", &router("one"));
    fixture.until(|state| has(state, "one")).await;
    fixture.write("b.toml", "[http.routers.two]\nrule = \"Host(`two`)\"\nservice = \"s\"\n");
    fixture.until(|state| has(state, "one") && has(state, "two")).await;
    fixture.write("a.yml", &router("three"));
    fixture.until(|state| has(state, "three") && !has(state, "one")).await;
    std::fs::remove_file(fixture.folder.path().join("a.yml")).unwrap();
    fixture.until(|state| !has(state, "three") && has(state, "two")).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_content_and_is_told() {
    let mut fixture = Fixture::on_folder();
    fixture.write("a.yml", &router("one"));
    fixture.until(|state| has(state, "one")).await;
    fixture.write("a.yml", "http:\n  routers: [\n");
    let state = fixture.until(|state| !state.problems.is_empty()).await;
    assert!(has(&state, "one"));
    let problem = state.problems[0].to_string();
    assert!(problem.contains("a.yml:") && problem.contains("last good content"), "{problem}");
    fixture.write("a.yml", &router("one"));
    fixture.until(|state| state.problems.is_empty() && has(state, "one")).await;
}

#[tokio::test]
async fn a_broken_object_keeps_its_last_good_version() {
    let mut fixture = Fixture::on_folder();
    fixture.write("a.yml", &router("one"));
    fixture.until(|state| has(state, "one")).await;
    fixture.write("a.yml", "http:\n  routers:\n    one: {rule: 'Host(`new`)', service: s, prioritty: 3}\n    two: {rule: 'Host(`two`)', service: s}\n");
    let state = fixture.until(|state| has(state, "two")).await;
    assert_eq!(state.config.http.routers["one"].rule, "Host(`one`)");
    assert!(state.problems.iter().any(|p| p.object.is_none() && p.message.contains("prioritty")), "{:?}", state.problems);
}

#[tokio::test]
async fn one_file_survives_being_replaced() {
    let mut fixture =
        Fixture::with(|folder| Options { filename: folder.join("r.yml").display().to_string(), ..Options::default() });
    let state = fixture.until(|_| true).await;
    assert!(state.problems[0].message.contains("cannot read the file"), "{:?}", state.problems);
    fixture.write("r.yml", &router("one"));
    fixture.until(|state| has(state, "one") && state.problems.is_empty()).await;
    fixture.write("other", &router("two"));
    let path = |name: &str| fixture.folder.path().join(name);
    std::fs::rename(path("other"), path("r.yml")).unwrap();
    fixture.until(|state| has(state, "two")).await;
}

#[tokio::test]
async fn the_first_of_two_equal_names_wins() {
    let mut fixture = Fixture::on_folder();
    fixture.write("a.yml", &router("one"));
    fixture.until(|state| has(state, "one")).await;
    fixture.write("b.yml", &router("one").replace("Host(`one`)", "Host(`other`)"));
    let state = fixture.until(|state| !state.problems.is_empty()).await;
    assert_eq!(state.config.http.routers["one"].rule, "Host(`one`)");
    let problem = state.problems[0].to_string();
    assert!(problem.contains("b.yml") && problem.contains("a.yml"), "{problem}");
}

#[tokio::test]
async fn files_are_templates() {
    let mut fixture = Fixture::on_folder();
    fixture.write(
        "a.yml",
        "http:\n  routers:\n{{ range $i, $e := until 3 }}    r{{ $i }}: {rule: 'Host(`h{{ $i }}`)', service: s}\n{{ end }}",
    );
    let state = fixture.until(|state| has(state, "r2")).await;
    assert_eq!(state.config.http.routers.len(), 3);
    fixture.write("a.yml", "http:\n  routers: {{ nosuch }}\n");
    let state = fixture.until(|state| !state.problems.is_empty()).await;
    assert!(state.problems[0].to_string().contains("a.yml:2"), "{}", state.problems[0]);
}

#[tokio::test]
async fn hostile_files_are_refused_by_name() {
    let mut fixture = Fixture::on_folder();
    fixture.write("good.yml", &router("one"));
    fixture.until(|state| has(state, "one")).await;
    let mut bomb = String::from("a0: &a0 [x]\n");
    for level in 1..30 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{before}, {before}, {before}, {before}]\n"));
    }
    let huge = format!("http: {{}} # {}", "x".repeat(50 << 20));
    let contents: [(&str, &[u8]); 3] =
        [("bomb.yml", bomb.as_bytes()), ("huge.yml", huge.as_bytes()), ("latin.yml", b"http: \xff\xfe")];
    for (name, bytes) in contents {
        std::fs::write(fixture.folder.path().join(name), bytes).unwrap();
        let state = fixture.until(|state| state.problems.iter().any(|p| p.to_string().contains(name))).await;
        assert!(has(&state, "one"), "{name}");
    }
}
