//! Every middleware of Tidegate: one file each, one line each in the list below.
//!
//! A middleware's file has five parts in this order: the sentence that says what it is for, its options, `build`,
//! `handle`, its tests.

#[macro_use]
mod registry;
mod auth;
mod begun;
mod condition;
mod location;
mod path;
pub mod pattern;
mod replay;
mod sniff;
mod status_ranges;
#[cfg(test)]
mod testing;

use tidegate_core::{BoxFuture, Response};

registry! {
    addPrefix: add_prefix::AddPrefix,
    anyOf: any_of::AnyOf,
    basicAuth: basic_auth::BasicAuth,
    bodyLimit: body_limit::BodyLimit,
    buffering: buffering::Buffering,
    chain: chain::Chain,
    circuitBreaker: circuit_breaker::CircuitBreaker,
    compress: compress::Compress,
    contentType: content_type::ContentType,
    digestAuth: digest_auth::DigestAuth,
    encodedCharacters: encoded_characters::EncodedCharacters,
    errors: errors::Errors,
    forwardAuth: forward_auth::ForwardAuth,
    grpcWeb: grpc_web::GrpcWeb,
    headers: headers::Headers,
    inFlightReq: in_flight_req::InFlightReq,
    ipAllowList: ip_allow_list::IpAllowList,
    ipWhiteList: ip_white_list::IpWhiteList,
    passTLSClientCert: pass_tls_client_cert::PassTlsClientCert,
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
