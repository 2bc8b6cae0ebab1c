//! Reports on storages that several gateways share.

/// A resolver whose storage is shared, and the gateway that orders for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Leadership {
    /// Name of the resolver.
    pub resolver: String,
    /// Its option `storage`.
    pub storage: String,
    /// Whether this gateway orders.
    pub leads: bool,
    /// The gateway that orders, as `machine:process`; `None` while there is none, or before the first read.
    pub leader: Option<String>,
    /// Since when it leads (RFC 3339).
    pub since: Option<String>,
    /// All gateways that share it and are alive.
    pub members: Vec<Member>,
    /// Why the storage cannot be used now; empty if it can.
    pub error: String,
}

/// A gateway that shares a storage.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its session in Consul.
    pub id: String,
    /// `machine:process`.
    pub node: String,
    /// Since when it runs (RFC 3339).
    pub since: String,
    /// Whether it orders.
    pub leads: bool,
    /// Whether it is this gateway.
    pub is_self: bool,
}
