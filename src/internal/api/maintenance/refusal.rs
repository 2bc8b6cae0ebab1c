//! Why a router is not switched.

use http::StatusCode;
use tidegate_config::Origin;
use tidegate_core::BuildError;
use tidegate_core::values::Duration;

use crate::maintenance::{MAX_ALLOWED, SwitchError};

/// Why a router is not switched.
#[derive(Debug, thiserror::Error)]
pub(in crate::internal::api) enum Refusal {
    #[error("{0}")]
    Options(#[from] BuildError),
    #[error("expected one of `until` and `for`")]
    TwoEnds,
    #[error("invalid end `{0}`: expected a time in the next year, such as 2030-01-31T12:00:00Z")]
    Until(String),
    #[error("invalid time `{0}`: expected more than 0, and up to a year")]
    Lasts(Duration),
    #[error("too many addresses: expected up to {MAX_ALLOWED}")]
    TooManyAddresses,
    #[error("router not found: {0}{1}")]
    Unknown(String, String),
    #[error("several routers are called {0}: name one of {1}")]
    Ambiguous(String, String),
    #[error("{0} is a router of {1}: only HTTP routers can be in maintenance")]
    NotHttp(String, &'static str),
    #[error("{0} belongs to the gateway itself")]
    Internal(String),
    #[error("this request came through {0}: its maintenance would lock you out")]
    Own(String),
    #[error("{0} is in maintenance by its configuration ({1}): change it there")]
    Configured(String, Origin),
    #[error(transparent)]
    NotSet(#[from] SwitchError),
}

impl Refusal {
    /// Returns the status of the response.
    pub(in crate::internal::api) fn status(&self) -> StatusCode {
        match self {
            Self::Unknown(..) => StatusCode::NOT_FOUND,
            Self::Ambiguous(..) | Self::Own(_) | Self::Configured(..) | Self::NotSet(_) => {
                StatusCode::CONFLICT
            }
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
