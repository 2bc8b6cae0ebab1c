//! Consul's key-value store, shared by several gateways: sessions, locks, transactions.
//!
//! Transactions are atomic and can depend on a lock, so that a gateway that has lost the lock without
//! noticing cannot change anything.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_core::values::Secret;

use super::agent::{Address, Agent, AgentError, Query};
use crate::OptionError;
use crate::connect::Tls;
use crate::http::escape;

/// Blocking time of queries; bounds how long a silently lost connection goes unnoticed.
const BLOCKING_TIME: Duration = Duration::from_secs(15);
/// Maximum number of operations in one transaction: Consul's own limit is 64.
pub const MAX_OPERATIONS: usize = 60;
/// Maximum size of one transaction in bytes, before base64: Consul's own limit is 512 KiB.
pub const MAX_BYTES: usize = 320 * 1024;

/// The address and connection options of a store.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Host and port, or a URL; empty for `CONSUL_HTTP_ADDR` or the local agent.
    pub address: String,
    /// ACL token; empty for `CONSUL_HTTP_TOKEN`.
    pub token: Secret,
    /// TLS options for the agent.
    pub tls: Option<Tls>,
    /// Datacenter; empty for that of the agent.
    pub datacenter: String,
}

/// A store.
pub struct Store {
    agent: Agent,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The full key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// Counts up with each change (`ModifyIndex`).
    pub index: u64,
    /// The session that holds the key as a lock.
    pub session: Option<String>,
}

/// All keys below a prefix.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The keys.
    pub entries: Vec<Entry>,
    /// The index of the last change, at least that of every entry.
    pub index: u64,
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Fails unless the session holds the key.
    CheckSession {
        /// The lock.
        key: String,
        /// The session that must hold it.
        session: String,
    },
    /// Acquires the key as a lock, which is removed with the session; fails if another session holds it.
    Lock {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The session that acquires it.
        session: String,
    },
    /// Writes a key.
    Set {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
    },
    /// Writes a key unless it has changed since; fails otherwise.
    Swap {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// Its index when it was read; 0 if it did not exist.
        index: u64,
    },
    /// Removes a key, if it exists.
    Delete {
        /// The key.
        key: String,
    },
}

/// Why a transaction failed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A condition failed, with Consul's reasons; nothing has changed.
    #[error("{0}")]
    Condition(String),
    /// It is unknown whether the transaction was applied.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Failure of an operation on the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A request to the agent failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent responds to an operation with an error.
    #[error("{path}: {status}: {text}")]
    Status {
        /// The path of the operation.
        path: &'static str,
        /// The status.
        status: StatusCode,
        /// The start of the body.
        text: String,
    },
    /// The response to a transaction is not the expected JSON.
    #[error("unexpected response: {0}")]
    UnexpectedAnswer(#[source] serde_json::Error),
    /// The response to the creation of a session has no id.
    #[error("/v1/session/create: unexpected response: {text}")]
    NoSessionId {
        /// The start of the body.
        text: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    key: String,
    #[serde(default)]
    value: Option<String>,
    modify_index: u64,
    #[serde(default)]
    session: Option<String>,
}

impl Kept {
    fn entry(self) -> Entry {
        let value = self.value.and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        Entry {
            key: self.key,
            value,
            index: self.modify_index,
            session: self.session.filter(|id| !id.is_empty()),
        }
    }
}

impl Store {
    /// Creates a client for the store without connecting.
    pub fn new(options: &Options) -> Result<Self, OptionError> {
        let address = Address {
            option: "storage",
            address: &options.address,
            scheme: "",
            tls: options.tls.as_ref(),
            token: &options.token,
            basic: None,
            datacenter: &options.datacenter,
            namespace: "",
            partition: "",
            wait: BLOCKING_TIME,
        };
        Ok(Self { agent: Agent::new(&address)? })
    }

    /// Returns the endpoint, for messages.
    pub fn endpoint(&self) -> &str {
        self.agent.endpoint()
    }

    /// Reads all keys below a prefix. With `consistent`, the leader verifies that it is still the leader.
    pub async fn read(&self, prefix: &str, consistent: bool) -> Result<Listing, StoreError> {
        let query = if consistent { "recurse&consistent" } else { "recurse" };
        let answer = self.agent.ask::<Vec<Kept>>(&path(prefix), query).await?;
        let entries = answer.value.unwrap_or_default().into_iter().map(Kept::entry).collect();
        Ok(Listing { entries, index: answer.index })
    }

    /// Follows all keys below a prefix.
    pub fn follow(&self, prefix: &str) -> Follow {
        Follow(Query::new(path(prefix), "recurse"))
    }

    /// Applies operations atomically and returns the index of the change.
    pub async fn apply(&self, operations: &[Operation]) -> Result<u64, Refusal> {
        let body: Vec<Value> = operations.iter().map(Operation::json).collect();
        let body = Bytes::from(Value::Array(body).to_string());
        let answer = self.agent.put("/v1/txn", "", body).await.map_err(StoreError::Agent)?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        match answer.status() {
            StatusCode::OK => {
                let value: Value = serde_json::from_str(&text).map_err(StoreError::UnexpectedAnswer)?;
                let results = value["Results"].as_array().cloned().unwrap_or_default();
                let indexes = results.iter().filter_map(|one| one["KV"]["ModifyIndex"].as_u64());
                Ok(indexes.max().unwrap_or(0))
            }
            StatusCode::CONFLICT => Err(Refusal::Condition(reasons(&text))),
            status => Err(StoreError::Status { path: "/v1/txn", status, text: quote(&text) }.into()),
        }
    }

    /// Creates a session, whose locks are removed with it. It expires when it is not renewed for `ttl` (at
    /// least 10 s; Consul may take up to twice as long), and its locks cannot be acquired for `delay` after
    /// that.
    pub async fn begin_session(
        &self,
        name: &str,
        ttl: Duration,
        delay: Duration,
    ) -> Result<String, StoreError> {
        let body = json!({
            "Name": name,
            "TTL": format!("{}s", ttl.as_secs()),
            "LockDelay": format!("{}ms", delay.as_millis()),
            "Behavior": "delete",
            // Without checks, the session survives a restart of the agent.
            "Checks": [],
            "NodeChecks": [],
        });
        let answer = self.agent.put("/v1/session/create", "", Bytes::from(body.to_string())).await?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        let status = answer.status();
        if status != StatusCode::OK {
            return Err(StoreError::Status { path: "/v1/session/create", status, text: quote(&text) });
        }
        let id = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|value| Some(value["ID"].as_str()?.to_owned()));
        id.ok_or_else(|| StoreError::NoSessionId { text: quote(&text) })
    }

    /// Renews a session. Returns false if it has expired.
    pub async fn renew_session(&self, id: &str) -> Result<bool, StoreError> {
        let answer = self.agent.put(&format!("/v1/session/renew/{}", escape(id)), "", Bytes::new()).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => {
                let text = quote(&String::from_utf8_lossy(answer.body()));
                Err(StoreError::Status { path: "/v1/session/renew", status, text })
            }
        }
    }

    /// Ends a session.
    pub async fn end_session(&self, id: &str) -> Result<(), StoreError> {
        self.agent.put(&format!("/v1/session/destroy/{}", escape(id)), "", Bytes::new()).await?;
        Ok(())
    }
}

/// Follows the keys below a prefix.
pub struct Follow(Query);

impl Follow {
    /// Returns the current keys on the first call, and the changed keys on each later one. After failures,
    /// calls wait with backoff.
    pub async fn next(&mut self, store: &Store) -> Result<Listing, StoreError> {
        let answer = self.0.next::<Vec<Kept>>(&store.agent).await?;
        let entries = answer.value.unwrap_or_default().into_iter().map(Kept::entry).collect();
        Ok(Listing { entries, index: answer.index })
    }
}

impl Operation {
    /// Returns its approximate size in a transaction, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Lock { key, value, .. } | Self::Set { key, value } | Self::Swap { key, value, .. } => {
                key.len() + value.len() + 128
            }
            Self::CheckSession { key, .. } | Self::Delete { key } => key.len() + 128,
        }
    }

    fn json(&self) -> Value {
        let inside = match self {
            Self::CheckSession { key, session } => {
                json!({ "Verb": "check-session", "Key": key, "Session": session })
            }
            Self::Lock { key, value, session } => {
                json!({ "Verb": "lock", "Key": key, "Value": STANDARD.encode(value), "Session": session })
            }
            Self::Set { key, value } => json!({ "Verb": "set", "Key": key, "Value": STANDARD.encode(value) }),
            Self::Swap { key, value, index } => {
                json!({ "Verb": "cas", "Key": key, "Value": STANDARD.encode(value), "Index": index })
            }
            Self::Delete { key } => json!({ "Verb": "delete", "Key": key }),
        };
        json!({ "KV": inside })
    }
}

fn path(key: &str) -> String {
    let parts: Vec<String> = key.split('/').map(escape).collect();
    format!("/v1/kv/{}", parts.join("/"))
}

/// Returns the reasons of failed operations in a response.
fn reasons(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let errors = value["Errors"].as_array().cloned().unwrap_or_default();
    let all: Vec<&str> = errors.iter().filter_map(|one| one["What"].as_str()).collect();
    if all.is_empty() { quote(text) } else { all.join("; ") }
}

fn quote(text: &str) -> String {
    text.trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_encoded_for_consul() {
        let lock = Operation::Lock { key: "a/b".into(), value: b"x".to_vec(), session: "s".into() };
        assert_eq!(
            lock.json().to_string(),
            r#"{"KV":{"Verb":"lock","Key":"a/b","Value":"eA==","Session":"s"}}"#
        );
        let swap = Operation::Swap { key: "a".into(), value: Vec::new(), index: 7 };
        assert_eq!(swap.json()["KV"]["Index"], 7);
        assert!(swap.size() < lock.size() + 10);
    }

    #[test]
    fn keys_are_escaped_by_segment() {
        assert_eq!(path("t/acme/*.a.test/"), "/v1/kv/t/acme/%2A.a.test/");
    }

    #[test]
    fn rejected_transactions_have_a_reason() {
        let text = r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"the lock is held"}]}"#;
        assert_eq!(reasons(text), "the lock is held");
        assert_eq!(reasons("rpc error"), "rpc error");
    }
}
