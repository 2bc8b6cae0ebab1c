//! Broken objects: they are left out, or restored to their last good version.

use crate::Kind;

use crate::origin::{ObjectRef, Problem};
use crate::section::{Object, WithType};
use crate::tls::Certificate;
use crate::{Config, Provided};

impl Provided {
    /// Adds problems found before decoding. The objects that they name are broken: routers and TLS options
    /// keep what could be decoded, others are left out.
    pub fn add_problems(&mut self, problems: Vec<Problem>) {
        for problem in problems {
            if let Some(object) = &problem.object {
                self.origins.entry(object.clone()).or_insert_with(|| problem.origin.clone().into());
                if object.kind == Kind::Certificate {
                    self.take_certificate(object);
                } else if let Some(text) = take_out(&mut self.config, object)
                    && object.kind != Kind::Consumer
                {
                    self.raw.entry(object.clone()).or_insert(text);
                }
            }
            self.problems.push(problem);
        }
    }

    fn take_certificate(&mut self, object: &ObjectRef) {
        let place = self.sound_certificates(&self.problems).iter().position(|known| known == object);
        if let Some(place) = place {
            self.partial.insert(object.clone(), self.config.tls.certificates.remove(place));
        }
    }

    /// Returns the certificates in the list, in order; none when they cannot be told apart.
    fn sound_certificates(&self, problems: &[Problem]) -> Vec<ObjectRef> {
        let broken = |object: &ObjectRef| problems.iter().any(|one| one.object.as_ref() == Some(object));
        let all = self.origins.keys().filter(|object| object.kind == Kind::Certificate);
        let mut sound: Vec<ObjectRef> = all.filter(|object| !broken(object)).cloned().collect();
        sound.sort_by_key(|object| object.name.parse().unwrap_or(usize::MAX));
        if sound.len() == self.config.tls.certificates.len() { sound } else { Vec::new() }
    }

    /// Restores a certificate from the last good version with the same files, or else with the same position
    /// in a list of the same length. Those in `broken` are not restored.
    fn restore_certificate(&mut self, earlier: &Provided, object: &ObjectRef, broken: &[Problem]) -> bool {
        let count = |state: &Provided| state.origins.keys().filter(|one| one.kind == object.kind).count();
        let known = &earlier.config.tls.certificates;
        let used = &self.config.tls.certificates;
        let same_files = |one: &&Certificate| {
            self.partial.get(object).is_some_and(|partial| {
                let same = |a: &str, b: &str| !a.is_empty() && a == b;
                same(&one.cert_file, &partial.cert_file) || same(&one.key_file, &partial.key_file)
            })
        };
        let same_place = || {
            let places = earlier.sound_certificates(&earlier.problems);
            let place = places.iter().position(|one| one == object)?;
            known.get(place).filter(|one| count(self) == count(earlier) && !used.contains(one))
        };
        let Some(last) = known.iter().find(same_files).or_else(same_place).cloned() else { return false };
        let place = |object: &ObjectRef| object.name.parse::<usize>().unwrap_or(usize::MAX);
        let before = self.sound_certificates(broken).iter().filter(|one| place(one) < place(object)).count();
        self.config.tls.certificates.insert(before, last);
        self.partial.remove(object);
        true
    }

    /// Restores an object from an earlier state. Returns false when it was missing or broken there.
    pub fn restore(&mut self, earlier: &Provided, object: &ObjectRef) -> bool {
        if earlier.problems.iter().any(|problem| problem.object.as_ref() == Some(object)) {
            return false;
        }
        // Certificates have no names: they are identified by their files.
        let put = Put { to: &mut self.config, from: &earlier.config, name: &object.name };
        let done = object.kind.with_type(put).unwrap_or_default();
        if done {
            self.raw.remove(object);
        }
        if done && let Some(origin) = earlier.origins.get(object) {
            self.origins.insert(object.clone(), origin.clone());
        }
        done
    }

    /// Restores the last good version of each broken object, if there is one. The problem stays and mentions
    /// that the earlier version is in use.
    pub fn keep_last_good(&mut self, earlier: &Provided) {
        let mut problems = std::mem::take(&mut self.problems);
        let broken: Vec<ObjectRef> = problems.iter().filter_map(|problem| problem.object.clone()).collect();
        for object in broken {
            let restored = match object.kind {
                Kind::Certificate => self.restore_certificate(earlier, &object, &problems),
                _ => self.restore(earlier, &object),
            };
            if restored {
                for problem in problems.iter_mut().filter(|problem| problem.object.as_ref() == Some(&object))
                {
                    problem.object = None;
                    problem.message = format!(
                        "{} {}: {} (using its last good version)",
                        object.kind, object.name, problem.message
                    );
                }
            }
        }
        self.problems = problems;
    }
}

/// Removes a broken object from the configuration and returns it as JSON. Routers and TLS options stay:
/// without the latter, weaker ones without client certificates would apply.
fn take_out(config: &mut Config, object: &ObjectRef) -> Option<String> {
    if object.kind.is_router() || object.kind == Kind::TlsOptions {
        return None;
    }
    object.kind.with_type(TakeOut { config, name: &object.name }).flatten()
}

struct TakeOut<'a> {
    config: &'a mut Config,
    name: &'a str,
}

impl WithType for TakeOut<'_> {
    type Output = Option<String>;

    fn with<T: Object>(self) -> Option<String> {
        let object = T::map_mut(self.config).remove(self.name)?;
        Some(serde_json::to_string(&*object).unwrap_or_else(|_| "{}".into()))
    }
}

struct Put<'a> {
    to: &'a mut Config,
    from: &'a Config,
    name: &'a str,
}

impl WithType for Put<'_> {
    type Output = bool;

    fn with<T: Object>(self) -> bool {
        let Some(object) = T::map(self.from).get(self.name) else { return false };
        T::map_mut(self.to).insert(self.name.to_owned(), object.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::decode::decode_config;
    use crate::formats::yaml;
    use crate::origin::{Origin, Problem};
    use crate::router::Router;

    fn state(rule: &str, broken: bool) -> Provided {
        let mut state = Provided::default();
        state
            .config
            .http
            .routers
            .insert("r".into(), Arc::new(Router { rule: rule.into(), ..Router::default() }));
        if broken {
            let object = Some(ObjectRef { kind: Kind::Router, name: "r".into() });
            state.problems.push(Problem {
                origin: Origin::Internal,
                object,
                message: "typo".into(),
                excerpt: None,
            });
        }
        state
    }

    #[test]
    fn a_broken_object_is_restored_to_its_last_good_version() {
        let mut next = state("new", true);
        next.keep_last_good(&state("old", false));
        assert_eq!(next.config.http.routers["r"].rule, "old");
        assert_eq!(next.problems[0].object, None);
        assert!(next.problems[0].message.contains("router r: typo"), "{}", next.problems[0]);
    }

    #[test]
    fn earlier_problems_remove_all_objects_but_routers_and_tls_options() {
        let text = "{http: {routers: {n: {rule: r}}, services: {n: {loadBalancer: {}}}, middlewares: {n: {stripPrefix: {}}}}, \
                    tls: {options: {n: {sniStrict: true}}, certificates: [{certFile: a}, {certFile: b}]}}";
        let mut state = decode_config(&yaml::read("f.yml", text.as_bytes()).expect("valid YAML"));
        let kinds = [Kind::Router, Kind::Service, Kind::Middleware, Kind::TlsOptions];
        let named = kinds.map(|kind| ObjectRef { kind, name: "n".into() });
        let place = ObjectRef { kind: Kind::Certificate, name: "0".into() };
        let problem = |object| Problem {
            origin: Origin::Internal,
            object: Some(object),
            message: "lost".into(),
            excerpt: None,
        };
        state.add_problems(named.into_iter().chain([place]).map(problem).collect());
        let (http, tls) = (&state.config.http, &state.config.tls);
        assert_eq!((http.routers.len(), http.services.len(), http.middlewares.len()), (1, 0, 0));
        assert!(tls.options["n"].sni_strict);
        assert_eq!(tls.certificates.iter().map(|one| one.cert_file.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!((state.problems.len(), state.raw.len()), (5, 2));
    }

    #[test]
    fn certificates_are_restored_by_files_or_position() {
        let read = |lines: &[&str]| {
            let text = format!("tls:\n  certificates:\n{}", lines.join(""));
            decode_config(&yaml::read("f.yml", text.as_bytes()).expect("valid YAML"))
        };
        let (a, b) = ("  - {certFile: a, keyFile: ka}\n", "  - {certFile: b, keyFile: kb}\n");
        let earlier = read(&[a, b]);
        let files = |state: &Provided| -> Vec<String> {
            state.config.tls.certificates.iter().map(|one| one.cert_file.clone()).collect()
        };
        for (lines, kept) in [
            (&["  - {certFile: a, keyFil: ka}\n", b][..], &["a", "b"][..]),
            (&["  - {certFil: a, keyFil: ka}\n", b], &["a", "b"]),
            (&[b, "  - {certFile: a, keyFile: ka, x: 1}\n"], &["b", "a"]),
            (&["  - {certFile: c, x: 1}\n", a, b], &["a", "b"]),
            (&["  - {keyFile: kb, x: 1}\n"], &["b"]),
            (&["  - {certFil: b}\n", a], &["a"]),
        ] {
            let mut next = read(lines);
            next.keep_last_good(&earlier);
            assert_eq!(files(&next), kept, "{lines:?}");
            assert_eq!(
                next.problems.iter().filter(|one| one.object.is_none()).count() > 0,
                kept.len() == lines.len()
            );
            let mut again = read(lines);
            again.keep_last_good(&next);
            assert_eq!(files(&again), kept, "{lines:?}");
        }
    }

    #[test]
    fn without_a_good_version_an_object_stays_broken() {
        let mut next = state("new", true);
        next.keep_last_good(&state("old", true));
        assert_eq!(next.config.http.routers["r"].rule, "new");
        assert!(next.problems[0].object.is_some());
    }
}
