//! Tests that compile whole configurations.

mod consumers;
mod effects;
mod runtime;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use tidegate_config::merge::merge;
use tidegate_config::{Kind, ObjectRef, Origin, Provided};
use tidegate_core::{Body, Connection, Context, Request, Response};
use time::OffsetDateTime;
use tokio::runtime::Runtime;

use super::report::Status;
use super::{Compiled, Effects, Environment, Files, Snapshot, compile};
use crate::service::Registry;
use crate::settings::{EntryPoint, Settings};
use crate::tls::DefaultCertificate;

struct World {
    runtime: Runtime,
    environment: Environment,
}

impl World {
    fn new(points: &[&str]) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let registry = Registry::new(1, runtime.handle().clone());
        let entry_points = points.iter().map(|name| ((*name).to_owned(), EntryPoint::default())).collect();
        let environment = Environment {
            settings: Arc::new(Settings { entry_points, ..Settings::default() }),
            client: registry.client(),
            registry,
            tcp: crate::tcp::Registry::new(runtime.handle().clone()),
            internal: BTreeMap::new(),
            files: Files::default(),
            stores: crate::store::Stores::new(runtime.handle().clone()),
            control: runtime.handle().clone(),
            clock: tidegate_core::Clock::System,
            default_certificate: DefaultCertificate::generate(OffsetDateTime::now_utc()),
            consumers: tidegate_core::ConsumersHandle::default(),
            purges: Default::default(),
            announcer: None,
            audit: None,
            metrics: None,
            maintenance: Arc::default(),
        };
        Self { runtime, environment }
    }

    fn settings(&mut self) -> &mut Settings {
        Arc::get_mut(&mut self.environment.settings).unwrap()
    }

    fn compile(&self, config: &str) -> Compiled {
        self.compile_after(config, None)
    }

    fn compile_after(&self, config: &str, previous: Option<&Compiled>) -> Compiled {
        let (compiled, effects) = self.draft(config, previous);
        effects.apply();
        compiled
    }

    fn compile_state(&self, state: &Provided, previous: Option<&Compiled>) -> Compiled {
        let (compiled, effects) = self.draft_state(state, previous);
        effects.apply();
        compiled
    }

    /// Compiles and returns the effects without applying them.
    fn draft(&self, config: &str, previous: Option<&Compiled>) -> (Compiled, Effects) {
        let state = Provided { config: serde_json::from_str(config).unwrap(), ..Provided::default() };
        self.draft_state(&state, previous)
    }

    fn draft_state(&self, state: &Provided, previous: Option<&Compiled>) -> (Compiled, Effects) {
        compile(OffsetDateTime::now_utc(), merge([("file", state)]), 0, previous, &self.environment)
    }

    /// Returns the response of the first entry point to a plain-text request.
    fn get(&self, snapshot: &Snapshot, host: &str, path: &str) -> Option<Response> {
        let (head, ()) =
            http::Request::builder().uri(path).header("host", host).body(()).unwrap().into_parts();
        let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let request = Request::new(head, Body::empty(), Context::new(Arc::new(Connection::plain(peer))));
        let route = snapshot.entry_points[0].plain.find(&request)?.clone();
        Some(self.runtime.block_on(route.chain.run(request)))
    }

    fn status(&self, snapshot: &Snapshot, host: &str, path: &str) -> Option<StatusCode> {
        self.get(snapshot, host, path).map(|response| response.status())
    }
}

const SERVICE: &str = r#""s": {"loadBalancer": {"servers": [{"url": "http://127.0.0.1:1"}]}}"#;

fn errors(compiled: &Compiled, kind: Kind, name: &str) -> Vec<String> {
    compiled.snapshot.report.object(kind, name).unwrap().errors.clone()
}

fn options_of(compiled: &Compiled, point: usize, host: &str) -> String {
    compiled.snapshot.tls_options_of(point, host).unwrap().name.to_string()
}

fn status_of(compiled: &Compiled, kind: Kind, name: &str) -> Status {
    compiled.snapshot.report.object(kind, name).unwrap().status
}

#[test]
fn a_kept_object_is_served_with_a_warning() {
    let world = World::new(&["web"]);
    let config = r#"{"http": {
        "routers": {"r": {"rule": "Host(`a.test`)", "service": "s"}},
        "services": {"s": {"loadBalancer": {"servers": []}}}
    }}"#;
    let mut state = Provided { config: serde_json::from_str(config).unwrap(), ..Provided::default() };
    for (kind, name) in [(Kind::Router, "r"), (Kind::Service, "s")] {
        state.kept.insert(ObjectRef { kind, name: name.into() }, "kept until later".into());
    }
    let compiled = world.compile_state(&state, None);
    for (kind, name) in [(Kind::Router, "r@file"), (Kind::Service, "s@file")] {
        assert_eq!(errors(&compiled, kind, name), ["kept until later"]);
        assert_eq!(status_of(&compiled, kind, name), Status::Warning);
    }
    assert!(compiled.snapshot.report.problems.is_empty(), "{:?}", compiled.snapshot.report.problems);
    assert_eq!(world.status(&compiled.snapshot, "a.test", "/"), Some(StatusCode::SERVICE_UNAVAILABLE));
    state.kept.clear();
    assert_eq!(
        status_of(&world.compile_state(&state, Some(&compiled)), Kind::Router, "r@file"),
        Status::Enabled
    );
}

#[test]
fn a_broken_router_keeps_its_rule_and_answers_503() {
    let world = World::new(&["web"]);
    let compiled = world.compile(&format!(
        r#"{{"http": {{
            "routers": {{
                "all": {{"rule": "PathPrefix(`/`)", "service": "s", "priority": 1}},
                "nomw": {{"rule": "Host(`a.test`)", "service": "s", "middlewares": ["gone"]}},
                "nosvc": {{"rule": "Host(`b.test`)", "service": "gone"}},
                "none": {{"rule": "Host(`c.test`)"}},
                "norule": {{"rule": "Host(`d.test`) &&", "service": "s"}}
            }},
            "services": {{{SERVICE}}}
        }}}}"#
    ));
    let snapshot = &compiled.snapshot;
    for host in ["a.test", "b.test", "c.test"] {
        assert_eq!(world.status(snapshot, host, "/"), Some(StatusCode::SERVICE_UNAVAILABLE), "{host}");
    }
    assert_eq!(world.status(snapshot, "d.test", "/"), Some(StatusCode::BAD_GATEWAY), "the catch-all");
    assert_eq!(errors(&compiled, Kind::Router, "nomw@file"), ["middleware \"gone@file\" does not exist"]);
    assert_eq!(errors(&compiled, Kind::Router, "nosvc@file"), ["the service \"gone@file\" does not exist"]);
    assert!(errors(&compiled, Kind::Router, "norule@file")[0].starts_with("invalid rule"));
    assert_eq!(status_of(&compiled, Kind::Router, "all@file"), Status::Enabled);
    assert_eq!(status_of(&compiled, Kind::Router, "none@file"), Status::Disabled);
    assert_eq!(snapshot.report.problems.len(), 5);
}

#[test]
fn cycles_are_reported_with_their_path() {
    let world = World::new(&["web"]);
    let compiled = world.compile(
        r#"{"http": {
            "routers": {
                "a": {"rule": "Host(`a.test`)", "service": "x"},
                "b": {"rule": "Host(`b.test`)", "service": "ok", "middlewares": ["m"]}
            },
            "services": {
                "x": {"failover": {"service": "y", "fallback": "y"}},
                "y": {"failover": {"service": "x", "fallback": "x"}},
                "ok": {"loadBalancer": {"servers": [{"url": "http://127.0.0.1:1"}]}},
                "none": {},
                "two": {"loadBalancer": {}, "weighted": {}}
            },
            "middlewares": {"m": {"chain": {"middlewares": ["n"]}}, "n": {"chain": {"middlewares": ["m"]}}}
        }}"#,
    );
    let expected = "could not instantiate service x@file: recursion detected in service:x@file->service:y@file->service:x@file";
    assert_eq!(errors(&compiled, Kind::Router, "a@file"), [expected]);
    let expected = "could not instantiate middleware m@file: recursion detected in middleware:m@file->middleware:n@file->middleware:m@file";
    assert_eq!(errors(&compiled, Kind::Router, "b@file"), [expected]);
}

#[test]
fn unchanged_objects_are_reused() {
    let world = World::new(&["web"]);
    let config = |path: &str, prefix: &str| {
        format!(
            r#"{{"http": {{
                "routers": {{
                    "r": {{"rule": "Path(`{path}`)", "service": "s", "middlewares": ["m", "limit"]}},
                    "q": {{"rule": "Path(`/q`)", "service": "s", "middlewares": ["m", "limit"]}}
                }},
                "services": {{{SERVICE}}},
                "middlewares": {{"m": {{"addPrefix": {{"prefix": "{prefix}"}}}}, "limit": {{"inFlightReq": {{"amount": 9}}}}}}
            }}}}"#
        )
    };
    let find = |compiled: &Compiled, path: &str| {
        let (head, ()) = http::Request::builder().uri(path).body(()).unwrap().into_parts();
        let peer: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let request = Request::new(head, Body::empty(), Context::new(Arc::new(Connection::plain(peer))));
        let route = compiled.snapshot.entry_points[0].plain.find(&request).unwrap();
        route.chain.middlewares().cloned().collect::<Vec<_>>()
    };
    let first = world.compile(&config("/a", "/x"));
    let second = world.compile_after(&config("/b", "/x"), Some(&first));
    let (before, after) = (find(&first, "/a"), find(&second, "/b"));
    assert!(Arc::ptr_eq(&before[0], &after[0]));
    assert!(Arc::ptr_eq(&before[1], &after[1]), "the limit's state survives");
    let other = find(&second, "/q");
    assert!(Arc::ptr_eq(&other[0], &after[0]), "shared by all routers");
    assert!(!Arc::ptr_eq(&other[1], &after[1]), "one for each router");
    let third = world.compile_after(&config("/b", "/y"), Some(&second));
    let changed = find(&third, "/b");
    assert!(!Arc::ptr_eq(&changed[0], &after[0]));
    assert!(Arc::ptr_eq(&changed[1], &after[1]));
}

#[test]
fn a_changed_file_rebuilds_its_middleware() {
    let world = World::new(&["web"]);
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "a:{SHA}ThmbShxAtJepX80c2JY1FzOEmUk=").unwrap();
    let config = format!(
        r#"{{"http": {{
            "routers": {{"r": {{"rule": "Path(`/`)", "service": "s", "middlewares": ["chain"]}}}},
            "services": {{{SERVICE}}},
            "middlewares": {{"chain": {{"chain": {{"middlewares": ["auth"]}}}}, "auth": {{"basicAuth": {{"usersFile": "{}"}}}}}}
        }}}}"#,
        users.display()
    );
    let first = world.compile(&config);
    assert_eq!(errors(&first, Kind::Router, "r@file"), [""; 0]);
    let second = world.compile_after(&config, Some(&first));
    std::fs::write(&users, "not a user").unwrap();
    assert!(world.environment.files.changed(), "the file is still watched after everything was reused");
    let third = world.compile_after(&config, Some(&second));
    assert_eq!(status_of(&third, Kind::Middleware, "auth@file"), Status::Disabled);
    assert_eq!(world.status(&third.snapshot, "h", "/"), Some(StatusCode::SERVICE_UNAVAILABLE));
}

#[test]
fn routers_with_equal_rules_and_priorities_get_a_warning() {
    let world = World::new(&["web"]);
    let compiled = world.compile(&format!(
        r#"{{"http": {{
            "routers": {{
                "a": {{"rule": "Host(`a.test`)", "service": "s"}},
                "b": {{"rule": "Host(`a.test`)", "service": "s"}}
            }},
            "services": {{{SERVICE}}}
        }}}}"#
    ));
    assert_eq!(status_of(&compiled, Kind::Router, "a@file"), Status::Enabled);
    assert_eq!(status_of(&compiled, Kind::Router, "b@file"), Status::Warning);
}

#[test]
fn tls_options_are_by_host_and_conflicts_fail_closed() {
    let world = World::new(&["web"]);
    let compiled = world.compile(&format!(
        r#"{{"http": {{
            "routers": {{
                "own": {{"rule": "Host(`own.test`)", "service": "s", "tls": {{"options": "strict"}}}},
                "one": {{"rule": "Host(`both.test`)", "service": "s", "tls": {{"options": "strict"}}}},
                "two": {{"rule": "Host(`both.test`) && Path(`/x`)", "service": "s", "tls": {{}}}},
                "gone": {{"rule": "Host(`gone.test`)", "service": "s", "tls": {{"options": "gone"}}}}
            }},
            "services": {{{SERVICE}}}
        }}, "tls": {{"options": {{"strict": {{"minVersion": "VersionTLS13"}}}}}}}}"#
    ));
    assert_eq!(options_of(&compiled, 0, "own.test"), "strict@file");
    assert_eq!(options_of(&compiled, 0, "both.test"), "default");
    for name in ["one@file", "two@file"] {
        assert!(errors(&compiled, Kind::Router, name)[0].contains("conflicting"), "{name}");
    }
    let unknown = ["building router handler: unknown TLS options: gone@file"];
    assert_eq!(errors(&compiled, Kind::Router, "gone@file"), unknown);
}

#[test]
fn child_routers_serve_requests_of_their_parents() {
    let world = World::new(&["web"]);
    let compiled = world.compile(&format!(
        r#"{{"http": {{
            "routers": {{
                "parent": {{"rule": "Host(`a.test`)"}},
                "child": {{"rule": "Path(`/c`)", "service": "s", "parentRefs": ["parent"]}},
                "lost": {{"rule": "Path(`/c`)", "service": "s", "parentRefs": ["nobody"]}}
            }},
            "services": {{{SERVICE}}}
        }}}}"#
    ));
    let snapshot = &compiled.snapshot;
    assert_eq!(world.status(snapshot, "a.test", "/c"), Some(StatusCode::BAD_GATEWAY));
    assert_eq!(world.status(snapshot, "a.test", "/other"), Some(StatusCode::NOT_FOUND));
    assert_eq!(world.status(snapshot, "b.test", "/c"), None);
    assert_eq!(status_of(&compiled, Kind::Router, "lost@file"), Status::Disabled);
}

#[test]
fn cyclic_parent_routers_are_not_reachable() {
    let world = World::new(&["web"]);
    let compiled = world.compile(&format!(
        r#"{{"http": {{
            "routers": {{
                "one": {{"rule": "Host(`a.test`)", "parentRefs": ["two"]}},
                "two": {{"rule": "Path(`/c`)", "parentRefs": ["one"]}},
                "parent": {{"rule": "Host(`b.test`)"}},
                "bad": {{"rule": "Path(`/c`)", "service": "s", "tls": {{}}, "parentRefs": ["parent"]}}
            }},
            "services": {{{SERVICE}}}
        }}}}"#
    ));
    for name in ["one@file", "two@file"] {
        assert_eq!(errors(&compiled, Kind::Router, name), ["router is not reachable"]);
    }
    assert_eq!(
        errors(&compiled, Kind::Router, "bad@file"),
        ["non-root router cannot have TLS configuration"]
    );
    let skipped = "building child routers muxer: no child routers could be added to muxer (1 skipped)";
    assert_eq!(errors(&compiled, Kind::Router, "parent@file"), [skipped]);
    let snapshot = &compiled.snapshot;
    assert_eq!(world.status(snapshot, "b.test", "/c"), Some(StatusCode::SERVICE_UNAVAILABLE));
}

#[test]
fn tcp_and_udp_routers_are_checked() {
    let world = World::new(&["web"]);
    let compiled = world.compile(
        r#"{"tcp": {"routers": {"t": {"rule": "HostSNI(`*`)", "service": "s"}}},
            "udp": {"routers": {"u": {"service": "s"}}}}"#,
    );
    assert_eq!(errors(&compiled, Kind::TcpRouter, "t@file"), ["the service \"s@file\" does not exist"]);
    assert_eq!(errors(&compiled, Kind::UdpRouter, "u@file"), ["no valid entryPoint for this router"]);
    assert_eq!(compiled.snapshot.report.config.tcp.routers["t@file"].priority, -1);
}

#[test]
fn tcp_routers_are_checked_in_traefiks_words() {
    let world = World::new(&["web"]);
    for (router, expected) in [
        (r#""rule": "HostSNI(`*`)", "service": "s""#, &[][..]),
        (r#""rule": "HostSNI(`*`)""#, &["the service is missing on the router"]),
        (r#""service": "s""#, &["router has no rule"]),
        (
            r#""rule": "Nope(`x`)", "service": "s""#,
            &["invalid rule \"Nope(`x`)\" at column 1: unknown matcher Nope"],
        ),
        (
            r#""rule": "HostSNI(`a`)", "service": "s""#,
            &["invalid rule: \"HostSNI(`a`)\" , has HostSNI matcher, but no TLS on router"],
        ),
        (
            r#""rule": "HostSNI(`x y`)", "service": "s", "tls": {}"#,
            &["invalid rule \"HostSNI(`x y`)\" at column 1: HostSNI: `x y` is not a host name"],
        ),
        (
            r#""rule": "HostSNI(`a`)", "service": "s", "tls": {"options": "x"}"#,
            &["unknown TLS options: x@file"],
        ),
        (r#""rule": "HostSNI(`*`)", "service": "none""#, &["the service \"none@file\" does not exist"]),
        (
            r#""rule": "HostSNI(`*`)", "service": "empty""#,
            &["the service \"empty@file\" does not have any type defined"],
        ),
        (
            r#""rule": "HostSNI(`*`)", "service": "lost""#,
            &["no transport configuration found for \"none@file\""],
        ),
        (
            r#""rule": "HostSNI(`*`)", "service": "s", "middlewares": ["none"]"#,
            &["middleware \"none@file\" does not exist"],
        ),
        (
            r#""rule": "HostSNI(`*`)", "service": "s", "entryPoints": ["no"]"#,
            &["entryPoint \"no\" doesn't exist", "no valid entryPoint for this router"],
        ),
        (
            r#""rule": "HostSNIRegexp(`^a$`)", "service": "s", "tls": {}, "ruleSyntax": "v2""#,
            &[
                "ruleSyntax `v2`: the rule could mean something else in `v3`, the only supported syntax: write it in `v3`",
            ],
        ),
    ] {
        let compiled = world.compile(&format!(
            r#"{{"tcp": {{"routers": {{"r": {{{router}}}}}, "services": {{
                "s": {{"loadBalancer": {{"servers": [{{"address": "127.0.0.1:1"}}]}}}}, "empty": {{}},
                "lost": {{"loadBalancer": {{"serversTransport": "none"}}}}}}}}}}"#
        ));
        assert_eq!(errors(&compiled, Kind::TcpRouter, "r@file"), expected, "{router}");
    }
}

#[test]
fn tcp_servers_keep_their_state_across_reloads() {
    let world = World::new(&["web"]);
    let config = |other: &str| {
        format!(
            r#"{{"tcp": {{"routers": {{"r": {{"rule": "HostSNI(`*`)", "service": "s"}}}},
                "services": {{"s": {{"loadBalancer": {{"servers": [{{"address": "127.0.0.1:1"}}, {{"address": "{other}"}}]}}}}}}}}}}"#
        )
    };
    let server = |compiled: &Compiled| {
        let service = compiled.snapshot.tcp_services["s@file"].clone();
        (0..2)
            .filter_map(|_| Some(service.choose()?.server))
            .find(|server| server.address() == "127.0.0.1:1")
            .unwrap()
    };
    let first = world.compile(&config("127.0.0.1:2"));
    let second = world.compile_after(&config("127.0.0.1:3"), Some(&first));
    assert!(Arc::ptr_eq(&server(&first), &server(&second)));
}

#[test]
fn priorities_above_the_maximum_are_rejected() {
    let mut world = World::new(&["web"]);
    world.settings().entry_points.insert("other".into(), EntryPoint::default());
    let compiled = world.compile(&format!(
        r#"{{"http": {{"routers": {{"r": {{"rule": "Path(`/`)", "service": "s", "priority": 9223372036854775807}}}},
            "services": {{{SERVICE}}}}}}}"#
    ));
    let expected =
        "the router priority 9223372036854775807 exceeds the max user-defined priority 9223372036854774807";
    assert_eq!(errors(&compiled, Kind::Router, "r@file"), [expected]);
}

#[test]
fn ten_thousand_routers_compile_and_one_of_them_changes() {
    let world = World::new(&["web"]);
    let state = |changed: &str| {
        let mut state = Provided::default();
        for number in 0..10_000 {
            let rule = if number == 5000 { changed.to_owned() } else { format!("Host(`h{number}.test`)") };
            let router =
                serde_json::json!({"rule": rule, "service": format!("s{number}"), "middlewares": ["m"]});
            let service = serde_json::json!({"loadBalancer": {"servers": [{"url": format!("http://127.0.0.1:{}", 1000 + number)}]}});
            state.config.http.routers.insert(format!("r{number}"), serde_json::from_value(router).unwrap());
            state.config.http.services.insert(format!("s{number}"), serde_json::from_value(service).unwrap());
        }
        let middleware = serde_json::from_value(serde_json::json!({"addPrefix": {"prefix": "/x"}})).unwrap();
        state.config.http.middlewares.insert("m".into(), middleware);
        state
    };
    let first = world.compile_state(&state("Host(`a.test`)"), None);
    let second = world.compile_state(&state("Host(`b.test`)"), Some(&first));
    assert_eq!(second.snapshot.report.problems, []);
    assert_eq!(second.snapshot.report.config.http.routers.len(), 10_000);
    assert_eq!(second.snapshot.report.config.http.routers["r5000@file"].rule, "Host(`b.test`)");
}

#[test]
fn tls_options_are_separate_for_each_entry_point() {
    let world = World::new(&["web", "secure"]);
    let compiled = world.compile(&format!(
        r#"{{"http": {{
            "routers": {{
                "open": {{"rule": "Host(`a.test`)", "entryPoints": ["web"], "service": "s", "tls": {{}}}},
                "guarded": {{"rule": "Host(`a.test`)", "entryPoints": ["secure"], "service": "s", "tls": {{"options": "mutual"}}}},
                "any": {{"rule": "Host(`*`)", "entryPoints": ["secure"], "service": "s", "tls": {{"options": "strict"}}}}
            }},
            "services": {{{SERVICE}}}
        }}, "tls": {{"options": {{
            "strict": {{"minVersion": "VersionTLS13"}},
            "mutual": {{"clientAuth": {{"clientAuthType": "RequireAnyClientCert"}}}}
        }}}}}}"#
    ));
    let at = |point: usize| ["a.test", "b.test", ""].map(|host| options_of(&compiled, point, host));
    // Entry points are indexed in alphabetical order.
    assert_eq!(at(0), ["mutual@file", "strict@file", "strict@file"]);
    assert_eq!(at(1), ["default"; 3]);
    for name in ["open@file", "guarded@file", "any@file"] {
        assert_eq!(status_of(&compiled, Kind::Router, name), Status::Enabled, "{name}");
    }
}

#[test]
fn tls_options_of_routers_without_a_host_apply_to_unnamed_hosts() {
    let world = World::new(&["web"]);
    let options = |first: &str, second: &str| {
        let compiled = world.compile(&format!(
            r#"{{"http": {{
                "routers": {{
                    "host": {{"rule": "Host(`a.test`)", "service": "s", "tls": {{}}}},
                    "one": {{"rule": "PathPrefix(`/one`)", "service": "s", "tls": {{"options": "{first}"}}}},
                    "two": {{"rule": "HostRegexp(`^b`)", "service": "s", "tls": {{"options": "{second}"}}}}
                }},
                "services": {{{SERVICE}}}
            }}, "tls": {{"options": {{"strict": {{"minVersion": "VersionTLS13"}}}}}}}}"#
        ));
        let of = |host: &str| options_of(&compiled, 0, host);
        let status =
            ["host@file", "one@file", "two@file"].map(|name| status_of(&compiled, Kind::Router, name));
        ([of("a.test"), of("b.test"), of("")], status)
    };
    // They agree; a named host keeps its own options.
    let strict = "strict@file".to_owned();
    let (names, status) = options("strict", "strict");
    assert_eq!(names, ["default".to_owned(), strict.clone(), strict]);
    // The pattern does not match the named host.
    assert_eq!(status, [Status::Enabled, Status::Warning, Status::Enabled]);
    let (names, status) = options("strict", "default");
    // The pattern decides for hosts it matches; the router without a host for the rest.
    assert_eq!(names, ["default", "default", "strict@file"]);
    assert_eq!(status, [Status::Enabled, Status::Warning, Status::Enabled]);
    assert_eq!(options("default", "default").1, [Status::Enabled; 3]);
}

#[test]
fn invalid_tls_options_close_their_hosts_even_if_they_are_the_default() {
    let world = World::new(&["web"]);
    let options = |of_default: &str| {
        let text = format!(
            r#"{{"tls": {{"options": {{"default": {of_default}, "sound": {{}}, "bad": {{"sniStrict": "perhaps"}}}}}}}}"#
        );
        let node = tidegate_config::formats::yaml::read("routes.yml", text.as_bytes()).unwrap();
        let compiled = world.compile_state(&tidegate_config::decode::decode_config(&node), None);
        ["default", "sound@file", "bad@file"].map(|name| compiled.snapshot.tls.config_of(name).is_some())
    };
    assert_eq!(options(r#"{"sniStrict": true}"#), [true, true, false]);
    assert_eq!(options(r#"{"sniStrict": "perhaps"}"#), [false, true, false]);
    assert_eq!(options(r#"{"clientAuht": {}}"#), [false, true, false]);
}

#[test]
fn objects_know_the_label_that_defines_them() {
    let world = World::new(&["web"]);
    let labels = [
        ("traefik.http.routers.r.entrypoints", "web"),
        ("traefik.http.routers.r.rule", "Host(`a.test`)"),
        ("traefik.http.services.s.loadbalancer.server.port", "80"),
    ];
    let place = |label: &str| Origin::Label { container: "app".into(), label: label.into() };
    let (node, _) = tidegate_config::formats::labels::read(labels, &["traefik"], place);
    let compiled = world.compile_state(&tidegate_config::decode::decode_config(&node), None);
    let key = |kind, name| compiled.snapshot.report.object(kind, name).unwrap().key.clone();
    assert_eq!(key(Kind::Router, "r@file"), Some(place(labels[1].0)));
    assert_eq!(key(Kind::Service, "s@file"), Some(place(labels[2].0)));
}
