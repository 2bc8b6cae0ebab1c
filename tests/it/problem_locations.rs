//! Problems of route files name the line that contains the mistake, and all problems of an object are reported.

use serde_json::Value;

use crate::support::{Gateway, eventually, get, wait_until};

/// Origin and message of every problem of an object.
fn problems(gateway: &Gateway, name: &str) -> Vec<(String, String)> {
    let all: Vec<Value> = serde_json::from_str(&gateway.api("/api/problems")).unwrap();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let named = all.iter().filter(|one| text(one, "name").split('@').next() == Some(name));
    named.map(|one| (text(one, "origin"), text(one, "message"))).collect()
}

/// Waits until there is a problem at this place whose message has this in it.
pub fn wait_for_problem(gateway: &Gateway, name: &str, place: &str, part: &str) {
    let shown = || problems(gateway, name);
    let is = |(origin, message): &(String, String)| origin.ends_with(place) && message.contains(part);
    let found = wait_until(std::time::Duration::from_secs(30), || shown().iter().any(is));
    assert!(found.is_some(), "{part:?} is not at {place:?}: {:?}", shown());
}

#[test]
fn problems_of_route_files_name_the_line() {
    let gateway = Gateway::serve(
        "http:
  routers:
    r:
      entryPoints: [web]
      rule: Host(`a`
      middlewares:
        - first
        - missing
      service: nobody
      tls:
        options: strict
    e:
      rule: Host(`e`)
      service: sound
      entryPoints:
        - web
        - sound
  middlewares:
    first:
      stripPrefix: {prefixes: [/a]}
    list:
      ipAllowList:
        rejectStatusCode: 403
        sourceRange:
          - 10.0.0.0/8
          - 10.0.0.x
    bad:
      headers:
        accessControlMaxAge: soon
        frameDeny: maybe
  services:
    sound:
      loadBalancer:
        servers:
          - url: http://127.0.0.1:1
          - url: nowhere
    both:
      weighted:
        services:
          - name: sound
          - name: gone
          - name: lost
tls:
  certificates:
    - certFile: /nowhere/cert.pem
      keyFile: /nowhere/key.pem
",
    );
    for (name, line, part) in [
        ("r", 5, "invalid rule"),
        ("r", 8, "middleware \"missing@file\" does not exist"),
        ("r", 9, "the service \"nobody@file\" does not exist"),
        ("r", 11, "unknown TLS options"),
        ("e", 17, "entryPoint \"sound\" doesn't exist"),
        ("list", 26, "10.0.0.x"),
        ("bad", 29, "accessControlMaxAge"),
        ("bad", 30, "frameDeny"),
        ("sound", 36, "nowhere"),
        ("both", 41, "gone"),
        ("both", 42, "lost"),
        ("0", 45, "/nowhere/cert.pem"),
    ] {
        wait_for_problem(&gateway, name, &format!("routes.yml:{line}"), part);
    }
}

#[test]
fn every_problem_of_an_object_is_reported() {
    let gateway = Gateway::with(
        &["--entryPoints.dg.address=127.0.0.1:0/udp", "--entryPoints.raw.address=127.0.0.1:0"],
        "http:
  routers:
    many: {rule: 'Host(`many`)', service: nobody, middlewares: [m1, m2]}
    points: {rule: 'Host(`points`)', entryPoints: [gone], service: nobody}
    chained: {rule: 'Host(`chained`)', service: both, middlewares: [list]}
    typo: {rule: 'Host(`typo`)', service: nobody, middlewares: [m1], prioritty: 1}
  middlewares:
    list: {chain: {middlewares: [q1, q2]}}
    ranges: {ipAllowList: {sourceRange: [one.x, two.y], rejectStatusCode: 999}}
    pages: {errors: {status: [abc], service: nobody, errorRequestHeaders: ['a b']}}
    people: {basicAuth: {users: ['ann:b:c', 'bob:d:e'], headerField: 'x y'}}
    asked: {forwardAuth: {address: nowhere, authResponseHeadersRegex: '(', authRequestHeaders: ['v w']}}
    edited: {headers: {customRequestHeaders: {'r s': x}, customResponseHeaders: {'t u': x}}}
  services:
    both: {failover: {service: s1, fallback: s2}}
    copied: {mirroring: {service: s1, mirrors: [{name: s2}, {name: s3}]}}
    urls: {loadBalancer: {servers: [{url: one}, {url: two}], strategy: best}}
  serversTransports:
    files: {rootCAs: [/nowhere/a.pem, /nowhere/b.pem]}
tcp:
  routers:
    stream: {entryPoints: [raw], rule: 'HostSNI(`*`)', service: nobody, middlewares: [m1, m2]}
  services:
    shared: {weighted: {services: [{name: s1}, {name: s2}]}}
udp:
  services:
    packets: {weighted: {services: [{name: s1}, {name: s2}]}}
tls:
  options:
    strict: {minVersion: VersionTLS9, curvePreferences: [none]}
",
    );
    eventually("the routes are there", || get(gateway.web(), "many", "/").status == 503);
    let missing = |kind: &str, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{kind} \"{name}@file\" does not exist")).collect()
    };
    // As in Traefik the service comes first, and the last middleware before the others.
    for (path, expected) in [
        (
            "http/routers/many@file",
            [missing("the service", &["nobody"]), missing("middleware", &["m2", "m1"])].concat(),
        ),
        (
            "tcp/routers/stream@file",
            [missing("the service", &["nobody"]), missing("middleware", &["m2", "m1"])].concat(),
        ),
        ("http/services/both@file", missing("the service", &["s1", "s2"])),
        ("http/services/copied@file", missing("the service", &["s1", "s2", "s3"])),
        ("tcp/services/shared@file", missing("the service", &["s1", "s2"])),
        ("udp/services/packets@file", missing("the UDP service", &["s1", "s2"])),
    ] {
        let shown: Value = serde_json::from_str(&gateway.api(&format!("/api/{path}"))).unwrap();
        assert_eq!(shown["error"], Value::from(expected), "{path}");
    }
    for (name, parts) in [
        (
            "points",
            &["entryPoint \"gone\" doesn't exist", "no valid entryPoint", "the service \"nobody@file\""][..],
        ),
        (
            "chained",
            &[
                "\"s1@file\" does not exist; the service \"s2@file\"",
                "\"q2@file\" does not exist; middleware \"q1@file\"",
            ],
        ),
        ("typo", &["prioritty", "the service \"nobody@file\"", "middleware \"m1@file\""]),
        ("list", &["\"q1@file\"", "\"q2@file\""]),
        ("ranges", &["one.x", "two.y", "999"]),
        ("pages", &["abc", "nobody@file", "a b"]),
        ("people", &["`ann`", "`bob`", "x y"]),
        ("asked", &["nowhere", "authResponseHeadersRegex", "v w"]),
        ("edited", &["r s", "t u"]),
        ("urls", &["one", "two", "best"]),
        ("files", &["/nowhere/a.pem", "/nowhere/b.pem"]),
        ("strict", &["VersionTLS9", "none"]),
    ] {
        let shown = problems(&gateway, name);
        for part in parts {
            assert!(shown.iter().any(|(_, message)| message.contains(part)), "{name}, {part}: {shown:?}");
        }
        assert!(shown.len() >= parts.len(), "{name}: one by one: {shown:?}");
    }
}
