//! Decodes the dynamic configuration object by object, so that a broken object does not affect the others.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{DecodeError, decode};
use crate::Kind;
use crate::locate::{ObjectOrigin, Paths};
use crate::origin::{ObjectRef, Origin, Problem};
use crate::section::{Object, WithType};
use crate::tree::{Node, Table, Value};
use crate::{Map, Provided, RouteTest, route_test, suggest};

/// Maximum number of invalid keys that are removed from an object before giving up.
const MAX_INVALID_KEYS: usize = 100;

/// Key of the tests of HTTP routes.
const TESTS: &str = "tests";

/// Maximum length in bytes of the raw text kept of a broken object.
const MAX_RAW_LEN: usize = 64 << 10;

/// Decodes a dynamic configuration (`http`, `tcp`, `udp` and `tls`).
///
/// Every object is decoded separately. A broken one is reported as a [`Problem`] with its name, origin and
/// key, and left out; a broken router keeps what can be decoded, so that its rule still holds its traffic.
/// Objects in `tls.certificates` have no names and are called `0`, `1`, … by position.
pub fn decode_config(node: &Node) -> Provided {
    let mut decoder = ConfigDecoder::default();
    decoder.config(node);
    decoder.out
}

/// Decodes a file that has consumers, their plans and nothing else, under `consumers` and `plans`, or below `http`. Other
/// sections are reported and have no effect, so that whoever maintains consumers cannot change routes.
pub fn decode_consumers(node: &Node) -> Provided {
    let mut decoder = ConfigDecoder::default();
    let section = Kind::Consumer.keys().0;
    let mut found = Vec::new();
    for (key, node) in decoder.table("", node) {
        if key.eq_ignore_ascii_case(section) {
            let parts = decoder.table(section, node).into_iter();
            found.extend(parts.map(|(key, node)| (format!("{section}.{key}"), key, node)));
        } else {
            found.push((key.to_owned(), key, node));
        }
    }
    let mut expected = vec![Kind::Consumer, Kind::Plan];
    for (path, key, node) in found {
        let place = expected.iter().position(|kind| kind.keys().1.eq_ignore_ascii_case(key));
        if let Some(place) = place {
            let _ = expected.remove(place).with_type(Part { decoder: &mut decoder, node });
        } else {
            let message = format!("{path}: ignored: this file has `consumers` and `plans`, each once");
            decoder.problem(&node.origin, None, message);
        }
    }
    decoder.out
}

#[derive(Default)]
struct ConfigDecoder {
    out: Provided,
    paths: Paths,
}

impl ConfigDecoder {
    fn config(&mut self, node: &Node) {
        let sections = distinct(Kind::ALL.iter().map(|kind| kind.keys().0));
        for (key, section) in self.table("", node) {
            match sections.iter().find(|name| name.eq_ignore_ascii_case(key)) {
                Some(name) => self.section(name, section),
                None => self.unknown(key, key, section, &sections),
            }
        }
    }

    /// Decodes a section, such as `http`.
    fn section(&mut self, section: &str, node: &Node) {
        for (key, part) in self.table(section, node) {
            if section == "http" && key.eq_ignore_ascii_case(TESTS) {
                self.tests(part);
                continue;
            }
            match Kind::of_section(section, key) {
                Some(Kind::Certificate) => self.certificates(part),
                Some(kind) => {
                    let _ = kind.with_type(Part { decoder: self, node: part });
                }
                None => {
                    let here = Kind::ALL.iter().map(|kind| kind.keys()).filter(|keys| keys.0 == section);
                    let tests = (section == "http").then_some(TESTS);
                    let known = distinct(here.map(|keys| keys.1).chain(tests));
                    self.unknown(&format!("{section}.{key}"), key, part, &known);
                }
            }
        }
    }

    /// Decodes tests of the routes. An invalid one is reported and left out.
    fn tests(&mut self, node: &Node) {
        for (index, node) in self.list("http.tests", node).into_iter().enumerate() {
            let mut node = node.clone();
            route_test::expand_text(&mut node);
            match decode::<RouteTest>(&node) {
                Ok(test) => self.out.tests.push((node.origin.clone(), test)),
                Err(error) => {
                    let message = format!("http.tests[{index}].{}: {}", error.path(), error.message());
                    self.problem(&error.origin(), None, message);
                }
            }
        }
    }

    /// Returns the elements of a list.
    fn list<'n>(&mut self, path: &str, node: &'n Node) -> Vec<&'n Node> {
        match &node.value {
            Value::List(list) => list.iter().collect(),
            Value::Null => Vec::new(),
            Value::Leaf(text) if text.is_empty() => Vec::new(),
            Value::Table(table) if table.has_indexes() => {
                let (items, strays) = table.items();
                for (key, node) in strays {
                    let message = format!("{path}.{key}: invalid list index `{key}`: expected a number");
                    self.problem(&node.origin, None, message);
                }
                items.into_iter().map(|(_, node)| node).collect()
            }
            _ => {
                self.problem(&node.origin, None, format!("{path}: expected a list"));
                Vec::new()
            }
        }
    }

    fn certificates(&mut self, node: &Node) {
        for (index, node) in self.list("tls.certificates", node).into_iter().enumerate() {
            let object = ObjectRef { kind: Kind::Certificate, name: index.to_string() };
            self.out.origins.insert(object.clone(), ObjectOrigin::from_node(node, &mut self.paths));
            let path = format!("tls.certificates[{index}]");
            match decode(node) {
                Ok(certificate) => self.out.config.tls.certificates.push(certificate),
                Err(error) => {
                    if let Some(rest) = self.decode_partially(object.clone(), &path, node, error) {
                        self.out.partial.insert(object, rest);
                    }
                }
            }
        }
    }

    /// Decodes named objects; a broken one is left out.
    fn objects<T: DeserializeOwned>(&mut self, kind: Kind, section: &str, node: &Node) -> Map<T> {
        let mut objects = Map::new();
        for (name, node) in self.table(section, node) {
            let object = self.object(kind, name, node);
            match decode(node) {
                Ok(value) => drop(objects.insert(name.to_owned(), Arc::new(value))),
                Err(error) => {
                    // What was written in a consumer may be a key.
                    if kind != Kind::Consumer {
                        self.out.raw.insert(object.clone(), raw_json(kind, node));
                    }
                    self.report_all_errors::<T>(&object, &format!("{section}.{name}"), node, error);
                }
            }
        }
        objects
    }

    /// Decodes named routers; a broken one keeps what can be decoded.
    fn routers<T: DeserializeOwned>(&mut self, kind: Kind, section: &str, node: &Node) -> Map<T> {
        let mut routers = Map::new();
        for (name, node) in self.table(section, node) {
            let object = self.object(kind, name, node);
            match decode(node) {
                Ok(router) => drop(routers.insert(name.to_owned(), Arc::new(router))),
                Err(error) => {
                    let rest = self.decode_partially(object, &format!("{section}.{name}"), node, error);
                    routers.extend(rest.map(|router| (name.to_owned(), Arc::new(router))));
                }
            }
        }
        routers
    }

    /// Removes invalid keys one by one until the rest can be decoded.
    fn decode_partially<T: DeserializeOwned>(
        &mut self,
        object: ObjectRef,
        path: &str,
        node: &Node,
        mut error: DecodeError,
    ) -> Option<T> {
        let mut rest = node.clone();
        for _ in 0..MAX_INVALID_KEYS {
            self.broken(object.clone(), path, &error);
            if !error.remove_from(&mut rest) {
                return None;
            }
            match decode(&rest) {
                Ok(router) => return Some(router),
                Err(next) => error = next,
            }
        }
        self.problem(
            &node.origin,
            Some(object),
            format!("{path}: more than {MAX_INVALID_KEYS} invalid keys"),
        );
        None
    }

    /// Reports all errors of an object that is left out: invalid keys are removed one by one, as long as
    /// removing them does not cause new errors.
    fn report_all_errors<T: DeserializeOwned>(
        &mut self,
        object: &ObjectRef,
        path: &str,
        node: &Node,
        mut error: DecodeError,
    ) {
        let mut rest = node.clone();
        for _ in 0..MAX_INVALID_KEYS {
            self.broken(object.clone(), path, &error);
            // Without its only key, the kind of an object is unknown.
            if error.steps().len() < 2 && object.kind.has_one_key() || !error.remove_from(&mut rest) {
                return;
            }
            match decode::<T>(&rest) {
                Err(next) if !next.is_missing_key() => error = next,
                _ => return,
            }
        }
        let message = format!("{path}: more than {MAX_INVALID_KEYS} invalid keys");
        self.problem(&node.origin, Some(object.clone()), message);
    }

    fn object(&mut self, kind: Kind, name: &str, node: &Node) -> ObjectRef {
        let object = ObjectRef { kind, name: name.to_owned() };
        self.out.origins.insert(object.clone(), ObjectOrigin::from_node(node, &mut self.paths));
        object
    }

    fn table<'n>(&mut self, path: &str, node: &'n Node) -> Vec<(&'n str, &'n Node)> {
        match &node.value {
            Value::Table(table) => Table::iter(table).collect(),
            // Traefik rejects empty tables; here they are valid and mean nothing.
            Value::Null => Vec::new(),
            Value::Leaf(text) if text.is_empty() => Vec::new(),
            _ => {
                let place = if path.is_empty() { "the configuration" } else { path };
                self.problem(&node.origin, None, format!("{place}: expected a table of names"));
                Vec::new()
            }
        }
    }

    fn unknown(&mut self, path: &str, key: &str, node: &Node, known: &[&str]) {
        self.problem(
            &node.origin,
            None,
            format!("{path}: unknown key: {}", suggest::alternatives(key, known)),
        );
    }

    fn broken(&mut self, object: ObjectRef, path: &str, error: &DecodeError) {
        let inner = error.path();
        // A problem names its object; only the part inside it needs a path.
        let message = match inner.starts_with('[') {
            _ if inner.is_empty() => error.message().to_owned(),
            true => format!("{path}{inner}: {}", error.message()),
            false => format!("{path}.{inner}: {}", error.message()),
        };
        self.problem(&error.origin(), Some(object), message);
    }

    fn problem(&mut self, origin: &Origin, object: Option<ObjectRef>, message: String) {
        self.out.problems.push(Problem { origin: origin.clone(), object, message, excerpt: None });
    }
}

/// Decodes the value under the key of a kind.
struct Part<'a, 'n> {
    decoder: &'a mut ConfigDecoder,
    node: &'n Node,
}

impl WithType for Part<'_, '_> {
    type Output = ();

    fn with<T: Object>(self) {
        let (section, part) = T::KIND.keys();
        let path = format!("{section}.{part}");
        let objects = match T::KIND.is_router() {
            true => self.decoder.routers::<T>(T::KIND, &path, self.node),
            false => self.decoder.objects::<T>(T::KIND, &path, self.node),
        };
        *T::map_mut(&mut self.decoder.out.config) = objects;
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct: Vec<&str> = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

/// Returns a broken object as JSON, with the defaults of a middleware filled in if its options are valid.
fn raw_json(kind: Kind, node: &Node) -> String {
    let mut value = json(node);
    if let (Kind::Middleware, Value::Table(table), Some(members)) = (kind, &node.value, value.as_object_mut())
    {
        for (key, options) in table.iter() {
            let mut one = Node::table(node.origin.clone());
            if let Value::Table(table) = &mut one.value {
                table.push(key.to_owned(), options.clone());
            }
            let sound =
                decode::<crate::Middleware>(&one).ok().and_then(|sound| serde_json::to_value(sound).ok());
            if let Some(serde_json::Value::Object(sound)) = sound {
                members.remove(key);
                members.extend(sound);
            }
        }
    }
    // The order does not depend on the source.
    value.sort_all_objects();
    let text = value.to_string();
    if text.len() > MAX_RAW_LEN { "{}".into() } else { text }
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Leaf(text) => match text.as_str() {
            "true" => true.into(),
            "false" => false.into(),
            text => text.parse::<i64>().map_or_else(|_| text.into(), Into::into),
        },
        Value::List(list) => list.iter().map(json).collect(),
        Value::Table(table) => {
            serde_json::Value::Object(table.iter().map(|(key, node)| (key.to_owned(), json(node))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::yaml;

    fn decoded(text: &str) -> Provided {
        decode_config(&yaml::read("f.yml", text.as_bytes()).expect("valid YAML"))
    }

    #[test]
    fn objects_decode_with_their_origins() {
        let provided = decoded(
            "http:\n  routers:\n    r:\n      rule: Host(`a`)\n      service: s\n      tls: {}\n  services:\n    s:\n      \
             loadBalancer:\n        servers:\n        - url: http://127.0.0.1\n",
        );
        assert_eq!(provided.problems, []);
        let router = &provided.config.http.routers["r"];
        assert_eq!((router.rule.as_str(), router.tls.is_some()), ("Host(`a`)", true));
        let origin = &provided.origins[&ObjectRef { kind: Kind::Router, name: "r".into() }];
        assert_eq!(origin.origin, Origin::File { path: "f.yml".into(), line: 3, column: 5 });
        let balancer = provided.config.http.services["s"].load_balancer.as_ref().expect("a balancer");
        assert_eq!(balancer.servers[0].url, "http://127.0.0.1");
    }

    #[test]
    fn a_broken_router_keeps_its_valid_keys_and_reports_the_others() {
        let provided = decoded(
            "http:\n  routers:\n    r:\n      rule: Host(`a`)\n      entrypoint: web\n      priority: high\n      service: s\n      \
             tls:\n        certresolvr: x\n    ok: {rule: PathPrefix(`/`), service: s}\n",
        );
        let router = &provided.config.http.routers["r"];
        assert_eq!((router.rule.as_str(), router.service.as_str()), ("Host(`a`)", "s"));
        assert!(router.tls.is_some(), "it is still a TLS router");
        assert!(provided.config.http.routers.contains_key("ok"));
        let shown: Vec<String> = provided.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "f.yml:5: router r: http.routers.r.entrypoint: unknown key: did you mean `entryPoints`?",
                "f.yml:6: router r: http.routers.r.priority: invalid value `high`: expected an integer",
                "f.yml:9: router r: http.routers.r.tls.certresolvr: unknown key: did you mean `certResolver`?",
            ]
        );
    }

    #[test]
    fn a_router_with_too_many_invalid_keys_is_left_out() {
        let keys: String = (0..5000).map(|n| format!("      k{n}: v\n")).collect();
        let provided = decoded(&format!("http:\n  routers:\n    r:\n{keys}"));
        assert!(provided.config.http.routers.is_empty());
        assert_eq!(provided.problems.len(), MAX_INVALID_KEYS + 1);
    }

    #[test]
    fn a_middleware_has_exactly_one_kind() {
        let provided = decoded(
            "http:\n  middlewares:\n    two: {addPrefix: {prefix: /a}, other: {}}\n    none: {}\n    typo: {addPrefx: {prefix: /}}\n    ok: {addprefix: {prefix: /x}}\n",
        );
        assert_eq!(provided.config.http.middlewares.keys().collect::<Vec<_>>(), ["ok"]);
        let two = &provided.raw[&ObjectRef { kind: Kind::Middleware, name: "two".into() }];
        assert_eq!(two, r#"{"addPrefix":{"prefix":"/a"},"other":{}}"#);
        let messages: Vec<&str> = provided.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert!(
            messages[0].starts_with("cannot create middleware: multi-types middleware not supported"),
            "{messages:?}"
        );
        assert!(messages[1].starts_with("invalid middleware type"), "{messages:?}");
        assert!(
            messages[2].contains("typo.addPrefx: unknown key: did you mean `addPrefix`?"),
            "{messages:?}"
        );
    }

    #[test]
    fn a_file_of_consumers_has_nothing_else() {
        let read = |text: &str| {
            let provided = decode_consumers(&yaml::read("c.yml", text.as_bytes()).expect("valid YAML"));
            let names: Vec<String> = provided.config.http.consumers.keys().cloned().collect();
            assert!(provided.config.http.routers.is_empty());
            (
                names.join(" "),
                provided.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            )
        };
        let names = |text: &str| match read(text) {
            (names, problems) if problems.is_empty() => names,
            (_, problems) => panic!("{problems}"),
        };
        assert_eq!(names("consumers: {a: {plan: x}, b: {}}"), "a b");
        assert_eq!(names("http: {consumers: {a: {plan: x}}, plans: {x: {groups: [g]}}}"), "a");
        assert_eq!((names(""), names("consumers:")), (String::new(), String::new()));
        let (names, problems) = read(
            "consumers: {a: {}}\nhttp:\n  routers: {r: {rule: Path(`/`)}}\n  consumers: {c: {}}\ntls: {}\n",
        );
        assert_eq!(names, "a");
        assert_eq!(
            problems,
            "c.yml:3: http.routers: ignored: this file has `consumers` and `plans`, each once; c.yml:4: http.consumers: ignored: \
             this file has `consumers` and `plans`, each once; c.yml:5: tls: ignored: this file has `consumers` and `plans`, each \
             once"
        );
        let (names, problems) = read("consumers: {a: {plann: x}, b: {}}");
        assert_eq!(names, "b");
        assert!(problems.contains("consumer a: http.consumers.a.plann: unknown key"), "{problems}");
        assert!(read("[]").1.contains("expected a table"));
    }

    #[test]
    fn empty_tables_are_valid_and_unknown_sections_are_not() {
        let provided = decoded("http:\n  routers: {}\n  services:\n  router: {}\ntls: {}\nmetrics: {}\n");
        let messages: Vec<&str> = provided.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(messages.len(), 2, "{messages:?}");
        assert!(messages[0].contains("http.router: unknown key: did you mean `routers`?"), "{messages:?}");
        assert!(messages[1].contains("metrics: unknown key: expected `http`"), "{messages:?}");
    }
}
