//! Revocation of client certificates: lists (RFC 5280 section 5), and OCSP (RFC 6960).
//!
//! Lists are checked in the handshake. For requests on open connections, the certificate is checked again when the lists
//! or the options have changed, when a list or a certificate expires, and once a minute. OCSP cannot be asked during a
//! handshake, which is synchronous: the first request waits for the response, up to a limit.

mod check;
mod lists;
mod refresh;
mod source;
mod status;
mod verifier;

pub(super) use check::not_after;
pub(crate) use check::{CertificateCheck, Refusal};
pub(crate) use refresh::Refresher;
pub(crate) use source::{ListState, Source};
pub(crate) use status::Statuses;
pub(crate) use verifier::Checks;
pub(super) use verifier::{Known, Sources, Trusted};
