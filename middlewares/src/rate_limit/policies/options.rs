//! The options of named policies.

use serde::{Deserialize, Serialize};
use tidegate_core::values::{Duration, is_default};
use tidegate_core::word::{Vocabulary, Word};

/// `rateLimit.policies[]`, and `limits[]` of a plan: a limit with a name. Not in Traefik.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Policy {
    /// Name in headers, metrics and the API.
    pub name: String,
    /// Tokens per `period`.
    pub average: i64,
    /// The time that `average` applies to.
    pub period: Duration,
    /// Number of tokens that may be used at once.
    pub burst: i64,
    /// What requests have in common that share a bucket: `client.ip/64`, `consumer`, `header(X-Tenant)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Tokens that a request costs: a number, or ``Method(`POST`) ? 5 : 1``.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cost: String,
    /// Tokens that its response costs as well, once it is sent: `Bytes(1024)`, `Status() >= 500 ? 10 : 0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub response_cost: String,
    /// Whether it refuses requests, or only counts those it would refuse.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub mode: Word<Mode>,
    /// What happens to a request that finds no token.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub on_limit: Word<OnLimit>,
    /// How long a request waits for its tokens (`onLimit: queue`), or for its refusal (`onLimit: tarpit`).
    #[serde(skip_serializing_if = "is_default_wait")]
    pub max_wait: Duration,
    /// How many requests wait at once.
    #[serde(skip_serializing_if = "is_default_queue")]
    pub max_queue: i64,
    /// Who is not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exempt: Option<Exempt>,
}

const MAX_WAIT: Duration = Duration::from_secs(5);
const MAX_QUEUE: i64 = 100;

fn is_default_wait(wait: &Duration) -> bool {
    *wait == MAX_WAIT
}

fn is_default_queue(queue: &i64) -> bool {
    *queue == MAX_QUEUE
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            name: String::new(),
            average: 0,
            period: Duration::from_secs(1),
            burst: 1,
            key: Vec::new(),
            cost: String::new(),
            response_cost: String::new(),
            mode: Word::EMPTY,
            on_limit: Word::EMPTY,
            max_wait: MAX_WAIT,
            max_queue: MAX_QUEUE,
            exempt: None,
        }
    }
}

/// `exempt` of a policy: who meets one of these is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Exempt {
    /// Addresses and networks of clients.
    #[serde(skip_serializing_if = "is_default")]
    pub addresses: Vec<String>,
    /// Groups of the client's identity.
    #[serde(skip_serializing_if = "is_default")]
    pub groups: Vec<String>,
    /// Names of consumers.
    #[serde(skip_serializing_if = "is_default")]
    pub consumers: Vec<String>,
}

/// Whether a policy refuses requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It counts those it would refuse.
    Shadow,
}

impl Vocabulary for Mode {
    const WORDS: &'static [(&'static str, Self)] = &[("enforce", Self::Enforce), ("shadow", Self::Shadow)];
}

/// What happens to a request that finds no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLimit {
    /// It is refused.
    Reject,
    /// It waits.
    Queue,
    /// It is refused after a delay.
    Tarpit,
}

impl Vocabulary for OnLimit {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reject", Self::Reject), ("queue", Self::Queue), ("tarpit", Self::Tarpit)];
}

/// `rateLimit.headers`: which fields tell clients about their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderForm {
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).
    Ietf,
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    Legacy,
    /// All of them.
    Both,
    /// None.
    None,
}

impl Vocabulary for HeaderForm {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("ietf", Self::Ietf), ("legacy", Self::Legacy), ("both", Self::Both)];
}
