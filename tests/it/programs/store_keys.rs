//! What gateways write into stores that hold configuration too, with a real Consul, Redis and etcd.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::backend::unused_address;
use crate::support::outside::{Consul, Etcd, Redis};
use crate::support::pebble::shown;
use crate::support::tls::certificate;
use crate::support::{Backend, Gateway, eventually, get};

const RULE: &str = "traefik/http/routers/r/rule";
const SERVICE: &str = "traefik/http/routers/r/service";
const URL: &str = "traefik/http/services/s/loadBalancer/servers/0/url";

/// The key that older versions wrote for a certificate for `*.a.test`, below prefix and resolver.
const OLD_WILDCARD: &str = "certificates/*.a.test/9e566a231a839a7d";

/// Flags of a gateway that orders nothing and shares what it has below a prefix.
fn resolver(name: &str, consul: &Consul, prefix: &str) -> Vec<String> {
    let acme = format!("--certificatesResolvers.{name}.acme");
    vec![
        format!("{acme}.storage=consul://{}/{prefix}", consul.address),
        format!("{acme}.tlsChallenge=true"),
        format!("{acme}.caServer=http://{}/dir", unused_address()),
    ]
}

fn start(flags: &[String], routes: &str) -> Gateway {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Gateway::with(&flags, routes)
}

fn members(gateway: &Gateway) -> usize {
    let cluster: Value = serde_json::from_str(&gateway.api("/api/cluster")).unwrap();
    cluster["members"].as_array().map_or(0, Vec::len)
}

fn leads(gateway: &Gateway) -> bool {
    gateway.leadership().iter().all(|one| one.leads)
}

fn serves(gateway: &Gateway) -> bool {
    get(gateway.web(), "kv.test", "/").status == 200
}

/// How often all keys of a root were read.
fn reads(consul: &Consul, root: &str) -> usize {
    let log = std::fs::read_to_string(consul.folder().join("log")).unwrap();
    log.matches(&format!("url=/v1/kv/{root}/?recurse")).count()
}

#[test]
#[ignore = "needs consul"]
fn keys_of_gateways_in_consul_are_not_configuration() {
    let backend = Backend::echo("a");
    // The last two are in a section of the configuration, which is followed.
    for (acme, cluster, quiet) in [
        ("tidegate/acme", "tidegate/cluster", true),
        ("traefik/acme", "tidegate", true),
        ("traefik", "traefik/of gateways", true),
        ("traefik/http", "tidegate/http/routers", false),
        ("traefik/tls/certificates", "traefik/http/services", false),
    ] {
        let consul = Consul::start(r#""log_level": "debug""#).ready();
        consul.put(&format!("/v1/kv/{URL}"), &backend.url());
        consul.put(&format!("/v1/kv/{SERVICE}"), "s");
        consul.put(&format!("/v1/kv/{RULE}"), "Host(`kv.test`)");
        let gateway = |id: &str, more: &[String]| {
            let mut flags = vec![
                format!("--cluster.id={id}"),
                format!("--cluster.consul.address={}", consul.address),
                format!("--cluster.consul.prefix={cluster}"),
            ];
            flags.extend(resolver("le", &consul, acme));
            flags.extend(resolver("odd one*", &consul, acme));
            flags.extend(more.iter().cloned());
            start(&flags, "")
        };
        let provider = [format!("--providers.consul.endpoints={}", consul.address)];
        let one = gateway("one", &provider);
        eventually("it serves, leads and is a member", || serves(&one) && leads(&one) && members(&one) == 1);
        // A gateway that knows nothing of these prefixes.
        let stranger = start(&provider, "");
        let all = [&one, &stranger];
        let problems = |quiet: bool| {
            all.iter().take(if quiet { 2 } else { 1 }).flat_map(|one| one.problems()).collect::<Vec<_>>()
        };
        assert_eq!(problems(quiet), [""; 0], "{acme} {cluster}");
        let before = (one.generation(), reads(&consul, "tidegate"), reads(&consul, "traefik"));
        let two = gateway("two", &[]);
        eventually("they know each other", || {
            members(&one) == 2 && one.leadership().iter().all(|own| own.members.len() == 2)
        });
        two.shutdown();
        eventually("it is alone again", || {
            members(&one) == 1 && one.leadership().iter().all(|own| own.members.len() == 1)
        });
        assert_eq!(one.generation(), before.0, "{acme} {cluster}");
        if acme.starts_with("tidegate") {
            assert_eq!(reads(&consul, "tidegate"), before.1, "nothing is read again");
            assert_eq!(reads(&consul, "traefik"), before.2, "nothing is read again");
        }
        assert_eq!(problems(quiet), [""; 0], "{acme} {cluster}");
        let keys: Vec<String> = serde_json::from_str(&consul.get("/v1/kv/?keys").unwrap()).unwrap();
        let own = |key: &&String| key.ends_with("/leader");
        assert_eq!(keys.iter().filter(own).count(), 3, "{keys:?}");
        for key in &keys {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
            assert!(key.bytes().all(is_plain), "{key}");
        }
        // What is configuration is still followed.
        consul.put(&format!("/v1/kv/{RULE}"), "Host(`other.test`)");
        eventually("a change", || all.iter().all(|one| get(one.web(), "other.test", "/").status == 200));
        consul.put("/v1/kv/tidegate/http/routers/r2/service", "s");
        consul.put("/v1/kv/tidegate/http/routers/r2/rule", "Host(`second.test`)");
        eventually("a section that was empty", || {
            all.iter().all(|one| get(one.web(), "second.test", "/").status == 200)
        });
        consul.delete("/v1/kv/tidegate/http/?recurse");
        eventually("it is empty again", || get(one.web(), "second.test", "/").status == 404);
    }
}

/// A certificate as it is stored.
fn stored(name: &str) -> (Vec<u8>, String) {
    let own = certificate(&[name]);
    let value = json!({
        "domain": {"main": name},
        "certificate": STANDARD.encode(own.cert.pem()),
        "key": STANDARD.encode(own.signing_key.serialize_pem()),
        "Store": "default",
    });
    (own.cert.der().to_vec(), value.to_string())
}

#[test]
#[ignore = "needs consul"]
fn keys_of_older_versions_are_read_and_written_again() {
    let (backend, consul) = (Backend::echo("a"), Consul::start("").ready());
    let ((plain, value), (odd, odd_value)) = (stored("*.a.test"), stored("odd.test"));
    let put = |key: &str, value: &str| {
        let path: Vec<String> =
            key.split('/').map(|step| step.replace('*', "%2A").replace(' ', "%20")).collect();
        consul.put(&format!("/v1/kv/{}", path.join("/")), value);
    };
    put(&format!("t/le/{OLD_WILDCARD}"), &value);
    put("t/le/live/failures/*.b.test", r#"{"attempts": [7]}"#);
    put("t/le/live/renew/*.c.test", "");
    put("t/an odd one/certificates/odd.test/0123456789abcdef", &odd_value);
    let flags = [resolver("le", &consul, "t"), resolver("an odd one", &consul, "t")].concat();
    let tls = |name: &str| format!("    {name}: {{rule: 'Host(`{name}.test`)', service: s, tls: {{}}}}\n");
    let routes = format!(
        "http:\n  routers:\n{}{}  services:\n    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
        tls("x.a"),
        tls("odd"),
        backend.url()
    );
    let gateway = start(&flags, &routes.replace("x.a:", "xa:"));
    // Each time a client without a memory: a resumed session shows what was shown before.
    let has_both = |gateway: &Gateway| {
        shown(gateway.web(), "x.a.test") == plain && shown(gateway.web(), "odd.test") == odd
    };
    eventually("both are served", || has_both(&gateway));
    let keys = || -> Vec<String> {
        serde_json::from_str(&consul.get("/v1/kv/t/?keys").unwrap_or_default()).unwrap_or_default()
    };
    eventually("all are written again", || {
        let keys = keys();
        let has = |key: &str| keys.iter().any(|known| known.starts_with(key));
        has("t/le/certificates/__2A.a.test/")
            && has("t/le/live/failures/__2A.b.test")
            && has("t/an__20odd__20one/certificates/odd.test/")
            && !keys.iter().any(|key| key.contains('*'))
    });
    assert!(has_both(&gateway));
    // A new gateway finds them where they are now.
    gateway.shutdown();
    consul.delete("/v1/kv/t/an%20odd%20one/?recurse");
    let gateway = start(&flags, &routes.replace("x.a:", "xa:"));
    eventually("both are served again", || has_both(&gateway));
    assert!(keys().iter().all(|key| !key.contains(['*', ' '])));
}

#[test]
#[ignore = "needs redis-server"]
fn keys_of_gateways_in_redis_are_not_configuration() {
    let backend = Backend::echo("a");
    for prefix in ["tidegate:cluster", "tidegate/cluster", "traefik/of gateways", "traefik/http"] {
        let redis = Redis::start(&[]);
        let endpoint = redis.address.to_string();
        redis.command(&["SET", URL, &backend.url()]);
        redis.command(&["SET", SERVICE, "s"]);
        redis.command(&["SET", "traefik/http/middlewares/l/rateLimit/average", "100000"]);
        redis.command(&["SET", "traefik/http/middlewares/l/rateLimit/redis/endpoints", &endpoint]);
        redis.command(&["SET", "traefik/http/routers/r/middlewares", "l"]);
        redis.command(&["SET", RULE, "Host(`kv.test`)"]);
        let flags = [
            format!("--providers.redis.endpoints={endpoint}"),
            format!("--cluster.redis.endpoints={endpoint}"),
            format!("--cluster.redis.prefix={prefix}"),
            "--cluster.ttl=1s".to_owned(),
        ];
        let gateway = start(&flags, "");
        eventually("it serves and is a member", || serves(&gateway) && members(&gateway) == 1);
        let commands = |name: &str| -> u64 {
            let all = redis.command(&["INFO", "commandstats"]);
            let line = all.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:")));
            let calls = line.and_then(|line| line.split_once("calls=")?.1.split_once(','));
            calls.map_or(0, |(calls, _)| calls.parse().unwrap())
        };
        let before = (gateway.generation(), commands("scan"), commands("eval"));
        eventually("its membership is renewed often", || {
            assert!(serves(&gateway));
            commands("eval") >= before.2 + 10
        });
        assert_eq!(gateway.problems(), [""; 0], "{prefix}");
        assert_eq!(gateway.generation(), before.0, "{prefix}");
        // Twice for each look at all keys, which are looked at every 15 seconds in any case.
        assert!(commands("scan") <= before.1 + 2, "{prefix}: {} and {}", before.1, commands("scan"));
        redis.command(&["SET", RULE, "Host(`other.test`)"]);
        eventually("a change", || get(gateway.web(), "other.test", "/").status == 200);
    }
}

#[test]
#[ignore = "needs etcd and consul"]
fn keys_that_were_copied_into_another_store_are_not_configuration() {
    let (backend, etcd, consul) = (Backend::echo("a"), Etcd::start(&[]).ready(), Consul::start("").ready());
    etcd.put(URL, &backend.url());
    etcd.put(SERVICE, "s");
    etcd.put(RULE, "Host(`kv.test`)");
    etcd.put("tidegate/cluster/shop/leader", "{}");
    etcd.put("traefik/acme/le/live/account", "{}");
    etcd.put(&format!("traefik/acme/le/{OLD_WILDCARD}"), "{}");
    let mut flags = resolver("le", &consul, "traefik/acme");
    flags.push(format!("--providers.etcd.endpoints={}", etcd.address));
    let gateway = start(&flags, "");
    eventually("it serves and leads", || serves(&gateway) && leads(&gateway));
    assert_eq!(gateway.problems(), [""; 0]);
    etcd.put("traefik/htp/routers/r/rule", "x");
    eventually("a mistake is still named", || {
        gateway.problems().iter().any(|problem| problem.contains("traefik/htp/routers/r/rule"))
    });
}
