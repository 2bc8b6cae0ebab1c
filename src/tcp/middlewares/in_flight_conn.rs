//! Limits the number of open connections per client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tidegate_core::Connection;
use tidegate_core::occupancy::{Limit, Occupancy, Offenders, Refusals};

use super::{Middleware, Permit};

/// Traefik's TCP `inFlightConn`.
pub(super) struct InFlightConn {
    amount: i64,
    open: Arc<OpenConnections>,
    offenders: Offenders,
}

/// Number of open connections by address. Addresses without connections are removed.
type OpenConnections = Mutex<HashMap<IpAddr, i64, RandomState>>;

impl InFlightConn {
    /// Returns a limit of `amount` connections per address.
    pub(super) fn new(amount: i64) -> Self {
        Self { amount, open: Arc::default(), offenders: Offenders::default() }
    }
}

impl Middleware for InFlightConn {
    fn admit(&self, connection: &Connection) -> Result<Option<Permit>, &'static str> {
        let address = connection.peer.ip().to_canonical();
        let mut open = self.open.lock();
        let before = open.get(&address).copied().unwrap_or(0);
        if before >= self.amount {
            drop(open);
            self.offenders.note(&address.to_string());
            return Err("max number of connections reached");
        }
        open.insert(address, before + 1);
        Ok(Some(Box::new(CountedConnection { open: self.open.clone(), address })))
    }

    fn limit(&self) -> Option<&dyn Limit> {
        Some(self)
    }
}

impl Limit for InFlightConn {
    fn kind(&self) -> &'static str {
        "inFlightConn"
    }

    fn occupancy(&self) -> Occupancy {
        let open = self.open.lock();
        let in_flight = open.values().map(|count| count.unsigned_abs()).sum();
        Occupancy { sources: Some(open.len() as u64), in_flight: Some(in_flight), waiting: None }
    }

    fn refusals(&self) -> Option<Refusals> {
        Some(self.offenders.counted())
    }
}

/// An open connection, counted until dropped.
struct CountedConnection {
    open: Arc<OpenConnections>,
    address: IpAddr,
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        match open.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_address_until_they_close() {
        let limit = InFlightConn::new(2);
        let from = |peer: &str| Connection::plain(peer.parse().unwrap());
        let first = limit.admit(&from("10.0.0.1:1")).unwrap();
        let second = limit.admit(&from("[::ffff:10.0.0.1]:2")).unwrap();
        assert!(limit.admit(&from("10.0.0.1:3")).is_err());
        let other = limit.admit(&from("10.0.0.2:1")).unwrap();
        drop(first);
        let third = limit.admit(&from("10.0.0.1:3")).unwrap();
        assert!(limit.admit(&from("10.0.0.1:4")).is_err());
        drop((second, third, other));
        assert!(limit.open.lock().is_empty());
        assert!(InFlightConn::new(0).admit(&from("10.0.0.1:1")).is_err());
    }
}
