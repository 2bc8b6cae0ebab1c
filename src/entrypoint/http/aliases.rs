//! Header names that many servers confuse with another: `X_Auth_User` and `X.Auth.User` with `X-Auth-User`.

use http::HeaderMap;
use tidegate_core::{BuildError, Reason, Response, reply};

use crate::settings::{AliasStrategy, EntryPointHttp};

/// How such headers are handled (Traefik's `aliasHeadersStrategy` and the older `underscoreHeadersStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) struct Aliases {
    strategy: AliasStrategy,
    /// Whether names with a dot are aliases, too.
    dots: bool,
}

impl Aliases {
    /// Reads the settings of an entry point. The error names the option.
    pub(in crate::entrypoint) fn new(http: &EntryPointHttp) -> Result<Self, BuildError> {
        let (option, strategy, dots) = match http.alias_headers_strategy.is_empty() {
            true => ("underscoreHeadersStrategy", &http.underscore_headers_strategy, false),
            false => ("aliasHeadersStrategy", &http.alias_headers_strategy, true),
        };
        let strategy =
            strategy.meaning().map_err(|error| BuildError::new(format!("http.{option}: {error}")))?;
        Ok(Self { strategy: strategy.unwrap_or(AliasStrategy::Keep), dots })
    }

    /// Applies the strategy. The error is the response to a rejected request.
    pub(in crate::entrypoint) fn apply(self, headers: &mut HeaderMap) -> Result<(), Box<Response>> {
        if self.strategy == AliasStrategy::Keep {
            return Ok(());
        }
        let is_alias = |name: &str| name.bytes().any(|b| b == b'_' || (self.dots && b == b'.'));
        let found: Vec<_> = headers.keys().filter(|name| is_alias(name.as_str())).cloned().collect();
        if found.is_empty() {
            return Ok(());
        }
        if self.strategy == AliasStrategy::Reject {
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

    fn strategy(alias: &str, underscore: &str) -> Result<Aliases, BuildError> {
        Aliases::new(&EntryPointHttp {
            alias_headers_strategy: alias.into(),
            underscore_headers_strategy: underscore.into(),
            ..EntryPointHttp::default()
        })
    }

    #[test]
    fn aliases_are_kept_deleted_or_rejected() {
        let remaining = |strategy: Aliases| {
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
