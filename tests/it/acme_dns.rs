//! Wildcards and other names proven by DNS records, against a real authority (Pebble).

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use crate::support::pebble::{Options, Pebble, get_over_tls, routes, stored, tell_dns};
use crate::support::{Backend, Gateway, eventually};

/// A service that `httpreq` can ask, and that sets records in Pebble's DNS.
fn httpreq(management: u16) -> Backend {
    Backend::with(move |seen, stream| {
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        let host = body["fqdn"].as_str().unwrap();
        match seen.target() {
            "/present" => {
                let value = body["value"].as_str().unwrap();
                tell_dns(management, "set-txt", &format!(r#"{{"host": "{host}", "value": "{value}"}}"#));
            }
            _ => tell_dns(management, "clear-txt", &format!(r#"{{"host": "{host}"}}"#)),
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok()
    })
}

fn flags(pebble: &Pebble, provider: &str, credentials: &[(&str, &str)]) -> Vec<String> {
    let dns = "--certificatesResolvers.le.acme.dnsChallenge";
    let mut flags = pebble.flags(&format!("dnsChallenge.provider={provider}"));
    flags.push(format!("{dns}.resolvers={}", pebble.dns()));
    flags.push(format!("{dns}.propagation.disableANSChecks=true"));
    flags.push(format!("{dns}.propagation.requireAllRNS=true"));
    flags.extend(credentials.iter().map(|(name, value)| format!("{dns}.credentials.{name}={value}")));
    flags
}

#[test]
#[ignore = "needs pebble"]
fn wildcards_by_a_service_of_ones_own() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let service = httpreq(pebble.dns_management());
    let flags = flags(&pebble, "httpreq", &[("HTTPREQ_ENDPOINT", &service.url())]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let text = format!(
        "http:\n  routers:\n    r: {{rule: 'HostRegexp(`.*`)', service: s, tls: {{certResolver: le, domains: [{{main: w.test, sans: ['*.w.test']}}]}}}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: 'http://{}'}}]}}}}\n",
        backend.address
    );
    let _gateway = Gateway::with(&flags, &text);
    let roots = pebble.roots();
    for name in ["w.test", "any.w.test"] {
        eventually(name, || get_over_tls(pebble.secure(), name, &roots).is_ok_and(|status| status == 200));
    }
    let calls: Vec<String> = service.seen().iter().map(|seen| seen.target().to_owned()).collect();
    assert_eq!(calls, ["/present", "/present", "/cleanup", "/cleanup"]);
    let first: serde_json::Value = serde_json::from_slice(&service.seen()[0].body).unwrap();
    assert_eq!(first["fqdn"], "_acme-challenge.w.test.");
}

#[test]
#[ignore = "needs pebble"]
fn a_program_sets_the_record_where_the_cname_points() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let service = httpreq(pebble.dns_management());
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("set");
    // The program speaks HTTP with what every shell has: bash's own sockets.
    let script = format!(
        "#!/bin/bash\nbody=\"{{\\\"fqdn\\\": \\\"$2\\\", \\\"value\\\": \\\"$3\\\"}}\"\n\
         exec 3<>/dev/tcp/127.0.0.1/{}\nprintf 'POST /%s HTTP/1.1\\r\\nHost: h\\r\\nContent-Length: %d\\r\\n\\r\\n%s' \
         \"$1\" \"${{#body}}\" \"$body\" >&3\nread -r line <&3\n[[ $line == *200* ]]\n",
        service.address.port()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    pebble.tell_dns("set-cname", r#"{"host": "_acme-challenge.c.test", "target": "elsewhere.zone.test"}"#);
    let flags = flags(&pebble, "exec", &[("EXEC_PATH", &program.display().to_string())]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let _gateway = Gateway::with(&flags, &routes(&["Host(`c.test`)"], &backend.url()));
    let roots = pebble.roots();
    eventually("the certificate", || get_over_tls(pebble.secure(), "c.test", &roots).is_ok_and(|s| s == 200));
    let first: serde_json::Value = serde_json::from_slice(&service.seen()[0].body).unwrap();
    assert_eq!(first["fqdn"], "elsewhere.zone.test.");
}

#[test]
#[ignore = "needs pebble"]
fn wildcards_without_dns_are_refused_and_the_rest_is_obtained() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let flags = pebble.flags("httpChallenge.entryPoint=web");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let rules = ["Host(`*.wild.test`)", "Host(`plain.test`)", "Host(`no domain`)"];
    let _gateway = Gateway::with(&flags, &routes(&rules, &backend.url()));
    let roots = pebble.roots();
    eventually("the certificate", || {
        get_over_tls(pebble.secure(), "plain.test", &roots).is_ok_and(|s| s == 200)
    });
    assert_eq!(stored(&pebble.storage()), ["plain.test"]);
}
