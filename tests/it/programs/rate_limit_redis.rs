//! Limits that gateways share through Redis, with a real server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::rate_limit_redis::{SLOW, routes};
use crate::support::backend::unused_address;
use crate::support::outside::{Redis, certificates, cluster};
use crate::support::{Answer, Backend, Client, Gateway, eventually, get, pause_for};

/// Long enough for a machine that has much else to do.
const PATIENT: &str = "deadline: 20s";

fn at(redis: &Redis) -> String {
    format!("endpoints: ['{}'], {PATIENT}", redis.address)
}

fn statuses(gateways: &[&Gateway], host: &str, number: usize) -> Vec<u16> {
    (0..number).map(|i| get(gateways[i % gateways.len()].web(), host, "/a").status).collect()
}

#[test]
#[ignore = "needs redis-server"]
fn gateways_and_routers_count_together_and_answers_are_those_of_a_local_limit() {
    let redis = Redis::start(&[]);
    let backend = Backend::echo("one");
    let shared = routes(&backend, SLOW, &at(&redis));
    let (one, two) = (Gateway::serve(&shared), Gateway::serve(&shared));
    let local = Gateway::serve(&routes(&backend, SLOW, "").replace(", redis: {}", ""));
    let alone = statuses(&[&local], "h.test", 4);
    assert_eq!(get(one.web(), "h.test", "/a").status, 200);
    assert_eq!(get(two.web(), "h.test", "/b").status, 200);
    assert_eq!(get(one.web(), "h.test", "/b").status, 200);
    let refused = get(two.web(), "h.test", "/a");
    assert_eq!(alone, [200, 200, 200, 429]);
    let known = get(local.web(), "h.test", "/a");
    let shape = |answer: &Answer| {
        let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        names.sort();
        (answer.status, names, answer.text(), answer.header("retry-after").map(str::to_owned))
    };
    assert_eq!(shape(&refused), shape(&known));
    let wait = refused.header("x-retry-in").unwrap();
    assert!(wait.starts_with("59m"), "{wait}");
    assert_eq!(get(two.web(), "other.test", "/a").status, 200, "another source has its own bucket");
    let keys = redis.command(&["KEYS", "*"]);
    assert!(keys.contains("tidegate:rate:limit@file:h.test"), "{keys}");
    let left: i64 = redis.command(&["PTTL", "tidegate:rate:limit@file:h.test"]).trim().parse().unwrap();
    assert!((3 * 3_500_000..=3 * 3_600_000 + 1000).contains(&left), "{left}");
}

/// Asks from this many threads for this long, and counts what was let in and refused, and the longest time in which
/// nothing was asked.
fn load(targets: &[SocketAddr], threads: usize, time: Duration) -> (usize, usize, Duration) {
    let begun = Instant::now();
    let asking: Vec<_> = (0..threads)
        .map(|n| {
            let target = targets[n % targets.len()];
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                while begun.elapsed() < time {
                    answers.push((Instant::now(), get(target, "h.test", "/a").status));
                    pause_for(Duration::from_millis(4));
                }
                answers
            })
        })
        .collect();
    let mut answers: Vec<_> = asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    answers.sort();
    let gap = answers.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
    let of = |status: u16| answers.iter().filter(|answer| answer.1 == status).count();
    assert_eq!(of(200) + of(429), answers.len(), "{answers:?}");
    (of(200), of(429), gap)
}

#[test]
#[ignore = "needs redis-server"]
fn three_gateways_under_load_share_one_limit() {
    let redis = Redis::start(&[]);
    let backend = Backend::echo("one");
    let (rate, burst) = (50.0, 25.0);
    let shared = routes(&backend, "average: 50, burst: 25", &at(&redis));
    let gateways: Vec<Gateway> = (0..3).map(|_| Gateway::serve(&shared)).collect();
    let targets: Vec<SocketAddr> = gateways.iter().map(Gateway::web).collect();
    let begun = Instant::now();
    let (admitted, refused, gap) = load(&targets, 6, Duration::from_secs(8));
    let most = rate * begun.elapsed().as_secs_f64() + burst;
    eprintln!("{admitted} let in of {most:.0} at most, {refused} refused, longest gap {gap:?}");
    assert!(admitted as f64 <= most * 1.05 + 1.0, "{admitted} of {most}");
    // Tokens are lost when nobody asks for longer than it takes to fill the bucket, which says nothing of the limit.
    if gap.as_secs_f64() < burst / rate {
        let least = rate * 8.0 + burst;
        assert!(admitted as f64 >= least * 0.95, "{admitted} of {least}");
    }
    assert!(refused > 0);
}

/// Asks from this many connections for this long, each as one of these tenants, and returns when requests were admitted.
fn ask_as(
    targets: &[SocketAddr],
    host: &str,
    tenants: &[&str],
    connections: usize,
    time: Duration,
) -> Vec<Instant> {
    let begun = Instant::now();
    let asking: Vec<_> = (0..connections)
        .map(|n| {
            let (target, tenant) = (targets[n % targets.len()], tenants[n % tenants.len()]);
            let request = format!("GET /a HTTP/1.1\r\nHost: {host}\r\nX-Tenant: {tenant}\r\n\r\n");
            std::thread::spawn(move || {
                let mut client = Client::patient(target, Duration::from_secs(60));
                let mut admitted = Vec::new();
                while begun.elapsed() < time {
                    client.send(&request);
                    let answer = client.read().unwrap();
                    assert!([200, 429].contains(&answer.status), "{}", answer.status);
                    if answer.status == 200 {
                        admitted.push(Instant::now());
                    }
                    pause_for(Duration::from_millis(20));
                }
                admitted
            })
        })
        .collect();
    let mut admitted: Vec<Instant> = asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    admitted.sort();
    admitted
}

#[test]
#[ignore = "needs redis-server"]
fn two_policies_on_three_gateways_admit_what_their_rates_say() {
    let redis = Redis::start(&[]);
    let backend = Backend::echo("one");
    let policies = "policies: [{name: wide, average: 100, burst: 50, key: [host, method]}, \
                    {name: narrow, average: 40, burst: 20, key: ['header(X-Tenant)', 'path.prefix(1)']}]";
    let routes =
        routes(&backend, policies, &at(&redis)).replace(", sourceCriterion: {requestHost: true}", "");
    let gateways: Vec<Gateway> = (0..3).map(|_| Gateway::serve(&routes)).collect();
    let targets: Vec<SocketAddr> = gateways.iter().map(Gateway::web).collect();
    // Four tenants want more than `wide` has for their host, and one more than `narrow` has for it.
    for (host, tenants, rate, burst) in
        [("many.test", &["a", "b", "c", "d"][..], 100.0, 50.0), ("one.test", &["e"][..], 40.0, 20.0)]
    {
        let admitted = ask_as(&targets, host, tenants, 64, Duration::from_secs(10));
        let took = (*admitted.last().unwrap() - admitted[0]).as_secs_f64();
        let expected = rate * took + burst;
        let off = (admitted.len() as f64 - expected) / expected * 100.0;
        eprintln!("{host}: {} admitted in {took:.2} s, {expected:.0} expected, {off:+.2} %", admitted.len());
        assert!(off.abs() <= 2.0, "{off}");
    }
    let keys = redis.command(&["KEYS", "*"]);
    assert!(keys.contains("tidegate:rate:{limit@file}:wide:one.test|GET"), "{keys}");
}

#[test]
#[ignore = "needs redis-server"]
fn a_response_is_charged_on_all_gateways_and_a_refused_request_takes_nothing() {
    let redis = Redis::start(&[]);
    let backend = Backend::echo("one");
    let policies = "policies: [{name: few, average: 1, period: 1h, burst: 3, key: [host]}, \
                    {name: bytes, average: 1, period: 1h, burst: 2, key: [method], responseCost: 'Bytes()'}]";
    let routes =
        routes(&backend, policies, &at(&redis)).replace(", sourceCriterion: {requestHost: true}", "");
    let (one, two) = (Gateway::serve(&routes), Gateway::serve(&routes));
    let first = get(one.web(), "h.test", "/a");
    assert_eq!(first.status, 200);
    assert_eq!(first.header("ratelimit"), Some("\"few\";r=2;t=3600, \"bytes\";r=1;t=3600"));
    eventually("the bytes are charged", || get(two.web(), "h.test", "/a").status == 429);
    let refused = get(one.web(), "h.test", "/a");
    let limit = refused.header("ratelimit").unwrap();
    assert!(limit.starts_with("\"few\";r=2;t=") || limit.starts_with("\"few\";r=1;t="), "{limit}");
    assert!(limit.contains("\"bytes\";r=0"), "{limit}");
    let again = get(two.web(), "h.test", "/a");
    assert_eq!(again.header("ratelimit").unwrap()[..10], limit[..10], "refused requests take nothing");
}

#[test]
#[ignore = "needs redis-server"]
fn on_failure_decides_while_redis_is_unavailable() {
    let mut redis = Redis::start(&[]);
    let backend = Backend::echo("one");
    let with = |on_failure: &str| {
        let redis = format!("{}, dialTimeout: 1s, onFailure: {on_failure}", at(&redis));
        Gateway::serve(&routes(&backend, SLOW, &redis))
    };
    let (deny, allow, local) = (with("deny"), with("allow"), with("local"));
    let all = [&deny, &allow, &local];
    for (n, gateway) in all.iter().enumerate() {
        assert_eq!(statuses(&[gateway], &format!("{n}.test"), 4), [200, 200, 200, 429]);
    }
    redis.kill();
    eventually("it is missed", || get(deny.web(), "x.test", "/a").status == 500);
    let refused = get(deny.web(), "x.test", "/a");
    assert_eq!(refused.text(), "Could not insert/update bucket\n");
    assert_eq!(statuses(&[&allow], "x.test", 6), [200; 6]);
    assert_eq!(statuses(&[&local], "x.test", 4), [200, 200, 200, 429]);
    // It comes back without scripts and without buckets.
    redis.run();
    for (n, gateway) in all.iter().enumerate() {
        let host = format!("back{n}.test");
        eventually("it is counted there again", || {
            get(gateway.web(), &host, "/a").status == 429
                && redis.command(&["EXISTS", &format!("tidegate:rate:limit@file:{host}")]).trim() == "1"
        });
    }
    redis.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(statuses(&all, "flushed.test", 4), [200, 200, 200, 429]);
}

#[test]
#[ignore = "needs redis-server"]
fn a_redis_that_hangs_is_waited_for_once() {
    let redis = Redis::start(&[]);
    let info = redis.command(&["INFO", "server"]);
    let id = info.lines().find_map(|line| line.trim().strip_prefix("process_id:")).unwrap().to_owned();
    let signal = |name: &str| {
        let done = std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(done.success());
    };
    let backend = Backend::echo("one");
    let redis_options =
        format!("endpoints: ['{}'], deadline: 300ms, readTimeout: 500ms, onFailure: allow", redis.address);
    let gateway = Gateway::serve(&routes(&backend, "average: 1, period: 1h, burst: 1000", &redis_options));
    assert_eq!(get(gateway.web(), "h.test", "/a").status, 200);
    signal("STOP");
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let begun = Instant::now();
            assert_eq!(get(gateway.web(), "h.test", "/a").status, 200);
            begun.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("while Redis hangs: {:?} in the middle, {:?} at most", times[25], times[49]);
    signal("CONT");
    let key = "tidegate:rate:limit@file:back.test";
    eventually("it is counted there again", || {
        assert_eq!(get(gateway.web(), "back.test", "/a").status, 200);
        redis.command(&["EXISTS", key]).trim() == "1"
    });
}

#[test]
#[ignore = "needs redis-server"]
fn connections_survive_reloads_and_are_as_many_as_the_options_say() {
    let redis = Redis::start(&[]);
    let backend = Backend::echo("one");
    let options = format!("{}, poolSize: 2, minIdleConns: 2", at(&redis));
    let text = routes(&backend, SLOW, &options);
    let gateway = Gateway::serve(&text);
    assert_eq!(get(gateway.web(), "h.test", "/a").status, 200);
    let clients = || {
        let list = redis.command(&["CLIENT", "LIST"]);
        let ours = list.lines().filter(|line| !line.contains("cmd=client"));
        let mut ids: Vec<String> =
            ours.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect();
        ids.sort();
        ids
    };
    eventually("two connections", || clients().len() == 2);
    let before = clients();
    let generation = gateway.generation();
    // The limit is another one, its connections are not.
    gateway.write("routes.yml", &text.replace("burst: 3", "burst: 9"));
    eventually("it is served", || gateway.generation() > generation);
    assert_eq!(statuses(&[&gateway], "h.test", 3), [200; 3]);
    assert_eq!(clients(), before);
    gateway.write("routes.yml", "http: {}");
    eventually("nobody needs them any more", || clients().is_empty());
}

#[test]
#[ignore = "needs redis-server"]
fn logins_are_used_and_never_shown() {
    let redis = Redis::start(&["--requirepass", "hunter2"]);
    let backend = Backend::echo("one");
    let options = |password: &str| format!("{}, password: {password}, db: 3", at(&redis));
    let gateway = Gateway::serve(&routes(&backend, SLOW, &options("hunter2")));
    assert_eq!(statuses(&[&gateway], "h.test", 4), [200, 200, 200, 429]);
    let keys = redis.command(&["-a", "hunter2", "--no-auth-warning", "-n", "3", "KEYS", "*"]);
    assert!(keys.contains("h.test"), "{keys}");
    let shown = gateway.api("/api/rawdata");
    assert!(shown.contains(r#""password":"xxxx""#) && !shown.contains("hunter2"), "{shown}");
    let wrong = Gateway::serve(&routes(&backend, SLOW, &options("other")));
    assert_eq!(get(wrong.web(), "h.test", "/a").status, 500);
}

#[test]
#[ignore = "needs redis-server and consul"]
fn redis_is_reached_by_tls_with_certificates_of_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = folder.path().to_owned();
    let file = |name: &str| path.join(name).display().to_string();
    let address = unused_address();
    let port = address.port().to_string();
    let (ca, cert, key) =
        (file("consul-agent-ca.pem"), file("dc1-client-consul-0.pem"), file("dc1-client-consul-0-key.pem"));
    let (server, server_key) = (file("dc1-server-consul-0.pem"), file("dc1-server-consul-0-key.pem"));
    let arguments = [
        ["--port", "0"],
        ["--tls-port", &port],
        ["--tls-ca-cert-file", &ca],
        ["--tls-cert-file", &server],
        ["--tls-key-file", &server_key],
    ];
    let redis = Redis::start_in(folder, address, arguments.as_flattened());
    let backend = Backend::echo("one");
    let tls = format!("{}, tls: {{ca: '{ca}', cert: '{cert}', key: '{key}'}}", at(&redis));
    let gateway = Gateway::serve(&routes(&backend, SLOW, &tls));
    assert_eq!(statuses(&[&gateway], "h.test", 4), [200, 200, 200, 429]);
    let without = format!("{}, dialTimeout: 5s, tls: {{ca: '{ca}'}}", at(&redis));
    let gateway = Gateway::serve(&routes(&backend, SLOW, &without));
    assert_eq!(get(gateway.web(), "h.test", "/a").status, 500, "the server wants a certificate");
    let unknown = format!("{}, tls: {{ca: '{}'}}", at(&redis), file("nowhere.pem"));
    let gateway = Gateway::serve(&routes(&backend, SLOW, &unknown));
    assert_eq!(get(gateway.web(), "h.test", "/a").status, 503);
    assert!(gateway.problems().iter().any(|problem| problem.contains("redis.tls.ca")));
}

#[test]
#[ignore = "needs redis-server"]
fn a_redis_cluster_is_asked_at_the_node_that_has_the_key() {
    let nodes = cluster(3);
    let backend = Backend::echo("one");
    let endpoints = nodes.iter().map(|node| format!("'{}'", node.address)).collect::<Vec<_>>().join(", ");
    let options = format!("endpoints: [{endpoints}], {PATIENT}");
    let shared = routes(&backend, SLOW, &options);
    let (one, two) = (Gateway::serve(&shared), Gateway::serve(&shared));
    for n in 0..12 {
        assert_eq!(statuses(&[&one, &two], &format!("{n}.test"), 4), [200, 200, 200, 429], "{n}");
    }
    let counts: Vec<usize> =
        nodes.iter().map(|node| node.command(&["DBSIZE"]).trim().parse().unwrap()).collect();
    eprintln!("keys of each node: {counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 12);
    assert!(counts.iter().all(|count| *count < 12), "{counts:?}");
}

#[test]
#[ignore = "needs redis-server"]
fn a_restarted_node_of_a_redis_cluster_is_used_again() {
    let mut nodes = cluster(3);
    let backend = Backend::echo("one");
    let endpoints = nodes.iter().map(|node| format!("'{}'", node.address)).collect::<Vec<_>>().join(", ");
    let gateway = Gateway::serve(&routes(&backend, SLOW, &format!("endpoints: [{endpoints}], {PATIENT}")));
    for n in 0..12 {
        assert_eq!(statuses(&[&gateway], &format!("{n}.test"), 4), [200, 200, 200, 429], "{n}");
    }
    let keys = nodes[1].command(&["KEYS", "*"]);
    let prefix = "tidegate:rate:limit@file:";
    let hosts: Vec<&str> = keys.lines().filter_map(|key| key.trim().strip_prefix(prefix)).collect();
    assert!(!hosts.is_empty(), "{keys:?}");
    nodes[1].kill();
    for host in &hosts {
        eventually("it is missed", || get(gateway.web(), host, "/a").status == 500);
    }
    // It comes back with its slots and without buckets.
    nodes[1].run();
    for host in &hosts {
        eventually("it is counted there again", || {
            get(gateway.web(), host, "/a").status == 429
                && nodes[1].command(&["EXISTS", &format!("{prefix}{host}")]).trim() == "1"
        });
    }
}
