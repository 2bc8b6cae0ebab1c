//! Times a look-up among 1,000 and 10,000 routes of distinct hosts, and the building of the index.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use tidegate::router::{Entry, Index, Rule};
use tidegate_core::{Body, Connection, Context, Request};

const LOOKUPS: usize = 500_000;

fn main() {
    for routes in [1_000, 10_000] {
        let begun = Instant::now();
        let index = Index::new((0..routes).map(entry).collect());
        let built = begun.elapsed();
        let requests: Vec<Request> = (0..routes).step_by(routes / 100).map(request).collect();
        let begun = Instant::now();
        for request in requests.iter().cycle().take(LOOKUPS) {
            assert!(black_box(index.find(black_box(request))).is_some());
        }
        let each = begun.elapsed() / LOOKUPS as u32;
        report(&format!("{routes} routes: parsed and built in {built:?}, {each:?} per look-up"));
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark reports to whoever runs it")]
fn report(line: &str) {
    println!("{line}");
}

fn entry(number: usize) -> Entry<usize> {
    let text = format!("Host(`h{number}.bench.test`) && PathPrefix(`/p{number}`)");
    let rule = Rule::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    Entry { rule, priority: text.len() as i64, tie: (0, format!("r{number}@file")), value: Arc::new(number) }
}

fn request(number: usize) -> Request {
    let built = http::Request::builder()
        .uri(format!("/p{number}/x"))
        .header("host", format!("h{number}.bench.test"))
        .body(())
        .unwrap_or_else(|error| panic!("{error}"));
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    Request::new(built.into_parts().0, Body::empty(), Context::new(Arc::new(Connection::plain(peer))))
}
