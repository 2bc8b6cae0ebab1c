//! Certificates by ACME from a real authority (Pebble), end to end.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::support::http3;
use crate::support::pebble::{
    EAB_KEY, Options, Pebble, at_first_handshake, get_over_tls, routes, served, shown, stored,
};
use crate::support::{Backend, Gateway, eventually, get, pause_for, wait_until};

/// A gateway whose resolver `le` proves by this challenge, with these routes.
fn gateway(pebble: &Pebble, challenge: &str, more: &[&str], routes: &str) -> Gateway {
    let flags = pebble.flags(challenge);
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Gateway::with(&flags, routes)
}

#[test]
#[ignore = "needs pebble"]
fn a_route_file_becomes_a_certificate_over_http() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let url = format!("http://{}", backend.address);
    let text =
        routes(&["Host(`one.test`) && !Host(`not.test`)", "Host(`two.test`) || Host(`three.test`)"], &url);
    // A redirection of the whole entry point is no obstacle to the proof.
    let redirect = "--entryPoints.web.http.redirections.entryPoint.to=secure";
    let gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &[redirect], &text);
    let roots = pebble.roots();
    for name in ["one.test", "two.test", "three.test"] {
        eventually(name, || get_over_tls(pebble.secure(), name, &roots).is_ok_and(|status| status == 200));
    }
    assert!(served(pebble.secure(), "not.test", &roots).is_err(), "no certificate for a negated name");
    let mut names = stored(&pebble.storage());
    names.sort();
    assert_eq!(names, ["one.test", "two.test"], "two orders, one for each router");
    let unknown = get(gateway.web(), "one.test", "/.well-known/acme-challenge/unknown");
    assert_eq!((unknown.status, unknown.text().as_str()), (404, ""));
    let router: serde_json::Value =
        serde_json::from_str(&gateway.api("/api/http/routers/acme-http@internal")).unwrap();
    assert_eq!(router["rule"], "PathPrefix(`/.well-known/acme-challenge/`)");
    assert_eq!(router["service"], "acme-http@internal");
    let certificates = gateway.api("/api/certificates");
    assert!(
        certificates.contains("two.test") && certificates.contains("Pebble Intermediate"),
        "{certificates}"
    );
}

#[test]
#[ignore = "needs pebble"]
fn a_new_route_becomes_a_certificate_in_a_handshake() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let gateway = gateway(&pebble, "tlsChallenge=true", &[], "");
    let roots = pebble.roots();
    assert!(served(pebble.secure(), "new.test", &roots).is_err());
    gateway.write("new.yml", &routes(&["Host(`new.test`)"], &format!("http://{}", backend.address)));
    eventually("the certificate", || {
        get_over_tls(pebble.secure(), "new.test", &roots).is_ok_and(|s| s == 200)
    });
}

#[test]
#[ignore = "needs pebble"]
fn nothing_is_ordered_for_what_a_certificate_covers() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let own = rcgen::generate_simple_self_signed(["*.own.test".to_owned()]).unwrap();
    let own = format!(
        "tls:\n  certificates:\n    - certFile: |\n{}\n      keyFile: |\n{}\n",
        indented(&own.cert.pem()),
        indented(&own.signing_key.serialize_pem())
    );
    let rules = ["Host(`a.own.test`)", "Host(`b.own.test`) || Host(`more.test`)"];
    let text = routes(&rules, &format!("http://{}", backend.address)) + &own;
    let _gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &[], &text);
    let roots = pebble.roots();
    eventually("the certificate", || served(pebble.secure(), "more.test", &roots).is_ok());
    assert_eq!(stored(&pebble.storage()), ["more.test"]);
}

#[test]
#[ignore = "needs pebble"]
fn external_accounts_profiles_and_chains() {
    let variables = vec![("PEBBLE_ALTERNATE_ROOTS", "1")];
    let (pebble, backend) = (
        Pebble::start(Options { eab: true, short: true, variables, ..Options::default() }),
        Backend::echo("a"),
    );
    let key = format!("--certificatesResolvers.le.acme.eab.hmacEncoded={EAB_KEY}");
    let flags = [
        "--certificatesResolvers.le.acme.eab.kid=kid-1",
        &key,
        "--certificatesResolvers.le.acme.profile=shortlived",
        "--certificatesResolvers.le.acme.keyType=EC384",
    ];
    let text = routes(&["Host(`short.test`)"], &format!("http://{}", backend.address));
    let _gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &flags, &text);
    let roots = pebble.roots();
    let mut leaf = Vec::new();
    eventually("the certificate", || {
        served(pebble.secure(), "short.test", &roots).is_ok_and(|der| {
            leaf = der;
            true
        })
    });
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let validity = parsed.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert!((518_000..=518_400).contains(&seconds), "six days: {seconds}");
}

#[test]
#[ignore = "needs pebble"]
fn the_preferred_chain_is_stored_and_served() {
    let variables = vec![("PEBBLE_ALTERNATE_ROOTS", "2"), ("PEBBLE_CHAIN_LENGTH", "2")];
    let (pebble, backend) = (Pebble::start(Options { variables, ..Options::default() }), Backend::echo("a"));
    let issuer = |chain| {
        let root = pebble.root(chain);
        let (_, parsed) = x509_parser::parse_x509_certificate(&root).unwrap();
        parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned()
    };
    let text = routes(&["Host(`chain.test`)"], &backend.url());
    let cases = [(issuer(0), 0), (issuer(1), 1), (issuer(2), 2), ("Nobody's Root".to_owned(), 0)];
    for (number, (preferred, expected)) in cases.iter().enumerate() {
        let storage = pebble.storage().with_extension(format!("{number}.json"));
        let flags = [
            format!("--certificatesResolvers.le.acme.preferredChain={preferred}"),
            format!("--certificatesResolvers.le.acme.storage={}", storage.display()),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &flags, &text);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pebble.root(*expected)).unwrap();
        let roots = Arc::new(roots);
        eventually(preferred, || served(pebble.secure(), "chain.test", &roots).is_ok());
        eventually("it is stored", || stored(&storage) == ["chain.test"]);
        let whole: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&storage).unwrap()).unwrap();
        let chain = decoded(whole["le"]["Certificates"][0]["certificate"].as_str().unwrap());
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let (_, last) = x509_parser::parse_x509_certificate(chain.last().unwrap()).unwrap();
        let last = last.issuer().iter_common_name().next().unwrap().as_str().unwrap();
        assert_eq!((last, chain.len()), (issuer(*expected).as_str(), 3));
        gateway.shutdown();
    }
}

#[test]
#[ignore = "needs pebble"]
fn valid_authorizations_are_reused() {
    let variables = vec![("PEBBLE_AUTHZREUSE", "100")];
    let (pebble, backend) = (Pebble::start(Options { variables, ..Options::default() }), Backend::echo("a"));
    let url = format!("http://{}", backend.address);
    let gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &[], &routes(&["Host(`a.test`)"], &url));
    let roots = pebble.roots();
    eventually("the first", || served(pebble.secure(), "a.test", &roots).is_ok());
    gateway.write("routes.yml", &routes(&["Host(`b.test`) || Host(`a.test`)", "Host(`c.test`)"], &url));
    eventually("the second", || served(pebble.secure(), "c.test", &roots).is_ok());
    eventually("the third", || served(pebble.secure(), "b.test", &roots).is_ok());
}

#[test]
#[ignore = "needs pebble"]
fn renewals_fail_no_request() {
    // Renewed at half of their life: time enough for an order, also on a busy machine.
    let (pebble, backend) =
        (Pebble::start(Options { validity: 30, ..Options::default() }), Backend::echo("a"));
    let text = routes(&["Host(`short.test`)"], &format!("http://{}", backend.address));
    let _gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &[], &text);
    let roots = pebble.roots();
    eventually("the first certificate", || served(pebble.secure(), "short.test", &roots).is_ok());
    let (stop, count, failed) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, count, failed) = (stop.clone(), count.clone(), failed.clone());
            let (roots, address) = (roots.clone(), pebble.secure());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match get_over_tls(address, "short.test", &roots) {
                        Ok(200) => count.fetch_add(1, Ordering::Relaxed),
                        other => {
                            eprintln!("{other:?}");
                            failed.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                    // About a hundred a second, so that the test does not take the machine.
                    pause_for(Duration::from_millis(20));
                }
            })
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    wait_until(Duration::from_secs(90), || {
        seen.insert(served(pebble.secure(), "short.test", &roots).unwrap());
        seen.len() >= 3 && count.load(Ordering::Relaxed) >= 100
    });
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(seen.len() >= 3, "{} certificates in a minute and a half", seen.len());
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert!(count.load(Ordering::Relaxed) >= 100);
    assert_eq!(stored(&pebble.storage()), ["short.test"], "the old ones are gone");
}

#[test]
#[ignore = "needs pebble"]
fn the_authority_says_when_to_renew() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let text = routes(&["Host(`early.test`)"], &format!("http://{}", backend.address));
    let first = {
        let gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &[], &text);
        let roots = pebble.roots();
        eventually("the first", || served(pebble.secure(), "early.test", &roots).is_ok());
        eventually("it is stored", || stored(&pebble.storage()).len() == 1);
        gateway.shutdown();
        std::fs::read_to_string(pebble.storage()).unwrap()
    };
    let whole: serde_json::Value = serde_json::from_str(&first).unwrap();
    let chain = decoded(whole["le"]["Certificates"][0]["certificate"].as_str().unwrap());
    // As after a revocation: the window is over.
    pebble.suggest(&chain, "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");
    let gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &[], &text);
    let replaced = || std::fs::read_to_string(pebble.storage()).unwrap() != first;
    assert!(
        wait_until(Duration::from_secs(20), replaced).is_some(),
        "no other certificate: {}",
        gateway.api("/api/certificates/resolvers")
    );
    assert_eq!(stored(&pebble.storage()), ["early.test"]);
}

/// An address that approves `yes.test` alone, the flag that names it, and a route for every name.
fn on_demand(backend: &Backend) -> (Backend, String, String) {
    let ask = Backend::with(|seen, stream| {
        let allowed = seen.target() == "/ask?domain=yes.test";
        let status = if allowed { "200 OK" } else { "403 Forbidden" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").is_ok()
    });
    let text = format!(
        "http:\n  routers:\n    all: {{rule: 'PathPrefix(`/`)', service: s, tls: {{}}}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: 'http://{}'}}]}}}}\n",
        backend.address
    );
    let flag = format!("--certificatesResolvers.le.acme.onDemand.ask=http://{}/ask", ask.address);
    (ask, flag, text)
}

#[test]
#[ignore = "needs pebble"]
fn certificates_are_obtained_on_demand_for_allowed_names() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let (_ask, flag, text) = on_demand(&backend);
    let _gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &[&flag], &text);
    let roots = pebble.roots();
    at_first_handshake(|| {
        get_over_tls(pebble.secure(), "yes.test", &roots).is_ok_and(|status| status == 200)
    });
    assert!(get_over_tls(pebble.secure(), "no.test", &roots).is_err());
    assert_eq!(stored(&pebble.storage()), ["yes.test"]);
}

#[test]
#[ignore = "needs pebble"]
fn certificates_are_obtained_on_demand_over_quic() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let (_ask, flag, text) = on_demand(&backend);
    let _gateway =
        gateway(&pebble, "httpChallenge.entryPoint=web", &[&flag, "--entryPoints.secure.http3=true"], &text);
    let runtime = http3::runtime();
    let names = |name: &'static str| {
        let (endpoint, quic) = runtime.block_on(http3::quic(pebble.secure(), name, None)).unwrap();
        let chain = quic.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        let names = format!("{:?}", parsed.subject_alternative_name().unwrap().unwrap().value.general_names);
        let answer = runtime.block_on(async {
            http3::Http3::over((endpoint, quic)).await.get(&format!("https://{name}/")).await
        });
        assert_eq!(answer.status, 200);
        names
    };
    let begun = Instant::now();
    at_first_handshake(|| names("yes.test").contains("yes.test"));
    eprintln!("obtained and served over QUIC in {:?}", begun.elapsed());
    assert!(names("yes.test").contains("yes.test"));
    assert!(!names("no.test").contains("no.test"), "it is shown the default");
    assert_eq!(stored(&pebble.storage()), ["yes.test"]);
}

fn an_address_is_certified(challenge: &str) {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let text = routes(&["Host(`127.0.0.1`)", "Host(`with.test`)"], &backend.url());
    let _gateway = gateway(&pebble, challenge, &["--entryPoints.secure.http3=true"], &text);
    let roots = pebble.roots();
    // Clients do not say which address they have come to: the gateway knows it.
    eventually("the certificate of the address", || {
        get_over_tls(pebble.secure(), "127.0.0.1", &roots).is_ok_and(|status| status == 200)
    });
    eventually("the other", || served(pebble.secure(), "with.test", &roots).is_ok());
    assert!(get_over_tls(pebble.secure(), "127.0.0.1", &roots).is_ok_and(|status| status == 200));
    let runtime = http3::runtime();
    let (_endpoint, quic) = runtime.block_on(http3::quic(pebble.secure(), "127.0.0.1", None)).unwrap();
    let chain = quic.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
    assert_eq!(chain[0].to_vec(), served(pebble.secure(), "127.0.0.1", &roots).unwrap(), "over QUIC too");
}

#[test]
#[ignore = "needs pebble"]
fn an_address_is_certified_over_http() {
    an_address_is_certified("httpChallenge.entryPoint=web");
}

#[test]
#[ignore = "needs pebble"]
fn an_address_is_certified_in_a_handshake() {
    an_address_is_certified("tlsChallenge=true");
}

#[test]
#[ignore = "needs pebble"]
fn the_default_certificate_may_come_from_a_resolver() {
    let pebble = Pebble::start(Options::default());
    let text =
        "tls:\n  stores:\n    default:\n      defaultGeneratedCert: {resolver: le, domain: {main: d.test}}\n";
    let gateway = gateway(&pebble, "httpChallenge.entryPoint=web", &[], text);
    eventually("any name shows it", || {
        let der = shown(pebble.secure(), "anything.test");
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        format!("{:?}", names.value.general_names).contains("d.test")
    });
    assert_eq!(gateway.problems(), Vec::<String>::new());
}

#[test]
#[ignore = "needs pebble"]
fn certificates_are_managed_by_commands() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let gateway =
        gateway(&pebble, "httpChallenge.entryPoint=web", &[], &routes(&["Host(`c.test`)"], &backend.url()));
    let roots = pebble.roots();
    eventually("the first", || stored(&pebble.storage()) == ["c.test"]);
    let flags = pebble.flags("httpChallenge.entryPoint=web");
    let certs = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("certs").args(arguments).args(&flags).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (good, list) = certs(&["list"]);
    assert!(good && list.contains("c.test") && list.contains("Pebble Intermediate CA"), "{list}");
    let first = served(pebble.secure(), "c.test", &roots).unwrap();
    assert!(certs(&["renew", "c.test"]).0);
    eventually("it is renewed", || served(pebble.secure(), "c.test", &roots).is_ok_and(|now| now != first));
    let second = served(pebble.secure(), "c.test", &roots).unwrap();
    eventually("it is stored", || stored(&pebble.storage()) == ["c.test"]);
    let (good, text) = certs(&["revoke", "--reason", "4", "c.test"]);
    assert!(good, "{text}");
    eventually("it is replaced", || served(pebble.secure(), "c.test", &roots).is_ok_and(|now| now != second));
    let (good, text) = certs(&["renew", "nobody.test"]);
    assert!(!good && text.contains("there is no certificate for `nobody.test`"), "{text}");
    let (good, text) = certs(&["change-key"]);
    assert!(good, "{text}");
    gateway.write("more.yml", &more("after.test", &backend.url()));
    eventually("the new key is used", || served(pebble.secure(), "after.test", &roots).is_ok());
    let folder = tempfile::tempdir().unwrap();
    eventually("the new one is stored", || stored(&pebble.storage()).contains(&"c.test".to_owned()));
    let (good, text) = certs(&["export", "--folder", &folder.path().display().to_string(), "c.test"]);
    assert!(good && folder.path().join("c.test.crt").is_file(), "{text}");
    let mode = std::fs::metadata(folder.path().join("c.test.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// A further file with a router of its own.
fn more(name: &str, url: &str) -> String {
    routes(&[&format!("Host(`{name}`)")], url)
        .replace(" r0:", " more:")
        .replace("service: s", "service: t")
        .replace(" s:", " t:")
}

fn indented(pem: &str) -> String {
    pem.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}

/// What base64 holds.
fn decoded(text: &str) -> String {
    use base64::Engine as _;
    String::from_utf8(base64::prelude::BASE64_STANDARD.decode(text).unwrap()).unwrap()
}
