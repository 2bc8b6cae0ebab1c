//! Header names that many servers take for another one: `X_Auth_User` and `X.Auth.User` for `X-Auth-User`.

use http::HeaderMap;
use tidegate_core::{Reason, Response, reply};

use crate::settings::EntryPointHttp;

/// What happens to such headers (Traefik's `aliasHeadersStrategy` and the older `underscoreHeadersStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AliasStrategy {
    /// They pass.
    Keep,
    /// They are removed; `true`: those with a dot too.
    Delete(bool),
    /// The request is refused; `true`: for those with a dot too.
    Reject(bool),
}

/// A strategy that there is not.
#[derive(Debug, thiserror::Error)]
#[error("http.{option} `{value}` is unknown: expected keep, delete or reject")]
pub(super) struct UnknownStrategy {
    option: &'static str,
    value: String,
}

impl AliasStrategy {
    /// From the settings of an entry point. The error names the option.
    pub(super) fn new(http: &EntryPointHttp) -> Result<Self, UnknownStrategy> {
        let (option, value, dots) = if http.alias_headers_strategy.is_empty() {
            ("underscoreHeadersStrategy", http.underscore_headers_strategy.as_str(), false)
        } else {
            ("aliasHeadersStrategy", http.alias_headers_strategy.as_str(), true)
        };
        match value {
            "" | "keep" => Ok(Self::Keep),
            "delete" => Ok(Self::Delete(dots)),
            "reject" => Ok(Self::Reject(dots)),
            other => Err(UnknownStrategy { option, value: other.to_owned() }),
        }
    }

    /// Applies the strategy. The error is the answer to a refused request.
    pub(super) fn apply(self, headers: &mut HeaderMap) -> Result<(), Box<Response>> {
        let dots = match self {
            Self::Keep => return Ok(()),
            Self::Delete(dots) | Self::Reject(dots) => dots,
        };
        let is_alias = |name: &str| name.bytes().any(|b| b == b'_' || (dots && b == b'.'));
        let found: Vec<_> = headers.keys().filter(|name| is_alias(name.as_str())).cloned().collect();
        if found.is_empty() {
            return Ok(());
        }
        if matches!(self, Self::Reject(_)) {
            return Err(Box::new(reply::error(
                http::StatusCode::BAD_REQUEST,
                "Bad Request",
                Reason::MalformedRequest,
            )));
        }
        for name in found {
            headers.remove(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in ["x_auth", "x.auth", "x-auth"] {
            headers.insert(http::HeaderName::from_static(name), http::HeaderValue::from_static("v"));
        }
        headers
    }

    fn strategy(alias: &str, underscore: &str) -> Result<AliasStrategy, UnknownStrategy> {
        AliasStrategy::new(&EntryPointHttp {
            alias_headers_strategy: alias.into(),
            underscore_headers_strategy: underscore.into(),
            ..EntryPointHttp::default()
        })
    }

    #[test]
    fn each_strategy() {
        let remaining = |strategy: AliasStrategy| {
            let mut headers = headers();
            strategy
                .apply(&mut headers)
                .map(|()| headers.len())
                .map_err(|response| response.status().as_u16())
        };
        assert_eq!(remaining(strategy("", "").unwrap()), Ok(3));
        assert_eq!(remaining(strategy("delete", "").unwrap()), Ok(1));
        assert_eq!(remaining(strategy("", "delete").unwrap()), Ok(2));
        assert_eq!(remaining(strategy("reject", "keep").unwrap()), Err(400));
        assert!(strategy("drop", "").unwrap_err().to_string().contains("`drop`"));
    }
}
