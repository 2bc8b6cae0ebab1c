//! The middlewares of Tidegate. Each has its own file, declared here, and a line in the list below. Kinds
//! that are known only at run time are added through [`runtime`].
//!
//! A middleware's file has five parts, in this order: a sentence about its purpose, its options, `build`,
//! `handle`, tests.

#[macro_use]
mod registry;
pub mod access;
pub mod add_prefix;
pub mod any_of;
mod api_client;
pub mod api_key;
mod auth;
pub mod basic_auth;
pub mod body_limit;
pub mod buffering;
pub mod cache;
pub mod chain;
pub mod circuit_breaker;
pub mod client_certificate;
pub mod compress;
mod condition;
pub mod content_type;
pub mod crowdsec;
pub mod digest_auth;
pub mod dpop;
pub mod encoded_characters;
pub mod error_pages;
pub mod errors;
pub mod forward_auth;
pub mod grpc_web;
pub mod headers;
pub mod hmac;
pub mod http_cache;
pub mod in_flight_req;
pub mod introspection;
pub mod ip_allow_list;
pub mod ip_white_list;
pub mod jwt;
pub mod ldap;
mod location;
pub mod maintenance;
pub mod oidc;
pub mod opa;
pub mod pass_tls_client_cert;
mod path;
pub mod pattern;
mod peek;
pub mod plan;
#[cfg(test)]
mod predictions;
pub mod rate_limit;
pub mod redirect_regex;
pub mod redirect_scheme;
pub mod replace_path;
pub mod replace_path_regex;
mod replay;
pub mod request_id;
pub mod respond;
pub mod retry;
pub mod runtime;
mod sniff;
mod status_ranges;
pub mod strip_prefix;
pub mod strip_prefix_regex;
#[cfg(test)]
mod testing;

use tidegate_core::{BoxFuture, Response};

registry! {
    access: access::Access,
    addPrefix: add_prefix::AddPrefix,
    anyOf: any_of::AnyOf,
    apiKey: api_key::ApiKey,
    basicAuth: basic_auth::BasicAuth,
    bodyLimit: body_limit::BodyLimit,
    buffering: buffering::Buffering,
    cache: cache::Cache,
    chain: chain::Chain,
    circuitBreaker: circuit_breaker::CircuitBreaker,
    clientCertificate: client_certificate::ClientCertificate,
    compress: compress::Compress,
    contentType: content_type::ContentType,
    crowdsec: crowdsec::Crowdsec,
    digestAuth: digest_auth::DigestAuth,
    encodedCharacters: encoded_characters::EncodedCharacters,
    errorPages: error_pages::ErrorPages,
    errors: errors::Errors,
    forwardAuth: forward_auth::ForwardAuth,
    grpcWeb: grpc_web::GrpcWeb,
    headers: headers::Headers,
    hmac: hmac::Hmac,
    httpCache: http_cache::HttpCache,
    inFlightReq: in_flight_req::InFlightReq,
    ipAllowList: ip_allow_list::IpAllowList,
    ipWhiteList: ip_white_list::IpWhiteList,
    jwt: jwt::Jwt,
    ldap: ldap::Ldap,
    oAuthIntrospection: introspection::Introspection,
    oidc: oidc::Oidc,
    opa: opa::Opa,
    passTLSClientCert: pass_tls_client_cert::PassTlsClientCert,
    plan: plan::Plan,
    rateLimit: rate_limit::RateLimit,
    redirectRegex: redirect_regex::RedirectRegex,
    redirectScheme: redirect_scheme::RedirectScheme,
    replacePath: replace_path::ReplacePath,
    replacePathRegex: replace_path_regex::ReplacePathRegex,
    requestId: request_id::RequestId,
    respond: respond::Respond,
    retry: retry::Retry,
    stripPrefix: strip_prefix::StripPrefix,
    stripPrefixRegex: strip_prefix_regex::StripPrefixRegex,
}

/// Returns a future that is ready with `response`.
pub(crate) fn ready<'a>(response: Response) -> BoxFuture<'a, Response> {
    Box::pin(std::future::ready(response))
}
