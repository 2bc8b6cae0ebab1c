//! Ways to prove that a name is ours.

pub(super) mod http;
pub(super) mod tls_alpn;

use tidegate_core::BoxFuture;

use super::error::Error;

/// What proves one name.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    /// The name, without `*.`.
    pub(super) name: String,
    /// What the authority calls it.
    pub(super) token: String,
    /// What must be shown (RFC 8555 section 8.1).
    pub(super) key_authorization: String,
}

/// A way to prove names.
pub(super) trait Prover: Send + Sync {
    /// What the authority calls it.
    fn kind(&self) -> &'static str;
    /// Makes the proof visible.
    fn present<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<(), Error>>;
    /// Waits until all are seen.
    fn settle<'a>(&'a self, proofs: &'a [Proof]) -> BoxFuture<'a, Result<(), Error>>;
    /// Takes a proof away again, also one that could not be presented.
    fn withdraw<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, ()>;
}
