//! Allows only clients from given address ranges: the former name of `ipAllowList`.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_core::client_ip::IpStrategy;
use tidegate_core::{Access, Build, BuildContext, BuildError, Middleware};

use crate::ip_allow_list::AllowList;

/// Traefik's deprecated `ipWhiteList`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IpWhiteList {
    /// Allowed addresses and ranges (CIDR). Required.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_range: Vec<String>,
    /// How to determine the client's address; by default, the address of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategy>,
}

impl Build for IpWhiteList {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        tracing::warn!(middleware = context.name, "`ipWhiteList` is deprecated, use `ipAllowList`");
        if self.source_range.is_empty() {
            return Err(BuildError::new("sourceRange is empty, IPWhiteLister not created"));
        }
        AllowList::new(&self.source_range, self.ip_strategy.as_ref(), StatusCode::FORBIDDEN)
            .map(|list| Arc::new(list) as Arc<dyn Middleware>)
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        Some(Access::by_head())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get};
    use tidegate_core::{Body, Response};

    #[test]
    fn it_works_like_the_allow_list() {
        for (range, status) in [("127.0.0.0/8", 200), ("10.0.0.0/8", 403)] {
            let options = IpWhiteList { source_range: vec![range.into()], ip_strategy: None };
            let response =
                testing::response_of(options, get("http://h.test/"), |_| Response::new(Body::empty()));
            assert_eq!(response.status(), status);
        }
        let error = testing::build_in(&testing::World::default(), IpWhiteList::default()).err();
        assert_eq!(error, Some(BuildError::new("sourceRange is empty, IPWhiteLister not created")));
    }
}
