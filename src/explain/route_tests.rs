//! Runs the tests of a configuration (`http.tests`).

use tidegate_config::{Expectation, Origin, Problem, RouteTest};

use super::report::{Explanation, Outcome};
use super::{Question, explain};
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// Returns a problem for each test whose expectation is not met.
pub(crate) fn failed_tests<'t>(
    snapshot: &Snapshot,
    settings: &Settings,
    tests: impl Iterator<Item = &'t (Origin, RouteTest)>,
) -> Vec<Problem> {
    tests
        .filter_map(|(origin, test)| {
            let mistakes = match explain(snapshot, settings, &Question::from(&test.request)) {
                Ok(explanation) => mistakes(&explanation, &test.expect),
                Err(error) => vec![error.to_string()],
            };
            let request = &test.request;
            let method = if request.method.is_empty() { "GET" } else { &request.method };
            let message = format!("test of {method} {}: {}", request.url, mistakes.join("; "));
            (!mistakes.is_empty()).then(|| Problem {
                origin: origin.clone(),
                object: None,
                message,
                excerpt: None,
            })
        })
        .collect()
}

fn mistakes(explanation: &Explanation, expect: &Expectation) -> Vec<String> {
    let mut mistakes = Vec::new();
    let result = &explanation.result;
    let mut compare = |what: &str, expected: &Option<String>, found: Option<&str>, is_name: bool| {
        let Some(expected) = expected else { return };
        let found = found.unwrap_or("");
        if !(expected == found || is_name && is_same_name(expected, found)) {
            let shown = |text: &str| if text.is_empty() { "none".to_owned() } else { format!("`{text}`") };
            mistakes.push(format!("{what}: expected {}, found {}", shown(expected), shown(found)));
        }
    };
    compare("router", &expect.router, result.router.as_deref(), true);
    compare("service", &expect.service, result.service.as_deref(), true);
    let path = explanation.forwarded.as_ref().map(|forwarded| forwarded.path.as_str());
    compare("path", &expect.path, path, false);
    let location = result.response.as_ref().and_then(|response| response.location.as_deref());
    compare("location", &expect.location, location, false);
    mistakes.extend(expect.status.and_then(|expected| status_mistake(result, expected)));
    mistakes.extend(middleware_mistake(explanation, &expect.middleware));
    mistakes
}

fn status_mistake(result: &Outcome, expected: u16) -> Option<String> {
    let found = match &result.response {
        Some(response) if response.status == expected && result.certain => return None,
        Some(response) if result.certain => response.status.to_string(),
        _ if !result.certain => {
            format!("a response that depends on {}", result.depends_on.join(", "))
        }
        _ if result.origin == "server" => {
            "a server, whose response is not known without sending: leave `status` out".to_owned()
        }
        _ => format!("a response of {}, which is not known without sending", result.origin),
    };
    Some(format!("status: expected {expected}, found {found}"))
}

/// Checks that the way of the request contains these middlewares in order.
fn middleware_mistake(explanation: &Explanation, expected: &[String]) -> Option<String> {
    let routers = explanation.routing.iter().filter_map(|level| level.router.as_ref());
    let of_routers = routers.flat_map(|router| &router.middlewares);
    let of_service = explanation.service.iter().flat_map(|service| &service.middlewares);
    let found: Vec<_> = of_routers.chain(of_service).collect();
    let mut left = found.iter();
    let missing = expected.iter().find(|expected| {
        !left.any(|view| {
            is_same_name(expected, &view.name) || view.via.iter().any(|chain| is_same_name(expected, chain))
        })
    })?;
    let names: Vec<&str> = found.iter().map(|view| view.name.as_str()).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Some(format!("middleware: expected `{missing}`, found {names}"))
}

/// Returns true if a name, which may lack its provider, is that of an object.
fn is_same_name(written: &str, name: &str) -> bool {
    written == name
        || (!written.contains('@') && name.rsplit_once('@').is_some_and(|(plain, _)| plain == written))
}
