//! Tests of middleware kinds that are registered at run time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_config::runtime::register;
use tidegate_core::building::Task;
use tidegate_core::reference::Target;
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Reason, Request, Response, reply,
};

use super::{Compiled, World, errors};
use tidegate_config::Kind;

/// Counts requests in state that outlives changes of `header`, and has a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Counter {
    header: String,
    /// Other middlewares that must exist.
    beside: Vec<String>,
}

/// Tasks that have started.
static STARTED: Mutex<Vec<String>> = Mutex::new(Vec::new());
static ENDED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Ending(String);

impl Drop for Ending {
    fn drop(&mut self) {
        ENDED.lock().push(self.0.clone());
    }
}

impl Build for Counter {
    const PER_ROUTER: bool = true;

    tidegate_core::references!(Self { beside, .. }, visit => {
        for name in beside {
            visit(Target::Middleware, name);
        }
    });

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        for name in &self.beside {
            context.middleware(name)?;
        }
        let header = self.header.parse().map_err(|_| BuildError::new("header: not a name"))?;
        let label = format!("{} {}", context.name, self.header);
        let task = context.spawn("announce", async move {
            let ending = Ending(label.clone());
            STARTED.lock().push(label);
            std::future::pending::<()>().await;
            drop(ending);
        });
        Ok(Arc::new(Counting { header, count: context.state("count", AtomicUsize::default), _task: task }))
    }
}

struct Counting {
    header: http::HeaderName,
    count: Arc<AtomicUsize>,
    _task: Task,
}

impl Middleware for Counting {
    fn handle<'a>(&'a self, _: Request, _: &'a Next) -> BoxFuture<'a, Response> {
        let mut response = reply::status_text(StatusCode::ACCEPTED, Reason::OwnService);
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        response.headers_mut().insert(self.header.clone(), HeaderValue::from(count));
        Box::pin(std::future::ready(response))
    }
}

/// Returns a configuration with a middleware of this kind. `router` holds more options of the router.
fn config(kind: &str, options: &str, router: &str) -> String {
    format!(
        r#"{{"http": {{
            "routers": {{"r": {{"rule": "Path(`/`)", "service": "s"{router}}}}},
            "services": {{{}}},
            "middlewares": {{"m": {{"{kind}": {{{options}}}}}, "other": {{"stripPrefix": {{}}}}}}
        }}}}"#,
        super::SERVICE
    )
}

const USED: &str = r#", "middlewares": ["m"]"#;

/// Returns the count that the middleware writes to this header.
fn count(world: &World, compiled: &Compiled, header: &str) -> String {
    let response = world.get(&compiled.snapshot, "h.test", "/").unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    response.headers()[header].to_str().unwrap().to_owned()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn middlewares_registered_at_run_time_handle_requests() {
    register::<Counter>("countingOne").unwrap();
    let world = World::new(&["web"]);
    let with = |options: &str| config("countingOne", options, USED);
    let first = world.compile(&with(r#""header": "x-a", "beside": ["other"]"#));
    assert_eq!(count(&world, &first, "x-a"), "1");
    let second = world.compile_after(&with(r#""header": "x-b""#), Some(&first));
    assert_eq!(count(&world, &second, "x-b"), "2");
    let broken = world.compile_after(&with(r#""header": "x-c", "beside": ["gone"]"#), Some(&second));
    assert_eq!(errors(&broken, Kind::Middleware, "m@file"), [r#"middleware "gone@file" does not exist"#]);
    assert_eq!(world.status(&broken.snapshot, "h.test", "/"), Some(StatusCode::SERVICE_UNAVAILABLE));
}

#[test]
fn tasks_run_while_their_middlewares_are_used() {
    register::<Counter>("countingTwo").unwrap();
    let world = World::new(&["web"]);
    let with = |header: &str, router| config("countingTwo", &format!(r#""header": "{header}""#), router);
    let has_started = |label: &str| STARTED.lock().iter().any(|one| one == label);
    let has_ended = |label: &str| ENDED.lock().iter().any(|one| one == label);
    drop(world.draft(&with("x-checked", USED), None));
    let unused = world.compile(&with("x-one", ""));
    // The router reuses the instance, whose task is started now.
    let first = world.compile_after(&with("x-one", USED), Some(&unused));
    until("the task has started", || has_started("m@file x-one"));
    let same = world.compile_after(&with("x-one", USED), Some(&first));
    let second = world.compile_after(&with("x-two", USED), Some(&same));
    until("the next task has started", || has_started("m@file x-two"));
    assert!(!has_ended("m@file x-one"), "requests may still use it");
    drop((unused, first, same));
    until("the task has ended", || has_ended("m@file x-one"));
    assert_eq!(STARTED.lock().iter().filter(|label| label.contains("x-one")).count(), 1);
    assert!(!has_started("m@file x-checked") && !has_ended("m@file x-two"));
    drop(second);
    until("the last task has ended", || has_ended("m@file x-two"));
}
