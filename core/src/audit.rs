//! What a request means for the audit log, apart from being refused.

/// An event that the audit log has with the request that caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditEvent {
    /// A session began.
    SignedIn,
    /// A session ended because its user wanted it to.
    SignedOut,
    /// An operator ended a session, or all of a user.
    SessionEnded,
    /// An operator removed responses from a cache.
    CachePurged,
    /// An operator put a router in maintenance.
    MaintenanceOn,
    /// An operator ended the maintenance of a router.
    MaintenanceOff,
}

impl AuditEvent {
    /// Returns the name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::SignedIn => "signed_in",
            Self::SignedOut => "signed_out",
            Self::SessionEnded => "session_ended",
            Self::CachePurged => "cache_purged",
            Self::MaintenanceOn => "maintenance_on",
            Self::MaintenanceOff => "maintenance_off",
        }
    }
}

/// An event, and whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// What happened.
    pub event: AuditEvent,
    /// The name of the user.
    pub subject: String,
}
