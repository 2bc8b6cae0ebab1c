//! The pages about the cache, and what they claim.

use std::collections::BTreeSet;

use crate::docs::root;
use crate::support::{Backend, Gateway, get};

/// Required tests that `cache: {}` fails.
pub const REQUIRED_MISSES: [&str; 3] =
    ["headers-store-Set-Cookie", "headers-store-Set-Cookie2", "headers-store-Transfer-Encoding"];

/// The same of optimal tests.
pub const OPTIMAL_MISSES: [&str; 13] = [
    "conditional-lm-fresh-no-lm",
    "freshness-expires-ansi-c",
    "method-POST",
    "other-set-cookie",
    "partial-store-partial-complete",
    "partial-store-partial-reuse-partial",
    "partial-store-partial-reuse-partial-absent",
    "partial-store-partial-reuse-partial-byterange",
    "partial-store-partial-reuse-partial-suffix",
    "status-400-fresh",
    "vary-normalise-lang-order",
    "vary-normalise-lang-select",
    "vary-normalise-space",
];

/// How many tests of a kind pass, and how many there are.
pub type Figures = (usize, usize);

pub const REQUIRED: Figures = (157, 160);
pub const OPTIMAL: Figures = (92, 105);
/// Tests of what a cache may choose: passing is no merit, but what it chooses is documented.
pub const BEHAVIOUR: Figures = (61, 100);

#[test]
fn the_page_about_the_tests_has_their_results() {
    let page = std::fs::read_to_string(root().join("docs/cache-conformance.md")).unwrap();
    let ids = |heading: &str| -> BTreeSet<String> {
        let section = page.split(&format!("\n## {heading}\n")).nth(1).unwrap();
        let rows = section.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
            .map(str::to_owned)
            .collect()
    };
    let expected = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    assert_eq!(ids("Required tests that fail"), expected(&REQUIRED_MISSES));
    assert_eq!(ids("Optimal tests that fail"), expected(&OPTIMAL_MISSES));
    let ours = format!("| **Tidegate** | {} | {} | {} |", REQUIRED.0, OPTIMAL.0, BEHAVIOUR.0);
    assert!(page.contains(&ours), "{ours}");
    let totals = format!("| tests | {} | {} | {} |", REQUIRED.1, OPTIMAL.1, BEHAVIOUR.1);
    assert!(page.contains(&totals), "{totals}");
}

/// Cells of a row of a table. `\|` is not their end.
fn cells(row: &str) -> Vec<String> {
    let row = row.replace("\\|", "\u{1}");
    let cells = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|"));
    cells.collect()
}

/// Each row of the page about the options of others has a middleware that works, or says why there is none.
#[test]
fn the_middlewares_of_the_page_for_users_of_other_caches_work() {
    let page = std::fs::read_to_string(root().join("docs/cache-from-others.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let backend =
        Backend::bytes("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok");
    let (mut routers, mut middlewares, mut rows) = (String::new(), String::new(), [0, 0]);
    let tables = page.lines().filter(|line| line.starts_with("| "));
    for row in tables.filter(|line| !line.contains("| Tidegate |")) {
        let cells = cells(row);
        let [theirs, ours, remarks] = &cells[..] else { panic!("expected three cells: {row}") };
        assert!(!theirs.is_empty(), "{row}");
        if ours == "–" {
            let reasons = [
                "Not available",
                "Nothing to set",
                "Leave the middleware out",
                "The middleware",
                "[`tidegate explain`]",
            ];
            assert!(reasons.iter().any(|reason| remarks.starts_with(reason)), "{row}");
            rows[1] += 1;
            continue;
        }
        let ours =
            ours.strip_prefix('`').and_then(|ours| ours.strip_suffix('`')).unwrap_or_else(|| panic!("{row}"));
        let ours =
            ours.trim_start_matches('{').strip_suffix("}").filter(|_| ours.starts_with('{')).unwrap_or(ours);
        let at = rows[0];
        // Each has a folder of its own.
        let ours =
            ours.replace("/var/cache/tidegate", &folder.path().join(at.to_string()).display().to_string());
        routers
            .push_str(&format!("    r{at}: {{rule: 'Host(`h{at}`)', service: a, middlewares: [m{at}]}}\n"));
        middlewares.push_str(&format!("    m{at}: {{{ours}}}\n"));
        rows[0] += 1;
    }
    assert!(rows[0] > 40 && rows[1] > 15, "{rows:?}");
    let services = format!("    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n", backend.url());
    let routes = format!("http:\n  routers:\n{routers}  middlewares:\n{middlewares}  services:\n{services}");
    let gateway = Gateway::serve(&routes);
    assert_eq!(gateway.problems(), Vec::<String>::new(), "{routes}");
    for at in 0..rows[0] {
        let answer = get(gateway.web(), &format!("h{at}"), "/x");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{at}");
        assert!(answer.header("cache-status").is_some(), "{at}");
    }
}

/// The folder `examples/cache`: the labels of the Compose file say the same as the route file, which works.
#[test]
fn the_example_of_a_cache_works() {
    let folder = root().join("examples/cache");
    let text = std::fs::read_to_string(folder.join("routes.yml")).unwrap();
    let backend = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let kept = tempfile::tempdir().unwrap();
    let text = text.replace("http://127.0.0.1:8080", &backend.url());
    let text = text.replace("/var/cache/tidegate", &kept.path().join("cache").display().to_string());
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let status =
        |path: &str| get(gateway.web(), "photos.localhost", path).header("cache-status").map(str::to_owned);
    assert_eq!(status("/a?utm_source=x").as_deref(), Some("tidegate; fwd=uri-miss; ttl=10; stored"));
    assert!(status("/a").unwrap().starts_with("tidegate; hit"));
    assert_eq!(status("/account/x"), None, "what `when` leaves out");
    let compose = std::fs::read_to_string(folder.join("docker-compose.yml")).unwrap();
    let labels = compose.lines().filter_map(|line| line.trim().strip_prefix("- tidegate.http.middlewares."));
    let labels: Vec<(String, &str)> = labels
        .filter_map(|label| label.split_once('='))
        .map(|(key, value)| (format!("tidegate.http.middlewares.{key}"), value))
        .collect();
    let origin = |key: &str| tidegate_config::Origin::Label { container: "c".into(), label: key.into() };
    let pairs = labels.iter().map(|(key, value)| (key.as_str(), *value));
    let (node, problems) = tidegate_config::formats::labels::read(pairs, &["tidegate"], origin);
    assert!(problems.is_empty(), "{problems:?}");
    let from_labels = tidegate_config::decode_config(&node).config;
    let text = std::fs::read_to_string(folder.join("routes.yml")).unwrap();
    let node = tidegate_config::formats::read("routes.yml", text.as_bytes()).unwrap();
    let from_file = tidegate_config::decode_config(&node).config;
    assert_eq!(from_labels.http.middlewares, from_file.http.middlewares);
}
