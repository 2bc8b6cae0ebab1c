//! The tests of HTTP caches (http-tests/cache-tests) through the gateway.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::protocol_suites::{Program, tool};
use crate::cache_pages::{BEHAVIOUR, OPTIMAL, OPTIMAL_MISSES, REQUIRED, REQUIRED_MISSES};
use crate::support::outside::program;
use crate::support::{Gateway, eventually, free_port};

/// Runs a suite through a gateway with these options of `cache`: for each kind and test the result.
fn run(suite: &str, server: &str, options: &str) -> BTreeMap<(String, String), String> {
    let server = tool(&format!("{suite}/{server}"));
    let suite = &tool(suite);
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = Command::new(program("node"));
    command.arg(&server).current_dir(server.ancestors().nth(2).unwrap()).env("npm_config_protocol", "http");
    command.env("npm_config_port", port.to_string()).env("npm_config_pidfile", folder.path().join("pid"));
    let _server = Program(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let routes = Gateway::one_service(&format!("http://127.0.0.1:{port}")).replace(
        "service: a}\n",
        &format!("service: a, middlewares: [cache]}}\n  middlewares:\n    cache: {{cache: {options}}}\n"),
    );
    let gateway = Gateway::serve(&routes);
    let output = Command::new(program("node"))
        .arg("--no-warnings")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs/cache_suite.mjs"))
        .arg(suite)
        .arg(format!("http://{}", gateway.web()))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let result = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        Some(((words.next()?, words.next()?), words.next()?))
    };
    let results: BTreeMap<_, _> = shown.lines().filter_map(result).collect();
    assert!(!results.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    results
}

/// The tests of a kind that fail, and why.
fn missed<'a>(results: &'a BTreeMap<(String, String), String>, kind: &str) -> BTreeMap<&'a str, &'a str> {
    let failed = results.iter().filter(|((of, _), result)| of == kind && *result != "passed");
    failed.map(|((_, id), why)| (id.as_str(), why.as_str())).collect()
}

/// Required tests of 2021 that `cache: {}` fails, since RFC 9111 of 2022 asks for something else, or for the reasons in
/// docs/cache-conformance.md.
const MISSES_OF_2021: [&str; 19] = [
    "304-etag-update-response-ETag",
    "304-etag-update-response-Set-Cookie",
    "304-etag-update-response-Set-Cookie2",
    "age-parse-dup-0",
    "age-parse-dup-0-twoline",
    "age-parse-dup-old",
    "age-parse-float",
    "age-parse-negative",
    "age-parse-nonnumeric",
    "age-parse-numeric-parameter",
    "age-parse-parameter",
    "age-parse-prefix-twoline",
    "headers-store-Set-Cookie",
    "headers-store-Set-Cookie2",
    "headers-store-Transfer-Encoding",
    "stale-close-must-revalidate",
    "stale-close-no-cache",
    "stale-close-proxy-revalidate",
    "stale-close-s-maxage=2",
];

#[test]
#[ignore = "needs the tests of HTTP caches in npm"]
fn those_in_npm_fail_only_where_they_are_outdated() {
    let results = run("cache-tests-npm", "package/server/server.mjs", "{}");
    let missed = missed(&results, "required");
    assert!(missed.keys().eq(&MISSES_OF_2021), "{missed:#?}");
}

#[test]
#[ignore = "needs the tests of HTTP caches"]
fn the_cache_passes_the_tests_of_http_caches() {
    let results = run("cache-tests", "test-engine/server/server.mjs", "{}");
    let of = |kind: &'static str| results.iter().filter(move |((of, _), _)| of == kind);
    let missed = |kind| missed(&results, kind);
    let figures = |kind| (of(kind).count() - missed(kind).len(), of(kind).count());
    for kind in ["required", "optimal", "check"] {
        println!("{kind}: {:?}", figures(kind));
    }
    for (kind, expected) in [("required", &REQUIRED_MISSES[..]), ("optimal", &OPTIMAL_MISSES[..])] {
        let missed = missed(kind);
        assert!(missed.keys().eq(expected), "{kind}: {missed:#?}");
    }
    assert_eq!([figures("required"), figures("optimal"), figures("check")], [REQUIRED, OPTIMAL, BEHAVIOUR]);
}
