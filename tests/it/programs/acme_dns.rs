//! Wildcards and other names proven by DNS records, against a real authority (Pebble).

use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

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

/// A name server that knows where one zone begins, and nothing else.
pub fn zone_server(zone: &'static str) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let question = &buffer[12..length];
            let name: Vec<u8> =
                zone.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
            let is_apex = question.starts_with(&name) && question[name.len()..] == [0, 0, 6, 0, 1];
            let mut answer = [&buffer[..2], &[0x84, 0, 0, 1, 0, u8::from(is_apex), 0, 0, 0, 0]].concat();
            answer.extend(question);
            if is_apex {
                // The name again, SOA, IN, a minute, 22 bytes: two empty names and five numbers.
                answer.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22]);
                answer.extend([0; 22]);
            }
            let _ = socket.send_to(&answer, peer);
        }
    });
    address
}

/// Obtains a certificate for `z.test` and `*.z.test` from this provider.
fn obtained(pebble: &Pebble, provider: &str, dns: &str, credentials: &[(&str, &str)]) {
    let backend = Backend::echo("a");
    let mut flags = flags(pebble, provider, credentials);
    flags.push(format!("--certificatesResolvers.le.acme.dnsChallenge.resolvers={dns}"));
    flags.push("--certificatesResolvers.le.acme.dnsChallenge.propagation.disableChecks=true".to_owned());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let text = routes(&["Host(`z.test`) || Host(`*.z.test`)"], &backend.url());
    let _gateway = Gateway::with(&flags, &text);
    let roots = pebble.roots();
    eventually(provider, || {
        get_over_tls(pebble.secure(), "any.z.test", &roots).is_ok_and(|status| status == 200)
    });
}

fn answer(stream: &mut std::net::TcpStream, body: &str) -> bool {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).is_ok()
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_cloudflare() {
    let pebble = Pebble::start(Options::default());
    let management = pebble.dns_management();
    let records = Arc::new(Mutex::new(Vec::<String>::new()));
    let kept = records.clone();
    let api = Backend::with(move |seen, stream| {
        assert_eq!(seen.header("authorization"), Some("Bearer s3cret"));
        let mut kept = kept.lock().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let result = match (seen.method(), seen.target()) {
            ("GET", "/zones?name=z%2Etest&per_page=50") => r#"[{"id": "Z"}]"#.to_owned(),
            ("POST", "/zones/Z/dns_records") => {
                let content = body["content"].as_str().unwrap().trim_matches('"').to_owned();
                let host = body["name"].as_str().unwrap();
                tell_dns(management, "set-txt", &format!(r#"{{"host": "{host}.", "value": "{content}"}}"#));
                kept.push(content);
                "{}".to_owned()
            }
            ("GET", target)
                if target.starts_with("/zones/Z/dns_records?type=TXT&name=%5Facme%2Dchallenge") =>
            {
                let one = |content: &String| format!(r#"{{"id": "{content}", "content": "\"{content}\""}}"#);
                format!("[{}]", kept.iter().map(one).collect::<Vec<_>>().join(","))
            }
            ("DELETE", target) => {
                let id = target.strip_prefix("/zones/Z/dns_records/").unwrap();
                kept.retain(|content| content != id);
                "{}".to_owned()
            }
            other => panic!("{other:?}"),
        };
        answer(stream, &format!(r#"{{"success": true, "errors": [], "result": {result}}}"#))
    });
    let credentials = [("CF_DNS_API_TOKEN", "s3cret"), ("CLOUDFLARE_BASE_URL", &api.url())];
    obtained(&pebble, "cloudflare", &zone_server("z.test"), &credentials);
    eventually("both records are removed", || records.lock().unwrap().is_empty());
    assert_eq!(api.seen().iter().filter(|seen| seen.method() == "POST").count(), 2);
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_route_53() {
    let pebble = Pebble::start(Options::default());
    let management = pebble.dns_management();
    let sets = Arc::new(Mutex::new(String::new()));
    let kept = sets.clone();
    let api = Backend::with(move |seen, stream| {
        assert!(seen.header("authorization").unwrap().starts_with("AWS4-HMAC-SHA256 Credential=AKID/"));
        let mut kept = kept.lock().unwrap();
        match (seen.method(), seen.target()) {
            ("GET", "/2013-04-01/hostedzonesbyname?dnsname=z.test") => answer(
                stream,
                "<HostedZones><HostedZone><Id>/hostedzone/Z1</Id><Name>z.test.</Name><Config><PrivateZone>false\
                 </PrivateZone></Config></HostedZone></HostedZones>",
            ),
            ("GET", "/2013-04-01/change/C1") => {
                answer(stream, "<ChangeInfo><Status>INSYNC</Status></ChangeInfo>")
            }
            ("GET", _) => answer(stream, &format!("<ResourceRecordSets>{kept}</ResourceRecordSets>")),
            _ => {
                let body = String::from_utf8(seen.body.clone()).unwrap();
                let from = body.find("<ResourceRecordSet>").unwrap();
                let to = body.find("</ResourceRecordSet>").unwrap() + "</ResourceRecordSet>".len();
                *kept = if body.contains("<Action>DELETE</Action>") {
                    String::new()
                } else {
                    body[from..to].to_owned()
                };
                tell_dns(management, "clear-txt", r#"{"host": "_acme-challenge.z.test."}"#);
                for value in kept.split("&quot;").skip(1).step_by(2) {
                    let json = format!(r#"{{"host": "_acme-challenge.z.test.", "value": "{value}"}}"#);
                    tell_dns(management, "set-txt", &json);
                }
                answer(stream, "<ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status></ChangeInfo>")
            }
        }
    });
    let url = api.url();
    let credentials = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "s3cret"),
        ("AWS_ENDPOINT_URL", url.as_str()),
    ];
    obtained(&pebble, "route53", &zone_server("z.test"), &credentials);
    eventually("both records are removed", || sets.lock().unwrap().is_empty());
}

#[test]
#[ignore = "needs pebble"]
fn records_are_set_at_an_acme_dns_server() {
    let pebble = Pebble::start(Options::default());
    let management = pebble.dns_management();
    pebble.tell_dns("set-cname", r#"{"host": "_acme-challenge.z.test", "target": "sub.acme-dns.test"}"#);
    let api = Backend::with(move |seen, stream| {
        assert_eq!((seen.target(), seen.header("x-api-key")), ("/update", Some("s3cret")));
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(body["subdomain"], "sub");
        let json = format!(r#"{{"host": "sub.acme-dns.test.", "value": {}}}"#, body["txt"]);
        tell_dns(management, "set-txt", &json);
        answer(stream, "{}")
    });
    let storage = tempfile::NamedTempFile::new().unwrap();
    let account = r#"{"z.test": {"fulldomain": "sub.acme-dns.test", "subdomain": "sub", "username": "u",
        "password": "s3cret", "allowfrom": []}}"#;
    std::fs::write(storage.path(), account).unwrap();
    let path = storage.path().display().to_string();
    let url = api.url();
    let credentials = [("ACME_DNS_API_BASE", url.as_str()), ("ACME_DNS_STORAGE_PATH", path.as_str())];
    obtained(&pebble, "acme-dns", &pebble.dns(), &credentials);
}

#[test]
#[ignore = "needs pebble"]
fn wildcards_without_dns_are_refused_and_the_rest_is_obtained() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let flags = pebble.flags("httpChallenge.entryPoint=web");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let rules = ["Host(`*.wild.test`)", "Host(`plain.test`)", "Host(`no domain`)"];
    let gateway = Gateway::with(&flags, &routes(&rules, &backend.url()));
    let problems = gateway.problems().join("\n");
    assert!(problems.contains("routes.yml") && problems.contains("ACME needs a DNSChallenge"), "{problems}");
    assert!(problems.contains("\"no domain\" is not a domain"), "{problems}");
    let roots = pebble.roots();
    eventually("the certificate", || {
        get_over_tls(pebble.secure(), "plain.test", &roots).is_ok_and(|s| s == 200)
    });
    assert_eq!(stored(&pebble.storage()), ["plain.test"]);
}
