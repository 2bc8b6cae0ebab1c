//! The middleware `ldap` with a real OpenLDAP.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::support::outside::{Running, program};
use crate::support::{Answer, Backend, Gateway, eventually, free_port, get_with};

const USERS: &str = "\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: cn=gateway,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: gateway
userPassword: own

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: uid=Ann,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: Ann
cn: Ann Example
sn: Example
mail: ann@example.org
departmentNumber: ops
userPassword: right

dn: uid=O\\2C Brien\\2B,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: O, Brien+
cn: shared
sn: O Brien
userPassword: right

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: shared
sn: Bob
userPassword: bobs

dn: cn=admins,dc=example,dc=org
objectClass: groupOfNames
cn: admins
member: uid=Ann,ou=people,dc=example,dc=org

dn: cn=readers,dc=example,dc=org
objectClass: groupOfNames
cn: readers
member: uid=Ann,ou=people,dc=example,dc=org
member: uid=bob,ou=people,dc=example,dc=org
";

/// A directory with its own authority.
struct Slapd {
    port: u16,
    secure_port: u16,
    folder: tempfile::TempDir,
    running: Option<Running>,
}

impl Slapd {
    /// Starts a directory with the users above; `more` is added to its configuration.
    fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        certificates(folder.path());
        std::fs::create_dir(folder.path().join("data")).unwrap();
        let schemas: String = ["core", "cosine", "inetorgperson"]
            .map(|name| format!("include /etc/ldap/schema/{name}.schema\n"))
            .concat();
        let config = format!(
            "{schemas}pidfile {path}/pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             TLSCACertificateFile {path}/ca.pem\nTLSCertificateFile {path}/cert.pem\n\
             TLSCertificateKeyFile {path}/key.pem\n{more}\ndatabase mdb\nsuffix dc=example,dc=org\n\
             rootdn cn=root,dc=example,dc=org\ndirectory {path}/data\n\
             access to attrs=userPassword by anonymous auth by * none\naccess to * by users read by * none\n"
        );
        std::fs::write(folder.path().join("slapd.conf"), config).unwrap();
        std::fs::write(folder.path().join("users.ldif"), USERS).unwrap();
        let mut add = Command::new(program("slapadd"));
        let output =
            add.args(["-f", "slapd.conf", "-l", "users.ldif"]).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut slapd = Self { port: free_port(), secure_port: free_port(), folder, running: None };
        slapd.run();
        slapd
    }

    fn run(&mut self) {
        let urls = format!("ldap://127.0.0.1:{} ldaps://127.0.0.1:{}", self.port, self.secure_port);
        let mut command = Command::new(program("slapd"));
        command.args(["-d", "0", "-f", "slapd.conf", "-h", &urls]);
        self.running = Some(Running::start(&mut command, self.folder.path()));
        for port in [self.port, self.secure_port] {
            eventually("slapd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
    }

    fn kill(&mut self) {
        self.running = None;
    }

    fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    fn secure_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.secure_port)
    }

    fn authority(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }
}

/// Creates an authority, and a certificate of it for 127.0.0.1.
fn certificates(folder: &Path) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(folder.join("ca.pem"), params.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("cert.pem"), own.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}

/// Starts a gateway whose router `/` needs a user, and `/ops` one of the group `admins`.
fn gateway(options: &str) -> (Gateway, Backend) {
    let service = Backend::echo("a");
    let text = format!(
        "http:\n  routers:\n    a: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [users]}}\n    \
         ops: {{rule: 'PathPrefix(`/ops`)', service: a, middlewares: [users, ops]}}\n  middlewares:\n    \
         users: {{ldap: {{{options}}}}}\n    ops: {{access: {{allow: 'Group(`admins`)'}}}}\n  services:\n    \
         a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
        service.url()
    );
    (Gateway::serve(&text), service)
}

fn ask(gateway: &Gateway, path: &str, user: &str, password: &str) -> Answer {
    let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
    get_with(gateway.web(), "a.test", path, &format!("Authorization: Basic {credentials}\r\n"))
}

fn status(gateway: &Gateway, path: &str, user: &str, password: &str) -> u16 {
    ask(gateway, path, user, password).status
}

/// Options of search mode with groups.
fn searching(url: &str) -> String {
    format!(
        "url: '{url}', bindDN: 'cn=gateway,dc=example,dc=org', bindPassword: own, baseDN: 'dc=example,dc=org', \
         searchFilter: '(&(objectClass=inetOrgPerson)(|(uid=%s)(mail=%s)))', \
         groups: {{searchFilter: '(&(objectClass=groupOfNames)(member=%s))'}}"
    )
}

#[test]
#[ignore = "needs slapd"]
fn users_are_found_with_their_groups_and_injection_finds_nobody() {
    let slapd = Slapd::start("");
    let (gateway, _service) = gateway(&searching(&slapd.url()));
    let answer = ask(&gateway, "/", "ANN", "right");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().to_lowercase().contains("username: ann"), "{}", answer.text());
    assert!(!answer.text().to_lowercase().contains("authorization:"), "{}", answer.text());
    assert_eq!(status(&gateway, "/ops", "ann@example.org", "right"), 200);
    assert_eq!(status(&gateway, "/", "bob", "bobs"), 200);
    assert_eq!(status(&gateway, "/ops", "bob", "bobs"), 403, "not in the group");
    for (user, password) in [
        ("ann", "wrong"),
        ("ann", ""),
        ("nobody", "right"),
        ("*", "right"),
        ("A*", "right"),
        ("*)(uid=*", "right"),
        ("Ann)(objectClass=*", "right"),
        ("Ann\0", "right"),
        ("\\41nn", "right"),
        ("\\", "right"),
        ("gateway", "own"),
    ] {
        assert_eq!(status(&gateway, "/", user, password), 401, "{user:?} {password:?}");
    }
    assert_eq!(status(&gateway, "/", "O, Brien+", "right"), 200);
}

#[test]
#[ignore = "needs slapd"]
fn two_entries_with_one_name_are_nobody() {
    let slapd = Slapd::start("");
    let options = format!(
        "url: '{}', bindDN: 'cn=gateway,dc=example,dc=org', bindPassword: own, baseDN: 'dc=example,dc=org', \
         searchFilter: '(cn=%s)'",
        slapd.url()
    );
    let (gateway, _service) = gateway(&options);
    assert_eq!(status(&gateway, "/", "shared", "right"), 401);
    assert_eq!(status(&gateway, "/", "shared", "bobs"), 401);
    assert_eq!(status(&gateway, "/", "Ann Example", "right"), 200);
}

#[test]
#[ignore = "needs slapd"]
fn users_bind_directly_over_tls() {
    let slapd = Slapd::start("");
    let options = format!(
        "url: '{}', certificateAuthority: '{}', baseDN: 'ou=people,dc=example,dc=org', attribute: uid, \
         groups: {{attribute: departmentNumber}}",
        slapd.secure_url(),
        slapd.authority()
    );
    let (gateway, _service) = gateway(&options);
    let answer = ask(&gateway, "/", "ann", "right");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(status(&gateway, "/", "O, Brien+", "right"), 200, "a name that needs escaping");
    for (user, password) in
        [("ann", "wrong"), ("ann", ""), ("Ann,ou=people", "right"), ("ann+uid=bob", "right"), ("", "right")]
    {
        assert_eq!(status(&gateway, "/", user, password), 401, "{user:?} {password:?}");
    }
}

#[test]
#[ignore = "needs slapd"]
fn start_tls_trusts_only_its_authority() {
    // Without TLS, the server accepts no passwords.
    let slapd = Slapd::start("security simple_bind=128");
    let options = searching(&slapd.url());
    let secure = format!("{options}, startTLS: true, certificateAuthority: '{}'", slapd.authority());
    let (trusting, _service) = gateway(&secure);
    assert_eq!(status(&trusting, "/ops", "ann", "right"), 200);
    assert_eq!(status(&trusting, "/ops", "ann", "wrong"), 401);
    let (other, _other_service) = gateway(&format!("{options}, startTLS: true"));
    assert_eq!(status(&other, "/", "ann", "right"), 503, "the system does not trust the authority");
    let (plain, _plain_service) = gateway(&options);
    assert_eq!(status(&plain, "/", "ann", "right"), 503, "the server refuses");
}

#[test]
#[ignore = "needs slapd"]
fn a_server_that_is_killed_and_restarted_is_used_again() {
    let mut slapd = Slapd::start("");
    let (gateway, _service) = gateway(&searching(&slapd.url()));
    assert_eq!(status(&gateway, "/", "ann", "right"), 200);
    slapd.kill();
    assert_eq!(status(&gateway, "/", "ann", "right"), 200, "right passwords are remembered");
    assert_eq!(status(&gateway, "/", "ann", "wrong"), 503);
    let answer = ask(&gateway, "/", "bob", "bobs");
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    slapd.run();
    eventually("users can sign in again", || status(&gateway, "/", "bob", "bobs") == 200);
    assert_eq!(status(&gateway, "/", "ann", "wrong"), 401);
}
