//! Tests of the Consul Catalog provider with a fake agent: changes, failures, and the number of requests.

mod keep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::trust::Topic;
use super::*;
use crate::testing::{Reply, Request, Running, Server, eventually, urls};

/// The state of the fake agent.
#[derive(Default)]
struct Catalog {
    /// Entries as in `/v1/health/service/<name>`.
    services: BTreeMap<String, Vec<Value>>,
    /// The response to all requests, if set.
    refuse: Option<(u16, &'static str)>,
    /// Whether to respond immediately, regardless of the index.
    impatient: bool,
    leaderless: bool,
    /// Whether the token may read services; `None` if the agent does not report it.
    rights: Option<bool>,
    /// Serial number of the Connect certificate.
    leaf: u32,
}

struct Agent {
    server: Server,
    catalog: Arc<Mutex<Catalog>>,
    index: watch::Sender<u64>,
    /// The index of the checks, if it differs from the other one.
    checks: watch::Sender<u64>,
}

impl Agent {
    async fn start() -> Self {
        let catalog: Arc<Mutex<Catalog>> = Arc::default();
        let (index, indexes) = watch::channel(10);
        let (checks, check_indexes) = watch::channel(10);
        let known = catalog.clone();
        let server = Server::start(move |request| {
            let of_checks = request.path.starts_with("/v1/health/state/");
            let indexes = if of_checks { check_indexes.clone() } else { indexes.clone() };
            answer(known.clone(), indexes, request).boxed()
        })
        .await;
        let agent = Self { server, catalog, index, checks };
        agent.set("consul", &[entry("0", "127.0.0.1", 8300, "passing", &["traefik.enable=false"])]);
        agent
    }

    /// Registers the instances of a service and wakes blocking queries.
    fn set(&self, name: &str, entries: &[Value]) {
        self.catalog.lock().services.insert(name.into(), entries.to_vec());
        self.wake();
    }

    fn wake(&self) {
        self.index.send_modify(|index| *index += 1);
        self.checks.send_replace(*self.index.borrow());
    }

    fn set_index(&self, index: u64) {
        self.index.send_replace(index);
        self.checks.send_replace(index);
    }

    fn options(&self) -> Options {
        let address = format!("127.0.0.1:{}", self.server.port);
        Options { endpoint: Endpoint { address, ..Endpoint::default() }, ..Options::default() }
    }

    fn run(&self) -> Running {
        Running::start(build(self.options()).expect("valid options"))
    }
}

async fn answer(catalog: Arc<Mutex<Catalog>>, mut indexes: watch::Receiver<u64>, request: Request) -> Reply {
    let asked: u64 = request.query.get("index").and_then(|text| text.parse().ok()).unwrap_or(0);
    let impatient = catalog.lock().impatient;
    if asked > 0 && !impatient {
        // A real agent waits until the index differs from that in the query.
        let _ = indexes.wait_for(|now| *now != asked).await;
    }
    let index = *indexes.borrow();
    let catalog = catalog.lock();
    if let Some((status, text)) = catalog.refuse {
        return (status, Vec::new(), text.into());
    }
    let body = if request.path == "/v1/internal/acl/authorize" {
        match catalog.rights {
            Some(allow) => json!([{"Resource": "service", "Segment": "s", "Access": "read", "Allow": allow}]),
            None => return (404, Vec::new(), String::new()),
        }
    } else if let Some(kind) = request.path.strip_prefix("/v1/agent/connect/ca/") {
        match kind {
            "roots" => {
                json!({"TrustDomain": "td.consul", "Roots": [{"RootCert": "-----BEGIN root", "Active": true}]})
            }
            _ => {
                json!({"CertPEM": format!("-----BEGIN leaf {}", catalog.leaf), "PrivateKeyPEM": "-----BEGIN key"})
            }
        }
    } else if request.path == "/v1/catalog/services" {
        let names = catalog.services.iter().map(|(name, entries)| {
            let tags = entries.iter().flat_map(|entry| entry["Service"]["Tags"].as_array().cloned());
            (name.clone(), Value::from(tags.flatten().collect::<Vec<_>>()))
        });
        Value::Object(names.collect())
    } else if let Some(state) = request.path.strip_prefix("/v1/health/state/") {
        let checks =
            catalog.services.values().flatten().flat_map(|entry| entry["Checks"].as_array().cloned());
        checks.flatten().filter(|check| state == "any" || check["Status"] == state).collect()
    } else {
        let name = request.path.rsplit('/').next().unwrap_or("");
        catalog.services.get(name).cloned().unwrap_or_default().into()
    };
    let leader = (!catalog.leaderless).to_string();
    (200, vec![("X-Consul-Index", index.to_string()), ("X-Consul-KnownLeader", leader)], body.to_string())
}

fn entry(id: &str, address: &str, port: u16, status: &str, tags: &[&str]) -> Value {
    json!({
        "Node": {"Node": "n1", "Address": "10.9.9.9", "Datacenter": "dc1"},
        "Service": {"ID": id, "Address": address, "Port": port, "Tags": tags},
        "Checks": [{"Node": "n1", "CheckID": format!("service:{id}"), "Status": status, "ServiceID": id, "ServiceName": id}],
    })
}

fn web(port: u16, status: &str) -> Value {
    entry("web", "10.0.0.1", port, status, &[])
}

/// Returns options that poll the agent every few milliseconds.
fn polled(agent: &Agent) -> Options {
    let refresh_interval = tidegate_core::values::Duration::from_millis(30);
    Options { watch: false, refresh_interval, ..agent.options() }
}

#[tokio::test]
async fn registrations_health_and_tags_are_followed() {
    let agent = Agent::start().await;
    agent.set("web", &[web(80, "passing")]);
    let mut running = agent.run();
    let first = running.next().await;
    assert!(first.ready);
    assert_eq!(urls(&first.state, "web"), ["http://10.0.0.1:80"]);
    assert_eq!(first.state.config.http.routers["web"].rule, "Host(`web`)");
    assert!(!first.state.config.http.services.contains_key("consul"), "it says `enable=false`");
    agent.set("web", &[web(80, "critical")]);
    running.until(|state| state.config.http.services.is_empty()).await;
    agent.set("web", &[web(80, "warning")]);
    running.until(|state| urls(state, "web") == ["http://10.0.0.1:80"]).await;
    // Neither tags nor checks reveal another port.
    agent.set("web", &[web(81, "warning")]);
    running.until(|state| urls(state, "web") == ["http://10.0.0.1:81"]).await;
    agent.set("web", &[entry("web", "", 81, "passing", &["traefik.http.routers.r.rule=Path(`/x`)"])]);
    let state = running.until(|state| state.config.http.routers.contains_key("r")).await;
    assert_eq!(urls(&state, "web"), ["http://10.9.9.9:81"], "the address of the node");
    agent.catalog.lock().services.remove("web");
    agent.wake();
    running.until(|state| state.config.http.routers.is_empty()).await;
}

#[tokio::test]
async fn a_restarted_agent_is_accepted_and_an_unavailable_one_awaited() {
    let agent = Agent::start().await;
    agent.set_index(1_000);
    agent.set("web", &[web(80, "passing")]);
    let mut running = agent.run();
    running.next().await;
    agent.server.cut();
    agent.set_index(3);
    agent.catalog.lock().services.insert("web".into(), vec![web(90, "passing")]);
    agent.server.mend();
    running.until(|state| urls(state, "web") == ["http://10.0.0.1:90"]).await;
    // The index goes backwards while connections stay open.
    agent.catalog.lock().services.insert("web".into(), vec![web(91, "passing")]);
    agent.set_index(2);
    running.until(|state| urls(state, "web") == ["http://10.0.0.1:91"]).await;
    agent.set("web", &[web(92, "passing")]);
    running.until(|state| urls(state, "web") == ["http://10.0.0.1:92"]).await;
}

#[tokio::test]
async fn errors_change_nothing_and_cause_no_extra_requests() {
    let agent = Agent::start().await;
    agent.set("web", &[web(80, "passing")]);
    let mut running = agent.run();
    running.next().await;
    for refusal in [(429, "too many"), (500, "No cluster leader"), (403, "ACL not found"), (200, "<html>")] {
        let before = agent.server.requests.lock().len();
        agent.catalog.lock().refuse = Some(refusal);
        agent.catalog.lock().services.insert("web".into(), vec![web(refusal.0, "passing")]);
        agent.wake();
        eventually("it is refused", || agent.server.requests.lock().len() >= before + 2).await;
        assert!(running.updates.try_recv().is_err(), "the last state stays");
        agent.catalog.lock().refuse = None;
        let url = format!("http://10.0.0.1:{}", refusal.0);
        running.until(|state| urls(state, "web") == [url.clone()]).await;
        let asked = agent.server.requests.lock().len() - before;
        assert!(asked < 40, "{refusal:?}: {asked} requests");
    }
}

#[tokio::test]
async fn a_suddenly_empty_catalog_is_not_accepted() {
    let agent = Agent::start().await;
    agent.set("web", &[web(80, "passing")]);
    let mut running = agent.run();
    running.next().await;
    let all = std::mem::take(&mut agent.catalog.lock().services);
    let before = agent.server.count("/v1/catalog/services");
    agent.wake();
    eventually("it has been read", || agent.server.count("/v1/catalog/services") > before).await;
    agent.catalog.lock().services = all;
    agent.set("web", &[web(81, "passing")]);
    let update = running.next().await;
    assert_eq!(urls(&update.state, "web"), ["http://10.0.0.1:81"], "no state without it in between");
}

#[tokio::test]
async fn a_suddenly_empty_catalog_is_not_accepted_when_polling() {
    let agent = Agent::start().await;
    agent.set("web", &[web(80, "passing")]);
    let mut running = Running::start(build(polled(&agent)).expect("valid options"));
    running.next().await;
    let all = std::mem::take(&mut agent.catalog.lock().services);
    let before = agent.server.count("/v1/catalog/services");
    eventually("it has been polled several times", || {
        agent.server.count("/v1/catalog/services") > before + 5
    })
    .await;
    agent.catalog.lock().services = all;
    agent.set("web", &[web(81, "passing")]);
    let update = running.next().await;
    assert_eq!(urls(&update.state, "web"), ["http://10.0.0.1:81"], "no state without it in between");
}

#[tokio::test]
async fn permissions_are_checked_before_an_empty_catalog_is_accepted() {
    for watch in [true, false] {
        let agent = Agent::start().await;
        agent.catalog.lock().services.clear();
        agent.set("web", &[web(80, "passing")]);
        agent.set("app", &[entry("app", "10.0.0.2", 80, "passing", &[])]);
        let mut options = agent.options();
        options.watch = watch;
        options.refresh_interval = tidegate_core::values::Duration::from_millis(30);
        let mut running = Running::start(build(options).expect("valid options"));
        running.next().await;
        // A deregistered service is removed.
        agent.catalog.lock().services.remove("app");
        agent.wake();
        running.until(|state| !state.config.http.services.contains_key("app")).await;
        for rights in [None, Some(false)] {
            let all = std::mem::take(&mut agent.catalog.lock().services);
            agent.catalog.lock().rights = rights;
            let before = agent.server.count("/v1/internal/acl/authorize");
            agent.wake();
            eventually("it is asked twice", || {
                agent.server.count("/v1/internal/acl/authorize") >= before + 2
            })
            .await;
            assert!(running.updates.try_recv().is_err(), "the last state stays");
            agent.catalog.lock().services = all;
            let port = 81 + u16::from(rights.is_some());
            agent.set("web", &[web(port, "passing")]);
            let url = format!("http://10.0.0.1:{port}");
            assert_eq!(urls(&running.next().await.state, "web"), [url]);
        }
        agent.catalog.lock().rights = Some(true);
        agent.catalog.lock().services.clear();
        agent.wake();
        running.until(|state| state.config.http.services.is_empty()).await;
    }
}

#[tokio::test]
async fn the_next_run_remembers_known_services() {
    let agent = Agent::start().await;
    agent.set("web", &[web(80, "passing")]);
    let provider: Arc<dyn Provider> = Arc::new(build(agent.options()).expect("valid options"));
    let (sender, mut updates) = tokio::sync::mpsc::channel(4);
    let first = crate::start("catalog", provider.clone(), sender.clone());
    assert!(updates.recv().await.expect("an update").ready);
    drop(first);
    agent.catalog.lock().services.clear();
    let _second = crate::start("catalog", provider, sender);
    let update = updates.recv().await.expect("an update");
    let shown = update.state.problems[0].to_string();
    assert!(!update.ready && shown.contains("without rights"), "{shown}");
}

#[test]
fn problems_are_reported_once_until_they_are_resolved() {
    let mut complaints = super::trust::Complaints::default();
    assert!(complaints.begin(Topic::Names) && complaints.begin(Topic::Unwell(0)));
    assert!(!complaints.begin(Topic::Names) && !complaints.begin(Topic::Unwell(0)));
    assert!(complaints.end(Topic::Names) && !complaints.end(Topic::Names) && !complaints.is_empty());
    assert!(complaints.begin(Topic::Names));
}

#[tokio::test]
async fn an_empty_catalog_is_not_accepted_without_a_leader() {
    let agent = Agent::start().await;
    agent.catalog.lock().leaderless = true;
    let mut running = agent.run();
    let first = running.next().await;
    assert!(!first.ready && first.state.problems[0].message.contains("leader"), "{first:?}");
    agent.catalog.lock().leaderless = false;
    agent.set("web", &[web(80, "passing")]);
    running.until(|state| urls(state, "web").len() == 1).await;
}

#[tokio::test]
async fn an_agent_that_does_not_block_is_not_flooded() {
    let agent = Agent::start().await;
    agent.set("web", &[web(80, "passing")]);
    agent.catalog.lock().impatient = true;
    let mut running = agent.run();
    running.next().await;
    // Long enough for hundreds of requests without rate limiting.
    let end = tokio::time::Instant::now() + Duration::from_secs(2);
    eventually("two seconds have passed", || tokio::time::Instant::now() >= end).await;
    assert!(agent.server.requests.lock().len() < 40, "{}", agent.server.requests.lock().len());
}

#[tokio::test]
async fn a_health_change_fetches_only_its_service() {
    let agent = Agent::start().await;
    for number in 0..300 {
        let name = format!("s{number}");
        agent.set(&name, &[entry(&name, "10.0.0.1", 1_000 + number, "passing", &[])]);
    }
    let mut running = agent.run();
    let first = running.next().await;
    assert_eq!(first.state.config.http.services.len(), 300);
    agent.server.requests.lock().clear();
    let critical = entry("s7", "10.0.0.1", 1_007, "critical", &[]);
    agent.catalog.lock().services.insert("s7".into(), vec![critical]);
    // As in a real agent, this does not change the list of services.
    agent.checks.send_modify(|index| *index += 1);
    running.until(|state| !state.config.http.services.contains_key("s7")).await;
    assert_eq!(agent.server.count("/v1/health/service/"), 1);
    assert_eq!(agent.server.count("/v1/health/service/s7"), 1);
}

#[tokio::test]
async fn requests_have_the_configured_parameters() {
    let agent = Agent::start().await;
    let mut options = agent.options();
    options.stale = true;
    options.cache = true;
    options.namespaces = vec!["team a".into()];
    options.partition = "p1".into();
    options.endpoint.datacenter = "dc2".into();
    options.endpoint.token = "t0ken".into();
    options.endpoint.endpoint_wait_time = tidegate_core::values::Duration::from_secs(7);
    options.endpoint.http_auth = Some(HttpAuth { username: "u".into(), password: "p".into() });
    let mut running = Running::start(build(options).expect("valid options"));
    running.next().await;
    eventually("both block", || {
        let requests = agent.server.requests.lock();
        requests.iter().filter(|request| request.query.contains_key("index")).count() >= 2
    })
    .await;
    for request in agent.server.requests.lock().iter() {
        let query = |key: &str| request.query.get(key).map(String::as_str);
        assert_eq!((query("dc"), query("ns")), (Some("dc2"), Some("team%20a")), "{request:?}");
        assert_eq!(query("partition"), Some("p1"), "{request:?}");
        assert_eq!(query("stale"), Some(""), "{request:?}");
        assert_eq!(query("cached").is_some(), request.path == "/v1/catalog/services", "{request:?}");
        assert_eq!(request.headers["x-consul-token"], "t0ken");
        assert_eq!(request.headers["authorization"], "Basic dTpw");
        assert!(!request.query.contains_key("index") || query("wait") == Some("7000ms"), "{request:?}");
    }
}

#[tokio::test]
async fn connect_services_get_a_transport_that_is_renewed() {
    let agent = Agent::start().await;
    let mut secret = entry("secret", "10.0.0.1", 80, "passing", &["traefik.consulcatalog.connect=true"]);
    secret["Service"]["Service"] = "secret-sidecar-proxy".into();
    agent.set("secret", &[secret.clone()]);
    agent.set("web", &[web(80, "passing")]);
    let mut options = agent.options();
    options.connect_aware = true;
    options.service_name = "edge".into();
    let mut running = Running::start(build(options).expect("valid options"));
    let state = running.next().await.state;
    assert_eq!(urls(&state, "secret"), ["https://10.0.0.1:80"]);
    assert_eq!(urls(&state, "web"), ["http://10.0.0.1:80"]);
    let balancer = state.config.http.services["secret"].load_balancer.as_ref().expect("a balancer");
    assert_eq!(balancer.servers_transport, "tls-default-dc1-secret");
    let transport = &state.config.http.servers_transports["tls-default-dc1-secret"];
    assert_eq!(transport.peer_cert_uri, "spiffe://td.consul/ns/default/dc/dc1/svc/secret");
    assert_eq!(transport.root_cas, ["-----BEGIN root"]);
    // In another partition, the identity includes the partition.
    let mut elsewhere = secret.clone();
    elsewhere["Service"]["Partition"] = "p1".into();
    agent.set("elsewhere", &[elsewhere]);
    let state = running.until(|state| state.config.http.servers_transports.len() == 2).await;
    let transport = &state.config.http.servers_transports["tls-default-dc1-elsewhere"];
    assert_eq!(transport.peer_cert_uri, "spiffe://td.consul/ap/p1/ns/default/dc/dc1/svc/elsewhere");
    assert_eq!(transport.certificates[0].cert_file, "-----BEGIN leaf 0");
    assert!(agent.server.count("/v1/health/connect/secret") > 0);
    assert!(agent.server.count("/v1/agent/connect/ca/leaf/edge") > 0);
    agent.catalog.lock().leaf = 1;
    agent.wake();
    running
        .until(|state| {
            let transport = &state.config.http.servers_transports["tls-default-dc1-secret"];
            transport.certificates[0].cert_file == "-----BEGIN leaf 1"
        })
        .await;
    // The check of the proxy has the name of the proxy.
    secret["Checks"][0]["ServiceName"] = "secret-sidecar-proxy".into();
    secret["Checks"][0]["Status"] = "critical".into();
    agent.catalog.lock().services.insert("secret".into(), vec![secret]);
    agent.checks.send_modify(|index| *index += 1);
    running.until(|state| !state.config.http.services.contains_key("secret")).await;
}

#[tokio::test]
async fn without_watch_the_catalog_is_polled() {
    let agent = Agent::start().await;
    agent.set("web", &[web(80, "passing")]);
    let mut running = Running::start(build(polled(&agent)).expect("valid options"));
    running.next().await;
    agent.set("web", &[web(81, "passing")]);
    running.until(|state| urls(state, "web") == ["http://10.0.0.1:81"]).await;
    assert!(agent.server.requests.lock().iter().all(|request| !request.query.contains_key("index")));
}

#[test]
fn invalid_options_are_rejected() {
    let refused = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        build(options).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let nameless = refused(|options| (options.connect_aware, options.service_name) = (true, String::new()));
    assert!(nameless.contains("serviceName"), "{nameless}");
    assert!(refused(|options| options.prefix.clear()).contains("prefix"));
    assert!(refused(|options| options.strict_checks = vec!["good".into()]).contains("strictChecks"));
    assert!(refused(|options| options.constraints = "Label(`a`,`b`)".into()).contains("Tag"));
    assert!(refused(|options| (options.stale, options.require_consistent) = (true, true)).contains("stale"));
    assert_eq!(refused(|_| {}), "");
    let options = Options { strict_checks: Vec::new(), ..Options::default() };
    let built = build(options).expect("an empty list is the default");
    assert_eq!(built.deriver.options.strict_checks, ["passing".into(), "warning".into()]);
}

#[test]
fn each_namespace_is_an_instance() {
    let options = Options { namespaces: vec!["a".into(), "b".into()], ..Options::default() };
    let instances = crate::Options::ConsulCatalog(options).instances(None).expect("valid options");
    let names: Vec<&str> = instances.iter().map(|instance| &*instance.name).collect();
    assert_eq!(names, ["consulcatalog-a", "consulcatalog-b"]);
    let instances = crate::Options::ConsulCatalog(Options::default()).instances(None).expect("valid options");
    assert_eq!(&*instances[0].name, "consulcatalog");
}

mod derivation {
    //! Tests of derivation from tags. The expected values were recorded with Traefik 3.7.15.

    use super::*;
    use crate::consul_catalog::model::{Entry, Instance};
    use tidegate_config::Provided;

    fn derived(options: Options, name: &str, entries: &[Value]) -> Provided {
        let deriver = Deriver::new(options).expect("valid options");
        let instances: Vec<Instance> = entries
            .iter()
            .map(|entry| Instance::new(serde_json::from_value::<Entry>(entry.clone()).expect("an entry")))
            .collect();
        deriver.service(name, &instances, None, &Provided::default())
    }

    #[test]
    fn canaries_have_separate_names() {
        let stable = entry("k2", "127.0.0.1", 8008, "passing", &["v1"]);
        let canary = entry("k1", "127.0.0.1", 8007, "passing", &["traefik.consulcatalog.canary=true", "v2"]);
        let state = derived(Options::default(), "canary", &[canary, stable]);
        assert_eq!(urls(&state, "canary"), ["http://127.0.0.1:8008"]);
        assert_eq!(urls(&state, "canary-8687280574039790457"), ["http://127.0.0.1:8007"]);
        assert_eq!(state.config.http.routers["canary-8687280574039790457"].rule, "Host(`canary`)");
    }

    #[test]
    fn tag_prefixes_follow_the_options() {
        let tags = &["edge.http.routers.r.rule=Path(`/e`)", "traefik.http.routers.t.rule=Path(`/t`)"];
        let service = entry("a", "127.0.0.1", 1, "passing", tags);
        let options = Options { prefix: "edge".into(), ..Options::default() };
        let state = derived(options.clone(), "a", std::slice::from_ref(&service));
        assert_eq!(state.config.http.routers.keys().collect::<Vec<_>>(), ["r"]);
        let state = derived(Options::default(), "a", &[service]);
        assert_eq!(state.config.http.routers.keys().collect::<Vec<_>>(), ["t"]);
        let broken = entry("a", "127.0.0.1", 1, "passing", &["edge.http.routers.r.rul=x"]);
        let state = derived(options, "a", &[broken]);
        let shown = state.problems[0].to_string();
        assert!(shown.starts_with("service a (a on n1), tag edge.http.routers.r.rul: "), "{shown}");
        let odd = entry(
            "a",
            "127.0.0.1",
            1,
            "passing",
            &["traefik", "traefik.enable", "traefik-x.y=z", "Traefik.http.routers.q.rule=x"],
        );
        let state = derived(Options::default(), "a", &[odd]);
        assert_eq!(state.config.http.routers.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(state.problems, []);
        let ours = entry("a", "127.0.0.1", 1, "passing", &["tidegate.http.routers.q.rule=Path(`/q`)"]);
        let state = derived(Options::default(), "a", &[ours]);
        assert_eq!(state.config.http.routers["q"].rule, "Path(`/q`)");
    }

    #[test]
    fn exposure_depends_on_tags_constraints_and_health() {
        let with = |tags: &[&str], status: &str, change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            let state = derived(options, "a", &[entry("a", "127.0.0.1", 1, status, tags)]);
            !state.config.http.services.is_empty()
        };
        assert!(with(&[], "passing", |_| {}));
        assert!(!with(&["traefik.enable=false"], "passing", |_| {}));
        assert!(!with(&["traefik.enable=no"], "passing", |_| {}));
        assert!(!with(&["traefik.enable=true "], "passing", |_| {}));
        assert!(!with(&[], "passing", |options| options.exposed_by_default = false));
        assert!(with(&["traefik.enable=true"], "passing", |options| options.exposed_by_default = false));
        assert!(!with(&[], "critical", |_| {}));
        assert!(with(&[], "critical", |options| options.strict_checks = vec!["any".into()]));
        assert!(!with(&[], "warning", |options| options.strict_checks = vec!["passing".into()]));
        assert!(with(&["blue"], "passing", |options| options.constraints = "Tag(`blue`)".into()));
        assert!(!with(&["green"], "passing", |options| options.constraints = "Tag(`blue`)".into()));
        assert!(!with(&["traefik.consulcatalog.connect=true"], "passing", |_| {}));
        assert!(!with(&[], "passing", |options| options.connect_by_default = true));
    }

    #[test]
    fn servers_have_the_registered_address_and_port() {
        let state = derived(Options::default(), "plain svc", &[entry("p", "", 8003, "passing", &[])]);
        assert_eq!(state.config.http.routers["plain-svc"].rule, "Host(`plain-svc`)");
        assert_eq!(urls(&state, "plain-svc"), ["http://10.9.9.9:8003"]);
        let tags = &[
            "traefik.http.services.s.loadbalancer.server.port=99",
            "traefik.http.services.s.loadbalancer.server.scheme=https",
        ];
        let state = derived(Options::default(), "v6", &[entry("p", "::1", 8003, "passing", tags)]);
        assert_eq!(urls(&state, "s"), ["https://[::1]:99"]);
        let nowhere = |tags: &[&str]| {
            let mut nowhere = entry("p", "", 1, "passing", tags);
            nowhere["Node"]["Address"] = "".into();
            derived(Options::default(), "a", &[nowhere])
        };
        let state = nowhere(&["traefik.enable=true"]);
        assert!(state.problems[0].to_string().contains("address is missing"), "{:?}", state.problems);
        let state = nowhere(&[]);
        assert!(state.problems.is_empty(), "not exposed by a tag: {:?}", state.problems);
        assert!(state.config.http.routers.is_empty(), "{:?}", state.config.http.routers);
        let one = entry("b", "10.0.0.1", 1, "passing", &[]);
        let two = entry("a", "10.0.0.2", 1, "passing", &[]);
        let state = derived(Options::default(), "a", &[one, two]);
        assert_eq!(urls(&state, "a"), ["http://10.0.0.2:1", "http://10.0.0.1:1"], "in the order of ids");
    }
}
