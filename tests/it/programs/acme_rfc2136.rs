//! Certificates with DNS records that are set by dynamic updates (RFC 2136) of a real name server, BIND.

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use crate::support::outside::{Running, program};
use crate::support::pebble::{Options, Pebble, get_over_tls, routes};
use crate::support::{Backend, Gateway, eventually, free_port};

/// A key of 20 bytes, in base64.
const SECRET: &str = "czNjcmV0czNjcmV0czNjcmU=";

/// A name server that knows `z.test`, which only its keys may change, and `open.test`, which this machine may.
struct Bind {
    port: u16,
    folder: tempfile::TempDir,
    _running: Running,
}

impl Bind {
    fn start() -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let key = |name: &str| {
            format!("key \"{name}\" {{\n\talgorithm hmac-{name};\n\tsecret \"{SECRET}\";\n}};\n")
        };
        let names = ["sha1", "sha224", "sha256", "sha384", "sha512"];
        let grants: String =
            names.map(|name| format!("grant {name} name _acme-challenge.z.test. TXT; ")).concat();
        let config = format!(
            "options {{ directory \"{0}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n\
             recursion no; pid-file none; session-keyfile \"{0}/session.key\"; dnssec-validation no; }};\n\
             controls {{}};\n{1}\
             zone \"z.test\" {{ type primary; file \"z.test\"; update-policy {{ {grants} }}; }};\n\
             zone \"open.test\" {{ type primary; file \"open.test\"; allow-update {{ 127.0.0.1; }}; }};\n",
            folder.path().display(),
            names.map(key).concat(),
        );
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("named.conf", &config);
        put("sha512.key", &key("sha512"));
        // With a value of somebody else.
        let zone = "$TTL 60\n@ SOA ns root 1 60 60 3600 60\n@ NS ns\nns A 127.0.0.1\n\
                    _acme-challenge TXT \"somebody-else\"\n";
        put("z.test", zone);
        put("open.test", zone);
        let mut command = Command::new(program("named"));
        command.args(["-g", "-c", "named.conf"]);
        let running = Running::start(&mut command, folder.path());
        let bind = Self { port, folder, _running: running };
        eventually("the name server answers", || bind.values("z.test") == Some(1));
        bind
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns how many values `_acme-challenge` of a zone has.
    fn values(&self, zone: &str) -> Option<u16> {
        let mut question = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["_acme-challenge"].into_iter().chain(zone.split('.')) {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend(label.as_bytes());
        }
        // The root, TXT, IN.
        question.extend([0, 0, 16, 0, 1]);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send_to(&question, self.address()).unwrap();
        let mut answer = [0; 512];
        let (length, _) = socket.recv_from(&mut answer).ok()?;
        assert!(length > 12 && answer[..2] == question[..2]);
        Some(u16::from_be_bytes([answer[6], answer[7]]))
    }
}

/// Obtains a certificate for a name and its wildcard.
fn obtained(bind: &Bind, zone: &str, variables: &[(&str, &str)]) {
    let name_server = Some(bind.address());
    let pebble = Pebble::start(Options { name_server, ..Options::default() });
    let backend = Backend::echo("a");
    let dns = "--certificatesResolvers.le.acme.dnsChallenge";
    let mut flags = pebble.flags("dnsChallenge.provider=rfc2136");
    flags.push(format!("{dns}.resolvers={}", bind.address()));
    // Its own servers are at port 53.
    flags.push(format!("{dns}.propagation.disableANSChecks=true"));
    flags.push(format!("{dns}.propagation.requireAllRNS=true"));
    flags.push(format!("{dns}.credentials.RFC2136_NAMESERVER={}", bind.address()));
    flags.extend(variables.iter().map(|(name, value)| format!("{dns}.credentials.{name}={value}")));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let text = routes(&[&format!("Host(`{zone}`) || Host(`*.{zone}`)")], &backend.url());
    let _gateway = Gateway::with(&flags, &text);
    let roots = pebble.roots();
    let name = format!("any.{zone}");
    eventually(&format!("{zone} {variables:?}"), || {
        get_over_tls(pebble.secure(), &name, &roots).is_ok_and(|status| status == 200)
    });
    eventually("our values are removed, and no other", || bind.values(zone) == Some(1));
}

#[test]
#[ignore = "needs bind and pebble"]
fn records_are_set_at_bind_with_every_algorithm() {
    let bind = Bind::start();
    // Lego's default first.
    let key = [("RFC2136_TSIG_KEY", "sha1"), ("RFC2136_TSIG_SECRET", SECRET)];
    obtained(&bind, "z.test", &key);
    for name in ["sha224", "sha256", "sha384"] {
        let algorithm = format!("hmac-{name}");
        let variables = [
            ("RFC2136_TSIG_KEY", name),
            ("RFC2136_TSIG_SECRET", SECRET),
            ("RFC2136_TSIG_ALGORITHM", &algorithm),
        ];
        obtained(&bind, "z.test", &variables);
    }
    let file = bind.folder.path().join("sha512.key").display().to_string();
    obtained(&bind, "z.test", &[("RFC2136_TSIG_FILE", &file)]);
}

#[test]
#[ignore = "needs bind and pebble"]
fn records_are_set_at_bind_without_a_signature() {
    obtained(&Bind::start(), "open.test", &[]);
}
