//! Puts an object back as it was when it was last sound.

use crate::origin::{Kind, ObjectRef};
use crate::{Map, Provided};

impl Provided {
    /// Takes an object over from an earlier state in which it was sound. False when it was not there, or broken.
    pub fn restore(&mut self, earlier: &Provided, object: &ObjectRef) -> bool {
        if earlier.problems.iter().any(|problem| problem.object.as_ref() == Some(object)) {
            return false;
        }
        let (to, from, name) = (&mut self.config, &earlier.config, object.name.as_str());
        let done = match object.kind {
            Kind::Router => put(&mut to.http.routers, &from.http.routers, name),
            Kind::Service => put(&mut to.http.services, &from.http.services, name),
            Kind::Middleware => put(&mut to.http.middlewares, &from.http.middlewares, name),
            Kind::ServersTransport => {
                put(&mut to.http.servers_transports, &from.http.servers_transports, name)
            }
            Kind::TcpRouter => put(&mut to.tcp.routers, &from.tcp.routers, name),
            Kind::TcpService => put(&mut to.tcp.services, &from.tcp.services, name),
            Kind::TcpMiddleware => put(&mut to.tcp.middlewares, &from.tcp.middlewares, name),
            Kind::TcpServersTransport => {
                put(&mut to.tcp.servers_transports, &from.tcp.servers_transports, name)
            }
            Kind::UdpRouter => put(&mut to.udp.routers, &from.udp.routers, name),
            Kind::UdpService => put(&mut to.udp.services, &from.udp.services, name),
            Kind::TlsOptions => put(&mut to.tls.options, &from.tls.options, name),
            Kind::TlsStore => put(&mut to.tls.stores, &from.tls.stores, name),
            // Certificates have no names of their own.
            Kind::Certificate => false,
        };
        if done {
            self.written.remove(object);
        }
        if done && let Some(origin) = earlier.origins.get(object) {
            self.origins.insert(object.clone(), origin.clone());
        }
        done
    }

    /// For each object that is broken now: puts its last sound version back, where there is one. The problem stays,
    /// and says that the earlier version serves on.
    pub fn keep_last_good(&mut self, earlier: &Provided) {
        let mut problems = std::mem::take(&mut self.problems);
        let broken: Vec<ObjectRef> = problems.iter().filter_map(|problem| problem.object.clone()).collect();
        for object in broken {
            if self.restore(earlier, &object) {
                for problem in problems.iter_mut().filter(|problem| problem.object.as_ref() == Some(&object))
                {
                    problem.object = None;
                    problem.message = format!(
                        "{} {}: {} (its last good version serves on)",
                        object.kind, object.name, problem.message
                    );
                }
            }
        }
        self.problems = problems;
    }
}

fn put<T: Clone>(to: &mut Map<T>, from: &Map<T>, name: &str) -> bool {
    from.get(name).map(|object| to.insert(name.to_owned(), object.clone())).is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
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
    fn a_broken_object_goes_back_to_its_last_good_version() {
        let mut next = state("new", true);
        next.keep_last_good(&state("old", false));
        assert_eq!(next.config.http.routers["r"].rule, "old");
        assert_eq!(next.problems[0].object, None);
        assert!(next.problems[0].message.contains("router r: typo"), "{}", next.problems[0]);
    }

    #[test]
    fn without_a_good_version_it_stays_broken() {
        let mut next = state("new", true);
        next.keep_last_good(&state("old", true));
        assert_eq!(next.config.http.routers["r"].rule, "new");
        assert!(next.problems[0].object.is_some());
    }
}
