//! The contract between entry points, middlewares and services.
//!
//! A [`Request`] passes through a chain of [`Middleware`]s linked by [`Next`] and ends in a [`Handler`],
//! which returns a [`Response`]. This crate knows no particular middleware, provider, file or socket.

pub mod access;
pub mod aliases;
pub mod announced;
mod append_list;
pub mod attempt;
pub mod audit;
pub mod body;
pub mod building;
pub mod caches;
pub mod client_ip;
mod client_tls;
pub mod clock;
pub mod concealed;
pub mod consumer;
pub mod consumers;
pub mod current_request;
pub mod error;
pub mod exchange;
pub mod exemplars;
pub mod expression;
pub mod forwarded;
pub mod identity;
pub mod ldap;
pub mod message;
pub mod metrics;
pub mod middleware;
pub mod occupancy;
pub mod plan;
pub mod prediction;
pub mod reason;
pub mod reference;
pub mod reply;
mod request_kind;
pub mod sessions;
pub mod spans;
pub mod store;
pub mod timing;
pub mod tls_version;
pub mod trace_context;
pub mod traffic;
pub mod values;
pub mod word;

pub use access::Access;
pub use attempt::{Attempt, Opened, ServerInfo};
pub use audit::{Audit, AuditEvent};
pub use body::{
    Body, BodyError, BodyErrorKind, CollectError, Collected, End, Frames, Guard, Polled, Tee, Teed,
};
pub use building::{Build, BuildContext, BuildError, BuildErrors, HttpClient, Resolver};
pub use clock::{Clock, ManualClock};
pub use consumer::Consumer;
pub use consumers::{Consumers, ConsumersHandle};
pub use error::{ConnectCause, Fault, UpstreamError};
pub use exchange::{Exchange, MiddlewareInfo, RouteInfo, Stage};
pub use identity::{AuthMethod, Identity};
pub use message::{
    ByteStream, ClientSide, Connection, Context, Interim, OriginalTarget, Request, Response, TlsInfo, Upgrade,
};
pub use metrics::RequestCounters;
pub use middleware::{BoxFuture, Handler, Member, Middleware, Next, boxed};
pub use prediction::{Prediction, Verdict};
pub use reason::{Origin, Reason};
pub use spans::{CapturedHeaders, OpenSpan, SpanKind, Spans};
pub use timing::Timing;
pub use trace_context::{Propagator, TraceContext};
