//! The rules of a shared cache (RFC 9111) as functions of heads and times. None of them has side effects, reads a
//! clock, or fails on any bytes.

mod conditions;
mod directives;
mod fields;
mod freshness;
mod invalidation;
pub mod range;
mod request;
mod reuse;
mod settings;
mod store;
mod structured;
mod targeted;
mod update;

pub use conditions::{EntityTag, is_not_modified, not_modified_headers, remove_conditions, validate};
pub use directives::{RequestDirectives, ResponseDirectives, Scope};
pub use fields::remove_unstorable;
pub use freshness::{Policy, Times, is_heuristically_cacheable};
pub use invalidation::{Resource, invalidated, invalidates};
pub use request::{Bypass, Lookup, inspect};
pub use reuse::{Reuse, Why, is_error, reuse, usable_on_error};
pub use settings::Rules;
pub use store::{NotStored, is_about_request, storable};
pub use update::{Freshened, HeadUpdate, freshen, select, update_by_head};
