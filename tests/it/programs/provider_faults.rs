//! Sources that fail in ways that are hard to see: silence, too much at once, a memory that is lost.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::outside::{Consul, Etcd, Redis};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::{Backend, Gateway, eventually, get, pause_for, repeat_for};

fn from(gateway: &Gateway, host: &str, backend: &str) -> bool {
    get(gateway.web(), host, "/").header("X-Backend") == Some(backend)
}

const TAGS: [&str; 2] = ["traefik.enable=true", "traefik.http.routers.web.rule=Host(`catalog.test`)"];

#[test]
#[ignore = "needs consul, etcd and redis-server"]
fn a_silently_cut_line_is_detected() {
    let (consul, etcd, redis) = (Consul::start("").ready(), Etcd::start(&[]).ready(), Redis::start(&[]));
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let set = |backend: &Backend| {
        consul.register("web", "web1", backend.address, &TAGS);
        let keys = |host: &str| {
            [
                ("traefik/http/services/s/loadBalancer/servers/0/url".to_owned(), backend.url()),
                ("traefik/http/routers/r/rule".to_owned(), format!("Host(`{host}`)")),
                ("traefik/http/routers/r/service".to_owned(), "s".to_owned()),
            ]
        };
        keys("etcd.test").iter().for_each(|(key, value)| etcd.put(key, value));
        keys("redis.test").iter().for_each(|(key, value)| drop(redis.command(&["SET", key, value])));
    };
    set(&one);
    let lines = [consul.address, etcd.address, redis.address].map(Proxy::to);
    let flags = [
        format!("--providers.consulCatalog.endpoint.address={}", lines[0].address),
        // A query that waits is given up ten seconds after its time.
        "--providers.consulCatalog.endpoint.endpointWaitTime=1s".to_owned(),
        "--providers.consulCatalog.exposedByDefault=false".to_owned(),
        format!("--providers.etcd.endpoints={}", lines[1].address),
        format!("--providers.redis.endpoints={}", lines[2].address),
    ];
    let gateway = Gateway::with(&flags.each_ref().map(String::as_str), "");
    let hosts = ["catalog.test", "etcd.test", "redis.test"];
    assert!(hosts.iter().all(|host| from(&gateway, host, "one")));
    lines.iter().for_each(Proxy::cut);
    let (begun, before) = (Instant::now(), lines.each_ref().map(Proxy::connections));
    set(&two);
    // Three queries wait at Consul, and each may have just been about to ask again.
    for (((line, before), host), least) in lines.iter().zip(before).zip(hosts).zip([4, 1, 1]) {
        eventually("another connection is tried", || line.connections() >= before + least);
        eprintln!("{host}: the silence was noticed after {:?}", begun.elapsed());
    }
    // `CUT_SECONDS=300` for five minutes.
    let length = std::env::var("CUT_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    repeat_for(Duration::from_secs(length).saturating_sub(begun.elapsed()), || {
        assert!(hosts.iter().all(|host| from(&gateway, host, "one")), "what was known stays");
    });
    lines.iter().for_each(Proxy::mend);
    let begun = Instant::now();
    for host in hosts {
        eventually("what was missed is live", || from(&gateway, host, "two"));
        eprintln!("{host}: live {:?} after the line was mended", begun.elapsed());
    }
    assert_eq!(gateway.problems(), [""; 0]);
}

#[test]
#[ignore = "needs consul"]
fn an_agent_that_has_lost_its_memory_begins_with_lower_indexes_and_is_believed() {
    let mut consul = Consul::start("").ready();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    for number in 0..50 {
        consul.put("/v1/kv/other", &number.to_string());
    }
    consul.register("web", "web1", one.address, &TAGS);
    consul.put("/v1/kv/traefik/http/routers/kv/rule", "Host(`kv.test`)");
    consul.put("/v1/kv/traefik/http/routers/kv/service", "web@consulcatalog");
    let flags = [
        format!("--providers.consulCatalog.endpoint.address={}", consul.address),
        "--providers.consulCatalog.exposedByDefault=false".to_owned(),
        format!("--providers.consul.endpoints={}", consul.address),
    ];
    let gateway = Gateway::with(&flags.each_ref().map(String::as_str), "");
    assert!(from(&gateway, "catalog.test", "one") && from(&gateway, "kv.test", "one"));
    consul.kill();
    std::fs::remove_dir_all(consul.folder().join("data")).unwrap();
    consul.run();
    consul.wait();
    consul.register("web", "web1", two.address, &TAGS);
    consul.put("/v1/kv/traefik/http/routers/kv/rule", "Host(`new.test`)");
    consul.put("/v1/kv/traefik/http/routers/kv/service", "web@consulcatalog");
    eventually("the new catalog is served", || from(&gateway, "catalog.test", "two"));
    eventually("the new keys are", || {
        from(&gateway, "new.test", "two") && get(gateway.web(), "kv.test", "/").status == 404
    });
}

#[test]
#[ignore = "needs consul"]
fn an_agent_that_has_too_many_connections_refuses_some_and_is_asked_later() {
    let consul = Consul::start(r#""limits": {"http_max_conns_per_client": 30}"#).ready();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    consul.register("web", "web1", one.address, &TAGS);
    let line = Proxy::to(consul.address);
    let flags = [
        format!("--providers.consulCatalog.endpoint.address={}", line.address),
        "--providers.consulCatalog.endpoint.endpointWaitTime=1s".to_owned(),
        "--providers.consulCatalog.exposedByDefault=false".to_owned(),
    ];
    let gateway = Gateway::with(&flags.each_ref().map(String::as_str), "");
    assert!(from(&gateway, "catalog.test", "one"));
    let others: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(consul.address).unwrap()).collect();
    let before = line.connections();
    eventually("it is asked all the same, and some of it is refused", || line.connections() >= before + 8);
    assert!(from(&gateway, "catalog.test", "one"));
    drop(others);
    eventually("the agent answers again", || consul.get("/v1/status/leader").is_some());
    consul.register("web", "web1", two.address, &TAGS);
    eventually("changes are seen again", || from(&gateway, "catalog.test", "two"));
}

#[test]
#[ignore = "needs consul"]
fn an_unavailable_agent_is_retried_with_growing_pauses() {
    let mut consul = Consul::start("").ready();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    consul.register("web", "web1", one.address, &TAGS);
    consul.put("/v1/agent/check/pass/service:web1", "");
    let line = Proxy::to(consul.address);
    let flags = [
        format!("--providers.consulCatalog.endpoint.address={}", line.address),
        "--providers.consulCatalog.exposedByDefault=false".to_owned(),
        format!("--providers.consul.endpoints={}", line.address),
    ];
    let gateway = Gateway::with(&flags.each_ref().map(String::as_str), "");
    consul.kill();
    let (begun, before) = (Instant::now(), line.connections());
    while begun.elapsed().as_secs() < 8 {
        assert!(from(&gateway, "catalog.test", "one"));
    }
    let tried = line.connections() - before;
    eprintln!("{tried} connections in eight seconds without an agent");
    // Five queries, and each waits twice as long each time.
    assert!(tried <= 60, "{tried}");
    consul.run();
    consul.wait();
    consul.register("web", "web1", two.address, &TAGS);
    eventually("changes are seen again", || from(&gateway, "catalog.test", "two"));
}

/// How many services the large catalog has, and operations of one transaction.
const MANY: usize = 5000;
const AT_ONCE: usize = 64;

fn operation(kind: &str, body: &str) -> String {
    format!(r#"{{"{kind}": {{"Verb": "set", {body}}}}}"#)
}

fn check(number: usize, status: &str) -> String {
    operation(
        "Check",
        &format!(
            r#""Check": {{"Node": "big", "CheckID": "c{number}", "Name": "c", "Status": "{status}", "ServiceID": "s{number}"}}"#
        ),
    )
}

#[test]
#[ignore = "needs consul"]
fn constant_changes_of_five_thousand_services_do_not_flood_the_agent() {
    let consul = Consul::start("").ready();
    let backend = Backend::echo("one");
    let port = backend.address.port();
    consul.put("/v1/catalog/register", r#"{"Node": "big", "Address": "127.0.0.1"}"#);
    let service = |number: usize| {
        let tags = format!(r#"["traefik.http.routers.s{number}.rule=Host(`s{number}.test`)"]"#);
        let body = format!(
            r#""Node": "big", "Service": {{"ID": "s{number}", "Service": "s{number}", "Port": {port}, "Tags": {tags}}}"#
        );
        [operation("Service", &body), check(number, "passing")]
    };
    let operations: Vec<String> = (0..MANY).flat_map(service).collect();
    for chunk in operations.chunks(AT_ONCE) {
        consul.put("/v1/txn", &format!("[{}]", chunk.join(",")));
    }
    let line = Proxy::to(consul.address);
    let flag = format!("--providers.consulCatalog.endpoint.address={}", line.address);
    let begun = Instant::now();
    let gateway = Process::start(&[&flag], "");
    let status = |number: usize| get(gateway.web(), &format!("s{number}.test"), "/").status;
    eventually("all are served", || status(0) == 200 && status(MANY - 1) == 200);
    eventually("all checks have been looked at once", || {
        line.requests().iter().any(|path| path == "/v1/health/state/any")
    });
    let first = (begun.elapsed(), gateway.memory());
    line.requests();
    // Each is for a service of its own, so that none can be saved.
    let (begun, mut done) = (Instant::now(), 0);
    while done < 1000 {
        consul.put("/v1/txn", &format!("[{}]", check(done * 3 % MANY, "critical")));
        done += 1;
        let due = begun + Duration::from_millis(10) * done as u32;
        pause_for(due.saturating_duration_since(Instant::now()));
    }
    let took = begun.elapsed();
    eventually("the last change is live", || status((done - 1) * 3 % MANY) == 404);
    let requests = line.requests();
    let count = |start: &str| requests.iter().filter(|path| path.starts_with(start)).count();
    let (memory, services, states) =
        (gateway.memory(), count("/v1/health/service/"), count("/v1/health/state/"));
    eprintln!(
        "{MANY} services served after {:?} with {} MiB; {done} changes in {took:?}: {services} services asked for, {states} \
         lists of checks, {} requests in all; {} MiB",
        first.0,
        first.1 >> 10,
        requests.len(),
        memory >> 10
    );
    assert!(services <= done + done / 4, "one question for each change, and not all services again");
    assert!(requests.len() <= done * 3, "{}", requests.len());
    assert!(memory < first.1 * 2 + (100 << 10), "{memory} KiB after {} KiB", first.1);
}
