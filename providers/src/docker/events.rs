//! Interprets events: which container has changed, and which one is stopping.

use std::collections::HashMap;

use bollard::models::{EventMessage, EventMessageTypeEnum as EventType};
use tokio::time::{Duration, Instant};

use super::model::Container;

/// How long a container that was asked to stop is left out if it keeps running.
const MAX_STOP: Duration = Duration::from_secs(600);

/// The meaning of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Not relevant.
    Nothing,
    /// This container has changed.
    Changed(String),
    /// This container was asked to stop: no new requests.
    Stopping(String),
}

/// Interprets an event. `stop_signal` returns the configured stop signal of a container.
pub(super) fn meaning(event: EventMessage, stop_signal: impl Fn(&str) -> Option<String>) -> Meaning {
    let actor = event.actor.unwrap_or_default();
    let (id, mut attributes) = (actor.id.unwrap_or_default(), actor.attributes.unwrap_or_default());
    let action = event.action.unwrap_or_default();
    if event.typ == Some(EventType::NETWORK) {
        return match (action.as_str(), attributes.remove("container")) {
            ("connect" | "disconnect", Some(container)) => Meaning::Changed(container),
            _ => Meaning::Nothing,
        };
    }
    if !matches!(event.typ, None | Some(EventType::EMPTY | EventType::CONTAINER)) {
        return Meaning::Nothing;
    }
    // `health_status: healthy`
    match action.split(':').next().unwrap_or("").trim() {
        "kill" => {
            let signal = attributes.get("signal").map_or("15", String::as_str);
            if is_stop(signal, stop_signal(&id).as_deref()) {
                Meaning::Stopping(id)
            } else {
                Meaning::Nothing
            }
        }
        "start" | "restart" | "die" | "stop" | "pause" | "unpause" | "health_status" | "rename"
        | "update" | "create" | "destroy" | "oom" => Meaning::Changed(id),
        _ => Meaning::Nothing,
    }
}

/// Returns true if a signal stops a container: the usual ones and the configured one, but not `SIGHUP` and
/// the like.
fn is_stop(signal: &str, own: Option<&str>) -> bool {
    let number = |name: &str| match name.trim_start_matches("SIG") {
        "INT" => "2".to_owned(),
        "QUIT" => "3".to_owned(),
        "KILL" => "9".to_owned(),
        "USR1" => "10".to_owned(),
        "USR2" => "12".to_owned(),
        "TERM" => "15".to_owned(),
        "WINCH" => "28".to_owned(),
        "RTMIN+3" => "37".to_owned(),
        other => other.to_owned(),
    };
    let signal = number(signal);
    match own.filter(|own| !own.is_empty()) {
        Some(own) if number(own) == signal => true,
        _ => matches!(signal.as_str(), "2" | "3" | "9" | "15"),
    }
}

/// The containers that were asked to stop, until they are removed or restarted.
#[derive(Debug, Default)]
pub(super) struct Stopping(HashMap<String, (String, Instant)>);

impl Stopping {
    /// Records that a container was asked to stop; `started_at` is its start time.
    pub(super) fn add(&mut self, id: &str, started_at: &str) {
        self.0.entry(id.to_owned()).or_insert_with(|| (started_at.to_owned(), Instant::now()));
    }

    /// Returns true while the container must not get requests.
    pub(super) fn covers(&self, container: &Container) -> bool {
        self.0.get(&container.id).is_some_and(|(started_at, since)| {
            *started_at == container.started_at && since.elapsed() < MAX_STOP
        })
    }

    /// Removes containers that no longer run or were restarted.
    pub(super) fn keep_running<'c>(&mut self, running: impl Iterator<Item = &'c Container>) {
        let running: HashMap<&str, &str> =
            running.map(|container| (container.id.as_str(), container.started_at.as_str())).collect();
        self.0.retain(|id, (started_at, since)| {
            running.get(id.as_str()) == Some(&started_at.as_str()) && since.elapsed() < MAX_STOP
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        let attributes: HashMap<&str, &str> = attributes.iter().copied().collect();
        let actor = json!({"ID": "c", "Attributes": attributes});
        serde_json::from_value(json!({"Type": kind, "Action": action, "Actor": actor})).expect("an event")
    }

    #[test]
    fn events_are_interpreted() {
        let changed = || Meaning::Changed("c".into());
        let stopping = || Meaning::Stopping("c".into());
        for (event, own, expected) in [
            (event("container", "start", &[]), "", changed()),
            (event("container", "health_status: healthy", &[]), "", changed()),
            (event("container", "exec_start: sh", &[]), "", Meaning::Nothing),
            (event("container", "kill", &[("signal", "15")]), "", stopping()),
            (event("container", "kill", &[("signal", "1")]), "", Meaning::Nothing),
            (event("container", "kill", &[("signal", "28")]), "", Meaning::Nothing),
            (event("container", "kill", &[("signal", "28")]), "SIGWINCH", stopping()),
            (event("network", "connect", &[("container", "x")]), "", Meaning::Changed("x".into())),
            (event("network", "create", &[]), "", Meaning::Nothing),
            (event("image", "start", &[]), "", Meaning::Nothing),
        ] {
            assert_eq!(meaning(event.clone(), |_| Some(own.to_owned())), expected, "{event:?} {own}");
        }
    }

    #[test]
    fn a_stopped_container_gets_requests_after_a_restart() {
        let mut container = Container { id: "c".into(), ..Container::default() };
        container.started_at = "1".into();
        let mut stopping = Stopping::default();
        stopping.add("c", "1");
        stopping.keep_running([&container].into_iter());
        assert!(stopping.covers(&container));
        container.started_at = "2".into();
        assert!(!stopping.covers(&container));
        stopping.keep_running([&container].into_iter());
        container.started_at = "1".into();
        assert!(!stopping.covers(&container), "it is forgotten");
    }
}
