//! The TCP routes of an entry point, and the choice between them and HTTP.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::index::Index;
use super::middlewares::{Middleware, Permit};
use super::rule::{ACME_PROTOCOL, View};
use super::service::Service;
use crate::router::{Closeness, Rule};
use tidegate_config::tls::Domain;
use tidegate_core::Connection;
use tidegate_core::traffic::TrafficCounters;
use tidegate_wire::client_hello::{self, HANDSHAKE_RECORD, Hello, Parsed};
use tidegate_wire::postgres;

/// A compiled TCP router.
pub struct Route {
    /// Name of the router.
    pub name: Arc<str>,
    /// Middlewares, first to last.
    pub middlewares: Vec<Arc<dyn Middleware>>,
    /// The service; `None` for a broken router, which closes its connections.
    pub service: Option<Arc<dyn Service>>,
    /// Counters of its connections, if metrics have them.
    pub traffic: Option<Arc<TrafficCounters>>,
    /// How TLS is handled.
    pub security: Security,
    /// The names of the router's certificates (`tls.domains`).
    pub domains: Vec<Domain>,
}

/// How TLS is handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// The connection is not encrypted.
    Plain,
    /// TLS is passed through to the server.
    Passthrough,
    /// TLS is terminated with the options of this name.
    Terminate(Arc<str>),
}

impl Route {
    /// Accepts a connection, or returns why it is rejected.
    pub fn admit(&self, connection: &Connection) -> Result<Vec<Permit>, &'static str> {
        let mut permits = Vec::new();
        for middleware in &self.middlewares {
            permits.extend(middleware.admit(connection)?);
        }
        Ok(permits)
    }
}

/// The TCP routes of one entry point.
pub struct Routes {
    /// Routes for connections without TLS.
    pub plain: Index<Route>,
    /// Routes for TLS connections.
    pub tls: Index<Route>,
    /// The server names of the entry point's HTTPS routers.
    pub https: HttpsNames,
    /// Whether certificate challenges are routed like other connections (`allowACMEByPass`).
    pub acme_bypass: bool,
}

/// The server names that the HTTPS routers of an entry point match.
#[derive(Debug, Default)]
pub struct HttpsNames {
    exact: HashSet<String>,
    /// By suffix after the first label.
    below: HashSet<String>,
    any: bool,
    /// Rules that match more names than they list.
    wider: Vec<Rule>,
}

impl HttpsNames {
    /// Adds the rule of a router. A rule without hosts matches any name.
    pub fn add(&mut self, rule: &Rule) {
        let hosts = &rule.hosts();
        self.any |= hosts.is_empty();
        if !hosts.is_empty() && rule.closeness().0 < Closeness::Wildcard {
            self.wider.push(rule.clone());
        }
        for host in hosts {
            match host.strip_prefix("*.") {
                _ if host == "*" => self.any = true,
                Some(suffix) => drop(self.below.insert(suffix.to_owned())),
                None => drop(self.exact.insert(host.clone())),
            }
        }
    }

    fn is_empty(&self) -> bool {
        !self.any && self.exact.is_empty() && self.below.is_empty()
    }

    /// Returns true if a router matches the name without listing it.
    fn may_take(&self, name: &str) -> bool {
        self.any || self.wider.iter().any(|rule| rule.coverage(name).is_some())
    }

    fn contains(&self, name: &str) -> bool {
        self.exact.contains(name)
            || name.split_once('.').is_some_and(|(_, suffix)| self.below.contains(suffix))
    }
}

/// Where a connection is routed.
pub enum Decision {
    /// HTTP, or HTTPS.
    Http,
    /// A TCP route, and the ClientHello if TLS is used.
    Route(Arc<Route>, Option<Hello>),
    /// PostgreSQL: the client requests TLS before the handshake.
    Postgres,
    /// No route, for this reason.
    Nobody(&'static str),
}

impl Routes {
    /// Routes a connection by its first bytes, as in Traefik; `None` if more bytes are needed.
    pub fn decide(&self, peer: IpAddr, bytes: &[u8]) -> Option<Decision> {
        let unnamed = View { server_name: "", peer, protocols: &[] };
        if self.tls.is_empty() && self.https.is_empty() {
            // For protocols where the server speaks first, do not wait for the client.
            if let Some(found) = self.plain.find(&unnamed) {
                return Some(Decision::Route(found.value.clone(), None));
            }
        }
        let first = *bytes.first()?;
        if first == HANDSHAKE_RECORD {
            return self.decide_tls(peer, bytes);
        }
        if !self.tls.is_empty() {
            match postgres::parse(bytes) {
                postgres::Parsed::SslRequest => return Some(Decision::Postgres),
                postgres::Parsed::Partial => return None,
                postgres::Parsed::Absent => {}
            }
        }
        let found = self.plain.find(&unnamed);
        Some(found.map_or(Decision::Http, |found| Decision::Route(found.value.clone(), None)))
    }

    /// Routes the TLS connection after a PostgreSQL client's request; `None` if more bytes are needed.
    pub fn decide_postgres(&self, peer: IpAddr, bytes: &[u8]) -> Option<Decision> {
        let hello = match client_hello::parse(bytes) {
            Parsed::Partial => return None,
            Parsed::Malformed(error) => return Some(Decision::Nobody(error.reason())),
            Parsed::Hello(hello) => hello,
        };
        let view = View { server_name: &hello.server_name, peer, protocols: &hello.protocols };
        let Some(route) = self.tls.find(&view).map(|found| found.value.clone()) else {
            return Some(Decision::Nobody("no TCP router with `tls` matches"));
        };
        Some(Decision::Route(route, Some(hello)))
    }

    fn decide_tls(&self, peer: IpAddr, bytes: &[u8]) -> Option<Decision> {
        let hello = match client_hello::parse(bytes) {
            Parsed::Partial => return None,
            Parsed::Malformed(error) => return Some(Decision::Nobody(error.reason())),
            Parsed::Hello(hello) => hello,
        };
        let is_challenge = hello.protocols.iter().any(|one| one == ACME_PROTOCOL.as_bytes());
        if is_challenge && !self.acme_bypass || self.https.contains(&hello.server_name) {
            return Some(Decision::Http);
        }
        let view = View { server_name: &hello.server_name, peer, protocols: &hello.protocols };
        let route = self.tls_route(&view).cloned();
        Some(route.map_or(Decision::Http, |route| Decision::Route(route, Some(hello))))
    }

    fn tls_route(&self, view: &View<'_>) -> Option<&Arc<Route>> {
        let found = self.tls.find(view);
        let found = found.filter(|found| !found.catch_all || !self.https.may_take(view.server_name));
        found.map(|found| found.value)
    }

    /// Returns the route that takes the connection of an HTTP client instead of the HTTP routers, if there is one.
    /// `server_name` is that of a client with TLS, empty if it sends none.
    pub fn instead_of_http(&self, peer: IpAddr, server_name: Option<&str>) -> Option<&Arc<Route>> {
        let Some(server_name) = server_name else {
            let unnamed = View { server_name: "", peer, protocols: &[] };
            return self.plain.find(&unnamed).map(|found| found.value);
        };
        if self.https.contains(server_name) {
            return None;
        }
        let protocols = [b"h2".to_vec(), b"http/1.1".to_vec()];
        self.tls_route(&View { server_name, peer, protocols: &protocols })
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::Entry;
    use super::super::rule;
    use super::*;

    /// Returns the ClientHello of a real client, without SNI if `name` is empty.
    fn hello_of(name: &str, protocols: &[&str]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(crate::tls::crypto())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.enable_sni = !name.is_empty();
        let name = if name.is_empty() { "unnamed.test" } else { name };
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn index(rules: &[&str]) -> Index<Route> {
        let entry = |rule: &&str| Entry {
            rule: rule::read(rule).unwrap().rule.unwrap(),
            priority: rule::priority(rule),
            tie: (0, (*rule).to_owned()),
            value: Arc::new(Route {
                name: Arc::from(*rule),
                middlewares: Vec::new(),
                service: None,
                traffic: None,
                security: Security::Plain,
                domains: Vec::new(),
            }),
        };
        Index::new(rules.iter().map(entry).collect())
    }

    fn routes(plain: &[&str], tls: &[&str], https: &[&[&str]]) -> Routes {
        let mut names = HttpsNames::default();
        for hosts in https {
            let rule = match hosts {
                [] => "PathPrefix(`/`)".to_owned(),
                hosts => hosts.join(" || "),
            };
            names.add(&Rule::parse(&rule).unwrap());
        }
        Routes { plain: index(plain), tls: index(tls), https: names, acme_bypass: false }
    }

    fn decided(routes: &Routes, bytes: &[u8]) -> String {
        match routes.decide([127, 0, 0, 1].into(), bytes) {
            None => "more".into(),
            Some(Decision::Http) => "http".into(),
            Some(Decision::Postgres) => "postgres".into(),
            Some(Decision::Nobody(_)) => "nobody".into(),
            Some(Decision::Route(route, _)) => route.name.to_string(),
        }
    }

    #[test]
    fn plain_connections_to_a_catch_all_do_not_wait_for_the_client() {
        let all = "HostSNI(`*`)";
        assert_eq!(decided(&routes(&[all], &[], &[]), b""), all);
        assert_eq!(decided(&routes(&["ClientIP(`10.0.0.1`)"], &[], &[]), b""), "more");
        assert_eq!(decided(&routes(&["ClientIP(`10.0.0.1`)"], &[], &[]), b"GET"), "http");
        for mixed in [routes(&[all], &[all], &[]), routes(&[all], &[], &[&["Host(`a.test`)"]])] {
            assert_eq!(decided(&mixed, b""), "more");
            assert_eq!(decided(&mixed, b"GET / HTTP/1.1\r\n"), all);
        }
    }

    #[test]
    fn tls_connections_are_routed_as_in_traefik() {
        let (all, one) = ("HostSNI(`*`)", "HostSNI(`db.test`)");
        let asks = |name| hello_of(name, &["h2"]);
        let both = routes(&[], &[all, one], &[&["Host(`web.test`)"], &["Host(`*.w.test`)"]]);
        for (name, taken) in
            [("web.test", "http"), ("x.w.test", "http"), ("db.test", one), ("other.test", all), ("", all)]
        {
            assert_eq!(decided(&both, &asks(name)), taken, "{name}");
        }
        let anywhere = routes(&[], &[all, one], &[&[]]);
        for (name, taken) in [("web.test", "http"), ("db.test", one), ("", "http")] {
            assert_eq!(decided(&anywhere, &asks(name)), taken, "{name}");
        }
        let specific = routes(&[all], &[one], &[&["Host(`db.test`)"]]);
        for (name, taken) in [("db.test", "http"), ("other.test", "http")] {
            assert_eq!(decided(&specific, &asks(name)), taken, "{name}");
        }
        let pattern = ["HostRegexp(`^.+\\.dom\\.test$`)", "Host(`dom.test`)"];
        let mixed = routes(&[], &[all, one], &[&pattern]);
        for (name, taken) in [("www.dom.test", "http"), ("dom.test", "http"), ("e.test", all), ("", all)] {
            assert_eq!(decided(&mixed, &asks(name)), taken, "{name}");
        }
        assert_eq!(decided(&both, &hello_of("other.test", &["acme-tls/1"])), "http");
        let bypass = Routes { acme_bypass: true, ..routes(&[], &[all], &[]) };
        assert_eq!(decided(&bypass, &hello_of("other.test", &["acme-tls/1"])), all);
        assert_eq!(decided(&both, &[0x16, 3, 1, 0, 0]), "nobody");
        assert_eq!(decided(&both, &asks("db.test")[..60]), "more");
    }

    #[test]
    fn postgres_is_detected_if_there_are_tls_routes() {
        let routes = routes(&["HostSNI(`*`)"], &["HostSNI(`db.test`)"], &[]);
        for end in 1..8 {
            assert_eq!(decided(&routes, &postgres::SSL_REQUEST[..end]), "more");
        }
        assert_eq!(decided(&routes, &postgres::SSL_REQUEST), "postgres");
        assert_eq!(decided(&routes, &[0, 0, 0, 9]), "HostSNI(`*`)");
        let peer = [127, 0, 0, 1].into();
        let hello = hello_of("db.test", &["postgresql"]);
        assert!(matches!(routes.decide_postgres(peer, &hello), Some(Decision::Route(..))));
        assert!(matches!(routes.decide_postgres(peer, &hello_of("x.test", &[])), Some(Decision::Nobody(_))));
        assert!(routes.decide_postgres(peer, &hello[..20]).is_none());
        assert!(matches!(routes.decide_postgres(peer, b"x"), Some(Decision::Nobody(_))));
    }
}
