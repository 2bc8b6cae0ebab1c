//! TLS from outside: options by server name, client certificates, what is refused, and what a mistake costs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CipherSuite, NamedGroup, ProtocolVersion};

use crate::support::tls::{Own, Seen, ask, ask_for, certificate, client_config};
use crate::support::{Backend, Gateway, eventually, get};

/// Routers for hosts with options (none for the default ones), to one server; then more of the file.
pub fn routes(url: &str, hosts: &[(&str, &str)], more: &str) -> String {
    let mut text = "http:\n  routers:\n".to_owned();
    for (number, (host, options)) in hosts.iter().enumerate() {
        let tls = if options.is_empty() { "{}".to_owned() } else { format!("{{options: {options}}}") };
        text.push_str(&format!("    r{number}: {{rule: 'Host(`{host}`)', service: a, tls: {tls}}}\n"));
    }
    text.push_str(&format!("  services:\n    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n{more}"));
    text
}

fn put(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A client with one version and no memory.
fn version(version: &'static rustls::SupportedProtocolVersion) -> Arc<rustls::ClientConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    client_of(provider, &[version])
}

/// A client that has these suites, groups and versions only.
fn client_of(
    provider: rustls::crypto::CryptoProvider,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<rustls::ClientConfig> {
    let like = client_config(&[], None);
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.dangerous().set_certificate_verifier(crate::support::tls::takes_all());
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = like.alpn_protocols;
    Arc::new(config)
}

#[test]
fn versions_suites_groups_and_protocols_are_those_of_the_options() {
    let backend = Backend::echo("a");
    let hosts = [
        ("default.test", ""),
        ("new.test", "new"),
        ("old.test", "old"),
        ("suites.test", "suites"),
        ("curves.test", "curves"),
        ("alpn.test", "alpn"),
    ];
    let options = "tls:
  options:
    new: {minVersion: VersionTLS13}
    old: {maxVersion: VersionTLS12}
    suites: {maxVersion: VersionTLS12, cipherSuites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]}
    curves: {curvePreferences: [CurveP384]}
    alpn: {alpnProtocols: [http/1.1]}
";
    let gateway = Gateway::serve(&routes(&backend.url(), &hosts, options));
    assert_eq!(gateway.problems(), [""; 0]);
    let seen = |config: &Arc<rustls::ClientConfig>, name: &str| ask(gateway.web(), config, name, name);
    let (any, only_12) = (Arc::new(client_config(&[], None)), version(&rustls::version::TLS12));
    let first = seen(&any, "default.test").unwrap();
    assert_eq!((first.status(), first.version), (200, ProtocolVersion::TLSv1_3));
    assert_eq!(first.group, NamedGroup::X25519MLKEM768, "post-quantum by default");
    assert_eq!(seen(&only_12, "default.test").unwrap().version, ProtocolVersion::TLSv1_2);
    assert_eq!(seen(&any, "new.test").unwrap().version, ProtocolVersion::TLSv1_3);
    assert!(seen(&only_12, "new.test").is_err());
    assert_eq!(seen(&any, "old.test").unwrap().version, ProtocolVersion::TLSv1_2);
    assert!(seen(&version(&rustls::version::TLS13), "old.test").is_err());
    assert_eq!(
        seen(&any, "suites.test").unwrap().suite,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
    );
    assert_eq!(seen(&any, "curves.test").unwrap().group, NamedGroup::secp384r1);
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let only_x25519 = client_of(provider, rustls::ALL_VERSIONS);
    assert!(seen(&only_x25519, "curves.test").is_err());
    assert_eq!(seen(&only_x25519, "default.test").unwrap().group, NamedGroup::X25519);
    let both = Arc::new(client_config(&["h2", "http/1.1"], None));
    assert_eq!(seen(&both, "alpn.test").unwrap().protocol.unwrap(), b"http/1.1");
    assert!(seen(&Arc::new(client_config(&["h2"], None)), "alpn.test").is_err());
    assert!(seen(&Arc::new(client_config(&["acme-tls/1"], None)), "default.test").is_err());
}

#[test]
fn clients_are_asked_for_certificates_in_five_ways() {
    let backend = Backend::echo("a");
    let (friend, stranger) = (certificate(&["friend"]), certificate(&["stranger"]));
    let folder = tempfile::tempdir().unwrap();
    let ca = put(folder.path(), "ca.pem", &friend.cert.pem());
    let kinds = [
        ("NoClientCert", [true, true, true]),
        ("RequestClientCert", [true, true, true]),
        ("RequireAnyClientCert", [false, true, true]),
        ("VerifyClientCertIfGiven", [true, false, true]),
        ("RequireAndVerifyClientCert", [false, false, true]),
    ];
    let mut options = "tls:\n  options:\n".to_owned();
    let mut hosts = Vec::new();
    for (kind, _) in kinds {
        hosts.push((format!("{}.test", kind.to_lowercase()), kind));
        options.push_str(&format!(
            "    {kind}: {{clientAuth: {{clientAuthType: {kind}, caFiles: ['{ca}']}}}}\n"
        ));
    }
    let hosts: Vec<(&str, &str)> = hosts.iter().map(|(host, kind)| (host.as_str(), *kind)).collect();
    let gateway = Gateway::serve(&routes(&backend.url(), &hosts, &options));
    assert_eq!(gateway.problems(), [""; 0]);
    for ((host, kind), (_, admitted)) in hosts.iter().zip(kinds) {
        for (who, admitted) in [None, Some(&stranger), Some(&friend)].into_iter().zip(admitted) {
            for versions in [&rustls::version::TLS12, &rustls::version::TLS13] {
                let mut config = client_config(&[], who);
                config.resumption = rustls::client::Resumption::disabled();
                let outcome = ask(gateway.web(), &Arc::new(config), host, host);
                let status = outcome.as_ref().map_or(0, Seen::status);
                assert_eq!(
                    status == 200,
                    admitted,
                    "{kind} {:?} {versions:?}: {:?}",
                    who.is_some(),
                    outcome.err()
                );
            }
        }
    }
}

#[test]
fn strict_options_refuse_unknown_names() {
    let backend = Backend::echo("a");
    let own = certificate(&["known.test", "*.wild.test"]);
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = pair(folder.path(), "c", &own);
    let more = format!(
        "tls:\n  certificates: [{{certFile: '{cert}', keyFile: '{key}'}}]\n  options: {{default: {{sniStrict: true}}}}\n"
    );
    let gateway = Gateway::serve(&routes(&backend.url(), &[("known.test", ""), ("a.wild.test", "")], &more));
    let config = Arc::new(client_config(&[], None));
    for name in ["known.test", "KNOWN.test", "a.wild.test", "A.Wild.Test"] {
        let seen = ask(gateway.web(), &config, name, name).unwrap();
        assert_eq!((seen.status(), &seen.certificate), (200, own.cert.der()), "{name}");
    }
    for name in ["unknown.test", "wild.test", "a.b.wild.test", "127.0.0.1"] {
        let error = ask(gateway.web(), &config, name, name).err().unwrap();
        let told = error.to_string();
        assert!(
            told.contains("UnrecognizedName")
                || told.contains("unrecognized")
                || told.contains("AccessDenied"),
            "{name}: {told}"
        );
    }
}

fn pair(folder: &Path, name: &str, own: &Own) -> (String, String) {
    let key = put(folder, &format!("{name}.key"), &own.signing_key.serialize_pem());
    (put(folder, &format!("{name}.crt"), &own.cert.pem()), key)
}

#[test]
fn options_in_conflict_for_one_host_fail_closed() {
    let backend = Backend::echo("a");
    let own = certificate(&["client"]);
    let folder = tempfile::tempdir().unwrap();
    let ca = put(folder.path(), "ca.pem", &own.cert.pem());
    let gateway = Gateway::serve(&routes(
        &backend.url(),
        &[("h.test", "mutual"), ("h.test", ""), ("other.test", "")],
        &format!("tls: {{options: {{mutual: {{clientAuth: {{caFiles: ['{ca}']}}}}}}}}\n"),
    ));
    let config = Arc::new(client_config(&[], None));
    assert_eq!(ask(gateway.web(), &config, "h.test", "h.test").unwrap().status(), 503);
    assert_eq!(ask(gateway.web(), &config, "other.test", "h.test").unwrap().status(), 503);
    assert_eq!(ask(gateway.web(), &config, "other.test", "other.test").unwrap().status(), 200);
    assert!(gateway.api("/api/http/routers/r0@file").contains("conflicting"));
    assert!(backend.seen().iter().all(|seen| seen.header("host") == Some("other.test")));
}

#[test]
fn a_router_without_a_host_is_never_reached_without_the_certificate_that_it_demands() {
    let backend = Backend::echo("a");
    let friend = certificate(&["friend"]);
    let folder = tempfile::tempdir().unwrap();
    let ca = put(folder.path(), "ca.pem", &friend.cert.pem());
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    open: {{rule: 'Host(`open.test`)', service: a, tls: {{}}}}
    inner: {{rule: 'PathPrefix(`/inner`)', service: a, tls: {{options: mutual}}}}
    any: {{rule: 'Host(`*`) && Path(`/any`)', service: a, tls: {{options: mutual}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls: {{options: {{mutual: {{clientAuth: {{caFiles: ['{ca}']}}}}}}}}
",
        backend.url()
    ));
    let config = |who| Arc::new(client_config(&[], who));
    let status = |who, name: &'static str, path: &str| {
        ask_for(gateway.web(), &config(who), name, name, path).map_or(0, |seen| seen.status())
    };
    assert_eq!(status(None, "open.test", "/"), 200);
    // The connection was made without asking for a certificate.
    assert_eq!(status(None, "open.test", "/inner"), 421);
    assert_eq!(status(Some(&friend), "open.test", "/any"), 421);
    for path in ["/inner", "/any"] {
        assert_eq!(status(None, "else.test", path), 0, "{path}");
        assert_eq!(status(Some(&friend), "else.test", path), 200, "{path}");
    }
    assert_eq!(backend.seen().len(), 3);
}

#[test]
fn options_apply_to_every_name_that_a_rule_covers() {
    let backend = Backend::echo("a");
    let mixed = "HostRegexp(`^.+\\.dom\\.test$`) || Host(`dom.test`)";
    let rules = [
        ("mixed", mixed, "new"),
        ("twice", "!(!Host(`two.test`) && !HostRegexp(`^[ab]\\.two\\.test$`))", "new"),
        ("but", "Host(`*.but.test`) && !Host(`not.but.test`)", "new"),
        ("not", "Host(`not.but.test`)", ""),
        ("twin", "Host(`twin.test`)", "twin"),
        ("plain", "Host(`plain.test`)", ""),
        ("part", "PathPrefix(`/particular`)", "new"),
    ];
    let mut text = "http:\n  routers:\n".to_owned();
    for (name, rule, options) in rules {
        let options = if options.is_empty() { String::new() } else { format!("options: {options}") };
        text.push_str(&format!("    {name}: {{rule: '{rule}', service: a, tls: {{{options}}}}}\n"));
    }
    let gateway = Gateway::serve(&format!(
        "{text}  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls:
  options:
    new: {{minVersion: VersionTLS13}}
    twin: {{minVersion: VersionTLS13, maxVersion: ''}}
",
        backend.url()
    ));
    let (new, old) = (version(&rustls::version::TLS13), version(&rustls::version::TLS12));
    let covered = ["dom.test", "www.dom.test", "x.y.dom.test", "two.test", "a.two.test", "x.but.test"];
    for name in covered {
        assert!(ask(gateway.web(), &old, name, name).is_err(), "{name} with TLS 1.2");
        assert_eq!(ask(gateway.web(), &new, name, name).unwrap().status(), 200, "{name}");
        // On the connection of another name.
        assert_eq!(ask(gateway.web(), &old, "plain.test", name).unwrap().status(), 421, "{name}");
        // The options say the same by another name, so the connection is shared.
        assert_eq!(ask(gateway.web(), &new, "twin.test", name).unwrap().status(), 200, "{name}");
    }
    for name in ["plain.test", "not.but.test"] {
        assert_eq!(ask(gateway.web(), &old, name, name).unwrap().status(), 200, "{name}");
        assert_eq!(ask(gateway.web(), &new, "dom.test", name).unwrap().status(), 421, "{name}");
    }
    // The name alone does not tell: the route refuses, whatever version was spoken.
    for config in [&old, &new] {
        let part = |name| ask_for(gateway.web(), config, name, name, "/particular").unwrap().status();
        assert_eq!([part("plain.test"), part("not.but.test")], [421, 421]);
    }
    let part = gateway.api("/api/http/routers/part@file");
    assert!(part.contains("\"warning\"") && part.contains("get a 421"), "{part}");
    let mixed = gateway.api("/api/http/routers/mixed@file");
    assert!(mixed.contains("\"enabled\""), "{mixed}");
}

#[test]
fn options_with_unsupported_suites_stay_in_use_with_a_warning() {
    let backend = Backend::echo("a");
    let options = "tls:
  options:
    mozilla: {maxVersion: VersionTLS12, cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_DHE_RSA_WITH_AES_128_GCM_SHA256, TLS_FALLBACK_SCSV]}
    sound: {minVersion: VersionTLS13}
    broken: {minVersion: VersionTLS99}
";
    let hosts = [("m.test", "mozilla"), ("s.test", "sound"), ("b.test", "broken")];
    let gateway = Gateway::serve(&routes(&backend.url(), &hosts, options));
    let config = Arc::new(client_config(&[], None));
    let seen = ask(gateway.web(), &config, "m.test", "m.test").unwrap();
    assert_eq!(seen.suite, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    assert!(ask(gateway.web(), &config, "b.test", "b.test").is_err());
    let raw: serde_json::Value = serde_json::from_str(&gateway.api("/api/rawdata")).unwrap();
    let state = |name: &str| raw["tlsOptions"][name]["status"].clone();
    assert_eq!(
        [state("mozilla@file"), state("sound@file"), state("broken@file")],
        ["warning", "enabled", "disabled"]
    );
    let wrong = raw["tlsOptions"]["mozilla@file"]["error"].to_string();
    assert!(wrong.contains("`TLS_FALLBACK_SCSV` is a signalling value"), "{wrong}");
    assert!(raw["tlsOptions"]["broken@file"]["error"].to_string().contains("VersionTLS99"), "{raw}");
    assert_eq!(gateway.problems().iter().filter(|told| told.contains("cipherSuites")).count(), 2);
}

#[test]
fn entry_points_give_their_tls_to_routers_without() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(
        &["--entryPoints.web.http.tls.options=new@file"],
        &format!(
            "http:
  routers:
    r: {{rule: 'Host(`h.test`)', service: a, entryPoints: [web]}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls:
  options:
    new: {{minVersion: VersionTLS13}}
",
            backend.url()
        ),
    );
    let seen = ask(gateway.web(), &Arc::new(client_config(&[], None)), "h.test", "h.test").unwrap();
    assert_eq!((seen.status(), seen.version), (200, ProtocolVersion::TLSv1_3));
    assert!(ask(gateway.web(), &version(&rustls::version::TLS12), "h.test", "h.test").is_err());
    assert_eq!(get(gateway.web(), "h.test", "/").status, 404, "nothing in plain text");
}

#[test]
fn options_of_an_entry_point_apply_to_names_that_no_router_uses() {
    let backend = Backend::echo("a");
    let own = certificate(&["known.test"]);
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = pair(folder.path(), "c", &own);
    for (written, options) in
        [("strict@file", "strict: {sniStrict: true}"), ("strict", "strict: {sniStrict: true}")]
    {
        let flags = [
            format!("--entryPoints.web.http.tls.options={written}"),
            "--entryPoints.other.address=127.0.0.1:0".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let gateway = Gateway::with(
            &flags,
            &format!(
                "http:
  routers:
    r: {{rule: 'Host(`known.test`)', service: a, entryPoints: [web]}}
    own: {{rule: 'Host(`own.test`)', service: a, entryPoints: [web, other], tls: {{options: default}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls:
  certificates: [{{certFile: '{cert}', keyFile: '{key}'}}]
  options:
    {options}
",
                backend.url()
            ),
        );
        let config = Arc::new(client_config(&[], None));
        let seen = ask(gateway.web(), &config, "known.test", "known.test").unwrap();
        assert_eq!((seen.status(), &seen.certificate), (200, own.cert.der()));
        assert_eq!(ask(gateway.web(), &config, "own.test", "own.test").unwrap().status(), 200, "as it says");
        for name in ["unknown.test", "a.known.test", "127.0.0.1"] {
            let seen = ask(gateway.web(), &config, name, name);
            assert!(seen.is_err(), "{written}: {name} is shown a certificate");
        }
        let seen = ask(gateway.address("other"), &config, "unknown.test", "unknown.test").unwrap();
        assert_eq!(seen.status(), 404, "another entry point has the default options");
    }
}

/// A ClientHello in pieces: `records` TLS records, each sent by itself.
fn hello_in_pieces(address: SocketAddr, name: &'static str, piece: usize) -> Vec<u8> {
    let config = Arc::new(client_config(&[], None));
    let mut session = rustls::ClientConnection::new(config, name.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for part in hello[5..].chunks(piece) {
        let mut record = vec![0x16, 3, 1];
        record.extend_from_slice(&(part.len() as u16).to_be_bytes());
        record.extend_from_slice(part);
        stream.write_all(&record).unwrap();
        stream.flush().unwrap();
    }
    let mut answer = [0; 8192];
    let mut whole = Vec::new();
    while session.is_handshaking() {
        let length = match stream.read(&mut answer) {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        whole.extend_from_slice(&answer[..length]);
        let mut bytes = &answer[..length];
        while !bytes.is_empty() && session.read_tls(&mut bytes).is_ok() {
            if session.process_new_packets().is_err() {
                return Vec::new();
            }
        }
        let mut out = Vec::new();
        session.write_tls(&mut out).unwrap();
        stream.write_all(&out).unwrap();
    }
    session.peer_certificates().map_or(Vec::new(), |chain| chain[0].to_vec())
}

#[test]
fn case_41_a_fragmented_server_name_is_read_completely() {
    let backend = Backend::echo("a");
    let own = certificate(&["m.test"]);
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = pair(folder.path(), "c", &own);
    let more = format!("tls:\n  certificates: [{{certFile: '{cert}', keyFile: '{key}'}}]\n");
    let gateway = Gateway::serve(&routes(&backend.url(), &[("m.test", "")], &more));
    for piece in [1, 50, 100, 700] {
        assert_eq!(hello_in_pieces(gateway.web(), "m.test", piece), own.cert.der().to_vec(), "{piece}");
    }
}

#[test]
fn mistakes_in_certificates_are_reported_and_the_others_stay_in_use() {
    let backend = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let (good, other) = (certificate(&["good.test"]), certificate(&["other.test"]));
    let (cert, key) = pair(place, "good", &good);
    let (other_cert, other_key) = pair(place, "other", &other);
    let mut old = rcgen::CertificateParams::new(vec!["old.test".to_owned()]).unwrap();
    old.not_before = rcgen::date_time_ymd(2020, 1, 1);
    old.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let old = Own { cert: old.self_signed(&signing_key).unwrap(), signing_key };
    let (old_cert, old_key) = pair(place, "old", &old);
    let broken = put(place, "broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let cut = put(place, "cut.crt", &good.cert.pem()[..200]);
    let empty = put(place, "empty.crt", "");
    std::fs::create_dir(place.join("folder.crt")).unwrap();
    let unreadable = place.join("folder.crt").display().to_string();
    let cases = [
        (cert.clone(), key.clone(), None),
        (broken.clone(), key.clone(), Some("certificate cannot be read")),
        (cut.clone(), key.clone(), Some("certificate")),
        (empty.clone(), key.clone(), Some("there is no certificate")),
        (unreadable.clone(), key.clone(), Some("folder.crt")),
        (place.join("gone.crt").display().to_string(), key.clone(), Some("gone.crt")),
        (other_cert.clone(), key.clone(), Some("cannot be used together")),
        (cert.clone(), empty.clone(), Some("no private key")),
        (old_cert.clone(), old_key.clone(), Some("expired on ")),
        (other_cert, other_key, None),
    ];
    let mut more = "tls:\n  certificates:\n".to_owned();
    for (cert, key, _) in &cases {
        more.push_str(&format!("    - {{certFile: '{cert}', keyFile: '{key}'}}\n"));
    }
    more.push_str("  options:\n    lost: {clientAuth: {caFiles: [/no/such/ca.pem]}}\n");
    let hosts = [
        ("good.test", ""),
        ("other.test", ""),
        ("old.test", ""),
        ("lost.test", "lost"),
        ("none.test", "none"),
    ];
    let gateway = Gateway::serve(&routes(&backend.url(), &hosts, &more));
    let problems = gateway.problems();
    for (cert, _, told) in &cases {
        let Some(told) = told else { continue };
        assert!(
            problems.iter().any(|problem| problem.contains(told) && problem.contains("routes.yml:")),
            "{cert}: `{told}` is not in {problems:#?}"
        );
    }
    assert!(
        problems.iter().any(|p| p.contains("/no/such/ca.pem") && p.contains("routes.yml:")),
        "{problems:#?}"
    );
    let config = Arc::new(client_config(&[], None));
    for (name, own) in [("good.test", &good), ("other.test", &other), ("old.test", &old)] {
        let seen = ask(gateway.web(), &config, name, name).unwrap();
        assert_eq!((seen.status(), &seen.certificate), (200, own.cert.der()), "{name}");
    }
    assert!(ask(gateway.web(), &config, "lost.test", "lost.test").is_err(), "fails closed");
    assert_eq!(ask(gateway.web(), &config, "good.test", "lost.test").unwrap().status(), 421);
    // Options that do not exist.
    assert!(problems.iter().any(|problem| problem.contains("none@file")), "{problems:#?}");
    assert!(ask(gateway.web(), &config, "none.test", "none.test").is_err(), "fails closed, too");
    assert_eq!(ask(gateway.web(), &config, "good.test", "none.test").unwrap().status(), 421);
}

#[test]
fn case_62_a_thousand_certificates_are_swapped_without_a_lost_handshake() {
    let backend = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let mut more = "tls:\n  certificates:\n".to_owned();
    // One key for all: making a thousand of them is not what is tested.
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let key = put(folder.path(), "all.key", &signing_key.serialize_pem());
    for number in 0..1000 {
        let params = rcgen::CertificateParams::new(vec![format!("h{number}.test")]).unwrap();
        let cert = params.self_signed(&signing_key).unwrap();
        let path = put(folder.path(), &format!("{number}.crt"), &cert.pem());
        more.push_str(&format!("    - {{certFile: '{path}', keyFile: '{key}'}}\n"));
    }
    let gateway = Gateway::serve(&routes(&backend.url(), &[("h0.test", ""), ("h999.test", "")], &more));
    let web = gateway.web();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = stop.clone();
    let asking = std::thread::spawn(move || {
        let config = Arc::new(client_config(&[], None));
        let mut asked = 0;
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            let name = ["h0.test", "h999.test"][asked % 2];
            assert_eq!(ask(web, &config, name, name).unwrap().status(), 200);
            asked += 1;
        }
        asked
    });
    // One that forgets: a session that goes on shows the certificate with which it began.
    let mut config = client_config(&[], None);
    config.resumption = rustls::client::Resumption::disabled();
    let config = Arc::new(config);
    for _ in 0..3 {
        let params = rcgen::CertificateParams::new(vec!["h999.test".to_owned()]).unwrap();
        let new = params.self_signed(&signing_key).unwrap();
        std::fs::write(folder.path().join("new"), new.pem()).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join("999.crt")).unwrap();
        eventually("the new certificate is shown", || {
            ask(web, &config, "h999.test", "h999.test").unwrap().certificate == *new.der()
        });
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(asking.join().unwrap() > 10);
}
