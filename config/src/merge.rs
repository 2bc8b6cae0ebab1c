//! Merges the states of all providers into one configuration.

use crate::Kind;
use crate::locate::{ObjectOrigin, Origins};
use crate::origin::{ObjectRef, Origin, Problem};
use crate::section::{ForEachSection, Object, WithType, for_each_section};
use crate::{Config, Map, Provided};

/// Name of the default TLS options and store. They belong to no provider.
const DEFAULT: &str = "default";

/// Merges the states of providers, given with the providers' names.
///
/// Objects, origins and problems get names such as `name@provider`; [`Qualified`](crate::Qualified) does the
/// same for references inside objects. TLS options and stores called `default` keep that name. If two
/// providers define them, neither is used, as in Traefik, and each is reported. Certificates are named after
/// their position in the provider's list: `0@file`.
pub fn merge<'a>(states: impl IntoIterator<Item = (&'a str, &'a Provided)>) -> Provided {
    let states: Vec<_> = states.into_iter().collect();
    let mut all = Provided::default();
    for (provider, state) in &states {
        add(&mut all, provider, state);
    }
    drop_contested(&mut all, &states);
    all
}

/// Returns the qualified name of an object.
pub fn qualified(kind: Kind, name: &str, provider: &str) -> String {
    if name == DEFAULT && matches!(kind, Kind::TlsOptions | Kind::TlsStore) {
        return name.to_owned();
    }
    format!("{name}@{provider}")
}

fn add(all: &mut Provided, provider: &str, state: &Provided) {
    let (to, from) = (&mut all.config, &state.config);
    for_each_section(&mut Extend { to, from, provider });
    to.tls.certificates.extend(from.tls.certificates.iter().cloned());
    // Appended as a whole, like the maps.
    let mut origins: Origins =
        state.origins.iter().map(|(object, origin)| (qualify(object, provider), origin.clone())).collect();
    all.origins.append(&mut origins);
    let written = state.raw.iter().map(|(object, text)| (qualify(object, provider), text.clone()));
    all.raw.extend(written);
    all.kept.extend(state.kept.iter().map(|(object, note)| (qualify(object, provider), note.clone())));
    all.problems.extend(state.problems.iter().map(|problem| Problem {
        object: problem.object.as_ref().map(|object| qualify(object, provider)),
        ..problem.clone()
    }));
}

struct Extend<'a> {
    to: &'a mut Config,
    from: &'a Config,
    provider: &'a str,
}

impl ForEachSection for Extend<'_> {
    fn section<T: Object>(&mut self) {
        let named = T::map(self.from)
            .iter()
            .map(|(name, object)| (qualified(T::KIND, name, self.provider), object.clone()));
        // Collecting and appending is much cheaper than single insertions.
        let mut more: Map<T> = named.collect();
        T::map_mut(self.to).append(&mut more);
    }
}

fn qualify(object: &ObjectRef, provider: &str) -> ObjectRef {
    ObjectRef { kind: object.kind, name: qualified(object.kind, &object.name, provider) }
}

fn drop_contested(all: &mut Provided, states: &[(&str, &Provided)]) {
    for kind in [Kind::TlsOptions, Kind::TlsStore] {
        let object = ObjectRef { kind, name: DEFAULT.into() };
        let given: Vec<_> = states.iter().filter(|(_, state)| has_default(state, kind)).collect();
        if given.len() < 2 {
            continue;
        }
        let _ = kind.with_type(Remove { config: &mut all.config, name: DEFAULT });
        let providers: Vec<&str> = given.iter().map(|(provider, _)| *provider).collect();
        for (_, state) in given {
            all.problems.push(Problem {
                origin: state.origins.get(&object).map_or(Origin::Internal, ObjectOrigin::whole),
                object: Some(object.clone()),
                message: format!(
                    "defined by more than one provider ({}): all definitions are ignored",
                    providers.join(", ")
                ),
                excerpt: None,
            });
        }
    }
}

fn has_default(state: &Provided, kind: Kind) -> bool {
    kind.with_type(Has { config: &state.config, name: DEFAULT }).unwrap_or_default()
}

struct Has<'a> {
    config: &'a Config,
    name: &'a str,
}

impl WithType for Has<'_> {
    type Output = bool;

    fn with<T: Object>(self) -> bool {
        T::map(self.config).contains_key(self.name)
    }
}

struct Remove<'a> {
    config: &'a mut Config,
    name: &'a str,
}

impl WithType for Remove<'_> {
    type Output = ();

    fn with<T: Object>(self) {
        T::map_mut(self.config).remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode_config;
    use crate::formats::yaml;

    fn provided(file: &str, text: &str) -> Provided {
        decode_config(&yaml::read(file, text.as_bytes()).expect("valid YAML"))
    }

    #[test]
    fn names_are_qualified_and_references_are_not() {
        let file = provided(
            "a.yml",
            "{http: {routers: {r: {rule: Path(`/`), service: s, prio: 1}}, services: {s: {loadBalancer: {}}}}, \
             tls: {certificates: [{certFile: a}], options: {old: {minVersion: VersionTLS10}, default: {}}}}",
        );
        let docker = provided("b.yml", "{http: {routers: {r: {rule: Path(`/b`), service: s@file}}}}");
        let all = merge([("file", &file), ("docker", &docker)]);
        assert_eq!(all.config.http.routers.keys().collect::<Vec<_>>(), ["r@docker", "r@file"]);
        assert_eq!(all.config.http.routers["r@file"].service, "s");
        assert_eq!(all.config.tls.options.keys().collect::<Vec<_>>(), ["default", "old@file"]);
        let router = ObjectRef { kind: Kind::Router, name: "r@file".into() };
        assert_eq!(
            all.problems.iter().map(|problem| problem.object.clone()).collect::<Vec<_>>(),
            [Some(router.clone())]
        );
        assert_eq!(all.origins.get(&router).map(ToString::to_string).as_deref(), Some("a.yml:1"));
        assert!(all.origins.contains_key(&ObjectRef { kind: Kind::Certificate, name: "0@file".into() }));
    }

    #[test]
    fn default_options_of_two_providers_are_dropped() {
        let a = provided("a.yml", "tls: {options: {default: {sniStrict: true}}, stores: {default: {}}}");
        let b = provided("b.yml", "tls: {options: {default: {}}}");
        let all = merge([("file", &a), ("docker", &b)]);
        assert!(all.config.tls.options.is_empty());
        assert!(all.config.tls.stores.contains_key("default"), "only one provider defines it");
        let told: Vec<String> = all.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].starts_with(
                "a.yml:1: TLS options default: defined by more than one provider (file, docker)"
            )
        );
    }
}
