//! The provider `internal`: routers, middlewares and services derived from the settings.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_config::router::Router;
use tidegate_config::service::Service;
use tidegate_config::{Config, Http, Provided};
use tidegate_middlewares::Options;
use tidegate_middlewares::redirect_regex::RedirectRegex;
use tidegate_middlewares::redirect_scheme::RedirectScheme;
use tidegate_middlewares::strip_prefix::StripPrefix;

use crate::acme::CHALLENGE_PREFIX;
use crate::settings::{EntryPoint, RedirectEntryPoint, Settings};

/// Entry point of services that are reached without a router of the user.
const INTERNAL_ENTRY_POINT: &str = "traefik";
/// Traefik's expression for the root of the dashboard's host.
const DASHBOARD_ROOT: &str = r"^(http:\/\/(\[[\w:.]+\]|[\w\._-]+)(:\d+)?)\/$";

/// Returns the state derived from the settings.
pub fn provided(settings: &Settings) -> Provided {
    let mut http = Http::default();
    http.services.insert("noop".into(), Arc::default());
    ping(settings, &mut http);
    rest(settings, &mut http);
    api(settings, &mut http);
    prometheus(settings, &mut http);
    public_keys(settings, &mut http);
    acme(settings, &mut http);
    for (name, point) in &settings.entry_points {
        let redirection = point.http.redirections.as_ref().and_then(|to| to.entry_point.as_ref());
        if let Some(redirection) = redirection {
            redirect(settings, name, point, redirection, &mut http);
        }
    }
    let problems = settings.problems.clone();
    Provided { config: Config { http, ..Config::default() }, problems, ..Provided::default() }
}

fn router(entry_point: &str, rule: &str, service: &str, priority: i64) -> Router {
    Router {
        entry_points: vec![entry_point.to_owned()],
        rule: rule.to_owned(),
        rule_syntax: "default".into(),
        service: format!("{service}@internal").into(),
        priority,
        ..Router::default()
    }
}

fn ping(settings: &Settings, http: &mut Http) {
    let Some(ping) = &settings.ping else { return };
    for service in ["ping", "ready"] {
        http.services.insert(service.into(), Arc::default());
    }
    if ping.manual_routing {
        return;
    }
    let at = &ping.entry_point;
    http.routers.insert("ping".into(), Arc::new(router(at, "PathPrefix(`/ping`)", "ping", i64::MAX)));
    // `/ready` does not exist in Traefik, so routes of others on the entry point take precedence.
    let priority = if at == INTERNAL_ENTRY_POINT { i64::MAX } else { i64::MIN };
    http.routers.insert("ready".into(), Arc::new(router(at, "Path(`/ready`)", "ready", priority)));
}

fn rest(settings: &Settings, http: &mut Http) {
    let mut providers = settings.providers.rest().peekable();
    if providers.peek().is_none() {
        return;
    }
    http.services.insert("rest".into(), Arc::default());
    if providers.any(|(_, rest)| rest.insecure) {
        let rule = "PathPrefix(`/api/providers`)";
        http.routers.insert("rest".into(), Arc::new(router(INTERNAL_ENTRY_POINT, rule, "rest", i64::MAX)));
    }
}

fn api(settings: &Settings, http: &mut Http) {
    let Some(api) = &settings.api else { return };
    // The gateway puts them in front of its own services; here, they are shown.
    let middlewares = api.middlewares.iter().map(|name| name.as_str().into()).collect();
    let guarded = Arc::new(Service { middlewares, ..Service::default() });
    if api.dashboard {
        http.services.insert("dashboard".into(), guarded.clone());
    }
    http.services.insert("api".into(), guarded);
    if !api.insecure {
        return;
    }
    let at = INTERNAL_ENTRY_POINT;
    http.routers.insert("api".into(), Arc::new(router(at, "PathPrefix(`/api`)", "api", i64::MAX - 1)));
    if api.debug {
        let debug = router(at, "PathPrefix(`/debug`)", "api", i64::MAX - 1);
        http.routers.insert("debug".into(), Arc::new(debug));
    }
    if !api.dashboard {
        return;
    }
    if !api.middlewares.is_empty() {
        // A login has to see the path that users return to, so nothing is stripped in front of it.
        let dashboard = router(at, "PathPrefix(`/`)", "api", i64::MAX - 2);
        http.routers.insert("dashboard".into(), Arc::new(dashboard));
        return;
    }
    let mut dashboard = router(at, "PathPrefix(`/`)", "dashboard", i64::MAX - 2);
    dashboard.middlewares =
        vec!["dashboard_redirect@internal".into(), "dashboard_stripprefix@internal".into()];
    http.routers.insert("dashboard".into(), Arc::new(dashboard));
    let to_dashboard = RedirectRegex {
        regex: DASHBOARD_ROOT.into(),
        replacement: "${1}/dashboard/".into(),
        permanent: true,
    };
    http.middlewares
        .insert("dashboard_redirect".into(), Arc::new(Options::redirectRegex(to_dashboard).into()));
    let strip =
        StripPrefix { prefixes: vec!["/dashboard/".into(), "/dashboard".into()], ..StripPrefix::default() };
    http.middlewares.insert("dashboard_stripprefix".into(), Arc::new(Options::stripPrefix(strip).into()));
}

fn public_keys(settings: &Settings, http: &mut Http) {
    let Some(token) = settings.identity.as_ref().and_then(|identity| identity.token.as_ref()) else { return };
    http.services.insert("jwks".into(), Arc::default());
    if !token.manual_routing {
        let router = router(&token.entry_point, "Path(`/.well-known/jwks.json`)", "jwks", i64::MAX);
        http.routers.insert("jwks".into(), Arc::new(router));
    }
}

fn prometheus(settings: &Settings, http: &mut Http) {
    let Some(options) = settings.prometheus() else { return };
    http.services.insert("prometheus".into(), Arc::default());
    if !options.manual_routing {
        let router = router(&options.entry_point, "PathPrefix(`/metrics`)", "prometheus", i64::MAX);
        http.routers.insert("prometheus".into(), Arc::new(router));
    }
}

/// Adds the routers for challenges of certificate resolvers. With `allowACMEByPass`, other routers may take
/// precedence.
fn acme(settings: &Settings, http: &mut Http) {
    let wanted: BTreeSet<&str> =
        settings.certificates_resolvers.values().filter_map(|resolver| resolver.http_entry_point()).collect();
    let may_pass =
        |name: &&str| settings.entry_points.get(*name).is_some_and(|point| point.allow_acme_by_pass);
    let (weak, strong): (Vec<&str>, Vec<&str>) = wanted.into_iter().partition(may_pass);
    for (name, points, priority) in [("acme-http", strong, i64::MAX), ("acme-http-bypass", weak, 0)] {
        if points.is_empty() {
            continue;
        }
        let rule = format!("PathPrefix(`{CHALLENGE_PREFIX}`)");
        let mut shown = router("", &rule, "acme-http", priority);
        shown.entry_points = points.into_iter().map(str::to_owned).collect();
        http.routers.insert(name.into(), Arc::new(shown));
        http.services.insert("acme-http".into(), Arc::default());
    }
}

/// Adds the router that redirects a whole entry point (`entryPoints.<name>.http.redirections`).
fn redirect(settings: &Settings, name: &str, point: &EntryPoint, to: &RedirectEntryPoint, http: &mut Http) {
    // `to` is a port, or an entry point whose port is used.
    let target = to.to.strip_prefix(':').map_or(to.to.as_str(), |port| port);
    let port = settings.entry_points.get(&to.to).map_or(target, |other| port_of(&other.address));
    let rule = if point.allow_acme_by_pass {
        "HostRegexp(`^.+$`) && !PathPrefix(`/.well-known/acme-challenge/`)"
    } else {
        "HostRegexp(`^.+$`)"
    };
    let router_name = format!("{name}-to-{target}");
    let middleware_name = format!("redirect-{router_name}");
    let mut redirecting = router(name, rule, "noop", to.priority);
    redirecting.middlewares = vec![format!("{middleware_name}@internal")];
    let options =
        RedirectScheme { scheme: to.scheme.clone(), port: port.to_owned(), permanent: to.permanent };
    http.middlewares.insert(middleware_name, Arc::new(Options::redirectScheme(options).into()));
    http.routers.insert(router_name, Arc::new(redirecting));
}

/// Returns the port of `[host]:port[/tcp]`.
fn port_of(address: &str) -> &str {
    let address = address.split('/').next().unwrap_or(address);
    address.rsplit_once(':').map_or(address, |(_, port)| port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Api, Ping, Redirections};

    fn with(points: &[(&str, &str)]) -> Settings {
        let point = |address: &str| EntryPoint { address: address.into(), ..EntryPoint::default() };
        let entry_points = points.iter().map(|(name, at)| ((*name).to_owned(), point(at))).collect();
        Settings { entry_points, ..Settings::default() }
    }

    #[test]
    fn the_insecure_api_comes_with_the_dashboard() {
        let mut settings = with(&[("traefik", ":8080")]);
        settings.api = Some(Api { insecure: true, ..Api::default() });
        let http = provided(&settings).config.http;
        assert_eq!(http.routers.keys().collect::<Vec<_>>(), ["api", "dashboard"]);
        assert_eq!(http.services.keys().collect::<Vec<_>>(), ["api", "dashboard", "noop"]);
    }

    #[test]
    fn other_routes_take_precedence_over_ready() {
        let mut settings = with(&[("web", ":80")]);
        settings.ping = Some(Ping { entry_point: "web".into(), ..Ping::default() });
        let routers = provided(&settings).config.http.routers;
        assert_eq!(routers["ping"].priority, i64::MAX);
        assert_eq!(routers["ready"].priority, i64::MIN);
    }

    #[test]
    fn a_redirection_names_the_port_of_its_target() {
        let mut settings = with(&[("web", ":80"), ("secure", "127.0.0.1:8443/tcp")]);
        let to = RedirectEntryPoint { to: "secure".into(), ..RedirectEntryPoint::default() };
        if let Some(web) = settings.entry_points.get_mut("web") {
            web.http.redirections = Some(Redirections { entry_point: Some(to) });
        }
        let http = provided(&settings).config.http;
        assert_eq!(http.routers["web-to-secure"].priority, i64::MAX - 1);
        let Options::redirectScheme(options) = &http.middlewares["redirect-web-to-secure"].options else {
            panic!()
        };
        assert_eq!((options.port.as_str(), options.scheme.as_str()), ("8443", "https"));
    }
}
