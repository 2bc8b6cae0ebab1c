//! Authorities, certificates, revocation lists and OCSP responses made by openssl.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::pki::Owned;

/// An authority with its database.
pub struct Authority {
    folder: tempfile::TempDir,
    /// Certificates between it and the root, itself first; empty for a root.
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate with its files.
pub struct Issued {
    /// With its key and the certificates above it.
    pub own: Owned,
    /// The file with the certificate.
    pub path: PathBuf,
    /// The file with the key.
    pub key_path: PathBuf,
}

/// Runs openssl in a folder. Panics if it fails.
fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const CONFIGURATION: &str = "
[ca]
default_ca = one
[one]
database = index.txt
serial = serial
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 2
default_crl_days = 1
policy = any
crl_extensions = crl
crlnumber = crlnumber
unique_subject = no
[any]
commonName = supplied
[crl]
authorityKeyIdentifier = keyid
[client]
basicConstraints = CA:false
extendedKeyUsage = clientAuth
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
[responder]
basicConstraints = CA:false
extendedKeyUsage = OCSPSigning
[request]
distinguished_name = none
[none]
";

impl Authority {
    /// Creates a root authority with this common name.
    pub fn new(name: &str) -> Self {
        let folder = Self::prepare();
        let subject = format!("/CN={name}");
        openssl(
            folder.path(),
            &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ca.key"],
        );
        openssl(
            folder.path(),
            &[
                "req",
                "-new",
                "-x509",
                "-config",
                "ca.cnf",
                "-extensions",
                "authority",
                "-key",
                "ca.key",
                "-days",
                "3",
                "-subj",
                &subject,
                "-out",
                "ca.pem",
            ],
        );
        Self { folder, chain: Vec::new() }
    }

    fn prepare() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        std::fs::write(place.join("ca.cnf"), CONFIGURATION).unwrap();
        std::fs::write(place.join("index.txt"), "").unwrap();
        std::fs::write(place.join("serial"), "1000\n").unwrap();
        std::fs::write(place.join("crlnumber"), "01\n").unwrap();
        folder
    }

    /// Creates an authority below this one.
    pub fn below(&self, name: &str) -> Self {
        let issued = self.issue_as(name, "authority", "", &[]);
        let folder = Self::prepare();
        std::fs::copy(&issued.path, folder.path().join("ca.pem")).unwrap();
        std::fs::copy(&issued.key_path, folder.path().join("ca.key")).unwrap();
        Self { folder, chain: issued.own.chain }
    }

    /// Returns a file of the authority.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the file with its certificate.
    pub fn certificate(&self) -> String {
        self.file("ca.pem").display().to_string()
    }

    /// Issues a client certificate.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_as(name, "client", "", &[])
    }

    /// Issues a certificate with the extensions of a section, further ones, and options of `openssl ca`.
    pub fn issue_as(&self, name: &str, section: &str, extensions: &str, options: &[&str]) -> Issued {
        let place = self.folder.path();
        let file = |ending: &str| format!("{name}.{ending}");
        let (key, request, certificate, more) = (file("key"), file("csr"), file("crt"), file("cnf"));
        let subject = format!("/CN={name}");
        let section_text = CONFIGURATION.split(&format!("[{section}]\n")).nth(1).unwrap();
        let section_text = section_text.split('[').next().unwrap();
        std::fs::write(place.join(&more), format!("[extensions]\n{section_text}{extensions}\n")).unwrap();
        openssl(place, &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key]);
        openssl(
            place,
            &[
                "req", "-new", "-config", "ca.cnf", "-section", "request", "-key", &key, "-subj", &subject,
                "-out", &request,
            ],
        );
        let mut all = vec![
            "ca",
            "-batch",
            "-notext",
            "-config",
            "ca.cnf",
            "-extfile",
            &more,
            "-extensions",
            "extensions",
            "-in",
            &request,
            "-out",
            &certificate,
        ];
        all.extend(options);
        openssl(place, &all);
        let path = self.file(&certificate);
        let mut chain = vec![CertificateDer::from_pem_file(&path).unwrap()];
        chain.extend(self.chain.iter().cloned());
        let key_path = self.file(&key);
        let own = Owned::new(chain, PrivateKeyDer::from_pem_file(&key_path).unwrap(), 0);
        Issued { own, path, key_path }
    }

    /// Revokes a certificate.
    pub fn revoke(&self, certificate: &Path) {
        let certificate = certificate.display().to_string();
        openssl(self.folder.path(), &["ca", "-batch", "-config", "ca.cnf", "-revoke", &certificate]);
    }

    /// Returns the current revocation list in PEM, made with further options.
    pub fn list(&self, options: &[&str]) -> Vec<u8> {
        let mut all = vec!["ca", "-config", "ca.cnf", "-gencrl", "-out", "list.pem"];
        all.extend(options);
        openssl(self.folder.path(), &all);
        std::fs::read(self.file("list.pem")).unwrap()
    }

    /// Returns the current revocation list in DER.
    pub fn list_in_der(&self) -> Vec<u8> {
        self.list(&[]);
        openssl(self.folder.path(), &["crl", "-in", "list.pem", "-outform", "DER", "-out", "list.der"]);
        std::fs::read(self.file("list.der")).unwrap()
    }

    /// Returns the OCSP response about a certificate, signed by `signer` (the authority itself if `None`).
    pub fn ocsp_response(&self, certificate: &Path, signer: Option<&Issued>, options: &[&str]) -> Vec<u8> {
        let place = self.folder.path();
        let certificate = certificate.display().to_string();
        let (own, own_key) = (self.file("ca.pem"), self.file("ca.key"));
        let (signer, key) = signer.map_or((&own, &own_key), |signer| (&signer.path, &signer.key_path));
        let (signer, key) = (signer.display().to_string(), key.display().to_string());
        openssl(
            place,
            &["ocsp", "-issuer", "ca.pem", "-cert", &certificate, "-no_nonce", "-reqout", "request.der"],
        );
        let mut all = vec![
            "ocsp",
            "-index",
            "index.txt",
            "-CA",
            "ca.pem",
            "-rsigner",
            &signer,
            "-rkey",
            &key,
            "-reqin",
            "request.der",
            "-respout",
            "response.der",
        ];
        all.extend(options);
        openssl(place, &all);
        std::fs::read(self.file("response.der")).unwrap()
    }

    /// Starts `openssl ocsp` as a responder on a port. It knows the certificates of now, and not those of later.
    pub fn responder(&self, signer: &Issued, port: u16) -> Responder {
        let mut child = Command::new("openssl")
            .args(["ocsp", "-index", "index.txt", "-CA", "ca.pem", "-nmin", "1", "-ignore_err"])
            .arg("-port")
            .arg(port.to_string())
            .arg("-rsigner")
            .arg(&signer.path)
            .arg("-rkey")
            .arg(&signer.key_path)
            .current_dir(self.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A connection without a request would keep it busy.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.starts_with("ACCEPT"), "{line}");
        Responder { child, _output: output }
    }
}

/// A running responder.
pub struct Responder {
    child: Child,
    _output: BufReader<ChildStdout>,
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
