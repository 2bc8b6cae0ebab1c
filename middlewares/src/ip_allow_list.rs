//! Allows only clients from given address ranges.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_core::client_ip::{ClientIp, IpRanges, IpStrategy};
use tidegate_core::values::is_default;
use tidegate_core::{
    Access, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Middleware, Next, Prediction, Reason,
    Request, Response, reply,
};

/// Traefik's `ipAllowList`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IpAllowList {
    /// Allowed addresses and ranges (CIDR). Required.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_range: Vec<String>,
    /// How to determine the client's address; by default, the address of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategy>,
    /// Status of the response to other clients; 0 means 403.
    #[serde(skip_serializing_if = "is_default")]
    pub reject_status_code: u16,
}

impl Build for IpAllowList {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.source_range.is_empty() {
            return Err(BuildError::new("sourceRange is empty, IPAllowLister not created"));
        }
        let reject = match self.reject_status_code {
            0 => Ok(StatusCode::FORBIDDEN),
            code => StatusCode::from_u16(code)
                .ok()
                .filter(|status| !reply::text_of(*status).is_empty())
                .ok_or_else(|| BuildError::new(format!("invalid HTTP status code {code}"))),
        };
        let status = *reject.as_ref().unwrap_or(&StatusCode::FORBIDDEN);
        let list = AllowList::new(&self.source_range, self.ip_strategy.as_ref(), status);
        BuildErrors::both(list, reject).map(|(list, _)| Arc::new(list) as Arc<dyn Middleware>)
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        Some(Access::by_head())
    }
}

/// The validated form, shared with the deprecated `ipWhiteList`.
pub(crate) struct AllowList {
    allowed: IpRanges,
    client: ClientIp,
    reject: StatusCode,
}

impl AllowList {
    pub(crate) fn new(
        ranges: &[String],
        strategy: Option<&IpStrategy>,
        reject: StatusCode,
    ) -> Result<Self, BuildError> {
        let allowed =
            IpRanges::parse(ranges).map_err(|error| error.map(|text| format!("sourceRange: {text}")))?;
        let client = strategy.map(ClientIp::new).transpose()?.unwrap_or_default();
        Ok(Self { allowed, client, reject })
    }

    fn allows(&self, request: &Request) -> bool {
        self.client.address(request).is_some_and(|address| self.allowed.contains(address))
    }
}

impl Middleware for AllowList {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if self.allows(&request) {
            next.run(request)
        } else {
            crate::ready(reply::status_text(self.reject, Reason::AddressDenied))
        }
    }

    fn predict(&self, request: Request) -> Prediction {
        let client = self.client.of(&request);
        let allowed = if self.allows(&request) { "allowed" } else { "not allowed" };
        Prediction::rehearsed(self, request).note(format!("the address `{client}` is {allowed}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, request};
    use http::Request as Head;
    use std::net::SocketAddr;
    use tidegate_core::{Body, Connection, Context};

    fn options(ranges: &[&str], strategy: Option<IpStrategy>) -> IpAllowList {
        let source_range = ranges.iter().map(|r| (*r).to_owned()).collect();
        IpAllowList { source_range, ip_strategy: strategy, reject_status_code: 0 }
    }

    fn status(options: IpAllowList, peer: &str, forwarded: &str) -> u16 {
        let mut request = request(Head::get("http://h.test/").header("x-forwarded-for", forwarded));
        let peer = SocketAddr::new(peer.parse().unwrap(), 4000);
        request.context = Context::new(Arc::new(Connection::plain(peer)));
        testing::response_of(options, request, |_| Response::new(Body::empty())).status().as_u16()
    }

    #[test]
    fn only_listed_addresses_pass() {
        let depth = Some(IpStrategy { depth: 1, ..IpStrategy::default() });
        let both =
            Some(IpStrategy { depth: 1, excluded_ips: vec!["10.1.1.1".into()], ..IpStrategy::default() });
        let excluded = Some(IpStrategy { excluded_ips: vec!["9.0.0.0/8".into()], ..IpStrategy::default() });
        for (ranges, strategy, peer, forwarded, expected) in [
            (&["127.0.0.1/32"][..], None, "127.0.0.1", "9.9.9.9", 200),
            (&["127.0.0.1"], None, "127.0.0.2", "127.0.0.1", 403),
            (&["10.0.0.0/8"], None, "::ffff:10.1.1.1", "", 200),
            (&["10.0.0.0/8"], depth.clone(), "127.0.0.1", "10.1.1.1", 200),
            (&["10.0.0.0/8"], depth.clone(), "127.0.0.1", "10.1.1.1:81", 200),
            (&["10.0.0.0/8"], depth.clone(), "127.0.0.1", "::ffff:10.1.1.1", 200),
            (&["10.0.0.0/8"], depth.clone(), "127.0.0.1", "[::ffff:10.1.1.1]:81", 200),
            (&["fe80::/10"], depth.clone(), "127.0.0.1", "[fe80::1%eth0]:81", 200),
            (&["10.0.0.0/8"], depth.clone(), "127.0.0.1", "for=\"10.1.1.1:81\"", 200),
            (&["10.0.0.0/8"], depth.clone(), "127.0.0.1", "10.1.1.1:x", 403),
            (&["10.0.0.0/8"], depth.clone(), "127.0.0.1", "unknown", 403),
            (&["10.0.0.0/8"], depth.clone(), "127.0.0.1", "10.1.1.1, 9.9.9.9", 403),
            (&["10.0.0.0/8"], depth, "10.1.1.1", "", 403),
            (&["10.0.0.0/8"], excluded.clone(), "127.0.0.1", "10.1.1.1, 9.9.9.9", 200),
            (&["10.0.0.0/8"], excluded.clone(), "127.0.0.1", "10.1.1.1:7, 9.9.9.9:5000", 200),
            (&["10.0.0.0/8"], excluded, "10.1.1.1", "9.9.9.9", 403),
            (&["10.0.0.0/8"], both, "127.0.0.1", "10.1.1.1", 200),
            (&["2001:db8::/32"], None, "2001:db8::1", "", 200),
        ] {
            assert_eq!(
                status(options(ranges, strategy), peer, forwarded),
                expected,
                "{ranges:?} {peer} {forwarded}"
            );
        }
    }

    #[test]
    fn the_refusal_is_the_status_text() {
        let options = IpAllowList { reject_status_code: 404, ..options(&["10.0.0.0/8"], None) };
        let response =
            testing::response_of(options, testing::get("http://h.test/"), |_| Response::new(Body::empty()));
        assert_eq!(response.status(), 404);
        assert!(!response.headers().contains_key("content-type"));
        assert_eq!(testing::text(response), "Not Found");
    }

    #[test]
    fn wrong_options_are_named() {
        let error =
            |options| testing::build_in(&testing::World::default(), options).err().unwrap().to_string();
        assert_eq!(error(IpAllowList::default()), "sourceRange is empty, IPAllowLister not created");
        let code = IpAllowList { reject_status_code: 999, ..options(&["1.2.3.4"], None) };
        assert_eq!(error(code), "invalid HTTP status code 999");
        assert_eq!(
            error(options(&["1.2.3.4", "300.0.0.0/8"], None)),
            "sourceRange: invalid address or network `300.0.0.0/8`: expected one like `192.0.2.1` or `10.0.0.0/8`"
        );
        let subnet = Some(IpStrategy { ipv6_subnet: Some(129), ..IpStrategy::default() });
        assert_eq!(
            error(options(&["1.2.3.4"], subnet)),
            "invalid IPv6 subnet 129 value, should be greater to 0 and lower or equal to 128"
        );
    }
}
