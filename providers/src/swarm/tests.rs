//! Tests of the Swarm provider with a fake manager; see tests/it/programs/swarm.rs for a real one.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_config::Provided;

use super::*;
use crate::docker::client::usable;
use crate::testing::{Running, Server, urls};

fn service(id: &str, labels: &Value) -> Value {
    json!({"ID": id, "Spec": {"Name": format!("shop_{id}"), "Labels": labels, "Mode": {"Replicated": {"Replicas": 1}}},
        "Endpoint": {"VirtualIPs": [{"NetworkID": "in", "Addr": "10.0.0.9/24"}, {"NetworkID": "n1", "Addr": "10.0.1.9/24"}]}})
}

fn task(id: &str, service: &str, address: &str, state: &str) -> Value {
    json!({"ID": id, "ServiceID": service, "NodeID": "node", "Slot": 1, "DesiredState": "running",
        "Status": {"State": state, "PortStatus": {"Ports": [{"TargetPort": 80, "PublishedPort": 30080}]}},
        "NetworksAttachments": [
            {"Network": {"ID": "in", "Spec": {"Name": "ingress"}}, "Addresses": ["10.0.0.7/24"]},
            {"Network": {"ID": "n1", "Spec": {"Name": "front"}}, "Addresses": [format!("{address}/24")]},
            {"Network": {"ID": "n2", "Spec": {"Name": "back"}}, "Addresses": ["10.0.2.7/24"]}]})
}

fn swarm(services: Vec<Value>, tasks: Vec<Value>) -> Swarm {
    let networks = [("in", "ingress", true), ("n1", "front", false), ("n2", "back", false)];
    let networks = networks.map(|(id, name, ingress)| json!({"Id": id, "Name": name, "Ingress": ingress}));
    let nodes = vec![json!({"ID": "node", "Status": {"Addr": "192.168.0.5"}})];
    Swarm::new(
        usable("/services", services),
        tasks,
        usable("/networks", networks.to_vec()),
        usable("/nodes", nodes),
    )
}

fn derived(swarm: &Swarm, change: fn(&mut Options)) -> Provided {
    let mut options = Options { network: "front".into(), ..Options::default() };
    change(&mut options);
    let rules = Rules::new(&options.default_rule, &options.constraints).expect("valid options");
    let mut keeper = Keeper::new(options.keep_routes.into()).expect("a valid time");
    swarm.configuration(&options, &rules, &mut keeper, &Provided::default())
}

fn port(more: &[(&str, &str)]) -> Value {
    let mut labels = json!({"traefik.http.services.s.loadbalancer.server.port": "80"});
    for (key, value) in more {
        labels[*key] = (*value).into();
    }
    labels
}

#[test]
fn running_tasks_become_servers() {
    let tasks = vec![
        task("t2", "a", "10.0.1.2", "running"),
        task("t1", "a", "10.0.1.1", "running"),
        task("t3", "a", "10.0.1.3", "starting"),
    ];
    let state = derived(&swarm(vec![service("a", &port(&[]))], tasks), |_| {});
    assert_eq!(urls(&state, "s"), ["http://10.0.1.1:80", "http://10.0.1.2:80"]);
    assert_eq!(state.config.http.routers["shop-a"].rule, "Host(`shop-a`)");
    assert_eq!(state.problems, []);
}

#[test]
fn addresses_are_chosen_by_network_and_labels() {
    let one = |labels: &Value, change: fn(&mut Options)| {
        let state =
            derived(&swarm(vec![service("a", labels)], vec![task("t", "a", "10.0.1.1", "running")]), change);
        (urls(&state, "s"), state.problems.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let at = |host: &str| vec![format!("http://{host}")];
    assert_eq!(
        one(&port(&[]), |options| options.network.clear()).0,
        at("10.0.2.7:80"),
        "the first, but not ingress"
    );
    assert_eq!(one(&port(&[("traefik.swarm.network", "ingress")]), |_| {}).0, at("10.0.0.7:80"));
    let (found, problems) = one(&port(&[("traefik.swarm.network", "nosuch")]), |_| {});
    assert_eq!(found, at("10.0.2.7:80"));
    assert!(problems[0].contains("not attached to the network `nosuch`"), "{problems:?}");
    for yes in ["true", "TRUE", "True", "1", "t", "T"] {
        assert_eq!(one(&port(&[("traefik.swarm.lbswarm", yes)]), |_| {}).0, at("10.0.1.9:80"), "{yes}");
    }
    assert_eq!(one(&port(&[("traefik.swarm.lbswarm", "0")]), |_| {}).0, at("10.0.1.1:80"));
    let (_, problems) = one(&port(&[("traefik.swarm.lbswarm", "yes")]), |_| {});
    assert!(problems[0].contains("neither true nor false"), "{problems:?}");
    assert_eq!(one(&port(&[]), |options| options.use_bind_port_ip = true).0, at("192.168.0.5:30080"));
    let (found, problems) = one(&port(&[("traefik.docker.lbswarm", "true")]), |_| {});
    assert_eq!(found, at("10.0.1.9:80"));
    assert!(problems[0].contains("deprecated"), "{problems:?}");
    let mixed = port(&[("traefik.docker.network", "front"), ("traefik.swarm.network", "front")]);
    let (found, problems) = one(&mixed, |_| {});
    assert!(found.is_empty() && problems[0].contains("exclude each other"), "{problems:?}");
    let (found, problems) = one(&json!({"traefik.enable": "true"}), |_| {});
    assert!(found.is_empty() && problems[0].contains("port is missing"), "{problems:?}");
    let (found, problems) = one(&json!({}), |_| {});
    assert!(found.is_empty() && problems.is_empty(), "nobody asked for it: {problems:?}");
}

#[test]
fn services_are_selected_by_labels_and_constraints() {
    let with = |labels: &Value, tasks: Vec<Value>, change: fn(&mut Options)| {
        let state = derived(&swarm(vec![service("a", labels)], tasks), change);
        (state.config.http.services.len(), urls(&state, "s").len())
    };
    let tasks = || vec![task("t", "a", "10.0.1.1", "running")];
    assert_eq!(with(&port(&[]), Vec::new(), |_| {}), (0, 0));
    assert_eq!(with(&port(&[]), Vec::new(), |options| options.allow_empty_services = true), (1, 0));
    assert_eq!(with(&port(&[]), tasks(), |options| options.exposed_by_default = false), (0, 0));
    let enabled = port(&[("traefik.enable", "true")]);
    assert_eq!(with(&enabled, tasks(), |options| options.exposed_by_default = false), (1, 1));
    assert_eq!(with(&enabled, tasks(), |options| options.constraints = "Label(`a`,`b`)".into()), (0, 0));
}

#[tokio::test]
async fn a_swarm_without_services_is_delivered() {
    let server = Server::start(|request| {
        let body = if request.path.ends_with("_ping") { json!("OK") } else { json!([]) };
        std::future::ready((200, Vec::new(), body.to_string())).boxed()
    })
    .await;
    let options =
        Options { endpoint: format!("tcp://127.0.0.1:{}", server.port), watch: false, ..Options::default() };
    let update = Running::start(build(options).expect("valid options")).next().await;
    assert!(update.ready);
    assert_eq!(update.state.config, tidegate_config::Config::default());
}

#[tokio::test]
async fn a_manager_is_followed() {
    let known =
        Arc::new(Mutex::new((vec![service("a", &port(&[]))], vec![task("t", "a", "10.0.1.1", "running")])));
    let answered = known.clone();
    let server = Server::start(move |request| {
        let path = request.path.split('/').next_back().unwrap_or("").to_owned();
        let known = answered.lock();
        let body = match path.as_str() {
            "_ping" => json!("OK"),
            "services" => known.0.clone().into(),
            "tasks" => known.1.clone().into(),
            "networks" => json!([{"Id": "n1", "Name": "front"}]),
            _ => json!([]),
        };
        std::future::ready((200, Vec::new(), body.to_string())).boxed()
    })
    .await;
    let options =
        Options { endpoint: format!("tcp://127.0.0.1:{}", server.port), watch: false, ..Options::default() };
    assert!(build(Options { refresh_seconds: values::Duration::default(), ..options.clone() }).is_err());
    let mut running = Running::start(build(options).expect("valid options"));
    assert_eq!(urls(&running.next().await.state, "s"), ["http://10.0.1.1:80"]);
    known.lock().1 = vec![task("t", "a", "10.0.1.2", "running")];
    running.reload();
    running.until(|state| urls(state, "s") == ["http://10.0.1.2:80"]).await;
}

#[tokio::test]
async fn what_the_types_cannot_hold_costs_the_service_and_not_the_list() {
    let mut odd_task = task("t2", "a", "10.0.1.2", "running");
    odd_task["Spec"] = json!({"ContainerSpec": {"Isolation": "perfect", "Env": "PASSWORD=secret"}});
    odd_task["Status"]["ContainerStatus"] = json!({"PID": "none"});
    let unknown = task("t3", "a", "10.0.1.3", "hibernating");
    let mut detached = task("t4", "a", "10.0.1.4", "running");
    detached["NetworksAttachments"] = json!(null);
    let tasks = vec![task("t1", "a", "10.0.1.1", "running"), odd_task, unknown, detached, json!(7)];
    let mut labelled = service("b", &json!({}));
    labelled["Spec"]["Labels"] = json!({"traefik.enable": ["false"]});
    let mut odd = service("a", &port(&[]));
    odd["UpdateStatus"] = json!({"State": "pondering"});
    let answers = [
        ("services", json!([odd, labelled])),
        ("tasks", tasks.into()),
        ("networks", json!([{"Id": "n1", "Name": "front", "Ingress": false, "IPAM": 7}])),
        ("nodes", json!([{"ID": "node", "Status": {"Addr": "192.168.0.5", "State": "asleep"}}])),
    ];
    let server = Server::start(move |request| {
        let path = request.path.rsplit('/').next().unwrap_or_default().to_owned();
        let found = answers.iter().find(|(name, _)| *name == path);
        let body = found.map_or_else(|| "OK".to_owned(), |(_, answer)| answer.to_string());
        let headers = vec![("Api-Version", "1.41".to_owned())];
        std::future::ready((200, headers, body)).boxed()
    })
    .await;
    let endpoint = format!("tcp://127.0.0.1:{}", server.port);
    let options = Options { endpoint, watch: false, ..Options::default() };
    let update = Running::start(build(options).expect("valid options")).next().await;
    assert!(update.ready, "{:?}", update.state.problems);
    assert_eq!(urls(&update.state, "s"), ["http://10.0.1.1:80", "http://10.0.1.2:80"]);
    assert_eq!(update.state.config.http.routers.keys().collect::<Vec<_>>(), ["shop-a"]);
    assert_eq!(server.count("/v1.41/tasks"), 1, "the networks of tasks need no further request");
}

#[tokio::test]
async fn an_engine_without_swarm_is_reported() {
    let server = Server::start(|request| {
        let status = if request.path.ends_with("_ping") { 200 } else { 404 };
        std::future::ready((status, Vec::new(), "{}".to_owned())).boxed()
    })
    .await;
    let options =
        Options { endpoint: format!("tcp://127.0.0.1:{}", server.port), watch: false, ..Options::default() };
    let update = Running::start(build(options).expect("valid options")).next().await;
    let message = &update.state.problems[0].message;
    assert!(message.contains("does not support `/services`: is it a swarm manager?"), "{message}");
}

#[test]
fn routes_of_a_service_stay_while_its_tasks_are_replaced() {
    let options = Options { keep_routes: values::Duration::from_secs(600), ..Options::default() };
    let rules = Rules::new(&options.default_rule, &options.constraints).expect("valid options");
    let mut keeper = Keeper::new(options.keep_routes.into()).expect("a valid time");
    let mut state = Provided::default();
    let mut deliver = |services: Vec<Value>, tasks: Vec<Value>| {
        state = swarm(services, tasks).configuration(&options, &rules, &mut keeper, &state);
        state.clone()
    };
    let labels = |rule: &str| port(&[("traefik.http.routers.web.rule", rule)]);
    let tasks = || vec![task("t", "a", "10.0.1.1", "running")];
    let first = deliver(vec![service("a", &labels("Host(`a`)"))], tasks());
    assert_eq!((urls(&first, "s").len(), first.kept.len()), (1, 0));
    // An update with other labels stops the task first.
    let kept = deliver(vec![service("a", &labels("Host(`b`)"))], Vec::new());
    assert_eq!(kept.config.http.routers["web"].rule, "Host(`b`)");
    assert_eq!((urls(&kept, "s").len(), kept.kept.len(), kept.problems.len()), (0, 2, 0));
    let next = deliver(vec![service("a", &labels("Host(`b`)"))], tasks());
    assert_eq!((urls(&next, "s").len(), next.kept.len()), (1, 0));
    let removed = deliver(Vec::new(), Vec::new());
    assert_eq!((urls(&removed, "s").len(), removed.kept.len()), (0, 2));
    // A service that is not exposed any more is not kept.
    deliver(vec![service("a", &labels("Host(`b`)"))], tasks());
    let hidden = port(&[("traefik.enable", "false")]);
    assert_eq!(deliver(vec![service("a", &hidden)], tasks()), Provided::default());
}
