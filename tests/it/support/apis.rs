//! Stand-ins of HTTPS APIs under their own names: a proxy that answers for every host.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::backend::{Seen, read_request};
use super::tls;

/// A proxy that ends the TLS of these hosts, and the certificate that clients have to trust for it.
pub struct Apis {
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Apis {
    /// Starts a proxy for these hosts. `answer` gets the host and the request, and returns status and body.
    pub fn start(
        hosts: &[&str],
        answer: impl Fn(&str, &Seen) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let own = tls::certificate(hosts);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), own.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let (config, answer) = (Arc::new(config), Arc::new(answer));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (config, answer) = (config.clone(), answer.clone());
                std::thread::spawn(move || serve(client, config, answer.as_ref()));
            }
        });
        Self { address, folder }
    }

    /// Returns a shell command that runs `"$0" "$@"` with the proxy, and with its certificate as the only trusted one.
    pub fn command(&self) -> String {
        let ca = self.folder.path().join("ca.pem");
        format!(
            r#"exec env -u NO_PROXY -u no_proxy HTTPS_PROXY=http://{} SSL_CERT_FILE={} "$0" "$@""#,
            self.address,
            ca.display()
        )
    }
}

fn serve(
    mut client: TcpStream,
    config: Arc<ServerConfig>,
    answer: &(dyn Fn(&str, &Seen) -> (u16, String) + Send + Sync),
) {
    let _ = client.set_read_timeout(Some(Duration::from_secs(60)));
    let Some(opening) = read_request(&mut client, &mut Vec::new()) else { return };
    assert_eq!(opening.method(), "CONNECT", "{}", opening.head);
    let host = opening.target().strip_suffix(":443").unwrap().to_owned();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), client);
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer) {
        let (status, body) = answer(&host, &seen);
        let length = match status {
            204 => String::new(),
            _ => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
        };
        if write!(stream, "HTTP/1.1 {status} Status\r\n{length}\r\n{body}").is_err()
            || stream.flush().is_err()
        {
            return;
        }
    }
}
