//! Engines other than today's Docker, and answers that the library's types cannot hold.

use tidegate_core::values;
use tokio::time::timeout;

use super::*;

/// Shorter than the interval of full refreshes, which would find every change.
const PROMPTLY: Duration = Duration::from_secs(10);

fn client(port: u16) -> Client {
    let endpoint = format!("tcp://127.0.0.1:{port}");
    Client::new(&Options { endpoint, ..Options::default() }.engine()).expect("valid options")
}

#[tokio::test]
async fn the_version_of_the_api_suits_old_and_new_engines() {
    let newest = bollard::API_DEFAULT_VERSION.minor_version;
    for (what, versions, forbids_ping, expected) in [
        ("Docker 29", 44..=52, false, "/v1.52".to_owned()),
        ("a later Docker", 44..=99, false, format!("/v1.{newest}")),
        ("Docker 20.10", 12..=41, false, "/v1.41".to_owned()),
        ("Podman", 24..=41, false, "/v1.41".to_owned()),
        ("a proxy in front of Docker 29", 44..=52, true, String::new()),
    ] {
        let (engine, port) = Engine::start().await;
        *engine.versions.lock() = versions;
        *engine.forbids_ping.lock() = forbids_ping;
        engine.set(&[container("a", "10.0.0.1", &json!({}))]);
        let update = Running::at(port).next().await;
        assert!(update.ready, "{what}: {:?}", update.state.problems);
        assert_eq!(urls(&update.state, "a"), ["http://10.0.0.1:80"], "{what}");
        let requests = engine.requests.lock().clone();
        for path in ["/events?", "/containers/json?", "/containers/a/json"] {
            let expected = format!("{expected}{path}");
            assert!(requests.iter().any(|request| request.starts_with(&expected)), "{what}: {requests:?}");
        }
    }
}

/// An answer of Podman 4.3 about a container, with some of its peculiarities.
fn of_podman(id: &str, state: &str, labels: &Value) -> (Value, Value) {
    let network = json!({"podman": {
        "IPAMConfig": null, "Links": null, "Aliases": [id], "NetworkID": "podman", "EndpointID": "",
        "Gateway": "10.88.0.1", "IPAddress": "10.88.0.5", "IPPrefixLen": 16, "IPv6Gateway": "",
        "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "MacAddress": "36:6c:f5:cb:d8:af", "DriverOpts": null}});
    let listed = json!({
        "Id": id, "Names": [format!("/{id}")], "Image": "localhost/shop", "Created": 1_796_005_808, "State": state,
        "Ports": [{"PrivatePort": 8080, "PublicPort": 18080, "Type": "tcp"}], "Labels": labels, "Status": state,
        "NetworkSettings": {"Networks": network}, "Mounts": [], "Name": "", "Config": null,
        "NetworkingConfig": null, "Platform": null, "AdjustCPUShares": false});
    let inspected = json!({
        "Id": id, "Name": format!("/{id}"), "Created": "2026-11-30T02:30:08.13601088Z",
        "State": {"Status": state, "StartedAt": "2026-11-30T02:30:08.889859897Z", "Pid": 14501,
            "Health": {"Status": "", "FailingStreak": 0, "Log": null}},
        "Config": {"Hostname": id, "Env": ["container=podman", "PASSWORD=secret"], "Labels": labels,
            "ExposedPorts": {"8080/tcp": {}}, "Entrypoint": [], "StopSignal": "15", "Volumes": null},
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Bridge": "", "Ports": {"8080/tcp": [{"HostIp": "", "HostPort": "18080"}]},
            "SecondaryIPAddresses": null, "Networks": network}});
    (listed, inspected)
}

#[tokio::test]
async fn states_of_podman_cost_nothing_but_that_container() {
    let (engine, port) = Engine::start().await;
    let kept = json!({"traefik.docker.allownonrunning": "true"});
    let containers = [
        of_podman("web", "running", &json!({"traefik.enable": "true"})),
        of_podman("old", "stopped", &json!({})),
        of_podman("kept", "stopped", &kept),
        of_podman("next", "initialized", &json!({})),
    ];
    let (listed, inspected): (Vec<Value>, Vec<Value>) = containers.into_iter().unzip();
    *engine.list.lock() = Some(Value::from(listed).to_string());
    engine.set(&inspected);
    let update = Running::at(port).next().await;
    assert!(update.ready, "{:?}", update.state.problems);
    assert_eq!(update.state.config.http.routers.keys().collect::<Vec<_>>(), ["kept", "web"]);
    assert_eq!(urls(&update.state, "web"), ["http://10.88.0.5:8080"]);
    assert_eq!(urls(&update.state, "kept"), Vec::<String>::new());
    assert_eq!(update.state.problems, []);
}

#[tokio::test]
async fn what_the_types_cannot_hold_costs_the_container_and_not_the_list() {
    let (engine, port) = Engine::start().await;
    let entry = |id: &str, more: &Value| {
        let mut entry = json!({"Id": id, "Names": [format!("/{id}")], "State": "running", "Labels": {}});
        entry.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        entry
    };
    let mut mounted = container("mounted", "10.0.0.2", &json!({}));
    mounted["Mounts"] = json!([{"Type": {"new": 1}, "Source": "/x"}]);
    mounted["HostConfig"]["RestartPolicy"] = json!({"Name": "sometimes"});
    mounted["Config"]["Env"] = json!("PASSWORD=secret");
    let mut odd_health = container("ill", "10.0.0.5", &json!({}));
    odd_health["State"]["Health"] = json!({"Status": "moody"});
    engine.set(&[
        container("plain", "10.0.0.1", &json!({})),
        mounted,
        container("portless", "10.0.0.3", &json!({})),
        container("labelled", "10.0.0.4", &json!({"traefik.enable": true})),
        odd_health,
        json!({"Id": "nameless", "Name": 7, "State": {"Status": "running"}}),
        json!({"Id": "cut", "Raw": "{\"Id\": \"cut\", \"Na"}),
    ]);
    let label = json!({"Labels": {"traefik.http.routers.labelled.middlewares": ["auth"]}});
    let list = json!([
        entry("plain", &json!({})),
        entry("mounted", &json!({"Mounts": [{"Type": {"new": 1}, "Source": "/x"}]})),
        entry("portless", &json!({"Ports": [{"PrivatePort": 80}, {"IP": "::"}, "80/tcp"]})),
        entry("labelled", &label),
        entry("ill", &json!({"Health": {"Status": "moody"}})),
        entry("nameless", &json!({})),
        entry("cut", &json!({})),
        "no container",
    ]);
    *engine.list.lock() = Some(list.to_string());
    let update = Running::at(port).next().await;
    assert!(update.ready, "{:?}", update.state.problems);
    let routers = update.state.config.http.routers.keys().cloned().collect::<Vec<_>>();
    assert_eq!(routers, ["mounted", "plain", "portless"]);
    assert_eq!(urls(&update.state, "mounted"), ["http://10.0.0.2:80"]);
    assert!(!engine.requests.lock().iter().any(|path| path.contains("labelled")), "left out of the list");
    // A label that only the details have in this form costs its container, too.
    *engine.list.lock() = None;
    engine
        .set(&[container("labelled", "10.0.0.4", &json!({"a": 7})), container("b", "10.0.0.1", &json!({}))]);
    *engine.list.lock() = Some(json!([entry("labelled", &json!({})), entry("b", &json!({}))]).to_string());
    let update = Running::at(port).next().await;
    assert_eq!(update.state.config.http.routers.keys().collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn answers_are_limited_in_size_and_time() {
    let (engine, port) = Engine::start().await;
    engine.set(&[container("a", "10.0.0.1", &json!({}))]);
    let problem = async |timeout: Duration| {
        let endpoint = format!("tcp://127.0.0.1:{port}");
        let timeout = values::Duration::from_millis(timeout.as_millis().try_into().expect("short"));
        let mut running =
            Running::start(Options { endpoint, http_client_timeout: timeout, ..Options::default() });
        let update = running.next().await;
        assert!(!update.ready);
        update.state.problems[0].message.clone()
    };
    *engine.list.lock() = Some(json!([{"Id": "a", "Status": "x".repeat(65 << 20)}]).to_string());
    let message = problem(Duration::from_secs(30)).await;
    assert!(message.contains("/containers/json: length limit exceeded"), "{message}");
    *engine.list.lock() = None;
    *engine.stalls.lock() = true;
    let message = problem(Duration::from_millis(300)).await;
    assert!(message.contains("/containers/json: incomplete response after 300ms"), "{message}");
}

#[tokio::test]
async fn events_are_limited_in_size_and_odd_ones_do_not_end_the_stream() {
    let (engine, port) = Engine::start().await;
    let client = client(port);
    client.negotiate().await.expect("negotiated");
    let mut events = client.events(EVENTS).await.expect("a stream");
    let mut next = async |event: Value| {
        assert!(engine.events.send(event.to_string()).is_ok());
        let event = timeout(PROMPTLY, events.next()).await.expect("in time").expect("an event");
        events::meaning(event, |_| None)
    };
    let changed = |id: &str| Meaning::Changed(id.to_owned());
    let of = |id: &str, attribute: Value| json!({"Type": "container", "Action": "start", "Actor": {"ID": id, "Attributes": {"a": attribute}}});
    assert_eq!(next(of("large", "x".repeat(900 << 10).into())).await, changed("large"));
    // Something has changed, but not known which container.
    assert_eq!(next(json!({"Type": "pod", "Action": "start", "Actor": {"ID": "p"}})).await, changed(""));
    assert_eq!(next(of("a", json!({"new": 1}))).await, changed(""));
    assert_eq!(next(json!(["none"])).await, changed(""));
    // What does not fit has no meaning.
    let mut timeless = of("b", "c".into());
    timeless["time"] = "now".into();
    timeless["scope"] = "universe".into();
    assert_eq!(next(timeless).await, changed("b"));
    assert!(engine.events.send(of("c", "x".repeat(2 << 20).into()).to_string()).is_ok());
    let error = timeout(PROMPTLY, events.next()).await.expect("in time").expect_err("too long");
    assert_eq!(error.to_string(), "an event is too long");
    drop(events);
    let mut events = client.events(EVENTS).await.expect("another stream");
    engine.events.send("cut".into()).expect("sent");
    let error = timeout(PROMPTLY, events.next()).await.expect("in time").expect_err("cut").to_string();
    assert!(error.contains("body"), "{error}");
}

#[tokio::test]
async fn rejections_are_errors_with_the_path() {
    let (engine, port) = Engine::start().await;
    let client = client(port);
    client.negotiate().await.expect("negotiated");
    *engine.versions.lock() = 45..=45;
    let error = client.list().await.expect_err("rejected").to_string();
    assert_eq!(error, "/containers/json: 400 Bad Request");
    let error = client.events(EVENTS).await.err().expect("rejected").to_string();
    assert_eq!(error, "/events: 400 Bad Request");
    *engine.garbage.lock() = true;
    let error = client.list().await.expect_err("no JSON").to_string();
    assert_eq!(error, "/containers/json: unexpected response: expected value at line 1 column 1");
}

#[tokio::test]
async fn a_change_between_opening_the_stream_of_events_and_listing_is_not_lost() {
    let (engine, port) = Engine::start().await;
    engine.set(&[container("a", "10.0.0.1", &json!({}))]);
    let subscribed = Arc::new(Mutex::new(None));
    let seen = subscribed.clone();
    // The list is answered without `b`, which starts before the list arrives.
    *engine.hook.lock() = Some(Box::new(move |engine| {
        *seen.lock() = Some(engine.events.receiver_count());
        engine.set(&[container("a", "10.0.0.1", &json!({})), container("b", "10.0.0.2", &json!({}))]);
        engine.emit("start", "b");
    }));
    let mut running = Running::at(port);
    let first = running.next().await.state;
    assert_eq!(first.config.http.routers.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(*subscribed.lock(), Some(1), "the stream is open before the list is read");
    let second = timeout(PROMPTLY, running.next()).await.expect("reported, not found by a full refresh");
    assert_eq!(urls(&second.state, "b"), ["http://10.0.0.2:80"]);
}
