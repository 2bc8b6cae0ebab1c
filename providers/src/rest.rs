//! Configuration sent to the gateway's API (Traefik's `providers.rest`).
//!
//! The service `rest@internal` accepts it at `PUT /api/providers/rest`. It is empty until then, and lost when
//! the process ends.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tidegate_config::decode::decode_config;
use tidegate_config::{Problem, Provided, formats};
use tidegate_core::values::is_default;

use crate::{Describe, Error, Provider, Session};

/// Options of `providers.rest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// Accept configurations on the entry point `traefik` without a router.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure: bool,
}

impl Describe for Options {
    fn place(&self) -> String {
        "/api/providers/rest".into()
    }
}

/// Builds the provider.
pub fn build(_: Options) -> Result<RestProvider, Error> {
    Ok(RestProvider)
}

/// The REST provider, whose initial state is empty.
pub struct RestProvider;

impl Provider for RestProvider {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            session.deliver(Provided::default()).await?;
            std::future::pending().await
        }
        .boxed()
    }
}

/// Why a configuration is rejected.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// It is not JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Parts of it are invalid.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<Problem>),
}

/// Decodes a configuration from JSON. It is accepted or rejected as a whole.
pub fn read(body: &Bytes) -> Result<Provided, RestError> {
    // The decoder below would accept YAML too.
    serde_json::from_slice::<serde::de::IgnoredAny>(body)?;
    let node =
        formats::yaml::read("the request", body).map_err(|problem| RestError::Problems(vec![problem]))?;
    let provided = decode_config(&node);
    if provided.problems.is_empty() { Ok(provided) } else { Err(RestError::Problems(provided.problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_accepted_or_rejected_as_a_whole() {
        let good = r#"{"http": {"routers": {"r": {"rule": "Path(`/`)", "service": "s"}}}}"#;
        let provided = read(&Bytes::from_static(good.as_bytes())).expect("read");
        assert_eq!(provided.config.http.routers["r"].service, "s");
        assert_eq!(read(&Bytes::from_static(b"{}")).expect("read"), Provided::default());
        for (bad, says) in [
            ("", "EOF"),
            ("{bad", "key must be a string"),
            ("http: {}", "expected value"),
            (r#"{"http": {"routers": {"r": {"rul": "x"}}}}"#, "did you mean `rule`"),
            (r#"{"http": {"services": {"s": {"loadBalancer": {"passHostHeader": 7}}}}}"#, "service s"),
        ] {
            let error = read(&Bytes::from_static(bad.as_bytes())).expect_err(bad).to_string();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
