//! Validates what types cannot express: addresses, references and enumerated texts.

use tidegate_clients::otlp::{Exporter, Signal};
use tidegate_config::router::RuleSyntax;
use tidegate_config::tree::Node;
use tidegate_config::{Origin, Problem};
use tidegate_core::client_ip::IpRanges;
use tidegate_core::word::{Vocabulary, Word};

use super::{
    AccessLogFormat, Address, CertificatesResolver, EntryPoint, FieldMode, HeaderMode, INTERNAL_ENTRY_POINT,
    KeyType, LogFormat, LogLevel, Ping, Settings, address, is_named,
};
use crate::observability::{access_log, log, log_file, metrics};

/// The result of the validation.
#[derive(Default)]
pub(super) struct Findings {
    /// Errors that prevent the start.
    pub(super) problems: Vec<Problem>,
    /// Settings without effect.
    pub(super) warnings: Vec<Problem>,
}

/// Validates complete settings. `node` provides the origin of each value.
pub(super) fn check(settings: &mut Settings, node: &Node) -> Findings {
    let mut check = Check { node, findings: Findings::default() };
    check.addresses(settings);
    check.core(settings);
    check.api(settings);
    check.otlp_logs(settings);
    check.logs(settings);
    check.access_log_file(settings);
    check.audit_log(settings);
    check.metrics(settings);
    check.tracing(settings);
    check.entry_points(settings);
    check.resolvers(settings);
    for (path, message) in settings.cluster.iter().flat_map(super::Cluster::mistakes) {
        check.problem(&[&["cluster"], path.as_slice()].concat(), &message);
    }
    check.identity(settings);
    check.providers(settings);
    check.findings
}

struct Check<'n> {
    node: &'n Node,
    findings: Findings,
}

impl Check<'_> {
    /// Drops entry points without an address: no one wants the random port that Traefik gives them.
    fn addresses(&mut self, settings: &mut Settings) {
        let without = |(_, point): &(&String, &EntryPoint)| point.address.is_empty();
        let names: Vec<String> =
            settings.entry_points.iter().filter(without).map(|(name, _)| name.clone()).collect();
        for name in names {
            let message = "is missing, so the entry point is not opened: expected `[host]:port`, like `:80`";
            self.warn(&["entryPoints", &name, "address"], message);
            settings.entry_points.remove(&name);
        }
    }

    fn core(&mut self, settings: &mut Settings) {
        let syntax = &settings.core.default_rule_syntax;
        let at = ["core", "defaultRuleSyntax"];
        match syntax.known() {
            None if syntax.is_empty() => {}
            Some(RuleSyntax::V3) => {}
            Some(RuleSyntax::V2) => self.warn(&at, V2),
            Some(RuleSyntax::Default) | None => {
                self.problem(&at, &format!("`{syntax}` is unknown: expected `v3`"));
            }
        }
        let idle = &mut settings.servers_transport.max_idle_conns_per_host;
        if *idle < -1 {
            let message =
                format!("`{idle}` is taken for -1, which keeps none: expected a number of connections");
            self.warn(&["serversTransport", "maxIdleConnsPerHost"], &message);
            *idle = -1;
        }
    }

    /// Disables tracing whose collector cannot be reached by any connection.
    fn tracing(&mut self, settings: &mut Settings) {
        let Some(tracing) = &settings.tracing else { return };
        if let Err(error) = Exporter::new(&tracing.otlp.clone().unwrap_or_default(), Signal::Traces) {
            self.warn(&["tracing", "otlp"], &format!("is not usable, so nothing is traced: {error}"));
            settings.tracing = None;
        }
    }

    /// Keeps logs whose collector cannot be reached by any connection where they are without it.
    fn otlp_logs(&mut self, settings: &mut Settings) {
        let access = settings.access_log.as_mut().map(|log| &mut log.otlp);
        for (block, otlp) in [("log", Some(&mut settings.log.otlp)), ("accessLog", access)] {
            let Some(otlp) = otlp else { continue };
            let Some(options) = otlp else { continue };
            if let Err(error) = Exporter::new(&options.connection(), Signal::Logs) {
                self.warn(&[block, "otlp"], &format!("is not usable, so nothing is sent: {error}"));
                *otlp = None;
            }
        }
    }

    /// Drops labels that Prometheus would refuse together with all other metrics.
    fn metrics(&mut self, settings: &mut Settings) {
        self.pushes(settings);
        self.metrics_over_otlp(settings);
        let Some(options) = settings.metrics.as_mut().and_then(|metrics| metrics.prometheus.as_mut()) else {
            return;
        };
        let at = ["metrics", "prometheus", "buckets"];
        if metrics::bounds(&options.buckets).is_none() {
            self.problem(&at, "expected positive numbers of seconds in ascending order");
        }
        options.header_labels.retain(|label, header| {
            let at = ["metrics", "prometheus", "headerLabels", label];
            let is_label = metrics::is_label(label);
            if !is_label {
                self.warn(&at, "is not a label, so it is left out: expected letters, digits and underscores");
            } else if header.parse::<http::HeaderName>().is_err() {
                self.warn(
                    &at,
                    &format!("`{header}` is not the name of a header, so the label is always empty"),
                );
            }
            is_label
        });
    }

    /// Disables pushes to a collector that cannot be reached by any connection, and replaces unusable buckets.
    fn metrics_over_otlp(&mut self, settings: &mut Settings) {
        let Some(metrics) = settings.metrics.as_mut() else { return };
        let Some(options) = metrics.otlp.as_mut() else { return };
        if metrics::bounds(&options.explicit_boundaries).is_none() {
            let message =
                "are not positive numbers of seconds in ascending order, so those of the default are used";
            self.warn(&["metrics", "otlp", "explicitBoundaries"], message);
            options.explicit_boundaries = super::metrics::EXPLICIT_BOUNDARIES.to_vec();
        }
        if let Err(error) = Exporter::new(&options.connection(), Signal::Metrics) {
            let message = format!("is not usable, so no metrics are pushed to it: {error}");
            self.warn(&["metrics", "otlp"], &message);
            metrics.otlp = None;
        }
    }

    /// Replaces intervals of metrics that cannot be kept.
    fn pushes(&mut self, settings: &mut Settings) {
        let Some(options) = settings.metrics.as_mut() else { return };
        let intervals = [
            ("statsD", options.stats_d.as_mut().map(|options| &mut options.push_interval)),
            ("datadog", options.datadog.as_mut().map(|options| &mut options.push_interval)),
            ("influxDB2", options.influx_db2.as_mut().map(|options| &mut options.push_interval)),
            ("otlp", options.otlp.as_mut().map(|options| &mut options.push_interval)),
        ];
        for (name, interval) in intervals {
            if let Some(interval) = interval.filter(|interval| interval.is_zero()) {
                let message = "`0` is not an interval, so 10s is used: expected a duration like `10s`";
                self.warn(&["metrics", name, "pushInterval"], message);
                *interval = super::metrics::PUSH_INTERVAL;
            }
        }
    }

    fn api(&mut self, settings: &mut Settings) {
        if let Some(api) = &settings.api {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.:~-".contains(&byte);
            if !api.base_path.starts_with('/') || !api.base_path.bytes().all(fits) {
                let message = format!(
                    "`{}` is not a path: expected one that begins with `/` and has only letters, digits and `/_.:~-`",
                    api.base_path
                );
                self.problem(&["api", "basePath"], &message);
            }
            for name in api.middlewares.iter().filter(|name| {
                !name.split_once('@').is_some_and(|(name, provider)| !name.is_empty() && !provider.is_empty())
            }) {
                let message =
                    format!("`{name}` names no provider: expected `name@provider`, such as `login@file`");
                self.problem(&["api", "middlewares"], &message);
            }
            if api.insecure && api.base_path != "/" {
                let message =
                    "has no effect while `api.insecure` is on: everything is served below `/`, as in Traefik";
                self.warn(&["api", "basePath"], message);
            }
        }
        let Some(ping) = &mut settings.ping else { return };
        if !ping.manual_routing && !settings.entry_points.contains_key(&ping.entry_point) {
            let message =
                format!("there is no entry point `{}`, so nothing answers `/ping`", ping.entry_point);
            self.warn(&["ping", "entryPoint"], &message);
        }
        if !(100..=999).contains(&ping.terminating_status_code) {
            let code = ping.terminating_status_code;
            let message = format!("`{code}` is not a status, so 503 is used: expected a number like 503");
            self.warn(&["ping", "terminatingStatusCode"], &message);
            ping.terminating_status_code = Ping::default().terminating_status_code;
        }
    }

    fn identity(&mut self, settings: &Settings) {
        let Some(identity) = &settings.identity else { return };
        for (path, message) in identity.mistakes() {
            self.problem(&[&["identity"], path.as_slice()].concat(), &message);
        }
        let Some(token) = &identity.token else { return };
        if !token.manual_routing && !settings.entry_points.contains_key(&token.entry_point) {
            let message =
                format!("there is no entry point `{}`, so services cannot get the keys", token.entry_point);
            self.warn(&["identity", "token", "entryPoint"], &message);
        }
        if let Err(error) = crate::identity::check_key(&token.key_file) {
            self.problem(&["identity", "token", "keyFile"], &format!("`{}`: {error}", token.key_file));
        }
    }

    fn logs(&mut self, settings: &mut Settings) {
        self.known(&["log", "level"], &mut settings.log.level, LogLevel::Error);
        self.known(&["log", "format"], &mut settings.log.format, LogFormat::Common);
        if let Err(error) = log::targets(LogLevel::Error, &settings.log.filter) {
            self.problem(&["log", "filter"], &error.to_string());
        }
        if let Some(message) = unusable(&settings.log.file_path) {
            self.warn(&["log", "filePath"], &format!("{message}: the log goes to standard output"));
            settings.log.file_path.clear();
        }
        let Some(log) = &mut settings.access_log else { return };
        self.known(&["accessLog", "format"], &mut log.format, AccessLogFormat::Common);
        let fields = ["accessLog", "fields"];
        let default = [&fields[..], &["defaultMode"]].concat();
        self.known(&default, &mut log.fields.default_mode, FieldMode::Keep);
        let query = [&fields[..], &["queryParameters", "defaultMode"]].concat();
        self.known(&query, &mut log.fields.query_parameters.default_mode, FieldMode::Keep);
        let headers = [&fields[..], &["headers", "defaultMode"]].concat();
        self.known(&headers, &mut log.fields.headers.default_mode, HeaderMode::Drop);
        let default = log.fields.default_mode.known().unwrap_or(FieldMode::Keep);
        for (name, mode) in &mut log.fields.names {
            self.known(&["accessLog", "fields", "names", name], mode, default);
        }
        let default = log.fields.headers.default_mode.known().unwrap_or(HeaderMode::Drop);
        for (name, mode) in &mut log.fields.headers.names {
            self.known(&["accessLog", "fields", "headers", "names", name], mode, default);
        }
        if let Err(error) = access_log::check_expression(&log.filters.expression) {
            self.problem(&["accessLog", "filters", "expression"], &error.to_string());
        }
        if log.format.known() == Some(AccessLogFormat::Template) {
            if let Err(error) = access_log::check_template(&log.template) {
                self.problem(&["accessLog", "template"], &error.to_string());
            }
        } else if !log.template.is_empty() {
            let message = "has no effect without `accessLog.format: template`";
            self.warn(&["accessLog", "template"], message);
        }
        if let Some(Err(error)) = log.sampling.as_ref().map(access_log::check_sampling) {
            self.problem(&["accessLog", "sampling"], &error.to_string());
        }
        let wrong = log.filters.status_codes.iter().position(|code| !is_status_range(code));
        if let Some(index) = wrong {
            let code = &log.filters.status_codes[index];
            let message = format!(
                "`{code}` (number {}) is not a status, so the filter is not used: expected `404` or `400-499`",
                index + 1
            );
            self.warn(&["accessLog", "filters", "statusCodes"], &message);
            log.filters.status_codes.clear();
        }
    }

    /// Disables an access log whose file cannot be opened. If it is also sent to a collector, that remains.
    fn access_log_file(&mut self, settings: &mut Settings) {
        let Some(log) = &mut settings.access_log else { return };
        let is_sent = log.otlp.is_some();
        if is_sent && !log.dual_output {
            return;
        }
        let Some(message) = unusable(&log.file_path) else { return };
        let at = ["accessLog", "filePath"];
        if is_sent {
            log.dual_output = false;
            self.warn(&at, &format!("{message}: the access log is only sent"));
        } else {
            settings.access_log = None;
            self.warn(&at, &format!("{message}: no access log is written"));
        }
    }

    /// Whoever wants an audit log does not want to serve without one.
    fn audit_log(&mut self, settings: &Settings) {
        let path = settings.audit_log.as_ref().map_or("", |log| &log.file_path);
        if let Some(message) = unusable(path) {
            self.problem(&["auditLog", "filePath"], &message);
        }
    }

    fn entry_points(&mut self, settings: &mut Settings) {
        for (name, point) in &mut settings.entry_points {
            self.entry_point_values(name, point);
        }
        self.redirections(settings);
        let mut addresses: Vec<(&str, Address)> = Vec::new();
        for (name, point) in &settings.entry_points {
            match point.address.parse::<Address>() {
                Err(error) => self.problem(&["entryPoints", name, "address"], &error.to_string()),
                Ok(address) => {
                    if let Some((other, _)) = addresses.iter().find(|(_, other)| other.clashes(&address)) {
                        let message =
                            format!("entry points `{other}` and `{name}` have the same address `{address}`");
                        self.problem(&["entryPoints", name, "address"], &message);
                    }
                    addresses.push((name, address));
                }
            }
            if point.udp.timeout.is_zero() {
                self.problem(&["entryPoints", name, "udp", "timeout"], "expected a time longer than zero");
            }
            self.entry_point(settings, name, point);
        }
        if settings.entry_points.get(INTERNAL_ENTRY_POINT).is_some_and(|point| point.as_default) {
            let message = "the entry point `traefik` never serves routers that name none";
            self.warn(&["entryPoints", INTERNAL_ENTRY_POINT, "asDefault"], message);
        }
    }

    fn entry_point(&mut self, settings: &Settings, name: &str, point: &EntryPoint) {
        let trusted = [
            (["forwardedHeaders", "trustedIPs"], Some(&point.forwarded_headers.trusted_ips)),
            (["proxyProtocol", "trustedIPs"], point.proxy_protocol.as_ref().map(|proxy| &proxy.trusted_ips)),
        ];
        for ([section, key], ranges) in trusted {
            if let Some(Err(error)) = ranges.map(|ranges| IpRanges::parse(ranges)) {
                self.problem(&["entryPoints", name, section, key], &error.to_string());
            }
        }
        if point.proxy_protocol.as_ref().is_some_and(|proxy| !proxy.insecure && proxy.trusted_ips.is_empty())
        {
            let message = "nobody is trusted: expected `trustedIPs` or `insecure`";
            self.problem(&["entryPoints", name, "proxyProtocol"], message);
        }
        let strategies = [
            ("aliasHeadersStrategy", &point.http.alias_headers_strategy),
            ("underscoreHeadersStrategy", &point.http.underscore_headers_strategy),
        ];
        for (key, strategy) in strategies {
            if let Err(error) = strategy.meaning() {
                self.problem(&["entryPoints", name, "http", key], &error.to_string());
            }
        }
        if let Err(error) = point.observability.trace_verbosity.meaning() {
            let message = format!("{error}: only the fewest spans are created");
            self.warn(&["entryPoints", name, "observability", "traceVerbosity"], &message);
        }
        let has = |required: &str| point.http.middlewares.iter().any(|name| is_named(name, required));
        for required in point.http.required_middlewares.iter().filter(|name| *name != "*" && !has(name)) {
            let message =
                format!("there is no `{required}` in `http.middlewares`: expected one of them, or `*`");
            self.problem(&["entryPoints", name, "http", "requiredMiddlewares"], &message);
        }
        if let Some(resolver) =
            point.http.tls.as_ref().map(|tls| &tls.cert_resolver).filter(|name| !name.is_empty())
            && !settings.certificates_resolvers.contains_key(resolver)
        {
            let message = format!(
                "there is no certificate resolver `{resolver}`: expected one of `certificatesResolvers`"
            );
            self.warn(&["entryPoints", name, "http", "tls", "certResolver"], &message);
        }
    }

    /// Replaces values that Traefik interprets differently.
    fn entry_point_values(&mut self, name: &str, point: &mut EntryPoint) {
        let usual = EntryPoint::default();
        if point.http.max_header_bytes == 0 {
            point.http.max_header_bytes = usual.http.max_header_bytes;
        }
        let http2 = &mut point.http2;
        if http2.max_concurrent_streams == 0 {
            http2.max_concurrent_streams = usual.http2.max_concurrent_streams;
        }
        let (size, only) = (http2.max_encoder_header_table_size, usual.http2.max_encoder_header_table_size);
        if size != only {
            let message = format!("`{size}` has no effect: only {only} is supported");
            self.warn(&["entryPoints", name, "http2", "maxEncoderHeaderTableSize"], &message);
            http2.max_encoder_header_table_size = only;
        }
        if let Some(address) = address::with_number(&point.address) {
            point.address = address;
        }
    }

    /// Drops redirections to unknown targets, as in Traefik.
    fn redirections(&mut self, settings: &mut Settings) {
        let names: Vec<String> = settings.entry_points.keys().cloned().collect();
        for (name, point) in &mut settings.entry_points {
            let Some(redirect) = point.http.redirections.as_ref().and_then(|all| all.entry_point.as_ref())
            else {
                continue;
            };
            let to = redirect.to.as_str();
            let port = to.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
            if port || names.iter().any(|name| name == to) {
                continue;
            }
            let why = match to {
                "" => "it does not say where to".to_owned(),
                _ => format!("there is no entry point `{to}`"),
            };
            let message =
                format!("nothing is redirected: {why}: expected the name of an entry point, or `:port`");
            self.warn(&["entryPoints", name, "http", "redirections", "entryPoint", "to"], &message);
            point.http.redirections = None;
        }
    }

    fn providers(&mut self, settings: &mut Settings) {
        for (path, message) in settings.providers.check() {
            self.problem(&[&["providers"], &path[..]].concat(), &message);
        }
        for (path, message) in settings.providers.take_out_unusable() {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            self.warn(&path, &format!("the provider is not started: {message}"));
        }
    }

    fn resolvers(&mut self, settings: &mut Settings) {
        let mut resolvers = std::mem::take(&mut settings.certificates_resolvers);
        for (name, resolver) in &mut resolvers {
            let at = ["certificatesResolvers", name];
            match &mut resolver.acme {
                None if resolver.out.is_empty() => {
                    let message = "obtains nothing: expected `acme`";
                    self.warn(&at, message);
                    resolver.take_out(message.to_owned());
                }
                None => {}
                Some(acme) => {
                    let key_type = [&at[..], &["acme", "keyType"]].concat();
                    self.known(&key_type, &mut acme.key_type, KeyType::Rsa4096);
                    let wrong = acme.mistakes(|name| settings.entry_points.contains_key(name));
                    for (option, message) in &wrong {
                        let path = [&at[..], &["acme"], option].concat();
                        self.warn(&path, &format!("{message}: the resolver obtains nothing"));
                    }
                    if let Some((option, message)) = wrong.first() {
                        let path = [&["acme"], &option[..]].concat().join(".");
                        resolver.take_out(format!("{path}: {message}"));
                    }
                }
            }
        }
        let demanding = |resolver: &&CertificatesResolver| {
            resolver.acme.as_ref().is_some_and(|acme| acme.on_demand.is_some())
        };
        if resolvers.values().filter(demanding).count() > 1 {
            self.problem(&["certificatesResolvers"], "several have `onDemand`: at most one can");
        }
        settings.certificates_resolvers = resolvers;
    }

    /// Replaces an unknown word with `default`, as in Traefik.
    fn known<T: Vocabulary>(&mut self, path: &[&str], word: &mut Word<T>, default: T) {
        let default = Word::from(default);
        match word.known() {
            Some(meaning) => *word = meaning.into(),
            None => {
                let known: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
                let message =
                    format!("`{word}` is unknown, so `{default}` is used: expected `{}`", known.join("`, `"));
                self.warn(path, &message);
                *word = default;
            }
        }
    }

    fn problem(&mut self, path: &[&str], message: &str) {
        let problem = self.at(path, message);
        self.findings.problems.push(problem);
    }

    fn warn(&mut self, path: &[&str], message: &str) {
        let problem = self.at(path, message);
        self.findings.warnings.push(problem);
    }

    /// Creates a problem at the value of this path, or at the closest parent that was written.
    fn at(&self, path: &[&str], message: &str) -> Problem {
        let nearest = (1..=path.len()).rev().find_map(|length| self.node.get(&path[..length]));
        let origin = nearest.map_or(Origin::Internal, |node| node.origin.clone());
        Problem { origin, object: None, message: format!("{}: {message}", path.join(".")), excerpt: None }
    }
}

/// The warning about v2 as the default syntax.
const V2: &str = "`v2` is not supported: rules are read as `v3`, and a router whose rule means something else in `v2` \
                  answers 503";

/// Returns true for `404` and `400-499`.
fn is_status_range(code: &str) -> bool {
    let (first, last) = code.split_once('-').unwrap_or((code, code));
    let number = |text: &str| text.trim().parse::<u16>().ok();
    matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
}

/// Returns why a log file cannot be opened; `None` if it can, or if none is set.
fn unusable(path: &str) -> Option<String> {
    if path.is_empty() {
        return None;
    }
    let was_there = std::fs::exists(path).unwrap_or(true);
    let opened = log_file::open(path.as_ref());
    if opened.is_ok() && !was_there {
        // Created only by the attempt.
        let _ = std::fs::remove_file(path);
    }
    opened.err().map(|error| format!("`{path}` cannot be opened: {error}"))
}
