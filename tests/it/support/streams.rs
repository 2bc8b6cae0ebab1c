//! Servers and clients for plain TCP and TLS, for what is not HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConnection, RootCertStore, ServerConnection, StreamOwned};

/// A TCP server on a free port that passes each connection to a function, in a thread.
pub struct Server {
    /// Its address.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Passes each connection to `serve`.
    pub fn with(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
    }

    /// Does so on an existing listener.
    pub fn on(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (serve, count) = (Arc::new(serve), connections.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { address, connections }
    }

    /// Sends a greeting with its name first, and then echoes every byte until the client has finished.
    pub fn greeter(name: &str) -> Self {
        let name = name.to_owned();
        Self::with(move |mut stream| {
            let _ = stream.write_all(format!("hello from {name}\n").as_bytes());
            let mut copy = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut stream, &mut copy);
        })
    }

    /// Echoes every byte after its name and a colon, until the client has finished.
    pub fn echo(name: &str) -> Self {
        let name = name.to_owned();
        Self::with(move |mut stream| {
            let mut first = [0; 1024];
            let Ok(length) = stream.read(&mut first) else { return };
            let _ = stream.write_all(format!("{name}:").as_bytes());
            let _ = stream.write_all(&first[..length]);
            let mut copy = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut stream, &mut copy);
        })
    }

    /// Does so over TLS, with a certificate for this name.
    pub fn tls_echo(name: &str, identity: &Identity) -> Self {
        let (name, config) = (name.to_owned(), identity.server());
        Self::with(move |stream| {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            let mut bytes = [0; 1024];
            if let Ok(length) = stream.read(&mut bytes) {
                let _ = stream.write_all(format!("{name}:").as_bytes());
                let _ = stream.write_all(&bytes[..length]);
            }
            stream.conn.send_close_notify();
            let _ = stream.flush();
        })
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A certificate with its key.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    der: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Identity {
    /// Creates a self-signed certificate for these names.
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let der = rcgen::generate_simple_self_signed(names).unwrap();
        Self { certificate: der.cert.pem(), key: der.signing_key.serialize_pem(), der }
    }

    /// Returns the certificate in DER.
    pub fn certificate(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.der.cert.der().clone()
    }

    fn server(&self) -> Arc<rustls::ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.der.signing_key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.cert.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }

    /// Creates a TLS client on this connection that trusts only this certificate.
    pub fn client(&self, stream: TcpStream, name: &str, protocols: &[&str]) -> Tls {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.cert.der().clone()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
        let connection = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        StreamOwned::new(connection.unwrap(), stream)
    }
}

/// A TLS client.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Connects a TCP client, with a timeout of 20 s.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Reads this many bytes as text.
pub fn take(stream: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Sends a text and reads a response that ends with it; empty if the connection was closed instead.
pub fn say(stream: &mut (impl Read + Write), text: &str) -> String {
    if stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_err() {
        return String::new();
    }
    let mut all = Vec::new();
    let mut bytes = [0; 1024];
    while !all.ends_with(text.as_bytes()) {
        match stream.read(&mut bytes) {
            Ok(length) if length > 0 => all.extend_from_slice(&bytes[..length]),
            _ => return String::new(),
        }
    }
    String::from_utf8(all).unwrap()
}

/// Returns true if the peer has closed the connection without sending anything more.
pub fn is_closed(stream: &mut impl Read) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
