//! The commands of the binary: settings that are refused, `check`, `healthcheck`, `version`, `--help`.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Backend, Gateway};

/// Runs the binary in an empty folder, with no settings but these.
fn tidegate(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn alone(arguments: &[&str]) -> (i32, String, String) {
    tidegate(tempfile::tempdir().unwrap().path(), arguments, &[])
}

/// Writes a route folder and checks it.
fn check(files: &[(&str, &str)]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("routes")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join("routes").join(name), text).unwrap();
    }
    let (code, out, err) = tidegate(folder.path(), &["check", "--providers.file.directory=routes"], &[]);
    assert_eq!(err, "");
    (code, out)
}

const GOOD: &str = "http:\n  routers:\n    r: {rule: 'Host(`r.test`)', service: good}\n  services:\n    good: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}\n";

#[test]
fn invalid_settings_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, told) in [
        ("--entryPoints.web.adress=:80", ["flag --entryPoints.web.adress", "did you mean `address`?"]),
        ("--entrypoint.web.address=:80", ["flag --entrypoint.web.address", "did you mean `entryPoints`?"]),
        ("--entryPoints.web.address=nowhere", ["flag --entryPoints.web.address", "nowhere"]),
        (
            "--entryPoints.web.http.maxHeaderBytes=many",
            ["flag --entryPoints.web.http.maxHeaderBytes", "`many`"],
        ),
        ("--api.insecure=perhaps", ["flag --api.insecure", "`perhaps`"]),
        (
            "--providers.providersThrottleDuration=soon",
            ["flag --providers.providersThrottleDuration", "soon"],
        ),
        // Options of Traefik that are not there are named, and refused with `--strict`.
        ("--providers.nomad=true", ["providers.nomad", "does not support"]),
        ("--tracing.otlp.http.endpoint=ftp://h", ["tracing.otlp", "http.endpoint"]),
        ("--metrics.otlp.grpc.endpoint=ftp://h", ["metrics.otlp", "grpc.endpoint"]),
        ("--metrics.otlp.explicitBoundaries=2,1", ["metrics.otlp.explicitBoundaries", "ascending"]),
        (
            "--certificatesResolvers.le.tailscale=true",
            ["certificatesResolvers.le.tailscale", "does not support"],
        ),
        ("--providers.kubernetesCRD=true", ["providers.kubernetesCRD", "does not support"]),
        ("--providers.docker.swarmMode=true", ["providers.docker.swarmMode", "use the provider `swarm`"]),
        ("--pilot.token=x", ["pilot", "removed in Traefik v3"]),
    ] {
        for command in [&[][..], &["check"], &["healthcheck"]] {
            let (code, out, err) = tidegate(folder.path(), &[command, &[flag, "--strict"]].concat(), &[]);
            assert_eq!((code, out.as_str()), (1, ""), "{command:?} {flag}: {err}");
            assert!(told.iter().all(|part| err.contains(part)), "{command:?} {flag}: {err}");
        }
    }
    let (code, out, _) = tidegate(folder.path(), &["check"], &[("TRAEFIK_ENTRYPOINTS_WEB_ADRESS", ":80")]);
    assert_eq!(code, 1);
    assert!(
        out.contains("environment variable TRAEFIK_ENTRYPOINTS_WEB_ADRESS") && out.contains("`address`"),
        "{out}"
    );
    std::fs::write(folder.path().join("traefik.yml"), "entryPoints:\n  web:\n    adress: ':80'\n").unwrap();
    let (code, _, err) = tidegate(folder.path(), &[], &[]);
    assert_eq!(code, 1);
    assert!(err.contains("traefik.yml:3: ") && err.contains("did you mean `address`?"), "{err}");
    assert!(err.contains("3 |     adress: ':80'"), "an excerpt: {err}");
    std::fs::write(folder.path().join("tidegate.toml"), "[log]\nlevel = \"INFO\"\nlevel = \"DEBUG\"\n")
        .unwrap();
    let (code, _, err) = tidegate(folder.path(), &[], &[]);
    assert_eq!(code, 1, "our own name goes first");
    assert!(err.contains("tidegate.toml:3: "), "{err}");
    let (code, out, _) = alone(&["check", "--configFile=gone.yml"]);
    assert_eq!(code, 1);
    assert!(out.contains("there is no settings file `gone.yml`"), "{out}");
    // As Compose files write it, for an image whose entry point is a shell.
    for program in ["traefik", "tidegate", "/usr/local/bin/traefik"] {
        assert_eq!(alone(&[program, "version"]), alone(&["version"]), "{program}");
        assert_eq!(alone(&[program, "--bogus"]), alone(&["--bogus"]), "{program}");
    }
}

#[test]
fn a_later_source_overrides_an_earlier_one_key_by_key() {
    let gateway = Gateway::with(&[], GOOD);
    let folder = tempfile::tempdir().unwrap();
    let address = gateway.address("traefik").to_string();
    let file = "ping: {}\nentryPoints:\n  traefik:\n    address: 127.0.0.1:1\n";
    std::fs::write(folder.path().join("tidegate.yml"), file).unwrap();
    let (code, out, _) = tidegate(folder.path(), &["healthcheck"], &[]);
    assert!(code == 1 && out.contains("127.0.0.1:1"), "the file alone: {out}");
    let variables = [("TRAEFIK_ENTRYPOINTS_TRAEFIK_ADDRESS", address.as_str())];
    let expected = (0, format!("OK: http://{address}/ping\n"), String::new());
    assert_eq!(
        tidegate(folder.path(), &["healthcheck"], &variables),
        expected,
        "the environment over the file"
    );
    let flag = format!("--entryPoints.traefik.address={address}");
    let variables = [("TIDEGATE_ENTRYPOINTS_TRAEFIK_ADDRESS", "127.0.0.1:2")];
    assert_eq!(tidegate(folder.path(), &["healthcheck", &flag], &variables), expected, "flags over both");
}

#[test]
fn healthcheck_has_the_lines_and_exit_codes_of_traefik() {
    let (code, out, err) = alone(&["healthcheck"]);
    assert_eq!((code, err.as_str()), (1, ""));
    assert_eq!(out, "Error calling healthcheck: please enable `ping` to use health check\n");
    let stopping = Backend::bytes("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let flag = format!("--entryPoints.traefik.address={}", stopping.address);
    let (code, out, _) = alone(&["healthcheck", "--ping", &flag]);
    assert_eq!((code, out.as_str()), (1, "Bad healthcheck status: 503 Service Unavailable\n"));
    assert!(stopping.last().head.starts_with("HEAD /ping HTTP/1.1"), "{}", stopping.last().head);
    let (code, out, _) = alone(&["healthcheck", "--ping", "--entryPoints.traefik.address=127.0.0.1:1"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("Error calling healthcheck: "), "{out}");
}

#[test]
fn version_and_help_are_printed() {
    let (code, out, _) = alone(&["version"]);
    assert_eq!(code, 0);
    assert_eq!(out.lines().next(), Some(concat!("Version:      ", env!("CARGO_PKG_VERSION"))));
    for flag in ["--help", "-h"] {
        let (code, out, _) = alone(&[flag]);
        assert_eq!(code, 0);
        assert!(
            ["version", "healthcheck", "check", "demo"].iter().all(|command| out.contains(command)),
            "{out}"
        );
    }
    let (code, _, err) = alone(&["chekc"]);
    assert_ne!(code, 0);
    assert!(err.contains("chekc"), "{err}");
}

#[test]
fn check_accepts_valid_settings() {
    let (code, out) = check(&[("a.yml", GOOD)]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("file: 1 router, 1 service, 0 middlewares") && out.ends_with("no problems\n"),
        "{out}"
    );
}

#[test]
fn check_contacts_no_server() {
    let server = Backend::echo("a");
    let address = server.url().replace("http://", "");
    let numbers = 0..200;
    let list = |line: &dyn Fn(usize) -> String| numbers.clone().map(line).collect::<String>();
    let routes = format!(
        "http:\n  routers:\n{}  services:\n{}tcp:\n  routers:\n{}  services:\n{}",
        list(&|n| format!("    r{n}: {{rule: 'Host(`h{n}.test`)', service: s{n}}}\n")),
        list(&|n| format!(
            "    s{n}: {{loadBalancer: {{servers: [{{url: 'http://{address}'}}], healthCheck: {{path: /}}}}}}\n"
        )),
        list(&|n| format!("    r{n}: {{rule: 'HostSNI(`h{n}.test`)', tls: {{}}, service: s{n}}}\n")),
        list(&|n| format!(
            "    s{n}: {{loadBalancer: {{servers: [{{address: '{address}'}}], healthCheck: {{interval: 1s}}}}}}\n"
        )),
    );
    let (code, out) = check(&[("a.yml", &routes)]);
    assert_eq!(code, 0, "{out}");
    assert_eq!(server.connections(), 0);
}

#[test]
fn check_reports_problems_of_settings() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("TRAEFIK_ACCESS_LOG", "1"), ("TRAEFIK_BOGUS", "1")];
    let (code, out, _) = tidegate(folder.path(), &["check"], &variables);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("TRAEFIK_ACCESS_LOG") && out.ends_with("1 problem\n"), "{out}");
    let (code, out, _) = tidegate(folder.path(), &["check"], &[("TIDEGATE_WORKERS", "2")]);
    assert_eq!(code, 0, "{out}");
}

#[test]
fn check_prints_each_problem_once_with_its_excerpt() {
    let bad = "http:
  routers:
    unknown-key:
      rule: Host(`a.test`)
      servise: s
    bad-rule: {rule: Hst(`a.test`), service: s}
    no-service: {rule: Host(`b.test`), service: nope}
    no-middleware: {rule: Host(`c.test`), service: s, middlewares: [gone]}
    no-entry-point: {rule: Host(`d.test`), service: s, entryPoints: [nirvana]}
    no-resolver: {rule: Host(`e.test`), service: s, tls: {certResolver: le}}
    wrong-type: {rule: [1, 2], service: s}
    no-options: {rule: Host(`o.test`), service: s, tls: {options: lost}}
    to-loop: {rule: Host(`f.test`), service: one}
    bad-server: {rule: Host(`g.test`), service: odd}
    no-transport: {rule: Host(`h.test`), service: carried}
  middlewares:
    two: {addPrefix: {prefix: /a}, stripPrefix: {prefixes: [/a]}}
    round: {chain: {middlewares: [about]}}
    about: {chain: {middlewares: [round]}}
    regex: {redirectRegex: {regex: '(', replacement: x}}
  services:
    s: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}
    one: {weighted: {services: [{name: two, weight: 1}]}}
    two: {weighted: {services: [{name: one, weight: 1}]}}
    odd: {loadBalancer: {servers: [{url: 'http://[::1'}]}}
    carried: {loadBalancer: {serversTransport: cart, servers: [{url: 'http://127.0.0.1:1'}]}}
tls:
  certificates:
    - {certFile: gone.pem, keyFile: gone.key}
  options:
    old: {minVersion: VersionTLS99}
";
    let (code, out) = check(&[("good.yml", GOOD), ("routes.yml", bad)]);
    assert_eq!(code, 1);
    for (line, told) in [
        (
            5,
            "router unknown-key@file: http.routers.unknown-key.servise: unknown key: did you mean `service`?",
        ),
        (6, "router bad-rule@file: invalid rule \"Hst(`a.test`)\" at column 1: unknown matcher Hst"),
        (7, "router no-service@file: the service \"nope@file\" does not exist"),
        (8, "router no-middleware@file: middleware \"gone@file\" does not exist"),
        (9, "router no-entry-point@file: entryPoint \"nirvana\" doesn't exist"),
        (10, "router no-resolver@file: "),
        (11, "router wrong-type@file: http.routers.wrong-type.rule: a list is given: expected a string"),
        (12, "router no-options@file: building router handler: unknown TLS options: lost@file"),
        (17, "middleware two@file: cannot create middleware: multi-types middleware not supported"),
        (18, "middleware round@file: could not instantiate middleware "),
        (20, "middleware regex@file: invalid regular expression `"),
        (23, "service one@file: "),
        (24, "service two@file: "),
        (25, "service odd@file: "),
        (26, "service carried@file: "),
        (29, "certificate 0@file: open gone.pem"),
        (31, "TLS options old@file: unknown minVersion `VersionTLS99`"),
    ] {
        let place = format!("routes/routes.yml:{line}: {told}");
        assert_eq!(out.matches(&place).count(), 1, "{place}\n{out}");
        let source = bad.lines().nth(line - 1).unwrap().trim_end();
        assert!(out.contains(&format!("{line} | {source}")), "the source of {place}\n{out}");
    }
    assert!(!out.contains("internal: "), "everything has a place: {out}");
    let mut headlines: Vec<&str> = out.lines().filter(|line| line.contains("@file: ")).collect();
    let all = headlines.len();
    headlines.sort_unstable();
    headlines.dedup();
    assert_eq!(headlines.len(), all, "each once: {out}");
    assert!(out.ends_with(&format!("{all} problems\n")), "{out}");
}

#[test]
fn check_names_files_that_cannot_be_read() {
    let (code, out) = check(&[("a.yml", GOOD), ("b.yml", "http: [1"), ("c.toml", "[http]\n[http]\n")]);
    assert_eq!(code, 1);
    assert!(out.contains("routes/b.yml:1: ") && out.contains("1 | http: [1"), "{out}");
    assert!(out.contains("routes/c.toml:2: "), "{out}");
    let folder = tempfile::tempdir().unwrap();
    let (code, out, _) = tidegate(folder.path(), &["check", "--providers.file.directory=nowhere"], &[]);
    assert_eq!(code, 1);
    assert!(out.contains("nowhere: cannot read the folder"), "{out}");
}
