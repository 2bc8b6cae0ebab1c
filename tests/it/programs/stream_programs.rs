//! TCP and UDP with the programs that people have around a gateway: PostgreSQL, HAProxy, NGINX, a DNS server.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::streams::{Identity, connect};
use crate::support::{Gateway, eventually, free_port};

/// A program that is killed when dropped.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn listens(port: u16) {
    eventually("the program listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// The folder with PostgreSQL's programs.
fn postgres_programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").unwrap();
    versions.map(|version| version.unwrap().path().join("bin")).max().unwrap()
}

/// A PostgreSQL server with this certificate. It does not run as root, so it has a user of its own.
fn postgres(folder: &Path, identity: &Identity, port: u16) -> Program {
    let programs = postgres_programs();
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let owned = |path: &Path| {
        let done = Command::new("chown").args(["-R", "postgres"]).arg(path).status().unwrap();
        assert!(done.success());
    };
    owned(folder);
    let as_user = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(programs.join(program));
        command.current_dir(folder);
        command
    };
    let made =
        as_user("initdb").arg("-D").arg(&data).args(["-A", "trust", "-U", "postgres"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(data.join("server.crt"), &identity.certificate).unwrap();
    fs::write(data.join("server.key"), &identity.key).unwrap();
    owned(&data);
    let narrowed = Command::new("chmod").arg("600").arg(data.join("server.key")).status().unwrap();
    assert!(narrowed.success());
    let mut command = as_user("postgres");
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    let server = Program::start(command.args(["-c", "ssl=on", "-c", "unix_socket_directories="]));
    listens(port);
    server
}

/// What psql prints for a query through the gateway.
fn psql(gateway: u16, host: &str, more: &str, query: &str) -> Result<String, String> {
    let place = format!("host={host} hostaddr=127.0.0.1 port={gateway} user=postgres dbname=postgres {more}");
    let output = Command::new("psql").args(["-At", &place, "-c", query]).output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
#[ignore = "needs PostgreSQL, psql and root"]
fn psql_reaches_postgres_through_starttls() {
    let folder = tempfile::tempdir().unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), everybody).unwrap();
    let (own, ours) = (Identity::new(&["pass.test"]), Identity::new(&["db.test"]));
    let port = free_port();
    let _server = postgres(folder.path(), &own, port);
    let indented = |pem: &str| pem.lines().map(|line| format!("        {line}\n")).collect::<String>();
    let gateway = Gateway::serve(&format!(
        "tcp:\n  routers:\n    pass: {{entryPoints: [web], rule: 'HostSNI(`pass.test`)', service: db, tls: {{passthrough: true}}}}\n    db: {{entryPoints: [web], rule: 'HostSNI(`db.test`)', service: db, tls: {{}}}}\n  services:\n    db: {{loadBalancer: {{servers: [{{address: '127.0.0.1:{port}'}}]}}}}\ntls:\n  certificates:\n    - certFile: |\n{}      keyFile: |\n{}",
        indented(&ours.certificate),
        indented(&ours.key)
    ));
    let roots = tempfile::tempdir().unwrap();
    for (host, identity, encrypted_to_the_server) in [("pass.test", &own, "t"), ("db.test", &ours, "f")] {
        let root = roots.path().join(host);
        fs::write(&root, &identity.certificate).unwrap();
        let verified = format!("sslmode=verify-full sslrootcert={}", root.display());
        let query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        assert_eq!(
            psql(gateway.web().port(), host, &verified, query).as_deref(),
            Ok(encrypted_to_the_server)
        );
        let much = "select length(string_agg(md5(i::text), '')) from generate_series(1, 50000) i";
        assert_eq!(psql(gateway.web().port(), host, &verified, much).as_deref(), Ok("1600000"));
    }
    let refused = psql(gateway.web().port(), "other.test", "sslmode=require", "select 1").unwrap_err();
    assert!(refused.contains("SSL"), "{refused}");
}

#[test]
#[ignore = "needs HAProxy and NGINX with its stream module"]
fn addresses_pass_from_haproxy_to_nginx() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (behind, at) = (free_port(), folder.path().display());
    let nginx = write(
        "nginx.conf",
        format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nmaster_process off;\nuser root;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\nstream {{ server {{ listen 127.0.0.1:{behind} proxy_protocol; return \"$proxy_protocol_addr:$proxy_protocol_port\"; }} }}\n"
        ),
    );
    let _nginx = Program::start(Command::new("nginx").arg("-c").arg(nginx));
    listens(behind);
    for (to_us, onward) in [("send-proxy", 1), ("send-proxy", 2), ("send-proxy-v2", 1), ("send-proxy-v2", 2)]
    {
        let gateway = Gateway::with(
            &["--entryPoints.web.proxyProtocol.trustedIPs=127.0.0.1"],
            &format!(
                "tcp:\n  routers:\n    r: {{entryPoints: [web], rule: 'HostSNI(`*`)', service: s}}\n  services:\n    s: {{loadBalancer: {{serversTransport: t, servers: [{{address: '127.0.0.1:{behind}'}}]}}}}\n  serversTransports:\n    t: {{proxyProtocol: {{version: {onward}}}, terminationDelay: 5s}}\n"
            ),
        );
        let before = free_port();
        let haproxy = write(
            "haproxy.cfg",
            format!(
                "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\nfrontend f\n  bind 127.0.0.1:{before}\n  default_backend b\nbackend b\n  server s {} {to_us}\n",
                gateway.web()
            ),
        );
        let _haproxy = Program::start(Command::new("haproxy").arg("-db").arg("-f").arg(haproxy));
        listens(before);
        let mut client = connect(([127, 0, 0, 1], before).into());
        let mut told = String::new();
        client.read_to_string(&mut told).unwrap();
        assert_eq!(told, client.local_addr().unwrap().to_string(), "{to_us}, version {onward}");
    }
}

#[test]
#[ignore = "needs dnsmasq and dig"]
fn dns_is_answered_through_the_gateway() {
    let port = free_port();
    let text = (0..40).map(|i| format!("--host-record=many.test,10.0.0.{i}")).collect::<Vec<_>>();
    let _server = Program::start(
        Command::new("/usr/sbin/dnsmasq")
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--pid-file=",
                "--user=root",
            ])
            .args([format!("--port={port}"), "--address=/one.test/10.1.2.3".into()])
            .args(text),
    );
    let gateway = Gateway::with(
        &["--entryPoints.dns.address=127.0.0.1:0/udp", "--entryPoints.tcpdns.address=127.0.0.1:0"],
        &format!(
            "udp:\n  routers:\n    dns: {{service: d}}\n  services:\n    d: {{loadBalancer: {{servers: [{{address: '127.0.0.1:{port}'}}]}}}}\ntcp:\n  routers:\n    dns: {{entryPoints: [tcpdns], rule: 'HostSNI(`*`)', service: d}}\n  services:\n    d: {{loadBalancer: {{servers: [{{address: '127.0.0.1:{port}'}}]}}}}\n"
        ),
    );
    let dig = |entry_point: &str, more: &[&str]| {
        let port = gateway.address(entry_point).port().to_string();
        let mut command = Command::new("dig");
        command.args(["@127.0.0.1", "-p", &port, "+short", "+tries=1", "+time=5"]).args(more);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    eventually("the server answers", || dig("dns", &["one.test"]) == "10.1.2.3\n");
    assert_eq!(dig("dns", &["many.test", "+bufsize=4096"]).lines().count(), 40);
    assert_eq!(dig("tcpdns", &["one.test", "+tcp"]), "10.1.2.3\n");
}
