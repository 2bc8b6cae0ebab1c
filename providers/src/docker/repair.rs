//! Decodes values that bollard's types cannot hold completely, such as a container in a state that only
//! Podman knows: what does not fit is removed, and the rest is used.
//!
//! Names and labels are never changed: a lost label may have been the middleware that protects a router. What
//! does not fit is only named, never shown: it may be part of the environment.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What a value must keep, by the field names of containers, services, tasks, networks and nodes.
const ESSENTIAL: &[&str] = &["Id", "ID", "Name", "Labels", "Config.Labels", "Spec.Name", "Spec.Labels"];
/// Maximum depth to which parts are removed; what is deeper is removed together.
const MAX_DEPTH: usize = 8;

/// A decoded value, and the paths of the fields that did not fit, such as `Mounts.0.Type`.
#[derive(Debug)]
pub(crate) struct Repaired<T> {
    pub(crate) value: T,
    pub(crate) removed: Vec<String>,
}

/// A value that is not usable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` cannot be read")]
pub(crate) struct Unusable {
    /// The id of the object, if known.
    pub(crate) id: Option<String>,
    /// The path of the field that does not fit; `*` if the value is not an object.
    field: String,
}

/// Decodes a value, without the parts that its type cannot hold.
pub(crate) fn decode<T: DeserializeOwned>(mut value: Value) -> Result<Repaired<T>, Unusable> {
    let fits = |value: Value| T::deserialize(value).is_ok();
    let mut removed = Vec::new();
    prune(&mut value, "", 0, &fits, &mut removed);
    let id = ["Id", "ID"].iter().find_map(|key| value.get(key)?.as_str()).map(str::to_owned);
    let lost = removed.iter().find(|path| ESSENTIAL.iter().any(|field| overlap(path, field)));
    if let Some(field) = lost {
        return Err(Unusable { id, field: field.clone() });
    }
    let field = "*".to_owned();
    T::deserialize(value).map(|value| Repaired { value, removed }).map_err(|_| Unusable { id, field })
}

/// Returns true if one path is the other, or above it.
fn overlap(a: &str, b: &str) -> bool {
    let is_above = |above: &str, below: &str| {
        below.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    is_above(a, b) || is_above(b, a)
}

/// Removes the parts of a value that do not fit. Returns false if the value itself does not fit.
///
/// `fits` checks a value at this place, without its siblings: fields of bollard's types are optional, except
/// for some in lists, which are removed with their element.
fn prune(
    value: &mut Value,
    path: &str,
    depth: usize,
    fits: &dyn Fn(Value) -> bool,
    removed: &mut Vec<String>,
) -> bool {
    if fits(value.clone()) {
        return true;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let before = removed.len();
    if depth < MAX_DEPTH {
        match value {
            Value::Object(members) => members.retain(|key, member| {
                let fits = |member| fits(Map::from_iter([(key.clone(), member)]).into());
                prune(member, &below(key), depth + 1, &fits, removed)
            }),
            Value::Array(elements) => {
                let mut index = 0_usize..;
                elements.retain_mut(|element| {
                    let path = below(&index.next().unwrap_or_default().to_string());
                    prune(element, &path, depth + 1, &|element| fits(vec![element].into()), removed)
                });
            }
            _ => {}
        }
        if (value.is_object() || value.is_array()) && fits(value.clone()) {
            return true;
        }
    }
    removed.truncate(before);
    removed.push(path.to_owned());
    false
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerInspectResponse, ContainerSummary, EventMessage, Service};
    use serde_json::json;

    use super::*;

    fn removed<T: DeserializeOwned>(value: Value) -> Vec<String> {
        decode::<T>(value).expect("usable").removed
    }

    fn lost<T: DeserializeOwned>(value: Value) -> String {
        decode::<T>(value).map(|_| ()).expect_err("not usable").to_string()
    }

    #[test]
    fn only_what_does_not_fit_is_removed() {
        let summary = json!({
            "Id": "c", "Names": ["/a"], "State": "stopped", "Labels": {"a": "b"}, "Created": "yesterday",
            "Ports": [{"PrivatePort": 80}, {"PrivatePort": 81, "Type": "tcp"}, 7],
            "Mounts": [{"Type": 7, "Source": "/x"}], "NetworkSettings": {"Networks": {"n": {"IPAddress": "1.2.3.4", "IPPrefixLen": "x"}}},
        });
        let repaired = decode::<ContainerSummary>(summary).expect("usable");
        let paths = [
            "Created",
            "Mounts.0.Type",
            "NetworkSettings.Networks.n.IPPrefixLen",
            "Ports.0",
            "Ports.2",
            "State",
        ];
        let mut found = repaired.removed;
        found.sort();
        assert_eq!(found, paths);
        let expected = json!({
            "Id": "c", "Names": ["/a"], "Labels": {"a": "b"}, "Ports": [{"PrivatePort": 81, "Type": "tcp"}],
            "Mounts": [{"Source": "/x"}], "NetworkSettings": {"Networks": {"n": {"IPAddress": "1.2.3.4"}}},
        });
        assert_eq!(repaired.value, serde_json::from_value(expected).expect("valid"));
        assert!(removed::<ContainerSummary>(json!({"Id": "c", "Unknown": {"a": [7]}})).is_empty());
        let deep = (0..100).fold(json!(7), |inner, _| json!({"a": inner}));
        assert_eq!(removed::<ContainerSummary>(json!({"Id": "c", "Status": deep})), ["Status"]);
    }

    #[test]
    fn names_and_labels_are_never_changed() {
        let odd = json!({"traefik.enable": true, "a": "b"});
        let labels = decode::<ContainerSummary>(json!({"Id": "c", "Labels": odd})).expect_err("not usable");
        assert_eq!(labels.id.as_deref(), Some("c"));
        assert_eq!(labels.to_string(), "`Labels.traefik.enable` cannot be read");
        for (value, field) in [
            (json!({"Id": "c", "Config": {"Labels": odd}}), "`Config.Labels.traefik.enable` cannot be read"),
            (json!({"Id": "c", "Config": {"Labels": "none"}}), "`Config.Labels` cannot be read"),
            (json!({"Id": "c", "Config": []}), "`Config` cannot be read"),
            (json!({"Id": "c", "Name": 7}), "`Name` cannot be read"),
            (json!({"Id": 7}), "`Id` cannot be read"),
            (json!("none"), "`*` cannot be read"),
        ] {
            assert_eq!(lost::<ContainerInspectResponse>(value), field);
        }
        let service = json!({"ID": "s", "Spec": {"Name": "s", "Labels": odd}});
        assert_eq!(lost::<Service>(service), "`Spec.Labels.traefik.enable` cannot be read");
        let actor = json!({"Type": "pod", "Actor": {"ID": "p", "Attributes": {"a": "b", "c": 7}}});
        assert_eq!(removed::<EventMessage>(actor), ["Type", "Actor.Attributes.c"]);
    }

    #[test]
    fn values_are_not_shown() {
        let environment = json!({"Id": "c", "Config": {"Env": "PASSWORD=secret", "Hostname": ["secret"]}});
        let repaired = decode::<ContainerInspectResponse>(environment).expect("usable");
        assert_eq!(repaired.removed, ["Config.Env", "Config.Hostname"]);
        let labels = json!({"Id": "c", "Config": {"Labels": ["secret"]}});
        assert!(!lost::<ContainerInspectResponse>(labels).contains("secret"));
    }
}
