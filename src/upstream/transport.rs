//! A validated `serversTransport`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256};
use tidegate_clients::tls::{self, Part, TlsError, TlsOptions};
use tidegate_config::transport::{ForwardingTimeouts, ServersTransport};
use tidegate_core::tls_version::TlsVersion;
use tidegate_core::word::Word;
use tidegate_core::{BuildError, BuildErrors};
use tokio_rustls::TlsConnector;

use super::connect::Host;

/// Default number of idle connections per server (`maxIdleConnsPerHost` of Traefik's default transport).
const DEFAULT_MAX_IDLE: usize = 200;
/// Timeout for the response to a ping if `pingTimeout` is 0, as in Go.
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// A validated [`ServersTransport`].
pub struct Transport {
    timeouts: ForwardingTimeouts,
    max_idle: usize,
    server_name: String,
    tls: TlsOptions,
    http2: bool,
    configs: OnceLock<Result<Configs, BuildError>>,
    fingerprint: [u8; 32],
}

impl Transport {
    /// Validates the options and prepares TLS. `file` reads a file named in them and has it watched.
    pub fn build(
        options: &ServersTransport,
        file: &mut dyn FnMut(&str) -> Result<Vec<u8>, BuildError>,
    ) -> Result<Arc<Self>, BuildError> {
        if options.spiffe.is_some() {
            return Err(BuildError::new(
                "spiffe: SPIFFE identities are not supported; use `certificates`, `rootCAs` and `peerCertURI`",
            ));
        }
        let mut read = |text: &str| {
            if tls::is_pem(text) { Ok(text.as_bytes().to_vec()) } else { file(text) }
        };
        let mut errors = BuildErrors::default();
        let roots = options.root_cas.iter().filter_map(|ca| errors.check(read(ca))).collect();
        let mut identities = Vec::new();
        for files in &options.certificates {
            let (chain, key) = (read(&files.cert_file), read(&files.key_file));
            identities.extend(errors.check(chain).zip(errors.check(key)));
        }
        let tls = TlsOptions {
            roots,
            system_roots: false,
            identities,
            insecure: options.insecure_skip_verify,
            cipher_suites: options.cipher_suites.clone(),
            min_version: errors.check(version("minVersion", &options.min_version)).flatten(),
            max_version: errors.check(version("maxVersion", &options.max_version)).flatten(),
            peer_cert_uri: options.peer_cert_uri.clone(),
        };
        let transport = errors.check(Self::with_tls(options, tls));
        errors.made(transport)
    }

    /// Returns a hash of its options and the content of its files.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    pub(super) fn with_tls(options: &ServersTransport, tls: TlsOptions) -> Result<Arc<Self>, BuildError> {
        let mut errors = BuildErrors::default();
        errors.check(tls.check().map_err(tls_error));
        if !options.server_name.is_empty() {
            let name = server_name(&options.server_name);
            errors.check(name.map_err(|error| BuildError::new(error.to_string())));
        }
        errors.finish()?;
        let transport = Self {
            timeouts: options.forwarding_timeouts.clone().unwrap_or_default(),
            max_idle: match options.max_idle_conns_per_host {
                0 => DEFAULT_MAX_IDLE,
                limit => usize::try_from(limit).unwrap_or(0),
            },
            server_name: options.server_name.clone(),
            fingerprint: fingerprint(options, &tls),
            tls,
            http2: !options.disable_http2,
            configs: OnceLock::new(),
        };
        // System roots are read lazily, on the first TLS connection.
        if transport.tls.insecure || !transport.tls.roots.is_empty() {
            transport.configs()?;
        }
        Ok(Arc::new(transport))
    }

    /// Returns the connect timeout; `None` for no limit.
    pub(super) fn dial_timeout(&self) -> Option<Duration> {
        let timeout = self.timeouts.dial_timeout;
        if timeout.is_negative() { Some(Duration::ZERO) } else { timeout.limit() }
    }

    /// Zero for none.
    pub(super) fn response_header_timeout(&self) -> Duration {
        self.timeouts.response_header_timeout.limit().unwrap_or_default()
    }

    /// Zero for none.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.timeouts.idle_conn_timeout.limit().unwrap_or_default()
    }

    /// Returns the idle time before a ping, and its timeout; `None` for no pings.
    pub(super) fn ping(&self) -> Option<(Duration, Duration)> {
        let silence = self.timeouts.read_idle_timeout.limit()?;
        Some((silence, self.timeouts.ping_timeout.limit().unwrap_or(PING_TIMEOUT)))
    }

    pub(super) fn max_idle(&self) -> usize {
        self.max_idle
    }

    pub(super) fn tls_connector(&self, http1: bool) -> Result<TlsConnector, BuildError> {
        let configs = self.configs()?;
        Ok(TlsConnector::from(if http1 { configs.http1.clone() } else { configs.any.clone() }))
    }

    /// Returns the server name to send and verify.
    pub(super) fn server_name(&self, host: &Host) -> Result<ServerName<'static>, ServerNameError> {
        match host {
            _ if !self.server_name.is_empty() => server_name(&self.server_name),
            Host::Address(ip) => Ok(ServerName::IpAddress((*ip).into())),
            Host::Name(name) => server_name(name),
        }
    }

    fn configs(&self) -> Result<&Configs, BuildError> {
        self.configs.get_or_init(|| Configs::new(&self.tls, self.http2)).as_ref().map_err(Clone::clone)
    }
}

/// The two configurations of a transport: with HTTP/2, and without for upgrades.
struct Configs {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl Configs {
    fn new(tls: &TlsOptions, http2: bool) -> Result<Self, BuildError> {
        let mut config = tls.client_config().map_err(tls_error)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone());
        if http2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        Ok(Self { any: Arc::new(config), http1 })
    }
}

/// Converts a TLS error, adding the name of the invalid option.
pub(crate) fn tls_error(error: TlsError) -> BuildError {
    BuildError::new(match (error.part(), &error) {
        (_, TlsError::NoSystemRoots) => format!("{error}: set `rootCAs`"),
        (Part::Roots, _) => format!("rootCAs: {error}"),
        (Part::Certificate | Part::Key, _) => format!("certificates: {error}"),
        // The message already has the option.
        (Part::Protocol, _) => error.to_string(),
    })
}

/// An invalid server name for TLS.
#[derive(Clone, Debug, thiserror::Error)]
#[error("invalid server name `{0}`")]
pub(crate) struct ServerNameError(String);

/// Returns the server name for a TLS handshake.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, ServerNameError> {
    ServerName::try_from(name.to_owned()).map_err(|_| ServerNameError(name.to_owned()))
}

fn version(option: &str, written: &Word<TlsVersion>) -> Result<Option<TlsVersion>, BuildError> {
    written.meaning().map_err(|error| BuildError::new(format!("{option}: {error}")))
}

fn fingerprint(options: &ServersTransport, tls: &TlsOptions) -> [u8; 32] {
    let mut hash = Sha256::new();
    // Serialising the options cannot fail.
    hash.update(serde_json::to_vec(options).unwrap_or_default());
    for part in tls.roots.iter().chain(tls.identities.iter().flat_map(|(chain, key)| [chain, key])) {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(path: &str) -> Result<Vec<u8>, BuildError> {
        Err(BuildError::new(format!("cannot read `{path}`")))
    }

    #[test]
    fn invalid_options_are_rejected() {
        let spiffe = ServersTransport { spiffe: Some(Default::default()), ..Default::default() };
        assert!(Transport::build(&spiffe, &mut none).err().unwrap().to_string().contains("spiffe"));
        let missing = ServersTransport { root_cas: vec!["ca.pem".into()], ..Default::default() };
        assert!(Transport::build(&missing, &mut none).err().unwrap().to_string().contains("ca.pem"));
        let name = ServersTransport { server_name: "a b".into(), ..Default::default() };
        assert!(Transport::build(&name, &mut none).is_err());
        let versions = ServersTransport { min_version: "VersionTLS12".into(), ..Default::default() };
        assert!(Transport::build(&versions, &mut none).is_ok(), "minVersion alone is fine");
    }

    #[test]
    fn the_fingerprint_follows_options_and_files() {
        let pem = |name: &str| rcgen::generate_simple_self_signed(vec![name.into()]).unwrap().cert.pem();
        let options = ServersTransport { root_cas: vec!["ca.pem".into()], ..Default::default() };
        let (one, two) = (pem("one"), pem("two"));
        let build = |text: &str| {
            *Transport::build(&options, &mut |_| Ok(text.as_bytes().to_vec())).unwrap().fingerprint()
        };
        assert_eq!(build(&one), build(&one));
        assert_ne!(build(&one), build(&two));
    }

    #[test]
    fn http2_is_offered_unless_disabled_or_excluded() {
        let root = rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert.pem();
        let protocols = |disable_http2: bool| {
            let options =
                ServersTransport { root_cas: vec![root.clone()], disable_http2, ..Default::default() };
            let transport = Transport::build(&options, &mut none).unwrap();
            let configs = transport.configs().unwrap();
            [&configs.any, &configs.http1].map(|config| config.alpn_protocols.concat())
        };
        assert_eq!(protocols(false), [b"h2http/1.1".to_vec(), b"http/1.1".to_vec()]);
        assert_eq!(protocols(true), [b"http/1.1".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn tls_errors_name_the_option() {
        for (options, text) in [
            (ServersTransport { root_cas: vec!["-----BEGIN x".into()], ..Default::default() }, "rootCAs: "),
            (ServersTransport { min_version: "1.2".into(), ..Default::default() }, "minVersion: `1.2`"),
        ] {
            let error = Transport::build(&options, &mut none).err().unwrap().to_string();
            assert!(error.starts_with(text), "{error}");
        }
    }
}
