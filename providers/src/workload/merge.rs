//! Merges workloads into one configuration: joins servers and resolves conflicts.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use tidegate_config::{ForEachSection, Object, ObjectRef, Provided, for_each_section};

use super::conflict::{Said, broken_objects, join, resolve};

/// Merges workloads in the given order.
///
/// Several workloads may define the same object: services with equal options join their servers, other
/// objects must be equal. Otherwise the version in `earlier`, the last state, stays in force; without one the
/// object is broken.
pub fn merge<'a>(parts: impl IntoIterator<Item = Said<'a>>, earlier: &Provided) -> Provided {
    let parts: Vec<_> = parts.into_iter().collect();
    let mut merger = Merger::default();
    for said in &parts {
        merger.add(said.part);
    }
    merger.finish(&parts, earlier)
}

#[derive(Default)]
struct Merger {
    out: Provided,
    contradicted: BTreeSet<ObjectRef>,
}

impl Merger {
    fn add(&mut self, part: &Provided) {
        for_each_section(&mut Add { merger: self, part });
        for certificate in &part.config.tls.certificates {
            if !self.out.config.tls.certificates.contains(certificate) {
                self.out.config.tls.certificates.push(certificate.clone());
            }
        }
        for (object, origin) in &part.origins {
            self.out.origins.entry(object.clone()).or_insert_with(|| origin.clone());
        }
        self.out.problems.extend(part.problems.iter().cloned());
        self.out.raw.extend(part.raw.iter().map(|(object, text)| (object.clone(), text.clone())));
    }

    fn map<T: Object>(&mut self, part: &Provided) {
        let into = T::map_mut(&mut self.out.config);
        for (name, value) in T::map(&part.config) {
            match into.entry(name.clone()) {
                Entry::Vacant(free) => drop(free.insert(value.clone())),
                Entry::Occupied(existing) if existing.get() == value => {}
                Entry::Occupied(mut existing) => {
                    if !join(Arc::make_mut(existing.get_mut()), value) {
                        self.contradicted.insert(ObjectRef { kind: T::KIND, name: name.clone() });
                    }
                }
            }
        }
    }

    fn finish(mut self, parts: &[Said<'_>], earlier: &Provided) -> Provided {
        // An object that is broken in one workload may be valid in another.
        let broken = broken_objects(&self.out);
        for said in parts.iter().filter(|_| !broken.is_empty()) {
            let own = broken_objects(said.part);
            let sound = said.part.origins.keys().filter(|one| broken.contains(one) && !own.contains(one));
            self.contradicted.extend(sound.cloned());
        }
        resolve(&mut self.out, &self.contradicted, parts, earlier);
        self.out.problems.sort();
        self.out.problems.dedup();
        self.out
    }
}

/// Adds the objects of one workload.
struct Add<'a> {
    merger: &'a mut Merger,
    part: &'a Provided,
}

impl ForEachSection for Add<'_> {
    fn section<T: Object>(&mut self) {
        self.merger.map::<T>(self.part);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_config::Origin;
    use tidegate_config::decode::decode_config;
    use tidegate_config::formats::labels;
    use tidegate_config::service::WeightedService;

    use super::*;

    /// Merges workloads with these labels, each below `traefik.http.services.`.
    fn merged(workloads: &[&[(&str, &str)]]) -> Provided {
        let part = |(number, pairs): (usize, &&[(&str, &str)])| {
            let pairs: Vec<(String, &str)> =
                pairs.iter().map(|(key, value)| (format!("traefik.http.services.{key}"), *value)).collect();
            let origin =
                |label: &str| Origin::Label { container: format!("c{number}").into(), label: label.into() };
            let borrowed = pairs.iter().map(|(key, value)| (key.as_str(), *value));
            let (node, problems) = labels::read(borrowed, &["traefik"], origin);
            assert_eq!(problems, []);
            let provided = decode_config(&node);
            assert_eq!(provided.problems, []);
            provided
        };
        let parts: Vec<Provided> = workloads.iter().enumerate().map(part).collect();
        merge(parts.iter().map(|part| Said { part, serves: true }), &Provided::default())
    }

    fn names(children: &[WeightedService]) -> Vec<(&str, Option<i64>)> {
        children.iter().map(|child| (child.name.as_str(), child.weight)).collect()
    }

    #[test]
    fn each_workload_may_name_itself_as_part_of_a_weighted_service() {
        for kind in ["weighted", "highestrandomweight"] {
            let key = |rest: &str| format!("w.{kind}.services[0].{rest}");
            let (name, weight) = (key("name"), key("weight"));
            let blue = [(name.as_str(), "blue"), (weight.as_str(), "9")];
            let green = [(name.as_str(), "green"), (weight.as_str(), "1")];
            let provided = merged(&[&blue, &green, &blue]);
            assert_eq!(provided.problems, []);
            let service = &provided.config.http.services["w"];
            let children = match kind {
                "weighted" => &service.weighted.as_ref().unwrap().services,
                _ => &service.highest_random_weight.as_ref().unwrap().services,
            };
            assert_eq!(names(children), [("blue", Some(9)), ("green", Some(1))]);
            let other = [(name.as_str(), "blue"), (weight.as_str(), "2")];
            let provided = merged(&[&blue, &green, &other]);
            assert!(!provided.config.http.services.contains_key("w"));
            let shown = provided.problems[0].to_string();
            assert!(
                shown.contains("c0, label")
                    && shown.contains("c2, label")
                    && shown.contains("different options"),
                "{shown}"
            );
        }
    }

    #[test]
    fn workloads_may_name_themselves_as_mirror_or_fallback() {
        let provided = merged(&[
            &[("m.mirroring.service", "main"), ("f.failover.service", "main")],
            &[("m.mirroring.mirrors[0].name", "next"), ("m.mirroring.mirrors[0].percent", "10")],
            &[("f.failover.fallback", "spare"), ("m.mirroring.mirrors[0].name", "third")],
        ]);
        assert_eq!(provided.problems, []);
        let mirroring = provided.config.http.services["m"].mirroring.as_ref().unwrap();
        let mirrors: Vec<_> = mirroring.mirrors.iter().map(|one| (one.name.as_str(), one.percent)).collect();
        assert_eq!((mirroring.service.as_str(), mirrors), ("main", vec![("next", 10), ("third", 0)]));
        let failover = provided.config.http.services["f"].failover.as_ref().unwrap();
        assert_eq!((failover.service.as_str(), failover.fallback.as_str()), ("main", "spare"));
    }

    #[test]
    fn conflicting_definitions_break_the_object() {
        for (one, two) in [
            (("m.mirroring.service", "a"), ("m.mirroring.service", "b")),
            (("m.failover.fallback", "a"), ("m.failover.fallback", "b")),
            (("m.mirroring.maxbodysize", "1"), ("m.mirroring.maxbodysize", "2")),
            (("m.weighted.services[0].name", "a"), ("m.failover.service", "a")),
        ] {
            let provided = merged(&[&[one], &[two]]);
            assert!(!provided.config.http.services.contains_key("m"), "{one:?} {two:?}");
            let shown = provided.problems[0].to_string();
            assert!(shown.contains("container c0") && shown.contains("container c1"), "{shown}");
        }
    }

    fn say(container: &str, pairs: &[(&str, &str)]) -> Provided {
        let origin = |label: &str| Origin::Label { container: container.into(), label: label.into() };
        let (node, _) = labels::read(pairs.iter().copied(), &["traefik"], origin);
        decode_config(&node)
    }

    fn join(parts: &[(&Provided, bool)], earlier: &Provided) -> Provided {
        merge(parts.iter().map(|(part, serves)| Said { part, serves: *serves }), earlier)
    }

    const MIDDLEWARES: &str = "traefik.http.routers.adm.middlewares";
    const RULE: &str = "traefik.http.routers.adm.rule";

    #[test]
    fn the_last_good_version_serves_until_the_older_workload_is_gone() {
        let old = say("c0", &[(RULE, "Path(`/admin`)"), (MIDDLEWARES, "pw")]);
        let new = say("c1", &[(RULE, "Path(`/admin`)"), (MIDDLEWARES, "pw,gz")]);
        let mut state = join(&[(&old, true)], &Provided::default());
        for order in [[(&old, true), (&new, true)], [(&new, true), (&old, true)]] {
            state = join(&order, &state);
            assert_eq!(state.config.http.routers["adm"].middlewares, ["pw"]);
            let shown = state.problems[0].to_string();
            assert!(state.problems[0].object.is_none(), "{shown}");
            for part in [
                "c0, label traefik.http.routers.adm.middlewares",
                "c1, label traefik.http.routers.adm.middlewares",
                "`middlewares`",
            ] {
                assert!(shown.contains(part), "{shown}");
            }
        }
        for parts in [&[(&old, false), (&new, true)][..], &[(&new, true)]] {
            let next = join(parts, &state);
            assert_eq!(next.config.http.routers["adm"].middlewares, ["pw", "gz"]);
            assert_eq!(next.problems, []);
        }
    }

    #[test]
    fn without_a_last_good_version_every_rule_is_rejected() {
        let old = say("c0", &[(RULE, "Path(`/a`)"), (MIDDLEWARES, "pw")]);
        let new = say("c1", &[(RULE, "Path(`/b`)"), (MIDDLEWARES, "pw")]);
        let mut state = Provided::default();
        for _ in 0..2 {
            state = join(&[(&old, true), (&new, true)], &state);
            let routers = &state.config.http.routers;
            let rules: Vec<_> =
                routers.iter().map(|(name, one)| (name.as_str(), one.rule.as_str())).collect();
            assert_eq!(rules, [("adm", "Path(`/a`)"), ("adm#2", "Path(`/b`)")]);
            let broken: BTreeSet<_> =
                state.problems.iter().filter_map(|one| Some(one.object.as_ref()?.name.as_str())).collect();
            assert_eq!(broken, BTreeSet::from(["adm", "adm#2"]));
        }
        let state = join(&[(&new, true)], &state);
        assert_eq!((state.config.http.routers.len(), state.problems.len()), (1, 0));
    }

    #[test]
    fn a_service_keeps_its_options_and_its_servers() {
        let part = |name: &str, strategy: &str, url: &str| {
            let key = |option: &str| format!("traefik.http.services.s.loadbalancer.{option}");
            say(name, &[(&key("strategy"), strategy), (&key("servers[0].url"), url)])
        };
        let (a, b) = (part("c0", "wrr", "http://a"), part("c1", "wrr", "http://b"));
        let c = part("c2", "p2c", "http://c");
        let urls = |state: &Provided| -> Vec<String> {
            let balancer = state.config.http.services["s"].load_balancer.as_ref().unwrap();
            balancer.servers.iter().map(|server| server.url.clone()).collect()
        };
        let state = join(&[(&a, true), (&b, true)], &Provided::default());
        let state = join(&[(&c, true), (&a, true), (&b, true)], &state);
        assert_eq!(urls(&state), ["http://a", "http://b", "http://c"], "new replicas take their share");
        assert_eq!(state.config.http.services["s"].load_balancer.as_ref().unwrap().strategy.as_str(), "wrr");
        let elsewhere = say(
            "c3",
            &[
                ("traefik.http.services.s.loadbalancer.serverstransport", "mtls"),
                ("traefik.http.services.s.loadbalancer.servers[0].url", "http://d"),
            ],
        );
        let state = join(&[(&elsewhere, true), (&c, true), (&b, true)], &state);
        assert_eq!(
            urls(&state),
            ["http://b", "http://c"],
            "a server that is reached differently is left out"
        );
        let state = join(&[(&c, true), (&b, false)], &state);
        assert_eq!((urls(&state), state.problems.len()), (vec!["http://c".to_owned()], 0));
    }
}
