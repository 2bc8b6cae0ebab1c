//! Challenges: ways to prove control of a name.

pub(super) mod http;
pub(super) mod tls_alpn;

use tidegate_core::BoxFuture;

use super::error::Error;

/// The proof of one name.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    /// The name, without `*.`.
    pub(super) name: String,
    /// The token of the challenge.
    pub(super) token: String,
    /// The key authorization (RFC 8555 section 8.1).
    pub(super) key_authorization: String,
}

/// A way to prove names.
pub(super) trait Prover: Send + Sync {
    /// Returns the type of its challenges: `http-01`.
    fn kind(&self) -> &'static str;
    /// Returns how many proofs can be published at the same time.
    fn at_once(&self) -> usize {
        usize::MAX
    }
    /// Publishes a proof.
    fn present<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<(), Error>>;
    /// Waits until all proofs are visible.
    fn settle<'a>(&'a self, proofs: &'a [Proof]) -> BoxFuture<'a, Result<(), Error>>;
    /// Withdraws a proof, even one that could not be published.
    fn withdraw<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, ()>;
}
