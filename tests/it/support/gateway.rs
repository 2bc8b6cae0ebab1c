//! A gateway in this process, on ports chosen by the system, with a folder of route files.

use std::net::SocketAddr;
use std::path::Path;

use tidegate::gateway::{Gateway as Inner, Options};
use tidegate::settings;

use super::{eventually, get};

/// A running gateway. Stops when dropped.
pub struct Gateway {
    inner: Inner,
    folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts a gateway with the entry points `web` (with default limits) and `traefik` (API), and these
    /// routes.
    pub fn serve(routes: &str) -> Self {
        Self::with(&[], routes)
    }

    /// Starts a gateway with further settings, given as flags.
    pub fn with(flags: &[&str], routes: &str) -> Self {
        let gateway = Self::unready(flags, routes);
        eventually("every provider has delivered", || gateway.inner.is_ready());
        gateway
    }

    /// Starts a gateway without waiting for providers to deliver.
    pub fn unready(flags: &[&str], routes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("routes.yml"), routes).unwrap();
        let mut all = vec![
            "--entryPoints.web.address=127.0.0.1:0".to_owned(),
            "--entryPoints.traefik.address=127.0.0.1:0".to_owned(),
            "--api.insecure=true".to_owned(),
            "--ping=true".to_owned(),
            format!("--providers.file.directory={}", folder.path().display()),
        ];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let loaded = settings::load(&all, &[]).unwrap_or_else(|problems| panic!("{problems:?}"));
        let inner = Inner::start(loaded.settings, Options { workers: 2, ..Options::default() }).unwrap();
        Self { inner, folder }
    }

    /// Returns routes that send all requests to one server.
    pub fn one_service(url: &str) -> String {
        format!(
            "http:\n  routers:\n    all: {{rule: 'PathPrefix(`/`)', service: a}}\n  services:\n    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"
        )
    }

    /// Returns the address of the entry point `web`.
    pub fn web(&self) -> SocketAddr {
        self.address("web")
    }

    /// Returns the address of an entry point.
    pub fn address(&self, entry_point: &str) -> SocketAddr {
        self.inner.addresses()[entry_point]
    }

    /// Returns the folder of route files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces a route file atomically.
    pub fn write(&self, name: &str, text: &str) {
        let beside = self.folder.path().join(format!(".{name}.new"));
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.folder.path().join(name)).unwrap();
    }

    /// Removes a route file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    /// Returns a response of the API.
    pub fn api(&self, path: &str) -> String {
        get(self.address("traefik"), "h", path).text()
    }

    /// Stops gracefully, and returns when everything has stopped.
    pub fn shutdown(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.inner.shutdown());
    }

    /// Returns the number of snapshots so far.
    pub fn generation(&self) -> u64 {
        self.inner.generation()
    }

    /// Returns the active configuration, with names as `name@provider`.
    pub fn config(&self) -> tidegate_config::Config {
        self.inner.snapshot().report.config.clone()
    }

    /// Returns who orders certificates, for shared storages.
    pub fn leadership(&self) -> Vec<tidegate::acme::Leadership> {
        self.inner.leadership()
    }

    /// Returns the current problems of the configuration.
    pub fn problems(&self) -> Vec<String> {
        self.inner.snapshot().report.problems.iter().map(ToString::to_string).collect()
    }
}
