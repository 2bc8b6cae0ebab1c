//! Every middleware of Tidegate: one file each, one line each in the list below.
//!
//! A middleware's file has five parts in this order: the sentence that says what it is for, its options, `build`,
//! `handle`, its tests.

#[macro_use]
mod registry;
mod replay;
mod status_ranges;
#[cfg(test)]
mod testing;

registry! {
    addPrefix: add_prefix::AddPrefix,
    inFlightReq: in_flight_req::InFlightReq,
    rateLimit: rate_limit::RateLimit,
    retry: retry::Retry,
}
