//! Gateways that work as one, with a real Consul agent, a real Redis and HAProxy before them.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{cluster, cluster_at, routes};
use crate::support::backend::unused_address;
use crate::support::outside::{Consul, Redis, program};
use crate::support::process::Process;
use crate::support::{Backend, Client, Gateway, eventually, get, pause_for};

fn names(cluster: &Value) -> Vec<String> {
    let members = cluster["members"].as_array().unwrap();
    members.iter().map(|member| member["id"].as_str().unwrap().to_owned()).collect()
}

fn leader(cluster: &Value) -> Option<String> {
    cluster["leader"]["id"].as_str().map(str::to_owned)
}

/// A gateway of the cluster `c`, which finds the others by these flags.
fn member(id: &str, flags: &[&str], routes: &str) -> Gateway {
    let id = format!("--cluster.id={id}");
    Gateway::with(&[&["--cluster.name=c", &id], flags].concat(), routes)
}

/// Members come, differ, leave and lead, wherever they meet.
fn members_come_and_go(flags: &[&str], store: &str) {
    let backend = Backend::echo("one");
    let one = member("gw-1", flags, &routes(&backend));
    eventually("it leads itself", || leader(&cluster(&one)).as_deref() == Some("gw-1"));
    let (two, three) = (member("gw-2", flags, &routes(&backend)), member("gw-3", flags, &routes(&backend)));
    for gateway in [&one, &two, &three] {
        eventually("all see all", || {
            let shown = cluster(gateway);
            names(&shown) == ["gw-1", "gw-2", "gw-3"]
                && leader(&shown).as_deref() == Some("gw-1")
                && shown["sameConfiguration"] == true
                && shown["connected"] == true
        });
    }
    assert_eq!(cluster(&two)["store"], store);
    let generation = two.generation();
    two.write("more.yml", "http: {middlewares: {m: {addPrefix: {prefix: /x}}}}");
    eventually("the change is served", || two.generation() > generation);
    eventually("the others see that it differs", || cluster(&three)["sameConfiguration"] == false);
    two.remove("more.yml");
    eventually("they are equal again", || cluster(&three)["sameConfiguration"] == true);
    let begun = Instant::now();
    one.shutdown();
    for gateway in [&two, &three] {
        eventually("another one leads", || {
            let shown = cluster(gateway);
            names(&shown) == ["gw-2", "gw-3"] && leader(&shown).is_some_and(|id| id != "gw-1")
        });
    }
    eprintln!("{store}: another one led {:?} after the leader began to stop", begun.elapsed());
    assert_eq!(leader(&cluster(&two)), leader(&cluster(&three)));
    // A name that is taken is refused, and said.
    let twin = member("gw-2", flags, &routes(&backend));
    eventually("it says that its name is taken", || {
        cluster(&twin)["error"]
            .as_str()
            .is_some_and(|error| error.contains("another gateway calls itself `gw-2`"))
    });
    assert_eq!(names(&cluster(&three)), ["gw-2", "gw-3"]);
    two.shutdown();
    eventually("the name is free", || {
        cluster(&twin)["connected"] == true && names(&cluster(&three)).len() == 2
    });
    // One that ends without a word is missed when its time is over.
    drop(three);
    eventually("the last one leads", || {
        let shown = cluster(&twin);
        names(&shown) == ["gw-2"] && leader(&shown).as_deref() == Some("gw-2")
    });
}

#[test]
#[ignore = "needs consul"]
fn members_meet_in_consul() {
    let consul = Consul::start("").ready();
    let address = format!("--cluster.consul.address={}", consul.address);
    members_come_and_go(&[&address, "--cluster.ttl=10s"], "consul");
}

#[test]
#[ignore = "needs redis-server"]
fn members_meet_in_redis() {
    let redis = Redis::start(&["--requirepass", "hunter2"]);
    let endpoints = format!("--cluster.redis.endpoints={}", redis.address);
    members_come_and_go(&[&endpoints, "--cluster.redis.password=hunter2", "--cluster.ttl=6s"], "redis");
}

#[test]
#[ignore = "needs redis-server"]
fn while_redis_is_unavailable_the_last_members_are_shown() {
    let mut redis = Redis::start(&[]);
    let endpoints = format!("--cluster.redis.endpoints={}", redis.address);
    let backend = Backend::echo("one");
    let (one, two) =
        (member("gw-1", &[&endpoints], &routes(&backend)), member("gw-2", &[&endpoints], &routes(&backend)));
    eventually("both see both", || names(&cluster(&one)).len() == 2 && names(&cluster(&two)).len() == 2);
    redis.kill();
    eventually("it is said", || {
        cluster(&one)["error"].as_str().is_some_and(|error| error.contains("Redis at"))
    });
    assert_eq!(names(&cluster(&one)), ["gw-1", "gw-2"]);
    assert_eq!(get(one.web(), "h", "/").status, 200);
    redis.run();
    for gateway in [&one, &two] {
        eventually("they meet again", || {
            let shown = cluster(gateway);
            shown["connected"] == true && names(&shown).len() == 2 && leader(&shown).is_some()
        });
    }
}

#[test]
#[ignore = "needs redis-server"]
fn members_follow_the_master_that_sentinels_name() {
    let mut master = Redis::start(&[]);
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &master.address.port().to_string()]);
    let sentinel = master.sentinel();
    let endpoints = format!("--cluster.redis.endpoints={}", sentinel.address);
    let flags = [endpoints.as_str(), "--cluster.redis.sentinel.masterName=m"];
    let backend = Backend::echo("one");
    let (one, two) = (member("gw-1", &flags, &routes(&backend)), member("gw-2", &flags, &routes(&backend)));
    eventually("both see both", || names(&cluster(&one)).len() == 2 && names(&cluster(&two)).len() == 2);
    eventually("the sentinel knows the replica", || {
        sentinel.command(&["SENTINEL", "replicas", "m"]).contains(&replica.address.port().to_string())
    });
    master.kill();
    eventually("the replica is the master", || replica.is_master());
    eventually("members meet at the new master", || {
        let keys = replica.try_command(&["HKEYS", "tidegate:cluster:{c}:members"]);
        keys.is_ok_and(|keys| keys.lines().count() == 2)
            && cluster(&one)["connected"] == true
            && names(&cluster(&two)).len() == 2
    });
}

/// How long a replica still takes connections after it was told to stop: long enough for a balancer to notice.
const GRACE: &str = "3s";

/// The limit that all replicas share: so many in a second, so many at once.
const RATE: f64 = 20.0;

const BURST: f64 = 20.0;

/// One of three gateways as a process, at addresses that stay the same.
struct Replica {
    id: String,
    web: SocketAddr,
    api: SocketAddr,
    flags: Vec<String>,
    routes: String,
    process: Process,
}

impl Replica {
    fn start(number: usize, consul: &Consul, redis: &Redis, backend: &Backend) -> Self {
        let (id, web, api) = (format!("gw-{number}"), unused_address(), unused_address());
        let mut flags = vec![
            "--api.insecure=true".to_owned(),
            "--ping=true".into(),
            "--cluster.name=three".into(),
            "--cluster.ttl=10s".into(),
            format!("--cluster.id={id}"),
            format!("--cluster.address={web}"),
            format!("--cluster.consul.address={}", consul.address),
            format!("--entryPoints.front.address={web}"),
            format!("--entryPoints.traefik.address={api}"),
        ];
        for point in ["front", "traefik"] {
            let grace = "transport.lifeCycle.requestAcceptGraceTimeout";
            flags.push(format!("--entryPoints.{point}.{grace}={GRACE}"));
        }
        let routes = format!(
            r"
http:
  routers:
    free: {{rule: 'Path(`/free`)', service: s}}
    limited: {{rule: 'Path(`/limited`)', service: s, middlewares: [limit]}}
  middlewares:
    limit:
      rateLimit:
        average: {RATE}
        burst: {BURST}
        sourceCriterion: {{requestHost: true}}
        redis: {{endpoints: ['{}'], deadline: 10s, onFailure: local}}
  services:
    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            redis.address,
            backend.url()
        );
        let process = Self::run(&flags, &routes);
        Self { id, web, api, flags, routes, process }
    }

    fn run(flags: &[String], routes: &str) -> Process {
        Process::start(&flags.iter().map(String::as_str).collect::<Vec<_>>(), routes)
    }

    fn again(&mut self) {
        self.process = Self::run(&self.flags, &self.routes);
    }

    fn sees(&self) -> Value {
        cluster_at(self.api)
    }
}

/// HAProxy before three replicas: one front that carries bytes, and one that speaks HTTP and asks another replica when
/// one has gone without an answer.
struct Balancer {
    bytes: SocketAddr,
    http: SocketAddr,
    stats: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Balancer {
    fn start(replicas: &[Replica]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (bytes, http, stats) = (unused_address(), unused_address(), unused_address());
        let servers: String = replicas
            .iter()
            .map(|one| {
                format!("  server {} {} check addr 127.0.0.1 port {}\n", one.id, one.web, one.api.port())
            })
            .collect();
        let text = format!(
            "defaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout check 10s\n  \
             retries 3\n  option redispatch 1\n  option httpchk GET /ready\n  \
             default-server inter 200ms fall 1 rise 1\n\
             frontend bytes\n  mode tcp\n  bind {bytes}\n  default_backend bytes\n\
             backend bytes\n  mode tcp\n{servers}\
             frontend http\n  mode http\n  bind {http}\n  default_backend http\n\
             backend http\n  mode http\n  retry-on all-retryable-errors\n{servers}\
             frontend stats\n  mode http\n  bind {stats}\n  stats enable\n  stats uri /\n"
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program("haproxy"));
        command
            .arg("-db")
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let balancer = Self { bytes, http, stats, child: command.spawn().unwrap(), _folder: folder };
        eventually("HAProxy listens", || std::net::TcpStream::connect(stats).is_ok());
        balancer
    }

    /// True when both fronts give requests to this replica.
    fn uses(&self, id: &str) -> bool {
        let table = get(self.stats, "h", "/;csv").text();
        let state = |front: &str| {
            let line = table.lines().find(|line| line.starts_with(&format!("{front},{id},"))).unwrap();
            line.split(',').nth(17) == Some("UP")
        };
        state("bytes") && state("http")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of the requests of one front.
#[derive(Default)]
struct Counts {
    asked: usize,
    /// The connection ended without an answer, and the request was sent again, as clients may (RFC 9110, 9.2.2).
    repeated: usize,
    failed: Vec<String>,
}

/// Clients that ask without end, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    /// Of the front that carries bytes, and of the one that speaks HTTP.
    counts: [Arc<Mutex<Counts>>; 2],
    /// When limited requests were answered, and how.
    limited: Arc<Mutex<Vec<(Instant, u16)>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// How often a request is sent again, and after which time.
const REPEATS: usize = 5;

const REST: Duration = Duration::from_millis(50);

fn once(address: SocketAddr, path: &str) -> std::io::Result<u16> {
    let mut client = Client::over(std::net::TcpStream::connect(address)?);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n"));
    Ok(client.read()?.status)
}

impl Load {
    fn start(balancer: &Balancer) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            counts: Default::default(),
            limited: Arc::default(),
            threads: Vec::new(),
        };
        for (front, address) in [balancer.bytes, balancer.http].into_iter().enumerate() {
            for path in ["/free", "/free", "/limited"] {
                let (stop, counts, limited) =
                    (load.stop.clone(), load.counts[front].clone(), load.limited.clone());
                load.threads.push(std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let (mut answer, mut repeated) = (once(address, path), 0);
                        while answer.is_err() && repeated < REPEATS {
                            pause_for(REST);
                            (answer, repeated) = (once(address, path), repeated + 1);
                        }
                        let mut counts = counts.lock().unwrap();
                        counts.asked += 1;
                        counts.repeated += usize::from(repeated > 0);
                        match answer {
                            Ok(status) if path == "/limited" && matches!(status, 200 | 429) => {
                                limited.lock().unwrap().push((Instant::now(), status));
                            }
                            Ok(200) => {}
                            other => counts.failed.push(format!("{path}: {other:?}")),
                        }
                        drop(counts);
                        pause_for(Duration::from_millis(8));
                    }
                }));
            }
        }
        load
    }

    /// What has become of the requests since the last time: none may have failed, and only when `broken` any be
    /// repeated, of those whose connections a killed replica has taken along.
    fn check(&self, phase: &str, broken: bool) {
        for (front, counts) in ["bytes", "http"].into_iter().zip(&self.counts) {
            let counts = std::mem::take(&mut *counts.lock().unwrap());
            eprintln!(
                "{phase}, front {front}: {} requests, {} failed, {} repeated",
                counts.asked,
                counts.failed.len(),
                counts.repeated
            );
            assert!(counts.asked > 0);
            assert!(counts.failed.is_empty(), "{phase}, front {front}: {:?}", counts.failed);
            let may_repeat = broken && front == "bytes";
            assert!(
                counts.repeated == 0 || may_repeat,
                "{phase}, front {front}: {} repeated",
                counts.repeated
            );
        }
    }

    /// Begins to count limited requests anew.
    fn forget_limited(&self) {
        self.limited.lock().unwrap().clear();
    }

    /// Waits until both fronts have asked so many more since the last check.
    fn asked(&self, number: usize) {
        eventually("requests were sent", || {
            self.counts.iter().all(|counts| counts.lock().unwrap().asked >= number)
        });
    }

    /// Checks that all replicas together have let in what the limit says. `full`: the bucket may have been full.
    fn check_limit(&self, phase: &str, full: bool) {
        let mut answers = std::mem::take(&mut *self.limited.lock().unwrap());
        answers.sort();
        let (Some(first), Some(last)) = (answers.first(), answers.last()) else {
            panic!("nothing was asked")
        };
        let time = (last.0 - first.0).as_secs_f64();
        let admitted = answers.iter().filter(|answer| answer.1 == 200).count() as f64;
        let gap = answers.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default();
        eprintln!(
            "{phase}: {admitted} of {} let in within {time:.1} s: {:.2}/s, longest gap {gap:?}",
            answers.len(),
            admitted / time
        );
        // What the bucket held at first: all, or what has come while nobody asked. And those that are on their way.
        let before = if full { BURST } else { (RATE * gap.as_secs_f64()).min(BURST) };
        let on_the_way = 4.0;
        let expected = RATE * time;
        assert!(admitted <= expected * 1.05 + before + on_the_way, "{phase}: {admitted} in {time} s");
        // Tokens that nobody wants are no fault of the limit.
        let wanted = answers.len() as f64 > 2.0 * admitted;
        if wanted && gap.as_secs_f64() < BURST / RATE {
            assert!(admitted >= expected * 0.95 - on_the_way, "{phase}: {admitted} in {time} s");
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Waits until all of these see three members, with one leader.
fn together(replicas: &[Replica]) -> String {
    for replica in replicas {
        eventually("all replicas see all", || {
            let shown = replica.sees();
            names(&shown).len() == 3
                && shown["connected"] == true
                && leader(&shown).is_some_and(|leader| names(&shown).contains(&leader))
                && shown["sameConfiguration"] == true
        });
    }
    leader(&replicas[0].sees()).unwrap()
}

#[test]
#[ignore = "needs consul, redis-server and HAProxy"]
fn three_replicas_lose_no_request_whatever_is_restarted() {
    let (mut consul, mut redis) = (Consul::start("").ready(), Redis::start(&[]));
    let backend = Backend::echo("one");
    let mut replicas: Vec<Replica> =
        (1..=3).map(|number| Replica::start(number, &consul, &redis, &backend)).collect();
    together(&replicas);
    let balancer = Balancer::start(&replicas);
    for replica in &replicas {
        eventually("it is used", || balancer.uses(&replica.id));
    }
    let load = Load::start(&balancer);
    for place in 0..replicas.len() {
        replicas[place].process.end("TERM");
        replicas[place].again();
        together(&replicas);
        eventually("it is used again", || balancer.uses(&replicas[place].id));
    }
    load.check("rolling restart", false);
    load.check_limit("rolling restart", true);

    let led = together(&replicas);
    let place = replicas.iter().position(|replica| replica.id == led).unwrap();
    let begun = Instant::now();
    replicas[place].process.end("KILL");
    let other = &replicas[(place + 1) % 3];
    eventually("another one leads", || leader(&other.sees()).is_some_and(|leader| leader != led));
    eprintln!("another one led {:?} after the leader was killed", begun.elapsed());
    replicas[place].again();
    together(&replicas);
    load.check("leader killed", true);
    load.check_limit("leader killed", false);

    consul.kill();
    eventually("it is said", || replicas.iter().all(|replica| replica.sees()["connected"] == false));
    assert!(replicas.iter().all(|replica| names(&replica.sees()).len() == 3), "the last members are shown");
    load.asked(600);
    consul.run();
    consul.wait();
    together(&replicas);
    load.check("Consul restarted", false);
    load.check_limit("Consul restarted", false);

    redis.kill();
    let missed = |replica: &Replica| replica.process.log().contains("is unavailable");
    eventually("every replica misses it", || replicas.iter().all(missed));
    load.asked(600);
    redis.run();
    let found = |replica: &Replica| replica.process.log().contains("is available again");
    eventually("every replica has found it again", || replicas.iter().all(found));
    load.check("Redis restarted", false);
    load.forget_limited();
    load.asked(1200);
    load.check_limit("Redis is back", true);
    load.check("Redis is back", false);
    load.stop();
}
