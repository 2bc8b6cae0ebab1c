//! Ports of entry points: opened, shared with other processes (`reusePort`), or passed on by a supervisor.

use std::fmt::Display;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use super::listen::{self, BoundSocket};
use super::listener::{Listener, Shared};
use super::passed::Passed;
use super::{StartError, http3};
use crate::settings::{EntryPoint, Settings};
use crate::udp;

/// How many ports the system may choose for an entry point with HTTP/3 on port 0.
const BIND_ATTEMPTS: usize = 16;

/// An entry point for HTTP and TCP, with its ports.
pub(super) struct BoundListener {
    pub(super) listener: Arc<Listener>,
    pub(super) address: SocketAddr,
    pub(super) listeners: Vec<BoundSocket>,
    pub(super) http3: Option<http3::Sockets>,
}

/// An entry point for UDP, with its sockets.
pub(super) struct BoundUdp {
    pub(super) point: Arc<udp::Listener>,
    pub(super) address: SocketAddr,
    pub(super) sockets: Vec<UdpSocket>,
}

/// Opens the ports of entry points, or takes passed ones.
pub(super) struct Binder<'b> {
    pub(super) settings: &'b Settings,
    pub(super) shared: &'b Shared,
    pub(super) passed: Passed,
    pub(super) workers: usize,
}

impl Binder<'_> {
    /// Opens the ports of an entry point for HTTP and TCP.
    pub(super) fn listener(
        &mut self,
        index: usize,
        name: &str,
        options: &EntryPoint,
    ) -> Result<BoundListener, StartError> {
        let invalid =
            |error: &dyn Display| StartError::Option { entry_point: name.into(), message: error.to_string() };
        let failed =
            |error| StartError::Bind { entry_point: name.into(), address: options.address.clone(), error };
        let mut listener = Listener::new(index, name, self.settings, options, self.shared)
            .map_err(|error| invalid(&error))?;
        let passed = self.passed.tcp(name).map_err(failed)?;
        let passed_udp = match options.http3 {
            Some(_) => self.passed.udp(name).map_err(failed)?,
            None => Vec::new(),
        };
        let binds_udp = options.http3.is_some() && passed_udp.is_empty();
        let (listeners, mut http3) = if passed.is_empty() {
            let address = listen::parse_address(&options.address).map_err(|error| invalid(&error))?;
            let (listeners, http3) = self.bind(address, options, binds_udp).map_err(failed)?;
            let port = if options.reuse_port { listen::Port::Shared } else { listen::Port::Own };
            (listeners.into_iter().map(|socket| BoundSocket { socket, port }).collect(), http3)
        } else {
            (listen::adopt(&passed, self.workers).map_err(failed)?, None)
        };
        let address = listeners[0].socket.local_addr().map_err(failed)?;
        if let Some(wanted) = &options.http3 {
            let port = if wanted.advertised_port == 0 { address.port() } else { wanted.advertised_port };
            listener.alternative = http3::alternative(port);
            if !passed_udp.is_empty() {
                http3 = Some(http3::adopt(&passed_udp, self.workers).map_err(failed)?);
            } else if http3.is_none() {
                http3 = Some(http3::bind(address, self.workers, options.reuse_port).map_err(failed)?);
            }
        }
        Ok(BoundListener { listener: Arc::new(listener), address, listeners, http3 })
    }

    /// Binds an address, and if `udp`, the same port for HTTP/3. A port that the system chooses may be in use for UDP:
    /// then it chooses another.
    fn bind(
        &self,
        address: SocketAddr,
        options: &EntryPoint,
        udp: bool,
    ) -> io::Result<(Vec<TcpListener>, Option<http3::Sockets>)> {
        let mut attempts = if address.port() == 0 { BIND_ATTEMPTS } else { 1 };
        loop {
            let listeners = listen::bind(address, self.workers, options.reuse_port)?;
            if !udp {
                return Ok((listeners, None));
            }
            attempts -= 1;
            match http3::bind(listeners[0].local_addr()?, self.workers, options.reuse_port) {
                Ok(sockets) => return Ok((listeners, Some(sockets))),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse || attempts == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Opens the sockets of an entry point for UDP.
    pub(super) fn point(
        &mut self,
        index: usize,
        name: &str,
        options: &EntryPoint,
    ) -> Result<BoundUdp, StartError> {
        let failed =
            |error| StartError::Bind { entry_point: name.into(), address: options.address.clone(), error };
        let (snapshots, opening) = (self.shared.snapshots.clone(), self.shared.opening.clone());
        let mut point = udp::Listener::new(index, name, options, snapshots, opening);
        let mut sockets = self.passed.udp(name).map_err(failed)?;
        if sockets.is_empty() {
            let address = listen::parse_address(&options.address).map_err(|error| StartError::Option {
                entry_point: name.into(),
                message: error.to_string(),
            })?;
            sockets = udp::bind(address, self.workers, options.reuse_port).map_err(failed)?;
            point.is_shared = options.reuse_port;
        } else {
            point.is_passed = true;
        }
        let address = sockets[0].local_addr().map_err(failed)?;
        Ok(BoundUdp { point: Arc::new(point), address, sockets })
    }
}
