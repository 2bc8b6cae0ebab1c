//! Tests of switches: restarts, ends, limits.

use super::*;
use crate::settings::LastState;

fn settings(folder: &tempfile::TempDir) -> Settings {
    let mut settings = Settings::default();
    let directory = folder.path().join("states").display().to_string();
    settings.providers.last_state = Some(LastState { directory, ..LastState::default() });
    settings
}

fn switch(until: Option<i64>) -> Switch {
    Switch { since: 7, until, by: "ann".into(), allow: vec!["10.0.0.0/8".into()], ..Switch::default() }
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

#[tokio::test]
async fn switches_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (switches, problem) = Switches::load(&settings(&folder));
    assert!(problem.is_none() && switches.is_durable());
    assert_eq!(switches.set("r@file", Some(switch(None))).unwrap(), None);
    assert_eq!(switches.set("s@file", Some(switch(None))).unwrap(), None);
    assert_eq!(switches.set("s@file", None).unwrap(), Some(switch(None)));
    switches.activated(3);
    assert_eq!(switches.settled().await, None);
    let (again, problem) = Switches::load(&settings(&folder));
    assert!(problem.is_none());
    assert_eq!(*again.current(), SwitchMap::from([("r@file".to_owned(), switch(None))]));
}

#[test]
fn an_unreadable_file_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("states/@maintenance.json");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (text, expected) in [("{", "EOF while parsing"), (r#"{"version":2,"routers":{}}"#, "expected 1")] {
        std::fs::write(&path, text).unwrap();
        let (switches, problem) = Switches::load(&settings(&folder));
        assert!(switches.current().is_empty());
        let message = problem.unwrap().message;
        assert!(message.contains(expected) && message.contains("@maintenance.json"), "{message}");
    }
}

#[tokio::test]
async fn what_cannot_be_saved_is_reported_and_active() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("states"), "").unwrap();
    let mut settings = settings(&folder);
    let (mut switches, _) = Switches::load(&Settings::default());
    assert!(!switches.is_durable());
    settings.providers.last_state.as_mut().unwrap().directory.push_str("/below");
    switches.file = Some(file::path(settings.providers.last_state.as_ref().unwrap()));
    switches.set("r@file", Some(switch(None))).unwrap();
    switches.activated(1);
    let problem = switches.settled().await.unwrap();
    assert!(problem.contains("states/below"), "{problem}");
    assert_eq!(switches.current().len(), 1);
}

#[tokio::test]
async fn switches_end_by_themselves() {
    let switches = Switches::default();
    switches.set("over@file", Some(switch(Some(now() - 1)))).unwrap();
    switches.set("on@file", Some(switch(Some(now() + 1000)))).unwrap();
    let version = switches.version();
    switches.changed(version).await;
    assert_eq!(switches.current().keys().collect::<Vec<_>>(), ["on@file"]);
    assert_eq!(switches.version(), version + 1);
    let waiting = tokio::time::timeout(Duration::from_millis(20), switches.changed(version + 1));
    assert!(waiting.await.is_err(), "nothing changes");
    switches.changed(version).await;
}

#[test]
fn their_number_is_limited() {
    let switches = Switches::default();
    for number in 0..MAX_SWITCHES {
        switches.set(&format!("{number}@file"), Some(switch(None))).unwrap();
    }
    assert!(switches.set("more@file", Some(switch(None))).is_err());
    assert!(switches.set("0@file", Some(switch(Some(9)))).unwrap().is_some());
    assert!(switches.set("0@file", None).unwrap().is_some());
    assert!(switches.set("more@file", Some(switch(None))).unwrap().is_none());
}
