//! Suites of others through the gateway: gRPC's own library, and the Autobahn cases of WebSocket.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Gateway, eventually, free_port};

/// A program that is killed when dropped.
pub struct Program(pub Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file that `scripts/suites.sh` has made.
pub fn tool(path: &str) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(path);
    assert!(file.exists(), "there is no `{}`: scripts/suites.sh makes it", file.display());
    file
}

/// Certificate and key for `grpc.test`, in files.
struct Identity {
    folder: tempfile::TempDir,
}

impl Identity {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["grpc.test".to_owned()]).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self { folder }
    }

    fn certificate(&self) -> String {
        self.folder.path().join("cert.pem").display().to_string()
    }

    fn key(&self) -> String {
        self.folder.path().join("key.pem").display().to_string()
    }

    /// What makes it the certificate for all names.
    fn routes(&self) -> String {
        format!(
            "tls: {{stores: {{default: {{defaultCertificate: {{certFile: '{}', keyFile: '{}'}}}}}}}}\n",
            self.certificate(),
            self.key()
        )
    }
}

fn grpc(arguments: &[&str]) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs/grpc_suite.py");
    let mut command = Command::new(tool("grpc/bin/python"));
    command.arg(program).args(arguments);
    command
}

/// The suite's server, and its port.
fn grpc_server(arguments: &[&str]) -> (Program, u16) {
    let mut command = grpc(&[&["serve"], arguments].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Program(child), line.trim().parse().unwrap())
}

#[test]
#[ignore = "needs grpcio"]
fn grpc_calls_of_every_kind_pass_in_plain_text_and_over_tls() {
    let identity = Identity::new();
    let (_plain, plain) = grpc_server(&[]);
    let (_secure, secure) = grpc_server(&[&identity.certificate(), &identity.key()]);
    let routes = format!(
        "http:
  routers:
    plain: {{rule: 'PathPrefix(`/`)', service: plain, entryPoints: [web]}}
    secure: {{rule: 'PathPrefix(`/`)', service: secure, entryPoints: [websecure], tls: {{}}}}
    webPlain: {{rule: 'Host(`web.test`)', service: plain, entryPoints: [web], middlewares: [web]}}
    webSecure: {{rule: 'Host(`web.test`)', service: secure, entryPoints: [websecure], tls: {{}}, middlewares: [web]}}
  middlewares:
    web: {{grpcWeb: {{allowOrigins: ['*']}}}}
  services:
    plain: {{loadBalancer: {{servers: [{{url: 'h2c://127.0.0.1:{plain}'}}]}}}}
    secure: {{loadBalancer: {{serversTransport: checked, servers: [{{url: 'https://127.0.0.1:{secure}'}}]}}}}
  serversTransports:
    checked: {{serverName: grpc.test, rootCAs: ['{}']}}
{}",
        identity.certificate(),
        identity.routes()
    );
    let timeout =
        |entry_point| format!("--entryPoints.{entry_point}.transport.respondingTimeouts.readTimeout=3s");
    let (plain, secure) = (timeout("web"), timeout("websecure"));
    let gateway = Gateway::with(&["--entryPoints.websecure.address=127.0.0.1:0", &plain, &secure], &routes);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    for (entry_point, more) in [("web", None), ("websecure", Some(identity.certificate()))] {
        let address = gateway.address(entry_point).to_string();
        let mut command = grpc(&["check", &address]);
        let output = command.args(more).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        println!("{entry_point}:\n{shown}");
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{entry_point}:\n{shown}\n{failed}");
        assert_eq!(shown.lines().filter(|line| line.starts_with("ok ")).count(), 16, "{shown}");
    }
}

/// Cases that take long.
const LARGE: [&str; 6] = ["9.1.3", "9.2.3", "12.1.1", "12.2.1", "13.1.1", "13.4.1"];

/// What the Autobahn client found of one agent: for each case its verdict and that of its close.
type Verdicts = BTreeMap<String, (String, String)>;

#[test]
#[ignore = "needs the Autobahn test suite"]
fn websockets_pass_every_autobahn_case_as_they_do_without_a_gateway() {
    let port = free_port();
    let server = format!("ws://127.0.0.1:{port}");
    let mut command = Command::new(tool("autobahn/wstest"));
    command.args(["-m", "testeeserver", "-w", &server]).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Program(command.spawn().unwrap());
    eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let routes = Gateway::one_service(&format!("http://127.0.0.1:{port}"))
        // The suite's server wants to be asked for under its own port.
        .replace("servers:", "passHostHeader: false, servers:")
        .replace(
            "service: a}\n",
            "service: a}\n    secure: {rule: 'PathPrefix(`/`)', service: a, tls: {}}\n",
        );
    let gateway = Gateway::with(&["--entryPoints.websecure.address=127.0.0.1:0"], &routes);
    let folder = tempfile::tempdir().unwrap();
    let agents = [
        ("direct", server),
        ("gateway", format!("ws://{}", gateway.web())),
        ("secure", format!("wss://{}", gateway.address("websecure"))),
    ];
    let servers = agents.iter().map(|(agent, url)| serde_json::json!({"agent": agent, "url": url}));
    let spec = serde_json::json!({
        "outdir": folder.path().join("report"),
        "servers": servers.collect::<Vec<_>>(),
        // The cases with large messages (9) and with compression (12, 13) differ in sizes, and take the suite's own code
        // minutes: some of each kind are run, and once.
        "cases": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*", LARGE[0], LARGE[1], LARGE[2], LARGE[3], LARGE[4],
            LARGE[5]],
        "exclude-cases": [],
        "exclude-agent-cases": {"direct": LARGE, "secure": LARGE},
    });
    std::fs::write(folder.path().join("spec.json"), spec.to_string()).unwrap();
    let mut command = Command::new(tool("autobahn/wstest"));
    command.args(["-m", "fuzzingclient", "-s"]).arg(folder.path().join("spec.json"));
    let started = std::time::Instant::now();
    let output = command.current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read(folder.path().join("report/index.json")).unwrap();
    let report: BTreeMap<String, BTreeMap<String, serde_json::Value>> =
        serde_json::from_slice(&report).unwrap();
    let verdicts = |agent: &str| -> Verdicts {
        let text = |case: &serde_json::Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
        let cases = report[agent].iter();
        cases
            .map(|(name, case)| (name.clone(), (text(case, "behavior"), text(case, "behaviorClose"))))
            .collect()
    };
    let direct = verdicts("direct");
    println!("{} cases for each of {} ways in {:?}", direct.len(), agents.len(), started.elapsed());
    assert!(direct.len() > 240, "{} cases", direct.len());
    for (agent, _) in &agents {
        let found = verdicts(agent);
        let is_good = |verdict: &str| matches!(verdict, "OK" | "INFORMATIONAL" | "NON-STRICT");
        let bad: Verdicts = found
            .iter()
            .filter(|(_, (one, two))| !is_good(one) || !is_good(two))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        assert_eq!(bad, Verdicts::new(), "{agent}");
        let different = direct.iter().filter(|(case, verdict)| found.get(*case) != Some(*verdict));
        assert_eq!(different.collect::<Vec<_>>(), [], "{agent}");
        let large = LARGE.iter().filter(|case| found.contains_key(**case)).count();
        assert_eq!(large, if *agent == "gateway" { LARGE.len() } else { 0 }, "{agent}");
    }
}
