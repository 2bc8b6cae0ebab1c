//! Allows connections only from given address ranges.

use tidegate_config::tcp::TcpIpAllowList;
use tidegate_core::client_ip::IpRanges;
use tidegate_core::{BuildError, Connection};

use super::{Middleware, Permit};

/// Traefik's TCP `ipAllowList`.
pub(super) struct IpAllowList {
    allowed: IpRanges,
}

impl IpAllowList {
    /// Validates the options.
    pub(super) fn new(options: &TcpIpAllowList) -> Result<Self, BuildError> {
        if options.source_range.is_empty() {
            return Err(BuildError::new("sourceRange is empty, IPAllowLister not created"));
        }
        let allowed = IpRanges::parse(&options.source_range)
            .map_err(|error| error.map(|text| format!("sourceRange: {text}")))?;
        Ok(Self { allowed })
    }
}

impl Middleware for IpAllowList {
    fn admit(&self, connection: &Connection) -> Result<Option<Permit>, &'static str> {
        match self.allowed.contains(connection.peer.ip()) {
            true => Ok(None),
            false => Err("the client's address is not in sourceRange"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &[&str]) -> Result<IpAllowList, BuildError> {
        IpAllowList::new(&TcpIpAllowList { source_range: ranges.iter().map(|r| (*r).to_owned()).collect() })
    }

    #[test]
    fn addresses_in_the_ranges_are_allowed() {
        let list = list(&["10.0.0.0/8", "::1"]).unwrap();
        for (peer, admitted) in
            [("10.1.2.3:1", true), ("[::ffff:10.1.2.3]:1", true), ("[::1]:1", true), ("11.0.0.1:1", false)]
        {
            let connection = Connection::plain(peer.parse().unwrap());
            assert_eq!(list.admit(&connection).is_ok(), admitted, "{peer}");
        }
    }

    #[test]
    fn invalid_options_are_rejected() {
        assert_eq!(list(&[]).err().unwrap().to_string(), "sourceRange is empty, IPAllowLister not created");
        assert!(
            list(&["nowhere"])
                .err()
                .unwrap()
                .to_string()
                .starts_with("sourceRange: invalid address or network `nowhere`: ")
        );
    }
}
