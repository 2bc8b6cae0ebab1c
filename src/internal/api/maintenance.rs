//! Routers in maintenance, and how an operator switches them: `/api/maintenance` and `/api/maintenance/{router}`.

pub(super) mod refusal;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use http::Method;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_config::{Config, Kind, Origin};
use tidegate_core::expression::nearest;
use tidegate_core::values::Duration;
use tidegate_core::{AuditEvent, Request, Response};
use tidegate_middlewares::maintenance::Maintenance;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::operator::{self, Refused};
use crate::announcements::{Command, SwitchMaintenance};
use crate::internal::{PROVIDER, Surroundings};
use crate::maintenance::{MAX_ALLOWED, Replaced, Switch, Switches};
use crate::snapshot::{InMaintenance, Snapshot};
use refusal::Refusal;

/// Maximum number of candidates that a message names.
const MAX_NAMED: usize = 5;
/// Maximum time until the end of a maintenance.
const MAX_TIME: Duration = Duration::from_secs(366 * 24 * 3600);
/// How long a response waits until the switch is active.
const PATIENCE: StdDuration = StdDuration::from_secs(5);

/// How a router is switched.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct SwitchRequest {
    retry_after: Option<Written>,
    allow: Vec<String>,
    /// When it ends (RFC 3339), or how long it lasts.
    until: String,
    #[serde(rename = "for")]
    lasts: Option<Written>,
}

/// A duration in JSON.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a duration like `1m30s`, or a number of seconds")]
enum Written {
    Seconds(u32),
    Text(Duration),
}

impl From<Written> for Duration {
    fn from(written: Written) -> Self {
        match written {
            Written::Seconds(seconds) => Self::from_secs(seconds.into()),
            Written::Text(duration) => duration,
        }
    }
}

/// Answers a request below `/api/maintenance`; `path` is the rest.
pub(super) async fn answer(
    snapshot: Arc<Snapshot>,
    around: Surroundings,
    path: String,
    request: Request,
) -> Response {
    let name = path.strip_prefix('/').filter(|name| !name.is_empty() && !name.contains('/'));
    let name = name.map(|name| percent_decode_str(name).decode_utf8_lossy().into_owned());
    let is_on = request.head.method == Method::PUT;
    let answered = match (path.as_str(), name, &request.head.method) {
        ("" | "/", _, &Method::GET) => Ok(list(&snapshot, &around.maintenance)),
        (_, Some(name), &Method::PUT | &Method::DELETE) => {
            switch(&snapshot, &around, &name, is_on, request).await
        }
        ("" | "/", ..) | (_, Some(_), _) => Err(Refused::Method),
        _ => Err(Refused::UnknownPath),
    };
    operator::respond(answered)
}

/// Lists the routers in maintenance, and switches of routers that do not exist now.
fn list(snapshot: &Snapshot, switches: &Switches) -> Value {
    let active: Vec<&InMaintenance> = snapshot.maintenance.active.values().collect();
    let mut seen = BTreeSet::new();
    let mut all: Vec<Value> = active
        .iter()
        .filter(|one| seen.insert(one.source.clone()))
        .map(|one| with_name(&one.source, state(one)))
        .collect();
    let now = OffsetDateTime::now_utc();
    let waiting = switches.current();
    let waiting = waiting.iter().filter(|(router, switch)| !seen.contains(*router) && switch.is_on(now));
    all.extend(waiting.map(|(router, switch)| {
        let one = InMaintenance {
            source: router.clone(),
            options: Maintenance {
                retry_after: switch.retry_after,
                allow: switch.allow.clone(),
                ..Maintenance::default()
            },
            switch: Some(switch.clone()),
        };
        let mut shown = with_name(router, state(&one));
        shown["exists"] = false.into();
        shown
    }));
    all.into()
}

fn with_name(router: &str, mut state: Value) -> Value {
    state["router"] = router.into();
    state
}

/// Describes the maintenance of a router.
pub(super) fn state(one: &InMaintenance) -> Value {
    let InMaintenance { options, switch, .. } = one;
    let mut shown = json!({
        "source": if switch.is_some() { "switch" } else { "configuration" },
        "status": options.status,
    });
    if let Some(wait) = options.retry_after {
        shown["retryAfter"] = wait.to_string().into();
    }
    if !options.allow.is_empty() {
        shown["allow"] = options.allow.clone().into();
    }
    if let Some(switch) = switch {
        shown["since"] = time_text(switch.since).into();
        if let Some(until) = switch.until {
            shown["until"] = time_text(until).into();
        }
        if !switch.by.is_empty() {
            shown["by"] = switch.by.as_str().into();
        }
    }
    shown
}

/// Switches a router here and in the rest of the cluster, and waits until that is active here.
async fn switch(
    snapshot: &Snapshot,
    around: &Surroundings,
    name: &str,
    is_on: bool,
    request: Request,
) -> Result<Value, Refused> {
    let (wanted, operator) = operator::read_json::<SwitchRequest>(request, "switching maintenance").await?;
    let switches = around.maintenance.clone();
    let router = find(snapshot, &switches, name, is_on)?;
    let configured = configured(snapshot, &router);
    let next = if is_on {
        if operator.router().split(" -> ").any(|part| snapshot.maintenance.source(part) == router) {
            return Err(Refusal::Own(router).into());
        }
        Some(wanted.switch(operator.name())?)
    } else if let Some(origin) = configured.filter(|_| !switches.current().contains_key(&router)) {
        return Err(Refusal::Configured(router, origin).into());
    } else {
        None
    };
    let Replaced { before, version } = switches.set(&router, next, operator.name()).map_err(Refusal::from)?;
    if is_on || before.is_some() {
        let event = if is_on { AuditEvent::MaintenanceOn } else { AuditEvent::MaintenanceOff };
        operator.note(event, &router);
        let state = if is_on { "on" } else { "off" };
        let operator = operator.name();
        tracing::info!(router, operator, "maintenance: switched {state} by an operator");
    }
    let is_saved = switches.is_durable();
    // A client that leaves does not keep the switch from being saved.
    let settled = tokio::spawn(async move { switches.settled().await });
    let command = Command::SwitchMaintenance(SwitchMaintenance { router: router.clone(), version });
    let (settled, announced) = tokio::join!(
        tokio::time::timeout(PATIENCE, settled),
        around.announcements.announce(around.announcements.next_id(), operator.name(), command)
    );
    let mut shown = json!({"router": router, "switched": is_on, "changed": is_on || before.is_some()});
    shown["active"] = settled.is_ok().into();
    shown["durable"] = is_saved.into();
    if let Ok(Ok(Some(problem))) = settled {
        shown["durable"] = false.into();
        shown["problem"] = format!("not saved: {problem}").into();
    }
    if matches!(announced, Some(Ok(_))) {
        shown["durable"] = true.into();
    }
    operator::with_announcement(shown, &around.cluster, "switched the router", announced)
}

impl SwitchRequest {
    fn switch(self, operator: &str) -> Result<Switch, Refusal> {
        let Self { retry_after, allow, until, lasts } = self;
        if allow.len() > MAX_ALLOWED {
            return Err(Refusal::TooManyAddresses);
        }
        let (retry_after, lasts) = (retry_after.map(Duration::from), lasts.map(Duration::from));
        let options = Maintenance { retry_after, allow, ..Maintenance::default() };
        options.check()?;
        let now = OffsetDateTime::now_utc();
        let until = match (until.as_str(), lasts) {
            ("", None) => None,
            ("", Some(lasts)) if lasts.0.as_secs() > 0 && lasts.0 <= MAX_TIME.0 => Some(now + lasts.0),
            ("", Some(lasts)) => return Err(Refusal::Lasts(lasts)),
            (_, Some(_)) => return Err(Refusal::TwoEnds),
            (text, None) => {
                let until = OffsetDateTime::parse(text, &Rfc3339).ok();
                let is_near = |until: &OffsetDateTime| *until > now && *until <= now + MAX_TIME.0;
                Some(until.filter(is_near).ok_or_else(|| Refusal::Until(text.to_owned()))?)
            }
        };
        Ok(Switch {
            since: now.unix_timestamp(),
            until: until.map(OffsetDateTime::unix_timestamp),
            retry_after: options.retry_after,
            allow: options.allow,
            by: operator.to_owned(),
        })
    }
}

/// Finds the configured router that is meant, with or without its provider.
fn find(snapshot: &Snapshot, switches: &Switches, name: &str, is_on: bool) -> Result<String, Refusal> {
    let config = &snapshot.report.config;
    let source = |router: &str| snapshot.maintenance.source(router).to_owned();
    let mut known: BTreeSet<String> = config.http.routers.keys().map(|router| source(router)).collect();
    if !is_on {
        // Switches of routers that have gone can be removed.
        known.extend(switches.current().keys().cloned());
    }
    let plain = |router: &str| router.split('@').next().unwrap_or_default().to_owned();
    let found: Vec<&String> = match known.get(name).or_else(|| known.get(&source(name))) {
        Some(router) => vec![router],
        None => known.iter().filter(|router| plain(router) == name).collect(),
    };
    match found[..] {
        [router] if router.ends_with(&format!("@{PROVIDER}")) => Err(Refusal::Internal(router.clone())),
        [router] => Ok(router.clone()),
        [] => Err(not_found(config, &known, name)),
        _ => {
            let names: Vec<&str> = found.iter().take(MAX_NAMED).map(|name| name.as_str()).collect();
            Err(Refusal::Ambiguous(name.to_owned(), names.join(", ")))
        }
    }
}

fn not_found(config: &Config, known: &BTreeSet<String>, name: &str) -> Refusal {
    let is_named = |router: &String| router == name || router.split('@').next() == Some(name);
    for (protocol, mut names) in [
        ("TCP", config.tcp.routers.keys().collect::<Vec<_>>().into_iter()),
        ("UDP", config.udp.routers.keys().collect::<Vec<_>>().into_iter()),
    ] {
        if names.any(is_named) {
            return Refusal::NotHttp(name.to_owned(), protocol);
        }
    }
    let has_provider = name.contains('@');
    let candidates = known.iter().filter(|router| !router.ends_with(&format!("@{PROVIDER}")));
    let candidates: Vec<(&str, &str)> = candidates
        .map(|router| {
            let compared =
                if has_provider { router.as_str() } else { router.split('@').next().unwrap_or("") };
            (compared, router.as_str())
        })
        .collect();
    let near = nearest(name, candidates.iter().map(|(compared, _)| *compared));
    let hint = near.map(|near| {
        let all = candidates.iter().filter(|(compared, _)| *compared == near).take(MAX_NAMED);
        let names: Vec<&str> = all.map(|(_, router)| *router).collect();
        format!(": did you mean {}?", names.join(" or "))
    });
    Refusal::Unknown(name.to_owned(), hint.unwrap_or_default())
}

/// Returns where a router is put in maintenance by its configuration, if it is.
fn configured(snapshot: &Snapshot, router: &str) -> Option<Origin> {
    let routers = &snapshot.report.config.http.routers;
    let mut parts = routers.iter().filter(|(name, _)| snapshot.maintenance.source(name) == router);
    let (name, _) = parts.find(|(_, one)| one.maintenance.as_ref().is_some_and(|options| options.enabled))?;
    let report = snapshot.report.object(Kind::Router, name);
    Some(report.and_then(|report| report.origin.clone()).unwrap_or(Origin::Internal))
}

fn time_text(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
