//! Lets a policy in Rego decide about requests, in the process or on an OPA server.

mod builtins;
mod bundle;
mod decision;
mod handler;
mod input;
mod json;
mod outline;
mod policy;
mod server;
#[cfg(test)]
mod tests;
mod threads;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration as StdDuration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tidegate_core::building::ClientTls;
use tidegate_core::client_ip::{ClientIp, IpStrategy};
use tidegate_core::values::{Duration, Secret};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{Access, Build, BuildContext, BuildError, BuildErrors, Middleware};

use crate::api_client::{self, ApiClient};
use crate::{auth, forward_auth};
use bundle::{Bundle, Source};
use decision::forwarded_name;
use handler::{Decider, DecisionCache, Gate};
use input::InputRules;
use policy::{Parsed, Policy};
use server::Server;

/// Prefix of the Data API.
const DATA_API: &str = "/v1/data";
/// Maximum length of a body that is part of the input, in bytes. It is parsed on the worker.
const MAX_BODY: u64 = 1024 * 1024;
/// Maximum time for which decisions are remembered.
const MAX_TTL: StdDuration = StdDuration::from_hours(1);
/// Maximum timeout.
const MAX_TIMEOUT: StdDuration = StdDuration::from_mins(1);
/// Maximum number of decisions that are remembered.
const MAX_ENTRIES: usize = 1_000_000;

/// Traefik Hub's `opa`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Opa {
    /// A policy, or the path of a file with one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// Paths of further policies. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_files: Vec<String>,
    /// Path of a bundle of OPA with policies and data.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bundle_path: String,
    /// Data for policies: an object in JSON. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// Paths of files with further data. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_files: Vec<String>,
    /// Expression that decides. By default, the rule `allow` of the policy's package.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub allow: String,
    /// The rule that decides, as `data.app.allow` or `app/allow`. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub decision: String,
    /// Request headers by name, each with the expression whose value it has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub forward_headers: BTreeMap<String, String>,
    /// URL of an OPA server, which decides instead of a policy here. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Headers of questions to the server, whose values may be credentials. Not in Traefik Hub.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// TLS for the connection to the server. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// Makes the body part of the input. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyInput>,
    /// Whether the input has `Authorization`, cookies and API keys. By default, unless it leaves the process. Not in
    /// Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<bool>,
    /// How to determine the client's address; by default, the address of the connection. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_strategy: Option<IpStrategy>,
    /// Remembers decisions. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheOptions>,
    /// Timeout for a decision. Not in Traefik Hub.
    pub timeout: Duration,
    /// Maximum duration of an evaluation in the process. Not in Traefik Hub.
    pub evaluation_timeout: Duration,
    /// What happens to requests without a decision: `deny` or `allow`. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub on_error: Word<OnError>,
}

/// How the body becomes part of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BodyInput {
    /// Maximum length of a body in bytes. Larger ones are refused.
    pub max_size: u64,
}

/// How decisions are remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CacheOptions {
    /// How long a decision counts.
    pub ttl: Duration,
    /// Maximum number of decisions.
    pub max_entries: usize,
    /// Parts of the input that the decision depends on, such as `method` and `identity.subject`; all if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
}

/// What happens to requests without a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// They are refused with 503.
    Deny,
    /// They pass.
    Allow,
}

impl Vocabulary for OnError {
    const WORDS: &'static [(&'static str, Self)] = &[("deny", Self::Deny), ("allow", Self::Allow)];
    const IGNORES_CASE: bool = true;
}

impl Default for BodyInput {
    fn default() -> Self {
        Self { max_size: 64 * 1024 }
    }
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), max_entries: 10_000, key: Vec::new() }
    }
}

impl Default for Opa {
    fn default() -> Self {
        Self {
            policy: String::new(),
            policy_files: Vec::new(),
            bundle_path: String::new(),
            data: String::new(),
            data_files: Vec::new(),
            allow: String::new(),
            decision: String::new(),
            forward_headers: BTreeMap::new(),
            url: String::new(),
            headers: BTreeMap::new(),
            tls: None,
            body: None,
            credentials: None,
            ip_strategy: None,
            cache: None,
            timeout: Duration::from_secs(1),
            evaluation_timeout: Duration(StdDuration::from_millis(100)),
            on_error: Word::default(),
        }
    }
}

impl Build for Opa {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let allows_errors = self.on_error.meaning();
        let allows_errors = allows_errors.map_err(|error| BuildError::new(format!("onError: {error}")));
        let client = ClientIp::new(&self.ip_strategy.clone().unwrap_or_default());
        let client = client.map_err(|error| error.map(|text| format!("ipStrategy: {text}")));
        let limits = BuildErrors::both(BuildErrors::both(self.timeouts(), self.body_limit()), self.cache());
        let decider = BuildErrors::both(self.decider(context), BuildErrors::both(allows_errors, client));
        let ((((), body), cache), ((decider, forwarded), (on_error, client))) =
            BuildErrors::both(limits, decider)?;
        let has_credentials = self.credentials.unwrap_or(matches!(decider, Decider::Policy { .. }));
        Ok(Arc::new(Gate {
            name: context.name.into(),
            clock: context.clock(),
            input: InputRules { client, has_credentials },
            decider,
            forwarded,
            body,
            cache,
            timeout: self.timeout.into(),
            allows_errors: on_error == Some(OnError::Allow),
            is_failing: AtomicBool::new(false),
        }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        let names: Vec<HeaderName> =
            self.forward_headers.keys().filter_map(|name| name.parse().ok()).collect();
        let access = Access::by_head().reading_body(self.body.is_some());
        Some(access.vouching(move |header| names.iter().any(|name| auth::is_same(name, header))))
    }
}

impl Opa {
    fn timeouts(&self) -> Result<(), BuildError> {
        let mut errors = BuildErrors::default();
        for (option, value) in [("timeout", self.timeout), ("evaluationTimeout", self.evaluation_timeout)] {
            if value.is_zero() || StdDuration::from(value) > MAX_TIMEOUT {
                errors.add(format!("{option}: {value}: expected more than 0 and at most 1m"));
            }
        }
        errors.finish()
    }

    fn body_limit(&self) -> Result<Option<u64>, BuildError> {
        match self.body.as_ref().map(|body| body.max_size) {
            Some(size) if !(1..=MAX_BODY).contains(&size) => {
                Err(BuildError::new(format!("body.maxSize: {size}: expected 1 to {MAX_BODY}")))
            }
            size => Ok(size),
        }
    }

    fn cache(&self) -> Result<Option<DecisionCache>, BuildError> {
        let Some(options) = &self.cache else { return Ok(None) };
        let mut errors = BuildErrors::default();
        if options.ttl.is_zero() || StdDuration::from(options.ttl) > MAX_TTL {
            errors.add(format!("cache.ttl: {}: expected more than 0 and at most 1h", options.ttl));
        }
        if !(1..=MAX_ENTRIES).contains(&options.max_entries) {
            let given = options.max_entries;
            errors.add(format!("cache.maxEntries: {given}: expected 1 to {MAX_ENTRIES}"));
        }
        let mut key = Vec::new();
        for path in &options.key {
            let path = path.strip_prefix("input.").unwrap_or(path);
            let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
            if !parts.first().is_some_and(|first| input::MEMBERS.contains(&first.as_str())) {
                errors.add(format!("cache.key: `{path}` is not a part of the input"));
            }
            key.push(parts);
        }
        let decisions = Cache::new(options.max_entries.clamp(1, MAX_ENTRIES));
        errors.finish()?;
        Ok(Some(DecisionCache { decisions, ttl: options.ttl.into(), key }))
    }

    /// Returns what decides, and the headers that it forwards.
    fn decider(&self, context: &BuildContext<'_>) -> Result<(Decider, Vec<HeaderName>), BuildError> {
        let mut errors = BuildErrors::default();
        let is_local =
            !(self.policy.is_empty() && self.policy_files.is_empty() && self.bundle_path.is_empty());
        if is_local != self.url.is_empty() {
            errors.add(match is_local {
                true => "url: the server's policies decide: expected no other policy".to_owned(),
                false => {
                    "policy: required: a policy, or the path of one; or bundlePath, or the url of a server"
                        .to_owned()
                }
            });
        }
        if !self.allow.is_empty() && !self.decision.is_empty() {
            errors.add("decision: expected either `allow` or `decision`".to_owned());
        }
        let names = self
            .forward_headers
            .keys()
            .map(|name| forwarded_name(name).map_err(|error| BuildError::new(error.to_string())));
        let names = errors.check(BuildErrors::collect(names)).unwrap_or_default();
        errors.finish()?;
        let decider = if is_local { self.local(context) } else { self.server(context).map(Decider::Server) };
        Ok((decider?, names))
    }

    fn local(&self, context: &BuildContext<'_>) -> Result<Decider, BuildError> {
        if self.tls.is_some() || !self.headers.is_empty() {
            return Err(BuildError::new("url: required for `tls` and `headers`"));
        }
        let (policies, data) = self.sources(context)?;
        let parsed = Parsed::new(&policies, &data, self.evaluation_timeout.into())?;
        let mut queries = Vec::new();
        match (self.allow.as_str(), self.decision.as_str()) {
            ("", "") => match parsed.allow()? {
                Some(rule) => queries.push(("allow".to_owned(), rule)),
                None if !self.forward_headers.is_empty() => {}
                None => {
                    return Err(BuildError::new(
                        "allow: required, since the policy has no rule with this name",
                    ));
                }
            },
            (allow, "") => queries.push(("allow".to_owned(), allow.to_owned())),
            (_, decision) => queries.push(("decision".to_owned(), rule_path(decision))),
        }
        let decides = !queries.is_empty();
        let headers = self.forward_headers.iter();
        queries.extend(headers.map(|(name, text)| (format!("forwardHeaders.{name}"), text.clone())));
        let policy: Policy = parsed.with_queries(&queries)?;
        Ok(Decider::Policy { policy: Arc::new(policy), decides })
    }

    /// Reads policies and data.
    fn sources(&self, context: &BuildContext<'_>) -> Result<(Vec<Source>, Vec<Source>), BuildError> {
        let mut errors = BuildErrors::default();
        let read = |option: &str, path: &String, errors: &mut BuildErrors| {
            let text = context.file(path).map_err(|error| error.map(|text| format!("{option}: {text}")));
            let text = errors.check(text)?;
            match String::from_utf8(text) {
                Ok(text) => Some(Source { name: path.clone(), text }),
                Err(_) => {
                    errors.add(format!("{option}: {path}: not UTF-8"));
                    None
                }
            }
        };
        let (mut policies, mut data) = (Vec::new(), Vec::new());
        match self.policy.as_str() {
            "" => {}
            text if is_content(text) => {
                policies.push(Source { name: "policy".to_owned(), text: text.to_owned() });
            }
            _ => policies.extend(read("policy", &self.policy, &mut errors)),
        }
        for path in &self.policy_files {
            policies.extend(read("policyFiles", path, &mut errors));
        }
        if !self.data.is_empty() {
            data.push(Source { name: "data".to_owned(), text: self.data.clone() });
        }
        for path in &self.data_files {
            data.extend(read("dataFiles", path, &mut errors));
        }
        if !self.bundle_path.is_empty() {
            let packed = context.file(&self.bundle_path);
            let packed =
                errors.check(packed.map_err(|error| error.map(|text| format!("bundlePath: {text}"))));
            let bundle = packed.and_then(|packed| errors.check(Bundle::read(&self.bundle_path, &packed)));
            if let Some(bundle) = bundle {
                policies.extend(bundle.policies);
                data.extend(bundle.data);
            }
        }
        errors.made(Some((policies, data)))
    }

    fn server(&self, context: &BuildContext<'_>) -> Result<Server, BuildError> {
        let mut errors = BuildErrors::default();
        if !self.forward_headers.is_empty() {
            errors.add(
                "forwardHeaders: only for a policy here: the server's decision can have `headers`".to_owned(),
            );
        }
        if !self.data.is_empty() || !self.data_files.is_empty() {
            errors.add("data: only for a policy here: the server has its own data".to_owned());
        }
        let url = self.data_url();
        let url = errors.check(url);
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            match (name.parse::<HeaderName>(), HeaderValue::from_str(value.expose())) {
                (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
                (Err(_), _) => errors.add(format!("headers: invalid header name `{name}`")),
                (_, Err(_)) => errors.add(format!("headers.{name}: invalid value")),
            }
        }
        let tls = self.tls.clone().unwrap_or_default();
        errors.check(forward_auth::check_tls(&tls, context));
        let url = errors.made(url)?;
        let client = ApiClient { client: context.client(), tls, timeout: self.timeout.into() };
        Ok(Server { client, url, headers: Arc::new(headers) })
    }

    /// Returns the URL of the decision.
    fn data_url(&self) -> Result<http::Uri, BuildError> {
        let wrong = || {
            BuildError::new(format!(
                "url: invalid URL `{}`: expected an absolute http or https URL",
                self.url
            ))
        };
        let base = api_client::parse_url(&self.url).filter(|url| url.query().is_none()).ok_or_else(wrong)?;
        let given = if self.decision.is_empty() { &self.allow } else { &self.decision };
        let is_complete = base.path().contains(&format!("{DATA_API}/"));
        if given.is_empty() != is_complete {
            return Err(BuildError::new(match is_complete {
                true => "decision: the url contains it already",
                false => "decision: required: the path of the rule that decides, such as `app/allow`",
            }));
        }
        if is_complete {
            return Ok(base);
        }
        let path = rule_path(given);
        let parts: Vec<&str> = path.split('.').skip(1).collect();
        let is_plain = |part: &&str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        if !parts.iter().all(is_plain) {
            return Err(BuildError::new(format!("decision: invalid path `{given}`")));
        }
        let url = format!("{}{DATA_API}/{}", self.url.trim_end_matches('/'), parts.join("/"));
        api_client::parse_url(&url).ok_or_else(wrong)
    }
}

/// Returns a rule's path in Rego: `data.app.allow`, also for `app/allow`.
fn rule_path(text: &str) -> String {
    let path = text.trim_matches('/').replace('/', ".");
    if path.starts_with("data.") { path } else { format!("data.{path}") }
}

/// Returns true for a policy, as opposed to its path.
fn is_content(text: &str) -> bool {
    text.contains('\n') || text.trim_start().starts_with("package ")
}
