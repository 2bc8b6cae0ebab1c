//! Who orders certificates where several gateways share a storage.

/// A resolver whose storage is shared, and who orders for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Leadership {
    /// Name of the resolver.
    pub resolver: String,
    /// Its option `storage`.
    pub storage: String,
    /// This gateway orders.
    pub leads: bool,
    /// The one that orders, as `machine:process`; `None` while nobody does, or the storage was not read yet.
    pub leader: Option<String>,
    /// Since when (RFC 3339).
    pub since: Option<String>,
    /// All that share it, as far as they are alive.
    pub members: Vec<Member>,
    /// Why the storage cannot be used now; empty when it can.
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
    /// It orders.
    pub leads: bool,
    /// It is this gateway.
    pub is_self: bool,
}
