//! Consul: a client of the agent, and the key-value store.

mod agent;
pub mod keys;
pub mod store;

pub use agent::{Address, Agent, AgentError, Answer, Query, Rights, backed_off, pause_after};
