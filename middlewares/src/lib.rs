//! Every middleware of Tidegate: one file each, one line each in the list below.
//!
//! A middleware's file has five parts in this order: the sentence that says what it is for, its options, `build`,
//! `handle`, its tests.

#[macro_use]
mod registry;
mod condition;
mod replay;
mod status_ranges;
#[cfg(test)]
mod testing;

registry! {
    addPrefix: add_prefix::AddPrefix,
    buffering: buffering::Buffering,
    circuitBreaker: circuit_breaker::CircuitBreaker,
    compress: compress::Compress,
    errors: errors::Errors,
    forwardAuth: forward_auth::ForwardAuth,
    grpcWeb: grpc_web::GrpcWeb,
    inFlightReq: in_flight_req::InFlightReq,
    rateLimit: rate_limit::RateLimit,
    retry: retry::Retry,
}
