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

fn set(switches: &Switches, router: &str, switch: Option<Switch>) -> Option<Switch> {
    switches.set(router, switch, "ann").unwrap().before
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

#[tokio::test]
async fn switches_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (switches, problem) = Switches::load(&settings(&folder), None);
    assert!(problem.is_none() && switches.is_durable());
    assert_eq!(set(&switches, "r@file", Some(switch(None))), None);
    assert_eq!(set(&switches, "s@file", Some(switch(None))), None);
    assert_eq!(set(&switches, "s@file", None), Some(switch(None)));
    switches.activated(3);
    assert_eq!(switches.settled().await, None);
    let (again, problem) = Switches::load(&settings(&folder), None);
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
        let (switches, problem) = Switches::load(&settings(&folder), None);
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
    let (mut switches, _) = Switches::load(&Settings::default(), None);
    assert!(!switches.is_durable());
    settings.providers.last_state.as_mut().unwrap().directory.push_str("/below");
    switches.file = Some(file::path(settings.providers.last_state.as_ref().unwrap()));
    set(&switches, "r@file", Some(switch(None)));
    switches.activated(1);
    let problem = switches.settled().await.unwrap();
    assert!(problem.contains("states/below"), "{problem}");
    assert_eq!(switches.current().len(), 1);
}

#[tokio::test]
async fn switches_end_by_themselves() {
    let switches = Switches::default();
    set(&switches, "over@file", Some(switch(Some(now() - 1))));
    set(&switches, "on@file", Some(switch(Some(now() + 1000))));
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
        set(&switches, &format!("{number}@file"), Some(switch(None)));
    }
    assert!(matches!(switches.set("more@file", Some(switch(None)), "ann"), Err(SwitchError::TooMany)));
    assert!(set(&switches, "0@file", Some(switch(Some(9)))).is_some());
    assert!(set(&switches, "0@file", None).is_some());
    assert!(set(&switches, "more@file", Some(switch(None))).is_none());
}

/// A member of a cluster.
fn member(name: &str) -> Switches {
    Switches::load(&Settings::default(), Some(name.into())).0
}

fn names(switches: &Switches) -> Vec<String> {
    switches.current().keys().cloned().collect()
}

#[test]
fn members_take_over_what_others_have_switched() {
    let (a, b) = (member("a"), member("b"));
    let version = a.set("r@file", Some(switch(None)), "ann").unwrap().version;
    let changes = b.merge(&a.replica());
    assert_eq!(changes.len(), 1);
    let entry = changes[0].entry.as_ref().unwrap();
    assert_eq!((entry.version, &*entry.origin, &*entry.by), (version, "a", "ann"));
    assert_eq!((names(&b), b.version()), (vec!["r@file".to_owned()], 1));
    assert_eq!(b.merge(&a.replica()), [], "nothing is new");
    assert_eq!(b.version(), 1, "so nothing is compiled");

    // What was ended meanwhile stays ended, whatever a member that was away still has.
    set(&b, "r@file", None);
    assert_eq!(b.merge(&a.replica()), []);
    let changes = a.merge(&b.replica());
    assert_eq!((changes.len(), changes[0].is_on), (1, false));
    assert!(names(&a).is_empty() && names(&b).is_empty());
    // And can begin again.
    set(&a, "r@file", Some(switch(None)));
    assert_eq!(b.merge(&a.replica()).len(), 1);
    assert_eq!(names(&b), ["r@file"]);
    set(&b, "r@file", Some(switch(Some(now() - 1))));
    assert_eq!(a.merge(&b.replica()).len(), 1, "its time is over");
    assert!(names(&a).is_empty());
}

#[tokio::test]
async fn a_restarted_member_knows_what_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let load = |name: Option<&str>| Switches::load(&settings(&folder), name.map(str::to_owned));
    let (alone, _) = load(None);
    set(&alone, "r@file", Some(switch(None)));
    set(&alone, "s@file", Some(switch(None)));
    assert_eq!(alone.saved().await, None);
    let (first, problem) = load(Some("a"));
    assert!(problem.is_none());
    assert_eq!(names(&first), ["r@file", "s@file"]);
    let before = first.replica();
    set(&first, "s@file", None);
    assert_eq!(first.saved().await, None);
    let (again, problem) = load(Some("a"));
    assert!(problem.is_none());
    assert_eq!(again.replica(), first.replica());
    assert_eq!(again.merge(&before), []);
    assert_eq!(names(&again), ["r@file"]);
    assert_eq!(names(&load(None).0), ["r@file"]);
}

#[test]
fn switches_of_a_cluster_are_limited_in_size() {
    let switches = member("a");
    let allow: Vec<String> =
        (0..MAX_ALLOWED).map(|number| format!("2001:db8:aaaa:bbbb:cccc:dddd:eeee:{number}")).collect();
    let mut outcomes = (0..200).map(|number| {
        let large = Switch { allow: allow.clone(), ..switch(None) };
        switches.set(&format!("{number}@file"), Some(large), "ann")
    });
    assert!(outcomes.any(|outcome| matches!(outcome, Err(SwitchError::TooLarge))));
    assert!(switches.replica().encode().is_ok());
    assert!(switches.set("0@file", None, "ann").unwrap().before.is_some());
    let long = "x".repeat(2000);
    assert!(matches!(switches.set(&long, Some(switch(None)), "ann"), Err(SwitchError::Name)));
    assert!(set(&Switches::default(), &long, Some(switch(None))).is_none());
}
