//! Limits how many connections one client address may have open at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tidegate_core::Connection;

use super::{Middleware, Permit};

/// Traefik's TCP `inFlightConn`.
pub(super) struct InFlightConn {
    amount: i64,
    open: Arc<Open>,
}

/// Open connections by address. Only addresses that have one are in it, so it is as large as the load.
type Open = Mutex<HashMap<IpAddr, i64, RandomState>>;

impl InFlightConn {
    /// At most `amount` connections for each address.
    pub(super) fn new(amount: i64) -> Self {
        Self { amount, open: Arc::default() }
    }
}

impl Middleware for InFlightConn {
    fn admit(&self, connection: &Connection) -> Result<Option<Permit>, &'static str> {
        let address = connection.peer.ip().to_canonical();
        let mut open = self.open.lock();
        let before = open.get(&address).copied().unwrap_or(0);
        if before >= self.amount {
            return Err("max number of connections reached");
        }
        open.insert(address, before + 1);
        Ok(Some(Box::new(Place { open: self.open.clone(), address })))
    }
}

/// One open connection.
struct Place {
    open: Arc<Open>,
    address: IpAddr,
}

impl Drop for Place {
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
    fn places_are_counted_by_address_and_given_back() {
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
