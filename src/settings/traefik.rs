//! Traefik options that are not supported (yet), and options that Traefik v3 itself has removed.
//!
//! Each is reported by name, so that no option silently has no effect. Options that Traefik has removed are
//! errors, as in Traefik.

use tidegate_config::tree::{Node, Value};
use tidegate_config::{plugins, suggest};
use tidegate_providers::KINDS;

/// Path prefix of named providers.
const INSTANCES: &str = "providers.instances.";

/// The first parts of Traefik's options.
pub(super) const ROOTS: &[&str] = &[
    "global",
    "serversTransport",
    "tcpServersTransport",
    "entryPoints",
    "providers",
    "api",
    "metrics",
    "ping",
    "log",
    "accessLog",
    "tracing",
    "hostResolver",
    "certificatesResolvers",
    "experimental",
    "core",
    "spiffe",
    "ocsp",
];

/// Blocks that Traefik disables if they have any value but `true`, whatever is below them
/// (`label:"allowEmpty"` in its source).
const SWITCHES: &[&str] = &[
    "accessLog",
    "accessLog.otlp",
    "accessLog.otlp.grpc",
    "accessLog.otlp.http",
    "api",
    "certificatesResolvers.*.acme.dnsChallenge",
    "certificatesResolvers.*.acme.httpChallenge",
    "certificatesResolvers.*.acme.tlsChallenge",
    "certificatesResolvers.*.tailscale",
    "entryPoints.*.http.tls",
    "entryPoints.*.http3",
    "entryPoints.*.proxyProtocol",
    "hostResolver",
    "log",
    "log.otlp",
    "log.otlp.grpc",
    "log.otlp.http",
    "metrics.datadog",
    "metrics.influxDB2",
    "metrics.otlp",
    "metrics.otlp.grpc",
    "metrics.otlp.http",
    "metrics.prometheus",
    "metrics.statsD",
    "ocsp",
    "ping",
    "providers.consul",
    "providers.consulCatalog",
    "providers.docker",
    "providers.ecs",
    "providers.etcd",
    "providers.http",
    "providers.knative",
    "providers.kubernetesCRD",
    "providers.kubernetesGateway",
    "providers.kubernetesIngress",
    "providers.kubernetesIngressNGINX",
    "providers.nomad",
    "providers.redis",
    "providers.rest",
    "providers.swarm",
    "providers.zooKeeper",
    "tracing",
    "tracing.otlp",
    "tracing.otlp.grpc",
    "tracing.otlp.http",
];

/// Options that are reported wherever they occur (`*` is any name).
const UNSUPPORTED: &[&str] = &[
    "certificatesResolvers.*.spiffe",
    "certificatesResolvers.*.tailscale",
    "experimental",
    "hostResolver",
    "providers.ecs",
    "providers.knative",
    "providers.kubernetesCRD",
    "providers.kubernetesGateway",
    "providers.kubernetesIngress",
    "providers.kubernetesIngressNGINX",
    "providers.nomad",
    "providers.plugin",
    "providers.zooKeeper",
    "serversTransport.spiffe",
    "spiffe",
    "tcpServersTransport.tls.spiffe",
];

/// Those among them that remain in effect: without them the identity of servers would be less certain, so
/// services without another transport fail closed.
const GUARDS: &[&str] = &["serversTransport.spiffe", "tcpServersTransport.tls.spiffe"];

/// Those among them that are only groups: writing one does not enable anything.
const GROUPS: &[&str] = &["experimental", "hostResolver"];

/// Members of groups that only permit what is supported anyway.
const PERMISSIONS: &[&str] = &["otlpLogs"];

/// Traefik's options of supported providers: those that are not implemented are reported as such.
const OF_PROVIDERS: &[&str] = &[
    "providers.consul.endpoints",
    "providers.consul.namespaces",
    "providers.consul.rootKey",
    "providers.consul.tls",
    "providers.consul.token",
    "providers.consulCatalog.cache",
    "providers.consulCatalog.connectAware",
    "providers.consulCatalog.connectByDefault",
    "providers.consulCatalog.constraints",
    "providers.consulCatalog.defaultRule",
    "providers.consulCatalog.endpoint",
    "providers.consulCatalog.exposedByDefault",
    "providers.consulCatalog.namespaces",
    "providers.consulCatalog.prefix",
    "providers.consulCatalog.refreshInterval",
    "providers.consulCatalog.requireConsistent",
    "providers.consulCatalog.serviceName",
    "providers.consulCatalog.stale",
    "providers.consulCatalog.strictChecks",
    "providers.consulCatalog.watch",
    "providers.docker.allowEmptyServices",
    "providers.docker.constraints",
    "providers.docker.defaultRule",
    "providers.docker.endpoint",
    "providers.docker.exposedByDefault",
    "providers.docker.httpClientTimeout",
    "providers.docker.network",
    "providers.docker.password",
    "providers.docker.tls",
    "providers.docker.useBindPortIP",
    "providers.docker.username",
    "providers.docker.watch",
    "providers.etcd.endpoints",
    "providers.etcd.password",
    "providers.etcd.rootKey",
    "providers.etcd.tls",
    "providers.etcd.username",
    "providers.file.debugLogGeneratedTemplate",
    "providers.file.directory",
    "providers.file.filename",
    "providers.file.watch",
    "providers.http.endpoint",
    "providers.http.headers",
    "providers.http.maxResponseBodySize",
    "providers.http.pollInterval",
    "providers.http.pollTimeout",
    "providers.http.tls",
    "providers.redis.db",
    "providers.redis.endpoints",
    "providers.redis.password",
    "providers.redis.rootKey",
    "providers.redis.sentinel",
    "providers.redis.tls",
    "providers.redis.username",
    "providers.rest.insecure",
    "providers.swarm.allowEmptyServices",
    "providers.swarm.constraints",
    "providers.swarm.defaultRule",
    "providers.swarm.endpoint",
    "providers.swarm.exposedByDefault",
    "providers.swarm.httpClientTimeout",
    "providers.swarm.network",
    "providers.swarm.password",
    "providers.swarm.refreshSeconds",
    "providers.swarm.tls",
    "providers.swarm.useBindPortIP",
    "providers.swarm.username",
    "providers.swarm.watch",
];

/// Options that Traefik v3 has removed, with alternatives.
const REMOVED: &[(&str, &str)] = &[
    ("pilot", "Pilot is gone: remove it"),
    ("experimental.http3", "HTTP/3 is no longer experimental: remove it, and set `http3` on the entry point"),
    ("providers.marathon", "the Marathon provider is gone: remove it"),
    ("providers.rancher", "the Rancher v1 provider is gone: remove it"),
    ("providers.docker.swarmMode", "use the provider `swarm` instead"),
    ("providers.docker.tls.caOptional", "it had no effect for a client: remove it"),
    ("providers.swarm.tls.caOptional", "it had no effect for a client: remove it"),
    ("providers.etcd.tls.caOptional", "it had no effect for a client: remove it"),
    ("providers.redis.tls.caOptional", "it had no effect for a client: remove it"),
    ("providers.consul.tls.caOptional", "it had no effect for a client: remove it"),
    ("providers.consulCatalog.endpoint.tls.caOptional", "it had no effect for a client: remove it"),
    ("providers.nomad.endpoint.tls.caOptional", "it had no effect for a client: remove it"),
    ("providers.http.tls.caOptional", "it had no effect for a client: remove it"),
    ("providers.consul.namespace", "use `namespaces` instead"),
    ("providers.consulCatalog.namespace", "use `namespaces` instead"),
    ("providers.nomad.namespace", "use `namespaces` instead"),
    ("tracing.jaeger", "use `tracing.otlp` instead"),
    ("tracing.zipkin", "use `tracing.otlp` instead"),
    ("tracing.datadog", "use `tracing.otlp` instead"),
    ("tracing.instana", "use `tracing.otlp` instead"),
    ("tracing.haystack", "use `tracing.otlp` instead"),
    ("tracing.elastic", "use `tracing.otlp` instead"),
    ("tracing.spanNameLimit", "span names have a fixed length now: remove it"),
];

/// An unsupported option.
pub(super) struct Unsupported {
    /// Its path as written.
    pub(super) path: Vec<String>,
    /// Why.
    pub(super) message: String,
    /// Whether it prevents the start.
    pub(super) refused: bool,
    /// Whether it stays in the settings, so that what depends on it fails closed.
    pub(super) kept: bool,
}

/// Returns true if `false` at this key disables a block, whatever is below it.
pub(super) fn is_switch(steps: &[&str]) -> bool {
    SWITCHES.iter().any(|switch| {
        let parts = switch.split('.');
        parts.clone().count() == steps.len()
            && parts.zip(steps).all(|(part, step)| part == "*" || part.eq_ignore_ascii_case(step))
    })
}

/// Returns true for the first part of an option that Traefik v3 has removed.
pub(super) fn is_removed(root: &str) -> bool {
    REMOVED
        .iter()
        .any(|(path, _)| path.split('.').next().is_some_and(|first| first.eq_ignore_ascii_case(root)))
}

/// Returns the unsupported options in the tree. One that is only `false` requests nothing and is not
/// reported; it must still be removed, and is in the second list.
pub(super) fn unsupported(node: &Node) -> (Vec<Unsupported>, Vec<Vec<String>>) {
    let mut refused: Vec<Unsupported> = Vec::new();
    let mut idle = Vec::new();
    for (pattern, hint) in REMOVED {
        for (path, _) in forms(pattern).flat_map(|pattern| find(node, &pattern)) {
            let message = format!("{} was removed in Traefik v3: {hint}", path.join("."));
            refused.push(Unsupported { path, message, refused: true, kept: false });
        }
    }
    for pattern in UNSUPPORTED {
        let found =
            forms(pattern).flat_map(|form| find(node, &form).into_iter().map(move |at| (form.clone(), at)));
        for (form, (path, found)) in found {
            if refused.iter().any(|other| other.path.starts_with(&path)) {
                // The message about the inner part is more precise.
                idle.push(path);
            } else if asks_for_nothing(found, GROUPS.contains(pattern)) {
                idle.push(path);
            } else {
                let (option, guards) = (spelled(&form, &path), GUARDS.contains(pattern));
                let message = if guards { unguarded(&option) } else { not_supported(&option) };
                refused.push(Unsupported { message, path, refused: false, kept: guards });
            }
        }
    }
    for (path, found) in find(node, &format!("{INSTANCES}*")) {
        if refused.iter().any(|other| other.path.starts_with(&path)) {
            // Without the refused part, nothing is left.
            idle.push(path);
        } else if let Err(error) = one_kind(found) {
            let message = format!("{}: {error}", path.join("."));
            refused.push(Unsupported { message, path, refused: true, kept: false });
        }
    }
    (refused, idle)
}

/// Why a named provider is invalid.
#[derive(Debug, thiserror::Error)]
enum KindError {
    #[error("`{kind}` is not a kind of provider: {}", suggest::alternatives(kind, KINDS))]
    Unknown { kind: String },
    #[error("expected one kind of provider: {}", suggest::expected(KINDS))]
    Missing,
    #[error("expected one kind of provider, and not several: `{}`", .0.join("`, `"))]
    Several(Vec<String>),
}

/// Checks that a named provider has exactly one kind.
fn one_kind(instance: &Node) -> Result<(), KindError> {
    let given: Vec<&str> = match &instance.value {
        Value::Table(table) => table.iter().map(|(kind, _)| kind).collect(),
        Value::Leaf(kind) => vec![kind],
        Value::Null | Value::List(_) => Vec::new(),
    };
    match given.as_slice() {
        [kind] if KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind)) => Ok(()),
        [kind] => Err(KindError::Unknown { kind: (*kind).to_owned() }),
        [] => Err(KindError::Missing),
        several => Err(KindError::Several(several.iter().map(|kind| (*kind).to_owned()).collect())),
    }
}

/// Returns the message for an unknown key of a provider that exists in Traefik.
pub(super) fn unsupported_of_provider(path: &str) -> Option<String> {
    let single = match path.get(..INSTANCES.len()) {
        Some(start) if start.eq_ignore_ascii_case(INSTANCES) => {
            format!("providers.{}", path[INSTANCES.len()..].split_once('.')?.1)
        }
        _ => path.to_owned(),
    };
    let known = OF_PROVIDERS.iter().find(|known| known.eq_ignore_ascii_case(&single))?;
    Some(not_supported(known))
}

fn not_supported(path: &str) -> String {
    format!("{path} is a Traefik option that Tidegate does not support yet: it has no effect")
}

fn unguarded(path: &str) -> String {
    format!(
        "{path} is a Traefik option that Tidegate does not support yet: without it any certificate that the system trusts \
         would do, so services without a transport of their own answer 503 until it is removed"
    )
}

/// Returns the pattern with the names filled in.
fn spelled(pattern: &str, path: &[String]) -> String {
    let parts = pattern.split('.').zip(path).map(|(part, name)| if part == "*" { name } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// Returns a pattern, and its variant for named providers.
fn forms(pattern: &str) -> impl Iterator<Item = String> {
    let named = pattern.strip_prefix("providers.").map(|rest| format!("{INSTANCES}*.{rest}"));
    [pattern.to_owned()].into_iter().chain(named)
}

/// Returns true for `false` and equivalent values. In a group, the members decide.
fn asks_for_nothing(node: &Node, group: bool) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Leaf(text) => text.eq_ignore_ascii_case("false") || text == "0",
        Value::List(list) => list.is_empty(),
        Value::Table(table) => {
            let idle = |key: &str, node| {
                is_permission(key, node) || is_native_plugins(key, node) || asks_for_nothing(node, false)
            };
            group && !table.is_empty() && table.iter().all(|(key, node)| idle(key, node))
        }
    }
}

/// Returns true for a member of a group that permits what is supported anyway.
fn is_permission(key: &str, node: &Node) -> bool {
    let is_known = PERMISSIONS.iter().any(|known| known.eq_ignore_ascii_case(key));
    is_known && matches!(&node.value, Value::Leaf(text) if text.parse::<bool>().is_ok())
}

/// Returns the plug-ins that the settings name, each with its module.
pub(super) fn plugins(node: &Node) -> Vec<(String, String)> {
    let all = find(node, "experimental.plugins.*.moduleName");
    let named =
        all.into_iter().filter_map(|(path, node)| Some((path.get(2)?.clone(), node.as_leaf()?.to_owned())));
    named.collect()
}

/// Returns true for plug-ins that all have native equivalents.
fn is_native_plugins(key: &str, node: &Node) -> bool {
    let Some(table) = node.as_table().filter(|_| key.eq_ignore_ascii_case("plugins")) else { return false };
    table.iter().all(|(_, plugin)| {
        let modules = find(plugin, "moduleName");
        modules.iter().any(|(_, module)| module.as_leaf().is_some_and(plugins::is_native))
    })
}

/// Returns the places in the tree that match a pattern.
fn find<'n>(node: &'n Node, pattern: &str) -> Vec<(Vec<String>, &'n Node)> {
    let mut found = vec![(Vec::new(), node)];
    for part in pattern.split('.') {
        found = found
            .into_iter()
            .filter_map(|(path, node)| Some((path, node.as_table()?)))
            .flat_map(|(path, table)| {
                let fitting = table.iter().filter(|(key, _)| part == "*" || key.eq_ignore_ascii_case(part));
                fitting.map(|(key, node)| ([&path[..], &[key.to_owned()]].concat(), node)).collect::<Vec<_>>()
            })
            .collect();
    }
    found
}
