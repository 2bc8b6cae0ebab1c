//! Consul Connect: mutual TLS between services with certificates of Consul's CA.
//!
//! The agent provides the gateway's certificate and the roots; both are renewed at run time. Each service
//! gets a transport that presents the certificate and accepts only the identity of that service.

use std::sync::Arc;

use serde::Deserialize;
use tidegate_config::tcp::{TcpServersTransport, TcpTransportTls};
use tidegate_config::tls::CertificateFiles;
use tidegate_config::transport::ServersTransport;
use tidegate_config::{Kind, ObjectRef, Origin, Provided};

use super::model::Instance;
use crate::template::functions::normalize;

/// `/v1/agent/connect/ca/roots`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Roots {
    pub(super) trust_domain: String,
    pub(super) roots: Vec<Root>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Root {
    root_cert: String,
}

/// `/v1/agent/connect/ca/leaf/<service>`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Leaf {
    #[serde(rename = "CertPEM")]
    certificate: String,
    #[serde(rename = "PrivateKeyPEM")]
    key: String,
}

/// The gateway's certificate in Connect, and the trusted roots.
#[derive(Clone, PartialEq)]
pub(super) struct Identity {
    trust_domain: String,
    roots: Vec<String>,
    certificate: CertificateFiles,
}

impl Identity {
    /// Returns `None` while a part is missing.
    pub(super) fn new(roots: &Roots, leaf: &Leaf) -> Option<Self> {
        let trust_domain = roots.trust_domain.clone();
        let roots: Vec<String> =
            roots.roots.iter().map(|root| root.root_cert.clone()).filter(|pem| !pem.is_empty()).collect();
        let complete = !roots.is_empty() && !leaf.certificate.is_empty() && !leaf.key.is_empty();
        let certificate =
            CertificateFiles { cert_file: leaf.certificate.clone(), key_file: leaf.key.clone() };
        complete.then_some(Self { trust_domain, roots, certificate })
    }

    /// Adds a Connect transport to all servers in the configuration of one instance.
    pub(super) fn secure(&self, provided: &mut Provided, name: &str, instance: &Instance, origin: &Origin) {
        let (namespace, datacenter) = (&instance.namespace, &instance.datacenter);
        let transport = normalize(&format!("tls-{namespace}-{datacenter}-{name}"));
        let partition = match instance.partition.as_str() {
            "" => String::new(),
            partition => format!("/ap/{partition}"),
        };
        let uri =
            format!("spiffe://{}{partition}/ns/{namespace}/dc/{datacenter}/svc/{name}", self.trust_domain);
        let http = &mut provided.config.http;
        for service in http.services.values_mut() {
            let Some(balancer) = &mut Arc::make_mut(service).load_balancer else { continue };
            balancer.servers_transport.clone_from(&transport);
            for server in &mut balancer.servers {
                if let Some((_, rest)) = server.url.split_once("://") {
                    server.url = format!("https://{rest}");
                }
            }
        }
        if !http.services.is_empty() {
            let options = ServersTransport {
                // Connect certificates have no host names: the URI is verified instead.
                insecure_skip_verify: true,
                root_cas: self.roots.clone(),
                certificates: vec![self.certificate.clone()],
                peer_cert_uri: uri.clone(),
                ..ServersTransport::default()
            };
            http.servers_transports.insert(transport.clone(), Arc::new(options));
            let object = ObjectRef { kind: Kind::ServersTransport, name: transport.clone() };
            provided.origins.insert(object, origin.clone().into());
        }
        let tcp = &mut provided.config.tcp;
        for service in tcp.services.values_mut() {
            let Some(balancer) = &mut Arc::make_mut(service).load_balancer else { continue };
            balancer.servers_transport.clone_from(&transport);
            balancer.servers.iter_mut().for_each(|server| server.tls = true);
        }
        if !tcp.services.is_empty() {
            let tls = TcpTransportTls {
                insecure_skip_verify: true,
                root_cas: self.roots.clone(),
                certificates: vec![self.certificate.clone()],
                peer_cert_uri: uri,
                ..TcpTransportTls::default()
            };
            let options = TcpServersTransport { tls: Some(tls), ..TcpServersTransport::default() };
            tcp.servers_transports.insert(transport.clone(), Arc::new(options));
            let object = ObjectRef { kind: Kind::TcpServersTransport, name: transport };
            provided.origins.insert(object, origin.clone().into());
        }
    }
}
