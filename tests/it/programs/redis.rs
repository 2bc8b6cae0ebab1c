//! The Redis provider, with a real server.

use std::time::{Duration, Instant};

use crate::support::backend::unused_address;
use crate::support::outside::{Redis, certificates};
use crate::support::{Backend, Gateway, eventually, get};

fn gateway(redis: &Redis, further: &[&str]) -> Gateway {
    let endpoint = format!("--providers.redis.endpoints={}", redis.address);
    let mut flags = vec![endpoint.as_str()];
    flags.extend(further);
    Gateway::with(&flags, "")
}

fn route(redis: &Redis, login: &[&str], backend: &Backend) {
    let set = |key: &str, value: &str| {
        redis.command(&[login, &["SET", &format!("traefik/http/{key}"), value]].concat());
    };
    set("services/s/loadBalancer/servers/0/url", &backend.url());
    set("routers/r/service", "s");
    set("routers/r/rule", "Host(`kv.test`)");
}

fn names(gateway: &Gateway, name: &str) -> bool {
    get(gateway.web(), "kv.test", "/").header("X-Backend") == Some(name)
}

#[test]
#[ignore = "needs redis-server"]
fn keys_are_live_and_survive_a_killed_server() {
    let mut redis = Redis::start(&[]);
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    route(&redis, &[], &one);
    let gateway = gateway(&redis, &[]);
    assert!(names(&gateway, "one"));
    let begun = Instant::now();
    route(&redis, &[], &two);
    eventually("a changed key", || names(&gateway, "two"));
    eprintln!("live after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(14), "it was told, and not found by looking again");
    redis.command(&["SET", "traefik/http/services/s/loadBalancer/passHostHeader", "perhaps"]);
    eventually("the key is named", || {
        gateway
            .problems()
            .iter()
            .any(|problem| problem.contains("key traefik/http/services/s/loadBalancer/passHostHeader"))
    });
    assert!(names(&gateway, "two"));
    redis.kill();
    for _ in 0..20 {
        assert!(names(&gateway, "two"));
    }
    // It comes back empty, and that is believed: it is what the store says.
    redis.run();
    route(&redis, &[], &one);
    eventually("the server is followed again", || names(&gateway, "one"));
    redis.command(&["DEL", "traefik/http/routers/r/rule", "traefik/http/routers/r/service"]);
    eventually("the keys are gone", || get(gateway.web(), "kv.test", "/").status == 404);
}

#[test]
#[ignore = "needs redis-server"]
fn logins_databases_and_roots_are_used() {
    let redis = Redis::start(&["--requirepass", "word"]);
    let backend = Backend::echo("one");
    route(&redis, &["-a", "word", "-n", "2"], &backend);
    let gateway = gateway(&redis, &["--providers.redis.password=word", "--providers.redis.db=2"]);
    assert!(names(&gateway, "one"));
    let wrong = Gateway::unready(
        &[&format!("--providers.redis.endpoints={}", redis.address), "--providers.redis.password=other"],
        "",
    );
    eventually("a wrong password is said", || {
        wrong.problems().iter().any(|problem| problem.contains("WRONGPASS"))
    });
}

#[test]
#[ignore = "needs redis-server and consul"]
fn servers_are_reached_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = folder.path().to_owned();
    let file = |name: &str| path.join(name).display().to_string();
    let address = unused_address();
    let arguments = [
        "--port",
        "0",
        "--tls-port",
        &address.port().to_string(),
        "--tls-ca-cert-file",
        &file("consul-agent-ca.pem"),
        "--tls-cert-file",
        &file("dc1-server-consul-0.pem"),
        "--tls-key-file",
        &file("dc1-server-consul-0-key.pem"),
    ];
    let redis = Redis::start_in(folder, address, &arguments);
    let (ca, cert, key) =
        (file("consul-agent-ca.pem"), file("dc1-client-consul-0.pem"), file("dc1-client-consul-0-key.pem"));
    let backend = Backend::echo("one");
    route(&redis, &["--tls", "--cacert", &ca, "--cert", &cert, "--key", &key], &backend);
    let gateway = gateway(
        &redis,
        &[
            &format!("--providers.redis.tls.ca={ca}"),
            &format!("--providers.redis.tls.cert={cert}"),
            &format!("--providers.redis.tls.key={key}"),
        ],
    );
    assert!(names(&gateway, "one"));
}

#[test]
#[ignore = "needs redis-server"]
fn a_new_master_is_found_by_sentinel() {
    let mut master = Redis::start(&[]);
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &master.address.port().to_string()]);
    let sentinel = master.sentinel();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    route(&master, &[], &one);
    let gateway = gateway(&sentinel, &["--providers.redis.sentinel.masterName=m"]);
    assert!(names(&gateway, "one"));
    eventually("the replica has the keys", || {
        replica.command(&["KEYS", "*"]).contains("traefik/http/routers/r/rule")
    });
    eventually("the sentinel knows the replica", || {
        sentinel.command(&["SENTINEL", "replicas", "m"]).contains(&replica.address.port().to_string())
    });
    master.kill();
    eventually("the replica is the master", || replica.is_master());
    route(&replica, &[], &two);
    eventually("the new master is followed", || names(&gateway, "two"));
}
