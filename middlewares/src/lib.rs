//! Every middleware of Tidegate: one file each, one line each in the list below.
//!
//! A middleware's file has five parts in this order: the sentence that says what it is for, its options, `build`,
//! `handle`, its tests.

#[macro_use]
mod registry;
mod auth;
mod location;
mod path;
pub mod pattern;
mod condition;
mod replay;
mod status_ranges;
mod sniff;
#[cfg(test)]
mod testing;

use tidegate_core::{BoxFuture, Response};

registry! {
    addPrefix: add_prefix::AddPrefix,
    basicAuth: basic_auth::BasicAuth,
    chain: chain::Chain,
    contentType: content_type::ContentType,
    digestAuth: digest_auth::DigestAuth,
    encodedCharacters: encoded_characters::EncodedCharacters,
    buffering: buffering::Buffering,
    circuitBreaker: circuit_breaker::CircuitBreaker,
    compress: compress::Compress,
    errors: errors::Errors,
    forwardAuth: forward_auth::ForwardAuth,
    grpcWeb: grpc_web::GrpcWeb,
    inFlightReq: in_flight_req::InFlightReq,
    headers: headers::Headers,
    ipAllowList: ip_allow_list::IpAllowList,
    ipWhiteList: ip_white_list::IpWhiteList,
    rateLimit: rate_limit::RateLimit,
    redirectRegex: redirect_regex::RedirectRegex,
    redirectScheme: redirect_scheme::RedirectScheme,
    replacePath: replace_path::ReplacePath,
    replacePathRegex: replace_path_regex::ReplacePathRegex,
    retry: retry::Retry,
    stripPrefix: strip_prefix::StripPrefix,
    stripPrefixRegex: strip_prefix_regex::StripPrefixRegex,
}

/// A response that is already there, where a future is asked for.
pub(crate) fn answer<'a>(response: Response) -> BoxFuture<'a, Response> {
    Box::pin(std::future::ready(response))
}
