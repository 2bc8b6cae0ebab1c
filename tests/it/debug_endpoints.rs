//! `api.debug`: profiles in the format of pprof, and the state of the process.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use serde_json::Value;

use crate::support::process::Process;
use crate::support::{Answer, Backend, Client, Gateway, eventually, get, raw};

/// The parts of `perftools.profiles.Profile` that tests read.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<Kind>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(int64, tag = "1")]
    name: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    fn of(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut bytes).unwrap();
        Self::decode(&bytes[..]).unwrap()
    }

    fn text(&self, index: i64) -> &str {
        &self.string_table[usize::try_from(index).unwrap()]
    }

    /// The functions of each sample, the innermost first.
    fn stacks(&self) -> Vec<Vec<&str>> {
        let name = |line: &Line| {
            let function = self.function.iter().find(|function| function.id == line.function_id).unwrap();
            self.text(function.name)
        };
        let names = |id: &u64| {
            let location = self.location.iter().find(|location| location.id == *id).unwrap();
            location.line.iter().map(name)
        };
        self.sample.iter().map(|sample| sample.location_id.iter().flat_map(names).collect()).collect()
    }

    fn kinds(&self) -> Vec<(&str, &str)> {
        self.sample_type.iter().map(|kind| (self.text(kind.name), self.text(kind.unit))).collect()
    }
}

const DEBUG: &[&str] = &["--api.insecure=true", "--api.debug=true"];
/// For a process, whose entry point has a fixed port otherwise.
const OWN: &[&str] = &["--entryPoints.traefik.address=127.0.0.1:0"];

fn json(address: SocketAddr, path: &str) -> Value {
    let answer = get(address, "h", path);
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    serde_json::from_str(&answer.text()).unwrap()
}

#[test]
fn debug_paths_exist_only_on_demand_and_behind_the_same_router() {
    let off = Gateway::with(&["--api.insecure=true"], "http: {}\n");
    assert_eq!(get(off.address("traefik"), "h", "/debug/vars").status, 404);
    let on = Gateway::with(DEBUG, "http: {}\n");
    let address = on.address("traefik");
    assert_eq!(get(address, "h", "/debug/vars").status, 200);
    assert_eq!(get(on.web(), "h", "/debug/vars").status, 404);
    assert!(on.api("/api/http/routers/debug@internal").contains("PathPrefix(`/debug`)"));
    assert!(on.problems().is_empty(), "{:?}", on.problems());
    // Who protects the API protects them as well.
    let routes = "http:\n  routers:\n    api: {rule: 'PathPrefix(`/`)', service: api@internal, middlewares: [auth]}\n  \
                  middlewares:\n    auth: {basicAuth: {users: ['u:$apr1$x$x']}}\n";
    let guarded = Gateway::with(&["--api.debug=true"], routes);
    assert_eq!(get(guarded.web(), "h", "/debug/pprof/heap").status, 401);
}

#[test]
fn variables_and_the_command_line_have_no_secrets() {
    let flags = [DEBUG, OWN, &["--metrics.influxDB2.token=geheim"]].concat();
    let process = Process::start(&flags, &Gateway::one_service("http://127.0.0.1:9"));
    let address = process.address("traefik");
    let line = get(address, "h", "/debug/pprof/cmdline").text();
    let parts: Vec<&str> = line.split('\0').collect();
    assert!(
        parts[0].ends_with("tidegate") && parts.contains(&"--metrics.influxDB2.token=REDACTED"),
        "{parts:?}"
    );
    let vars = json(address, "/debug/vars");
    assert!(!line.contains("geheim") && !vars.to_string().contains("geheim"));
    assert_eq!(vars["cmdline"][0], parts[0]);
    assert!(vars["memstats"]["Sys"].as_u64().unwrap() > 1 << 20);
    assert!(vars["Goroutines2"].as_u64().unwrap() > 0);
}

#[test]
fn the_state_of_runtimes_connections_and_queues_is_shown() {
    let flags = [DEBUG, &["--tracing.otlp.http.endpoint=http://127.0.0.1:9"]].concat();
    let gateway = Gateway::with(&flags, "http: {}\n");
    let state = || json(gateway.address("traefik"), "/debug/runtime");
    let seen = state();
    let runtimes = seen["runtimes"].as_array().unwrap();
    let names: Vec<&str> = runtimes.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"worker-0") && names.contains(&"control"), "{names:?}");
    assert!(runtimes.iter().all(|one| !one["workers"].as_array().unwrap().is_empty()));
    assert!(runtimes.iter().any(|one| one["tasks"].as_u64().unwrap() > 0));
    assert_eq!(seen["queues"]["traces"]["dropped"], 0);
    assert_eq!(seen["connections"]["web"]["open"], 0);
    let connection = Client::connect(gateway.web());
    eventually("a connection is open", || state()["connections"]["web"]["open"] == 1);
    drop(connection);
}

#[test]
fn cpu_time_is_recorded_by_stack_and_one_at_a_time() {
    let backend = Backend::echo("a");
    let gateway = Process::start(&[DEBUG, OWN].concat(), &Gateway::one_service(&backend.url()));
    let (address, web) = (gateway.address("traefik"), gateway.web());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let load = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            get(web, "h", "/");
        }
    });
    // Begun, but not ended: a short one is refused until then, unless it came first.
    let begin = |seconds: u64| {
        let mut client = Client::connect(address);
        client.send(format!("GET /debug/pprof/profile?seconds={seconds} HTTP/1.1\r\nhost: h\r\n\r\n"));
        (get(address, "h", "/debug/pprof/heap").status == 409).then_some(client)
    };
    let mut first = None;
    eventually("another one is refused", || {
        first = begin(1).map(|mut client| client.read().unwrap());
        // One whose client has left may still be recorded, and refuse both.
        first.as_ref().is_some_and(|answer| answer.status == 200)
    });
    let mut answer = first.unwrap();
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    let serves = |stack: &&Vec<&str>| {
        stack.last().is_some_and(|thread| thread.starts_with("worker-"))
            && stack.iter().any(|name| name.starts_with("tidegate::entrypoint::"))
    };
    // On a busy machine, the gateway may get too little time to be seen.
    eventually("a worker is seen while it serves", || {
        let profile = Profile::of(&answer);
        assert_eq!(profile.kinds(), [("samples", "count"), ("cpu", "nanoseconds")]);
        assert!(profile.duration_nanos >= 1_000_000_000);
        assert!(profile.sample.iter().all(|sample| sample.value[1] == sample.value[0] * profile.period));
        let stacks = profile.stacks();
        assert!(!stacks.iter().flatten().any(|name| name.contains("perf_signal_handler")), "{stacks:#?}");
        let is_seen = stacks.iter().any(|stack| serves(&stack));
        if !is_seen {
            answer = get(address, "h", "/debug/pprof/profile?seconds=1");
        }
        is_seen
    });
    stop.store(true, Ordering::Relaxed);
    load.join().unwrap();
    // A client that leaves does not block others.
    let mut second = None;
    eventually("it is recorded", || {
        second = begin(60);
        second.is_some()
    });
    drop(second);
    eventually("it has ended", || get(address, "h", "/debug/pprof/heap").status != 409);
}

#[test]
fn the_index_lists_what_exists_and_what_does_not() {
    let gateway = Gateway::with(DEBUG, "http: {}\n");
    let address = gateway.address("traefik");
    let index = get(address, "h", "/debug/pprof/").text();
    for name in ["cmdline", "heap", "profile", "symbol"] {
        assert!(index.contains(&format!("href=\"{name}\"")), "{name}");
    }
    for name in ["goroutine", "trace", "block", "mutex", "allocs", "threadcreate"] {
        let answer = get(address, "h", &format!("/debug/pprof/{name}"));
        assert_eq!((answer.status, answer.text().contains(name)), (501, true), "{name}");
    }
    assert_eq!(get(address, "h", "/debug/pprof/other").status, 404);
    assert_eq!(get(address, "h", "/debug/other").status, 404);
    assert_eq!(get(address, "h", "/debug/pprof/symbol").text(), "num_symbols: 0\n");
    let posted = raw(address, "POST /debug/vars HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert_eq!(posted.status, 405);
}

#[test]
fn allocations_are_shown_if_jemalloc_samples_them() {
    let flags = [DEBUG, OWN].concat();
    let off = Process::start(&flags, &Gateway::one_service("http://127.0.0.1:9"));
    let answer = get(off.address("traefik"), "h", "/debug/pprof/heap");
    assert_eq!(answer.status, 501);
    assert!(answer.text().contains("_RJEM_MALLOC_CONF=prof:true"), "{}", answer.text());
    let shell = "_RJEM_MALLOC_CONF=prof:true,lg_prof_sample:12 exec \"$0\" \"$@\"";
    let on = Process::start_by(shell, &flags, &Gateway::one_service("http://127.0.0.1:9"));
    for _ in 0..2 {
        let profile = Profile::of(&get(on.address("traefik"), "h", "/debug/pprof/heap"));
        assert_eq!(profile.kinds(), [("inuse_objects", "count"), ("inuse_space", "bytes")]);
        assert_eq!(profile.period, 4096);
        let program = |mapping: &&Mapping| profile.text(mapping.filename).ends_with("/tidegate");
        let program = profile.mapping.iter().find(program).unwrap().id;
        let inside = profile.location.iter().filter(|location| location.mapping_id == program);
        let inside: Vec<u64> = inside.map(|location| location.id).collect();
        let ours =
            profile.sample.iter().filter(|sample| sample.location_id.iter().any(|id| inside.contains(id)));
        let bytes: i64 = ours.map(|sample| sample.value[1]).sum();
        assert!(bytes > 100_000, "{bytes} bytes");
        let stacks = profile.stacks();
        assert!(stacks.iter().flatten().any(|name| name.starts_with("tidegate::")), "{stacks:?}");
    }
}
