//! Bad input: each gives a clear problem that says where it stands, and everything else serves on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Backend, Gateway, eventually, get, wait_until};

/// A gateway with one sound route (`good.test`), beside which bad things are put.
struct Beside {
    gateway: Gateway,
    backend: Backend,
}

impl Beside {
    fn new(flags: &[&str]) -> Self {
        let backend = Backend::echo("good");
        let routes = format!(
            "http:\n  routers:\n    good: {{rule: 'Host(`good.test`)', service: good}}\n  services:\n    good: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
            backend.url()
        );
        Self { gateway: Gateway::with(flags, &routes), backend }
    }

    /// Puts a file into the route folder, as a careful writer does.
    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let beside = self.gateway.folder().join(format!(".{name}.new"));
        std::fs::write(&beside, bytes).unwrap();
        std::fs::rename(beside, self.gateway.folder().join(name)).unwrap();
    }

    /// Waits until a problem has all of these parts.
    fn wait_for_problem(&self, parts: &[&str]) {
        let found =
            || self.gateway.problems().iter().any(|problem| parts.iter().all(|part| problem.contains(part)));
        let limit = Duration::from_secs(30);
        assert!(wait_until(limit, found).is_some(), "no problem with {parts:?} in {:#?}", self.problems());
        self.serves();
    }

    /// The first problems, cut to what fits a terminal.
    fn problems(&self) -> Vec<String> {
        self.gateway.problems().iter().take(10).map(|problem| problem.chars().take(500).collect()).collect()
    }

    /// The sound route answers, and so do API and ping.
    fn serves(&self) {
        assert_eq!(self.answer("good.test", "/"), (200, Some("good".to_owned())));
        assert!(self.gateway.api("/api/http/routers").contains("good@file"));
        assert_eq!(self.gateway.api("/ping"), "OK");
    }

    fn answer(&self, host: &str, path: &str) -> (u16, Option<String>) {
        let answer = get(self.gateway.web(), host, path);
        (answer.status, answer.header("x-backend").map(str::to_owned))
    }
}

/// A route to the sound backend, in a file of its own.
fn route(rule: &str) -> String {
    format!("http:\n  routers:\n    other:\n      rule: '{rule}'\n      service: good\n")
}

#[test]
fn each_mistake_in_a_route_file_is_reported_with_its_line_and_affects_only_its_object() {
    let beside = Beside::new(&[]);
    let cases: [(&str, &str, &[&str]); 18] = [
        (
            "bad.yml",
            "http:\n  routers:\n    x:\n      rule: Host(`x`)\n      priority: high\n",
            &["bad.yml:5", "router x@file", "invalid value `high`: expected an integer"],
        ),
        (
            "bad.yml",
            "http:\n  routers:\n    x: {rule: [1]}\n",
            &["bad.yml:3", "a list is given: expected a string"],
        ),
        ("bad.yml", "http:\n  routers: [1, 2]\n", &["bad.yml:2", "http.routers: expected a table of names"]),
        (
            "bad.yml",
            "http:\n  routers:\n    x:\n      rule: Host(`x`)\n      servise: s\n",
            &["bad.yml:5", "unknown key: did you mean `service`?"],
        ),
        ("bad.yml", "http:\n  router: {}\n", &["bad.yml:2", "unknown key: did you mean `routers`?"]),
        ("bad.yml", "htpp: {}\n", &["bad.yml:1", "unknown key: did you mean `http`?"]),
        (
            "bad.yml",
            "http:\n  middlewares:\n    m:\n      addPrefix: {prefix: /a}\n      stripPrefix: {prefixes: [/a]}\n",
            &["bad.yml:3", "middleware m@file", "multi-types middleware not supported"],
        ),
        (
            "bad.yml",
            "http:\n  middlewares:\n    a: {chain: {middlewares: [b]}}\n    b: {chain: {middlewares: [a]}}\n",
            &[
                "bad.yml:3",
                "middleware a@file",
                "recursion detected in middleware:a@file->middleware:b@file->middleware:a@file",
            ],
        ),
        (
            "bad.yml",
            "http:\n  middlewares:\n    a: {chain: {middlewares: [a]}}\n",
            &["bad.yml:3", "recursion detected in middleware:a@file->middleware:a@file"],
        ),
        (
            "bad.yml",
            "http:\n  routers:\n    x: {rule: 'Host(`x`)', service: a}\n  services:\n    a: {weighted: {services: [{name: b}]}}\n    b: {mirroring: {service: a}}\n",
            &["bad.yml:5", "service a@file", "recursion detected"],
        ),
        (
            "bad.yml",
            "http:\n  routers:\n    x: {rule: 'Host(`x`)', service: gone}\n",
            &["bad.yml:3", "the service \"gone@file\" does not exist"],
        ),
        (
            "bad.yml",
            "http:\n  routers:\n    x: {rule: 'Host(`x`)', service: good, middlewares: [gone@docker]}\n",
            &["bad.yml:3", "middleware \"gone@docker\" does not exist"],
        ),
        (
            "bad.yml",
            "http:\n  routers:\n    x: {rule: 'Host(`x`)', service: good, entryPoints: [gone]}\n",
            &["bad.yml:3", "entryPoint \"gone\" doesn't exist"],
        ),
        (
            "worse.yml",
            "http:\n  services:\n    good: {loadBalancer: {}}\n",
            &["worse.yml:3", "service good is defined in ", "already; this one is ignored"],
        ),
        (
            "bad.toml",
            "[http.routers.x]\nrule = \"Host(`x`)\"\nrule = \"Host(`y`)\"\n",
            &["bad.toml:3", "duplicate key"],
        ),
        ("bad.toml", "[http.routers.x]\nrule = 1\n[http.routers.x]\n", &["bad.toml:3"]),
        (
            "bad.yml",
            "tls:\n  certificates:\n    - certFile: gone.pem\n      keyFile: gone.key\n",
            &["bad.yml:3", "gone.pem"],
        ),
        (
            "bad.yml",
            "tls:\n  options:\n    o:\n      minVersion: VersionTLS09\n",
            &["bad.yml:4", "TLS options o@file", "VersionTLS09"],
        ),
    ];
    for (name, text, parts) in cases {
        beside.put(name, text);
        beside.wait_for_problem(parts);
        beside.gateway.remove(name);
        eventually("the problem is gone with its file", || beside.problems().is_empty());
    }
    beside.serves();
}

#[test]
fn a_router_that_is_broken_keeps_its_traffic_from_weaker_ones() {
    let beside = Beside::new(&[]);
    beside.put("all.yml", route("PathPrefix(`/`)"));
    eventually("the weak route serves", || beside.answer("other.test", "/admin").0 == 200);
    beside.put("bad.yml", "http:\n  routers:\n    admin:\n      rule: 'PathPrefix(`/admin`)'\n      midlewares: [password]\n      service: good\n");
    beside.wait_for_problem(&["bad.yml:5", "did you mean `middlewares`?"]);
    assert_eq!(beside.answer("other.test", "/admin"), (503, None));
    assert_eq!(beside.answer("other.test", "/").0, 200);
}

#[test]
fn case_72_heavy_rules_serve_or_are_reported() {
    let beside = Beside::new(&[]);
    let alternatives: Vec<String> = (0..1000).map(|n| format!("Host(`h{n}.test`)")).collect();
    beside.put("many.yml", route(&alternatives.join(" || ")));
    eventually("a rule of 1,000 alternatives serves", || beside.answer("h999.test", "/").0 == 200);
    assert_eq!(beside.answer("h1000.test", "/").0, 404);
    assert_eq!(beside.gateway.problems(), Vec::<String>::new());
    beside.gateway.remove("many.yml");

    beside.put("regex.yml", route("PathRegexp(`^/(a+)+(a*)*$`)"));
    eventually("the pattern serves", || beside.answer("x.test", "/aaa").0 == 200);
    let begun = Instant::now();
    assert_eq!(beside.answer("x.test", &format!("/{}!", "a".repeat(8000))).0, 404);
    assert!(begun.elapsed() < Duration::from_secs(60), "took {:?}", begun.elapsed());

    for (rule, part) in [
        (format!("{}Host(`x`){}", "(".repeat(10_000), ")".repeat(10_000)), "nested"),
        (format!("{}Host(`x`)", "!".repeat(10_000)), "nested"),
        ("PathRegexp(`^/((((a{1,100}){1,100}){1,100}){1,100})$`)".to_owned(), "invalid regular expression"),
        (format!("Host(`x`) && {}", "Path(`/x`) && ".repeat(10_000)), "too long: 140013 bytes"),
        (
            format!("Host(`x`) && {}", "Path(`/x`) && ".repeat(1000)),
            "expected a call like Host(`…`), found the end",
        ),
    ] {
        beside.put("regex.yml", route(&rule));
        beside.wait_for_problem(&["regex.yml:4", "router other@file", part][..]);
    }
}

#[test]
fn case_73_hostile_route_files_leave_the_rest_serving() {
    let beside = Beside::new(&[]);
    beside.put("bad.yml", route("Host(`kept.test`)"));
    eventually("the file's first content serves", || beside.answer("kept.test", "/").0 == 200);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        bomb.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            vec![format!("*a{}", level - 1); 10].join(", ")
        ));
    }
    let mut huge = b"http:\n  routers:\n".to_vec();
    let mut number = 0;
    while huge.len() < 50_000_000 {
        huge.extend_from_slice(
            format!("    r{number}: {{rule: 'Host(`h{number}.test`)', service: good}}\n").as_bytes(),
        );
        number += 1;
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let dashes = format!("a: {}x", "- ".repeat(50_000));
    let cases: [(&[u8], &[&str]); 8] = [
        (bomb.as_bytes(), &["bad.yml:", "aliases expand to more than"]),
        (nested.as_bytes(), &["bad.yml:1"]),
        (dashes.as_bytes(), &["bad.yml:1"]),
        (b"http:\n  routers:\n    r: {rule: '\xff\xfe'}\n", &["bad.yml:3", "not valid UTF-8"]),
        (b"http:\n  routers:\n    r: {rule: a}\n    r: {rule: b}\n", &["bad.yml:4", "duplicate key"]),
        // Written half.
        (b"http:\n  routers:\n    r: {rule: 'Host(`kept.test`)', serv", &["bad.yml:", "invalid YAML"]),
        (b"\x00\x01\x02", &["bad.yml:1"]),
        (&huge, &["bad.yml: ", "larger than 32 MiB", "the last good content of the file stays"]),
    ];
    for (bytes, parts) in cases {
        beside.put("bad.yml", bytes);
        beside.wait_for_problem(parts);
        assert_eq!(beside.answer("kept.test", "/").0, 200, "the last good content stays: {parts:?}");
    }
    beside.put("bad.yml", route("Host(`new.test`)"));
    eventually("a sound content is taken again", || beside.answer("new.test", "/").0 == 200);
    assert_eq!(beside.gateway.problems(), Vec::<String>::new());
    let deep = format!("a = {}{}", "[".repeat(50_000), "]".repeat(50_000));
    beside.put("deep.toml", deep);
    beside.wait_for_problem(&["deep.toml:1"]);
}

#[test]
fn a_slowly_written_file_is_read_when_it_is_complete() {
    let beside = Beside::new(&[]);
    let path = beside.gateway.folder().join("slow.yml");
    let text = route("Host(`slow.test`)");
    let (first, second) = text.split_at(text.len() - 20);
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    file.sync_all().unwrap();
    beside.wait_for_problem(&["slow.yml:"]);
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    eventually("the whole file serves", || beside.answer("slow.test", "/").0 == 200);
    eventually("nothing is wrong any more", || beside.gateway.problems().is_empty());
}

/// A Docker engine that answers what it is told to.
struct Engine {
    address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    stopped: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Mode {
    /// Containers, each the answer of an inspection.
    Lists(Arc<Vec<serde_json::Value>>),
    /// Bytes instead of an answer.
    Garbage(Vec<u8>),
    /// Takes requests and never answers.
    Hangs,
}

impl Engine {
    fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, stopped) = (Arc::new(Mutex::new(mode)), Arc::new(AtomicBool::new(false)));
        let (state, stop) = (mode.clone(), stopped.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (state, stop) = (state.clone(), stop.clone());
                std::thread::spawn(move || Self::serve(stream, &state, &stop));
            }
        });
        Self { address, mode, stopped }
    }

    fn serve(mut stream: TcpStream, mode: &Mutex<Mode>, stopped: &AtomicBool) {
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut buffer = Vec::new();
        let mut streaming = false;
        while !stopped.load(Ordering::SeqCst) {
            let now = mode.lock().unwrap().clone();
            // Whoever listens to events is cut off when the engine goes mad, as by a restart.
            if streaming && !matches!(now, Mode::Lists(_)) {
                return;
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => buffer.extend_from_slice(&chunk[..length]),
                Err(_) => {}
            }
            if !buffer.windows(4).any(|end| end == b"\r\n\r\n") {
                continue;
            }
            let path = String::from_utf8_lossy(&buffer).split(' ').nth(1).unwrap_or("").to_owned();
            match now {
                Mode::Hangs => {}
                Mode::Garbage(bytes) => {
                    let _ = stream.write_all(&bytes);
                    return;
                }
                Mode::Lists(containers) => {
                    buffer.clear();
                    let answer = if path.contains("/events") {
                        streaming = true;
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
                    } else {
                        let body = Self::body(&path, &containers);
                        format!(
                            "HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        )
                    };
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn body(path: &str, containers: &[serde_json::Value]) -> String {
        if path.contains("/containers/json") {
            let list = containers.iter().map(|c| {
                serde_json::json!({"Id": c["Id"], "Names": [c["Name"]], "State": "running", "NetworkSettings": c["NetworkSettings"]})
            });
            return serde_json::Value::from(list.collect::<Vec<_>>()).to_string();
        }
        let wanted = |c: &&serde_json::Value| path.contains(c["Id"].as_str().unwrap());
        containers.iter().find(wanted).map_or("OK".to_owned(), ToString::to_string)
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn gateway(&self) -> Beside {
        let endpoint = format!("--providers.docker.endpoint=tcp://{}", self.address);
        Beside::new(&[&endpoint, "--providers.docker.httpClientTimeout=5s"])
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn lists(containers: impl IntoIterator<Item = serde_json::Value>) -> Mode {
    Mode::Lists(Arc::new(containers.into_iter().collect()))
}

/// A container on the loopback address, whose one port is that of a backend.
fn container(id: &str, backend: &Backend, labels: serde_json::Value) -> serde_json::Value {
    let port = format!("{}/tcp", backend.address.port());
    serde_json::json!({
        "Id": id, "Name": format!("/{id}"),
        "State": {"Status": "running", "StartedAt": "1"},
        "Config": {"Labels": labels},
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Ports": {port: null}, "Networks": {"bridge": {"IPAddress": "127.0.0.1"}}},
    })
}

fn rule(host: &str) -> serde_json::Value {
    serde_json::json!({"traefik.http.routers.r.rule": format!("Host(`{host}`)")})
}

#[test]
fn ten_thousand_labels_and_a_value_of_a_megabyte() {
    let backend = Backend::echo("container");
    let mut many = serde_json::Map::new();
    for number in 0..10_000 {
        many.insert(format!("traefik.http.routers.r{number}.rule"), format!("Host(`h{number}.test`)").into());
    }
    let sound = container("sound", &backend, rule("sound.test"));
    let engine = Engine::start(lists([sound.clone(), container("many", &backend, many.into())]));
    let beside = engine.gateway();
    beside.wait_for_problem(&["container many: more than 5000 labels"]);
    // A label that was left out may have been the middleware that guards them.
    eventually("its routers hold their traffic", || beside.answer("h0.test", "/").0 == 503);
    assert_eq!(beside.answer("sound.test", "/").0, 200);
    beside.serves();

    let mut wrong = serde_json::Map::new();
    for number in 0..10_000 {
        wrong.insert(format!("traefik.http.routers.r{number}.nonsense"), "x".into());
    }
    let huge =
        serde_json::json!({"traefik.http.routers.huge.rule": format!("Host(`{}`)", "a".repeat(1 << 20))});
    let key =
        serde_json::json!({format!("traefik.http.routers.{}.rule", "k".repeat(1 << 20)): "Host(`k.test`)"});
    let containers = [
        ("wrong", wrong.into()),
        ("huge", huge),
        ("key", key),
        ("odd", serde_json::json!({"traefik.http.routers.o.priority": "high"})),
    ];
    let containers = containers.into_iter().map(|(id, labels)| container(id, &backend, labels));
    let engine = Engine::start(lists(containers.chain([sound])));
    let beside = engine.gateway();
    beside.wait_for_problem(&["container wrong, label traefik.http.routers.r100.nonsense", "unknown key"]);
    beside.wait_for_problem(&["container key, label ", "is longer than"]);
    beside.wait_for_problem(&[
        "container odd, label traefik.http.routers.o.priority",
        "invalid value `high`: expected an integer",
    ]);
    assert_eq!(beside.answer("sound.test", "/").0, 200);
}

#[test]
fn an_engine_that_hangs_or_answers_garbage_leaves_everything_else_serving() {
    let backend = Backend::echo("container");
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let garbage: [&[u8]; 7] = [
        b"\x00\xff\xfe garbage \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n[1, 2, null",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}",
        b"",
        endless.as_bytes(),
    ];
    for bytes in garbage {
        // From the start: the gateway serves what it has, and says what is wrong.
        let engine = Engine::start(Mode::Garbage(bytes.to_vec()));
        let backend_of_file = Backend::echo("good");
        let endpoint = format!("--providers.docker.endpoint=tcp://{}", engine.address);
        let gateway = Gateway::unready(
            &[&endpoint, "--providers.startTimeout=1s"],
            &Gateway::one_service(&backend_of_file.url()),
        );
        eventually("the route file serves", || get(gateway.web(), "x.test", "/").status == 200);
        let told = || gateway.problems().iter().any(|problem| problem.contains("provider docker: "));
        eventually("the engine's state is told", told);
        engine.set(lists([container("c", &backend, rule("container.test"))]));
        let serves = || get(gateway.web(), "container.test", "/").header("x-backend") == Some("container");
        assert!(
            wait_until(Duration::from_secs(40), serves).is_some(),
            "the engine that is well again serves after {:?}: {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)]),
            gateway.problems()
        );
    }
    // Later: the last known routes stay.
    let engine = Engine::start(lists([container("c", &backend, rule("container.test"))]));
    let beside = engine.gateway();
    eventually("the container serves", || beside.answer("container.test", "/").0 == 200);
    for mode in garbage.iter().map(|bytes| Mode::Garbage(bytes.to_vec())).chain([Mode::Hangs]) {
        engine.set(mode);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(300) {
            assert_eq!(beside.answer("container.test", "/").0, 200, "the last known route stays");
        }
        beside.serves();
    }
    engine.set(lists([container("d", &backend, rule("different.test"))]));
    eventually("the engine that is well again is followed", || {
        beside.answer("different.test", "/").0 == 200 && beside.answer("container.test", "/").0 == 404
    });
    assert!(!beside.backend.seen().is_empty());
}
