//! Tests of the routes that are kept while services are replaced.

use super::*;

/// Returns options that keep routes for this many milliseconds.
fn keeping(options: Options, milliseconds: u64) -> Options {
    Options { keep_routes: tidegate_core::values::Duration::from_millis(milliseconds), ..options }
}

/// An instance with a router and a middleware of its own.
fn routed(port: u16, status: &str, host: &str) -> Value {
    let tags = [
        &format!("traefik.http.routers.web.rule=Host(`{host}`)"),
        "traefik.http.routers.web.middlewares=strip",
        "traefik.http.middlewares.strip.stripprefix.prefixes=/x",
    ];
    entry("web", "10.0.0.1", port, status, &tags)
}

#[tokio::test]
async fn the_routes_of_services_that_are_being_replaced_are_kept() {
    for watch in [true, false] {
        let agent = Agent::start().await;
        agent.set("web", &[routed(80, "passing", "a")]);
        let options = if watch { agent.options() } else { polled(&agent) };
        let mut running = Running::start(build(keeping(options, 600_000)).expect("valid options"));
        let state = running.next().await.state;
        assert_eq!((urls(&state, "web").len(), state.kept.len()), (1, 0));
        // Its check fails, and its tags are still the truth.
        agent.set("web", &[routed(80, "critical", "a")]);
        let state = running.until(|state| !state.kept.is_empty()).await;
        assert_eq!(state.config.http.routers["web"].middlewares, ["strip"]);
        assert!(state.config.http.middlewares.contains_key("strip"));
        assert_eq!((urls(&state, "web").len(), state.kept.len(), state.problems.len()), (0, 3, 0));
        agent.set("web", &[routed(80, "critical", "b")]);
        running.until(|state| state.config.http.routers["web"].rule == "Host(`b`)").await;
        // It leaves the catalog.
        agent.catalog.lock().services.remove("web");
        agent.wake();
        agent.set("other", &[entry("other", "10.0.0.2", 80, "passing", &[])]);
        let state = running.until(|state| state.config.http.services.contains_key("other")).await;
        assert_eq!((&*state.config.http.routers["web"].rule, state.kept.len()), ("Host(`b`)", 3));
        // The connection is lost meanwhile.
        agent.server.cut();
        agent.server.mend();
        agent.set("web", &[routed(81, "passing", "c")]);
        let state = running.until(|state| urls(state, "web") == ["http://10.0.0.1:81"]).await;
        assert_eq!(state.config.http.routers["web"].rule, "Host(`c`)");
        assert_eq!((state.kept.len(), state.problems.len()), (0, 0));
    }
}

#[tokio::test]
async fn kept_routes_of_a_catalog_end_after_their_time() {
    for watch in [true, false] {
        let agent = Agent::start().await;
        agent.set("web", &[web(80, "passing")]);
        let mut options = agent.options();
        options.watch = watch;
        if !watch {
            options.refresh_interval = tidegate_core::values::Duration::from_millis(30);
        }
        let mut running = Running::start(build(keeping(options, 60)).expect("valid options"));
        running.next().await;
        agent.catalog.lock().services.remove("web");
        agent.wake();
        let state = running.until(|state| urls(state, "web").is_empty()).await;
        assert!(state.config.http.routers.contains_key("web") && !state.kept.is_empty());
        running.until(|state| state.config.http.routers.is_empty() && state.kept.is_empty()).await;
    }
}

#[tokio::test]
async fn nothing_is_kept_of_services_that_are_no_longer_exposed() {
    let agent = Agent::start().await;
    let exposed = entry("web", "10.0.0.1", 80, "passing", &["traefik.enable=true"]);
    agent.set("web", &[exposed]);
    let options = Options { exposed_by_default: false, ..agent.options() };
    let mut running = Running::start(build(keeping(options, 600_000)).expect("valid options"));
    running.until(|state| state.config.http.routers.contains_key("web")).await;
    agent.set("web", &[web(80, "passing")]);
    let state = running.until(|state| state.config.http.routers.is_empty()).await;
    assert!(state.kept.is_empty());
    let options = keeping(agent.options(), 3_600_001);
    assert!(build(options).is_err_and(|error| error.to_string().contains("keepRoutes")));
}
