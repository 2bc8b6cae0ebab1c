//! What the client of an HTTPS request would see in its handshake.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tidegate_config::{Kind, ObjectRef};
use time::format_description::well_known::Rfc3339;
use x509_parser::extensions::GeneralName;

use super::report::{CertificateView, TlsView};
use crate::snapshot::Snapshot;
use crate::tls::{CertificateSource, NamedOptions, Served};

/// The handshake of a request.
pub(super) struct Handshake {
    pub(super) view: TlsView,
    /// The options of the connection.
    pub(super) options: Arc<NamedOptions>,
    /// Whether the client must have a certificate.
    pub(super) demands_certificate: bool,
    /// Why it fails, if it does.
    pub(super) failure: Option<&'static str>,
}

/// Returns the handshake of a client that connects to this host; `None` if the entry point has no routes.
pub(super) fn handshake(snapshot: &Snapshot, entry_point: usize, host: &str) -> Option<Handshake> {
    let address: Option<IpAddr> = host.parse().ok();
    // Clients send no server name for an address.
    let server_name = address.is_none().then(|| host.to_owned());
    let options = snapshot.tls_options_of(entry_point, host)?.clone();
    let tls = &snapshot.tls;
    let is_valid = tls.has_options(&options.name);
    let local = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let served = tls.served(&options.name, server_name.as_deref(), local).filter(|_| is_valid);
    let is_on_demand = tls.is_on_demand(server_name.as_deref());
    let demands_certificate = tls.demands_certificate(&options.name);
    let object = ObjectRef { kind: Kind::TlsOptions, name: options.name.to_string() };
    let failure = match (&served, is_on_demand) {
        _ if !is_valid => Some("the TLS options are missing or broken"),
        (None, false) => Some("no certificate for this server name (`sniStrict`)"),
        _ => None,
    };
    let mut notes: Vec<String> = failure.iter().map(|why| (*why).to_owned()).collect();
    if is_on_demand {
        notes.push("a certificate resolver obtains a certificate in the first handshake".to_owned());
    }
    let client_certificate = match (demands_certificate, options.verifies_clients) {
        (true, _) => Some("required"),
        (false, true) => Some("verified"),
        (false, false) => None,
    };
    notes.extend(tls.checks_of(&options.name).map(|checks| checks.summary()));
    let view = TlsView {
        server_name,
        options: options.name.to_string(),
        options_origin: snapshot.report.tls_origins.get(&object).map(ToString::to_string),
        client_certificate,
        certificate: served.map(|served| certificate(snapshot, &served)),
        notes,
    };
    Some(Handshake { view, options, demands_certificate, failure })
}

fn certificate(snapshot: &Snapshot, served: &Served) -> CertificateView {
    let fingerprint = Sha256::digest(&served.leaf).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut view = CertificateView {
        fingerprint,
        source: served.source.name(),
        origin: origin(snapshot, served),
        ..CertificateView::default()
    };
    if let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&served.leaf) {
        let common = |name: &x509_parser::x509::X509Name<'_>| {
            name.iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default().to_owned()
        };
        view.issuer = common(parsed.issuer());
        view.not_after = parsed.validity().not_after.to_datetime().format(&Rfc3339).unwrap_or_default();
        if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
            view.names = alternative.value.general_names.iter().filter_map(name).collect();
        }
        if view.names.is_empty() {
            view.names = vec![common(parsed.subject())];
        }
    }
    view
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|v4| IpAddr::from(v4).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|v6| IpAddr::from(v6).to_string()),
        },
        _ => None,
    }
}

/// Returns where a configured certificate was written.
fn origin(snapshot: &Snapshot, served: &Served) -> Option<String> {
    let origins = &snapshot.report.tls_origins;
    if served.source == CertificateSource::Default {
        let store = origins.iter().find(|(object, _)| object.kind == Kind::TlsStore)?;
        return Some(store.1.to_string());
    }
    let (cert, key) = served.files.as_ref()?;
    let all = &snapshot.report.config.tls.certificates;
    let place = all.iter().position(|one| one.cert_file == *cert && one.key_file == *key)?;
    origins.get(&ObjectRef { kind: Kind::Certificate, name: place.to_string() }).map(ToString::to_string)
}
