//! What types cannot say about settings: addresses, names that must exist, and texts with few meanings.

use tidegate_config::tree::Node;
use tidegate_config::{Origin, Problem};
use tidegate_core::client_ip::IpRanges;

use super::{
    Acme, Address, CertificatesResolver, EntryPoint, INTERNAL_ENTRY_POINT, LETS_ENCRYPT, Settings, is_named,
};
use crate::observability::access_log;

/// What was found.
#[derive(Default)]
pub(super) struct Findings {
    /// Reasons not to start.
    pub(super) problems: Vec<Problem>,
    /// What is odd, but does no harm.
    pub(super) warnings: Vec<Problem>,
}

/// Checks settings that are complete. `node` is what they were read from: it knows where each value was written.
pub(super) fn check(settings: &mut Settings, node: &Node) -> Findings {
    let mut check = Check { node, findings: Findings::default() };
    check.core(settings);
    check.api(settings);
    check.logs(settings);
    check.entry_points(settings);
    check.resolvers(settings);
    for (path, message) in settings.cluster.iter().flat_map(super::Cluster::mistakes) {
        check.problem(&[&["cluster"], path.as_slice()].concat(), &message);
    }
    check.providers(settings);
    check.findings
}

struct Check<'n> {
    node: &'n Node,
    findings: Findings,
}

impl Check<'_> {
    fn core(&mut self, settings: &Settings) {
        let syntax = settings.core.default_rule_syntax.as_str();
        if !matches!(syntax, "" | "v3") {
            let message = format!("`{syntax}` is not supported: rules have the syntax `v3`");
            self.problem(&["core", "defaultRuleSyntax"], &message);
        }
        if settings.servers_transport.max_idle_conns_per_host < -1 {
            self.problem(
                &["serversTransport", "maxIdleConnsPerHost"],
                "expected a number of connections, or -1 for none",
            );
        }
    }

    fn api(&mut self, settings: &Settings) {
        if let Some(api) = &settings.api {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.:~-".contains(&byte);
            if !api.base_path.starts_with('/') || !api.base_path.bytes().all(fits) {
                let message = format!(
                    "`{}` is no path: expected one that begins with `/` and has only letters, digits and `/_.:~-`",
                    api.base_path
                );
                self.problem(&["api", "basePath"], &message);
            }
            if api.insecure && api.base_path != "/" {
                let message =
                    "has no effect while `api.insecure` is on: everything is served below `/`, as in Traefik";
                self.warn(&["api", "basePath"], message);
            }
        }
        let Some(ping) = &settings.ping else { return };
        if !ping.manual_routing && !settings.entry_points.contains_key(&ping.entry_point) {
            let message =
                format!("there is no entry point `{}`, so nothing answers `/ping`", ping.entry_point);
            self.warn(&["ping", "entryPoint"], &message);
        }
        if !(100..=999).contains(&ping.terminating_status_code) {
            let message =
                format!("`{}` is no status: expected a number like 503", ping.terminating_status_code);
            self.problem(&["ping", "terminatingStatusCode"], &message);
        }
    }

    fn logs(&mut self, settings: &mut Settings) {
        let levels = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "PANIC"];
        self.one_of(&["log", "level"], &mut settings.log.level, &levels, "ERROR");
        self.one_of(&["log", "format"], &mut settings.log.format, &["common", "json"], "common");
        let Some(log) = &mut settings.access_log else { return };
        self.one_of(&["accessLog", "format"], &mut log.format, &["common", "genericCLF", "json"], "common");
        let fields = ["accessLog", "fields"];
        self.one_of(
            &[&fields[..], &["defaultMode"]].concat(),
            &mut log.fields.default_mode,
            &["keep", "drop"],
            "keep",
        );
        let query = [&fields[..], &["queryParameters", "defaultMode"]].concat();
        self.one_of(&query, &mut log.fields.query_parameters.default_mode, &["keep", "drop"], "keep");
        let headers = [&fields[..], &["headers", "defaultMode"]].concat();
        self.one_of(&headers, &mut log.fields.headers.default_mode, &["keep", "drop", "redact"], "drop");
        let default = log.fields.default_mode.clone();
        for (name, mode) in &mut log.fields.names {
            self.one_of(&["accessLog", "fields", "names", name], mode, &["keep", "drop"], &default);
        }
        let default = log.fields.headers.default_mode.clone();
        for (name, mode) in &mut log.fields.headers.names {
            let path = ["accessLog", "fields", "headers", "names", name];
            self.one_of(&path, mode, &["keep", "drop", "redact"], &default);
        }
        if let Err(message) = access_log::check_expression(&log.filters.expression) {
            self.problem(&["accessLog", "filters", "expression"], &message);
        }
        for (index, code) in log.filters.status_codes.iter().enumerate() {
            let (first, last) = code.split_once('-').unwrap_or((code, code));
            let number = |text: &str| text.trim().parse::<u16>().ok();
            if !matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last) {
                let message =
                    format!("`{code}` (number {}) is no status: expected `404` or `400-499`", index + 1);
                self.problem(&["accessLog", "filters", "statusCodes"], &message);
            }
        }
    }

    fn entry_points(&mut self, settings: &Settings) {
        let mut addresses: Vec<(&str, Address)> = Vec::new();
        for (name, point) in &settings.entry_points {
            match point.address.parse::<Address>() {
                Err(message) => self.problem(&["entryPoints", name, "address"], &message),
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
            if !matches!(strategy.as_str(), "" | "keep" | "delete" | "reject") {
                let message = format!("`{strategy}` is unknown: expected `keep`, `delete` or `reject`");
                self.problem(&["entryPoints", name, "http", key], &message);
            }
        }
        let has = |required: &str| point.http.middlewares.iter().any(|name| is_named(name, required));
        for required in point.http.required_middlewares.iter().filter(|name| *name != "*" && !has(name)) {
            let message =
                format!("there is no `{required}` in `http.middlewares`: expected one of them, or `*`");
            self.problem(&["entryPoints", name, "http", "requiredMiddlewares"], &message);
        }
        if point.http.max_header_bytes == 0 {
            self.problem(&["entryPoints", name, "http", "maxHeaderBytes"], "expected at least 1");
        }
        if let Some(resolver) =
            point.http.tls.as_ref().map(|tls| &tls.cert_resolver).filter(|name| !name.is_empty())
            && !settings.certificates_resolvers.contains_key(resolver)
        {
            let message = format!(
                "there is no certificate resolver `{resolver}`: expected one of `certificatesResolvers`"
            );
            self.problem(&["entryPoints", name, "http", "tls", "certResolver"], &message);
        }
        let Some(redirect) = point.http.redirections.as_ref().and_then(|all| all.entry_point.as_ref()) else {
            return;
        };
        let to = redirect.to.as_str();
        let port = to.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        if !port && !settings.entry_points.contains_key(to) {
            let message = match to {
                "" => "is required: the name of an entry point, or `:port`".to_owned(),
                _ => format!("there is no entry point `{to}`: expected the name of one, or `:port`"),
            };
            self.problem(&["entryPoints", name, "http", "redirections", "entryPoint", "to"], &message);
        }
    }

    fn providers(&mut self, settings: &Settings) {
        for (path, message) in settings.providers.check() {
            self.problem(&[&["providers"], &path[..]].concat(), &message);
        }
    }

    fn resolvers(&mut self, settings: &mut Settings) {
        let mut resolvers = std::mem::take(&mut settings.certificates_resolvers);
        for (name, resolver) in &mut resolvers {
            let at = ["certificatesResolvers", name];
            match &mut resolver.acme {
                None => self.warn(&at, "obtains nothing: expected `acme`"),
                Some(acme) => self.acme(settings, name, acme),
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

    fn acme(&mut self, settings: &Settings, name: &str, acme: &mut Acme) {
        let at = |rest: &[&'static str]| [&["certificatesResolvers", name, "acme"], rest].concat();
        if let Some((option, message)) = acme.wrong_storage() {
            self.problem(&at(&[option]), &message);
        }
        if !acme.ca_server.starts_with("https://") && !acme.ca_server.starts_with("http://") {
            let message = format!("`{}` is no URL: expected one like `{LETS_ENCRYPT}`", acme.ca_server);
            self.problem(&at(&["caServer"]), &message);
        }
        let types = ["EC256", "EC384", "RSA2048", "RSA4096", "RSA8192"];
        self.one_of(&at(&["keyType"]), &mut acme.key_type, &types, "RSA4096");
        if acme.certificates_duration == 0 {
            self.problem(&at(&["certificatesDuration"]), "expected a number of hours above 0");
        }
        if let Some(eab) = &acme.eab
            && (eab.kid.is_empty() || eab.hmac_encoded.is_empty())
        {
            self.problem(&at(&["eab"]), "`kid` and `hmacEncoded` go together");
        }
        if acme.dns_challenge.is_none() && acme.http_challenge.is_none() && acme.tls_challenge.is_none() {
            let message = "no way to prove names: expected `httpChallenge`, `tlsChallenge` or `dnsChallenge`";
            self.problem(&at(&[]), message);
        }
        if let Some(http) = &acme.http_challenge
            && !settings.entry_points.contains_key(&http.entry_point)
        {
            let message = match http.entry_point.as_str() {
                "" => "is required: the entry point that is reached at port 80".to_owned(),
                other => format!("there is no entry point `{other}`"),
            };
            self.problem(&at(&["httpChallenge", "entryPoint"]), &message);
        }
        if let Some(dns) = &acme.dns_challenge
            && let Err(message) = crate::acme::check_dns(dns)
        {
            self.problem(&at(&["dnsChallenge"]), &message);
        }
        if let Some(demand) = &acme.on_demand {
            if url::Url::parse(&demand.ask).map_or(true, |ask| !ask.has_host()) {
                let message =
                    format!("`{}` is no URL: somebody must say which names are allowed", demand.ask);
                self.problem(&at(&["onDemand", "ask"]), &message);
            }
            if demand.limit == 0 {
                self.problem(&at(&["onDemand", "limit"]), "expected a number of names above 0");
            }
        }
    }

    /// A text that has a few meanings, without case; any other is taken for `default`, as in Traefik.
    fn one_of(&mut self, path: &[&str], value: &mut String, known: &[&str], default: &str) {
        match known.iter().find(|known| known.eq_ignore_ascii_case(value)) {
            Some(known) => (*known).clone_into(value),
            None => {
                let message = format!(
                    "`{value}` is unknown, so `{default}` is used: expected `{}`",
                    known.join("`, `")
                );
                self.warn(path, &message);
                default.clone_into(value);
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

    /// A problem at the value of this path, or at the nearest thing around it that was written.
    fn at(&self, path: &[&str], message: &str) -> Problem {
        let nearest = (1..=path.len()).rev().find_map(|length| self.node.get(&path[..length]));
        let origin = nearest.map_or(Origin::Internal, |node| node.origin.clone());
        Problem { origin, object: None, message: format!("{}: {message}", path.join(".")), excerpt: None }
    }
}
