//! The references between objects, and how their names are qualified after the merge.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use tidegate_core::reference::{References, Target, has_plain, provider_of, qualify};
use tidegate_core::references;

use crate::consumer::Consumer;
use crate::plan::Plan;
use crate::router::{Router, RouterTls};
use crate::section::{ForEachSection, Object, for_each_section};
use crate::service::{
    Failover, HighestRandomWeight, LoadBalancer, Mirror, Mirroring, Service, Weighted, WeightedService,
};
use crate::tcp::{
    TcpLoadBalancer, TcpMiddleware, TcpRouter, TcpRouterTls, TcpServersTransport, TcpService, TcpWeighted,
    UdpRouter, UdpService,
};
use crate::tls::{Store, TlsOptions};
use crate::transport::ServersTransport;
use crate::{Config, ObjectRef};

impl References for Router {
    references!(Self { middlewares, service, parent_refs, tls, .. }, visit => {
        for name in middlewares {
            visit(Target::Middleware, name);
        }
        for name in parent_refs {
            visit(Target::Router, name);
        }
        if !service.is_empty() {
            visit(Target::Service, service);
        }
        if let Some(RouterTls { options, .. }) = tls
            && !options.is_empty()
        {
            visit(Target::TlsOptions, options);
        }
    });
}

impl References for Service {
    references!(Self { middlewares, load_balancer, weighted, highest_random_weight, mirroring, failover, .. }, visit => {
        for name in middlewares {
            visit(Target::Middleware, name);
        }
        if let Some(LoadBalancer { servers_transport, .. }) = load_balancer
            && !servers_transport.is_empty()
        {
            visit(Target::ServersTransport, servers_transport);
        }
        if let Some(Weighted { services, .. }) = weighted {
            for WeightedService { name, .. } in services {
                visit(Target::Service, name);
            }
        }
        if let Some(HighestRandomWeight { services, .. }) = highest_random_weight {
            for WeightedService { name, .. } in services {
                visit(Target::Service, name);
            }
        }
        if let Some(Mirroring { service, mirrors, .. }) = mirroring {
            visit(Target::Service, service);
            for Mirror { name, .. } in mirrors {
                visit(Target::Service, name);
            }
        }
        if let Some(Failover { service, fallback, .. }) = failover {
            visit(Target::Service, service);
            visit(Target::Service, fallback);
        }
    });
}

impl References for TcpRouter {
    references!(Self { middlewares, service, tls, .. }, visit => {
        for name in middlewares {
            visit(Target::Middleware, name);
        }
        if !service.is_empty() {
            visit(Target::Service, service);
        }
        if let Some(TcpRouterTls { options, .. }) = tls
            && !options.is_empty()
        {
            visit(Target::TlsOptions, options);
        }
    });
}

impl References for TcpService {
    references!(Self { load_balancer, weighted }, visit => {
        if let Some(TcpLoadBalancer { servers_transport, .. }) = load_balancer
            && !servers_transport.is_empty()
        {
            visit(Target::ServersTransport, servers_transport);
        }
        if let Some(TcpWeighted { services, .. }) = weighted {
            for WeightedService { name, .. } in services {
                visit(Target::Service, name);
            }
        }
    });
}

impl References for UdpRouter {
    references!(Self { service, .. }, visit => {
        if !service.is_empty() {
            visit(Target::Service, service);
        }
    });
}

impl References for UdpService {
    references!(Self { weighted, .. }, visit => {
        if let Some(TcpWeighted { services, .. }) = weighted {
            for WeightedService { name, .. } in services {
                visit(Target::Service, name);
            }
        }
    });
}

// Objects without references.
impl References for ServersTransport {}
impl References for Consumer {}
impl References for Plan {}
impl References for TcpMiddleware {}
impl References for TcpServersTransport {}
impl References for TlsOptions {}
impl References for Store {}

/// An object of any type.
type Shared = Arc<dyn Any + Send + Sync>;

/// Objects of a merged configuration whose references were qualified, before and after.
///
/// An object that is unchanged since the previous configuration is reused, so it is neither copied nor
/// rebuilt.
#[derive(Default)]
pub struct Qualified(HashMap<ObjectRef, (Shared, Shared)>);

impl Qualified {
    /// Qualifies all references in a merged configuration, whose objects have names such as `name@provider`.
    /// An unqualified name refers to an object of the same provider. Objects without such names are
    /// unchanged.
    pub fn apply(config: &mut Config, previous: Option<&Self>) -> Self {
        let mut pass = Pass { config, previous, done: HashMap::new() };
        for_each_section(&mut pass);
        Self(pass.done)
    }

    /// Returns the qualified version of an object if it is unchanged.
    fn reuse<T: Object>(&self, object: &ObjectRef, written: &Arc<T>) -> Option<Arc<T>> {
        let (before, after) = self.0.get(object)?;
        let before = before.clone().downcast::<T>().ok()?;
        let is_same = Arc::ptr_eq(&before, written) || before == *written;
        if is_same { after.clone().downcast().ok() } else { None }
    }
}

struct Pass<'a> {
    config: &'a mut Config,
    previous: Option<&'a Qualified>,
    done: HashMap<ObjectRef, (Shared, Shared)>,
}

impl ForEachSection for Pass<'_> {
    fn section<T: Object>(&mut self) {
        for (name, object) in T::map_mut(self.config) {
            if !has_plain(&**object) {
                continue;
            }
            let key = ObjectRef { kind: T::KIND, name: name.clone() };
            let known = self.previous.and_then(|previous| previous.reuse(&key, object));
            let qualified = known.unwrap_or_else(|| {
                let mut copy = T::clone(object);
                qualify(&mut copy, provider_of(name));
                Arc::new(copy)
            });
            let written = std::mem::replace(object, qualified.clone());
            self.done.insert(key, (written, qualified));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: &str = r#"{
        "http": {
            "routers": {
                "r@file": {"middlewares": ["m", "m@docker"], "service": "s", "parentRefs": ["p"], "tls": {"options": "o"}},
                "d@file": {"service": "s@docker", "tls": {"options": "default"}},
                "i@file": {"service": "api@internal", "tls": {}}
            },
            "services": {
                "l@file": {"middlewares": ["m"], "loadBalancer": {"serversTransport": "t"}},
                "w@file": {"weighted": {"services": [{"name": "a"}, {"name": "b@docker"}]}},
                "h@file": {"highestRandomWeight": {"services": [{"name": "a"}]}},
                "m@file": {"mirroring": {"service": "a", "mirrors": [{"name": "b"}]}},
                "f@file": {"failover": {"service": "a", "fallback": "b"}},
                "none@file": {"loadBalancer": {"servers": [{"url": "http://a"}]}}
            },
            "middlewares": {
                "c@file": {"chain": {"middlewares": ["a", "b@docker"]}},
                "a@file": {"anyOf": {"middlewares": ["a"]}},
                "e@file": {"errors": {"service": "s"}},
                "none@file": {"stripPrefix": {}}
            },
            "serversTransports": {"t@file": {}}
        },
        "tcp": {
            "routers": {"r@file": {"middlewares": ["m"], "service": "s", "tls": {"options": "o"}}},
            "services": {
                "l@file": {"loadBalancer": {"serversTransport": "t"}},
                "w@file": {"weighted": {"services": [{"name": "a"}]}}
            }
        },
        "udp": {
            "routers": {"r@file": {"service": "s"}},
            "services": {"w@file": {"weighted": {"services": [{"name": "a"}]}}}
        },
        "tls": {"options": {"default": {}}}
    }"#;

    fn merged(text: &str) -> Config {
        serde_json::from_str(text).expect("valid")
    }

    /// Collects all references.
    struct Names<'a>(&'a Config, Vec<String>);

    impl ForEachSection for Names<'_> {
        fn section<T: Object>(&mut self) {
            let names = &mut self.1;
            for (object, value) in T::map(self.0) {
                value.references(&mut |target, name| {
                    names.push(format!("{} {object}: {target:?} {}", T::KIND, name.name()));
                });
            }
        }
    }

    #[test]
    fn unqualified_names_get_the_provider_of_their_object() {
        let mut config = merged(EVERYTHING);
        Qualified::apply(&mut config, None);
        let mut names = Names(&config, Vec::new());
        for_each_section(&mut names);
        assert_eq!(
            names.1,
            [
                "router d@file: Service s@docker",
                "router d@file: TlsOptions default",
                "router i@file: Service api@internal",
                "router r@file: Middleware m@file",
                "router r@file: Middleware m@docker",
                "router r@file: Router p@file",
                "router r@file: Service s@file",
                "router r@file: TlsOptions o@file",
                "service f@file: Service a@file",
                "service f@file: Service b@file",
                "service h@file: Service a@file",
                "service l@file: Middleware m@file",
                "service l@file: ServersTransport t@file",
                "service m@file: Service a@file",
                "service m@file: Service b@file",
                "service w@file: Service a@file",
                "service w@file: Service b@docker",
                "middleware a@file: Middleware a@file",
                "middleware c@file: Middleware a@file",
                "middleware c@file: Middleware b@docker",
                "middleware e@file: Service s@file",
                "TCP router r@file: Middleware m@file",
                "TCP router r@file: Service s@file",
                "TCP router r@file: TlsOptions o@file",
                "TCP service l@file: ServersTransport t@file",
                "TCP service w@file: Service a@file",
                "UDP router r@file: Service s@file",
                "UDP service w@file: Service a@file",
            ]
        );
    }

    #[test]
    fn names_that_the_api_shows_as_written_are_kept() {
        let (written, mut config) = (merged(EVERYTHING), merged(EVERYTHING));
        Qualified::apply(&mut config, None);
        fn json(object: &impl serde::Serialize) -> serde_json::Value {
            serde_json::to_value(object).expect("JSON")
        }
        let (http, before) = (&config.http, &written.http);
        for name in ["w@file", "h@file", "m@file", "f@file"] {
            assert_eq!(json(&http.services[name]), json(&before.services[name]), "{name}");
        }
        assert_eq!(json(&http.middlewares["e@file"]), json(&before.middlewares["e@file"]));
        let router = json(&http.routers["r@file"]);
        assert_eq!((&router["service"], &router["tls"]["options"]), (&"s".into(), &"o".into()));
        assert_eq!(router["middlewares"], serde_json::json!(["m@file", "m@docker"]));
        let chain = json(&http.middlewares["c@file"]);
        assert_eq!(chain["chain"]["middlewares"], serde_json::json!(["a@file", "b@docker"]));
    }

    #[test]
    fn only_changed_objects_are_copied() {
        let source = merged(EVERYTHING);
        let mut first = source.clone();
        let known = Qualified::apply(&mut first, None);
        for name in ["d@file", "i@file"] {
            assert!(
                Arc::ptr_eq(&first.http.routers[name], &source.http.routers[name]),
                "{name} has no unqualified name"
            );
        }
        assert!(Arc::ptr_eq(&first.http.services["none@file"], &source.http.services["none@file"]));
        // The same objects again, and equal ones that were decoded again.
        for mut second in [source.clone(), merged(EVERYTHING)] {
            Qualified::apply(&mut second, Some(&known));
            assert!(Arc::ptr_eq(&second.http.routers["r@file"], &first.http.routers["r@file"]));
            assert!(Arc::ptr_eq(&second.udp.services["w@file"], &first.udp.services["w@file"]));
        }
        let mut changed =
            merged(&EVERYTHING.replace(r#""service": "s", "parentRefs""#, r#""service": "x", "parentRefs""#));
        Qualified::apply(&mut changed, Some(&known));
        assert_eq!(changed.http.routers["r@file"].service, "x@file");
        assert!(Arc::ptr_eq(&changed.http.services["w@file"], &first.http.services["w@file"]));
    }
}
