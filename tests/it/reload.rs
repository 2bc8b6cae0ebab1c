//! Configuration that changes while requests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Backend, Client, Gateway, eventually, get, pause_for};

fn routes(backend: &str, names: &[String]) -> String {
    let mut text = format!(
        "http:\n  services:\n    a: {{loadBalancer: {{servers: [{{url: '{backend}'}}]}}}}\n  routers:\n    all: {{rule: 'PathPrefix(`/`)', service: a}}\n"
    );
    for name in names {
        text.push_str(&format!("    {name}: {{rule: 'Host(`{name}.test`)', service: a}}\n"));
    }
    text
}

/// Changes routes fifty times a second while three clients ask without a pause. Gives requests done and failed.
fn change_under_load(changes: usize) -> (usize, usize) {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes(&backend.url(), &[]));
    let stop = Arc::new(AtomicBool::new(false));
    let address = gateway.web();
    let load: Vec<_> = (0..3)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                let (mut done, mut failed) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
                    match client.read() {
                        Ok(answer) if answer.status == 200 => done += 1,
                        _ => {
                            failed += 1;
                            client = Client::connect(address);
                        }
                    }
                }
                (done, failed)
            })
        })
        .collect();
    let begun = Instant::now();
    for change in 0..changes {
        let names: Vec<String> = (0..=change % 20).map(|n| format!("n{n}x{change}")).collect();
        gateway.write("routes.yml", &routes(&backend.url(), &names));
        let due = begun + Duration::from_millis(20) * (change as u32 + 1);
        pause_for(due.saturating_duration_since(Instant::now()));
    }
    let took = begun.elapsed();
    gateway.write("routes.yml", &routes(&backend.url(), &["last".to_owned()]));
    eventually("the last change is live", || gateway.api("/api/http/routers").contains("last@file"));
    let applied = gateway.generation();
    stop.store(true, Ordering::SeqCst);
    let (done, failed) =
        load.into_iter().map(|t| t.join().unwrap()).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    eprintln!("{changes} changes in {took:?}, {applied} snapshots, {done} requests, {failed} failed");
    assert!(applied as usize > changes / 20, "only {applied} snapshots of {changes} changes");
    let connections = backend.connections();
    assert!(connections <= 8, "pools did not survive: {connections} connections to the backend");
    (done, failed)
}

#[test]
fn fifty_changes_a_second_fail_no_request() {
    let (done, failed) = change_under_load(150);
    assert_eq!(failed, 0, "{failed} of {} requests failed", done + failed);
    assert!(done > 100, "{done}");
}

#[test]
#[ignore = "needs a minute"]
fn fifty_changes_a_second_fail_no_request_for_long() {
    let (done, failed) = change_under_load(60 * 50);
    assert_eq!(failed, 0, "{failed} of {} requests failed", done + failed);
    assert!(done > 1000, "{done}");
}

#[test]
fn an_open_request_finishes_on_the_snapshot_it_began_with() {
    let changed = Arc::<AtomicBool>::default();
    let slow = Backend::with({
        let changed = changed.clone();
        move |_, stream| {
            use std::io::Write as _;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            eventually("the routes have changed", || changed.load(Ordering::SeqCst));
            stream.write_all(b"world").is_ok()
        }
    });
    let gateway = Gateway::serve(&routes(&slow.url(), &[]));
    let mut client = Client::connect(gateway.web());
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the request has reached the backend", || !slow.seen().is_empty());
    gateway.write("routes.yml", "http: {routers: {}}");
    eventually("the routes are gone", || !gateway.api("/api/http/routers").contains("@file"));
    changed.store(true, Ordering::SeqCst);
    assert_eq!(client.read().unwrap().text(), "helloworld");
}

#[test]
fn limits_survive_a_reload() {
    let backend = Backend::echo("a");
    let limited = |extra: &str| {
        format!(
            "http:\n  middlewares:\n    l: {{rateLimit: {{average: 1, period: 1h, burst: 2}}}}\n  routers:\n    r: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [l]}}\n{extra}  services:\n    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
            backend.url()
        )
    };
    let gateway = Gateway::serve(&limited(""));
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    assert_eq!(get(gateway.web(), "h", "/").status, 429);
    gateway.write("routes.yml", &limited("    other: {rule: 'Host(`other.test`)', service: a}\n"));
    eventually("the change is live", || gateway.api("/api/http/routers").contains("other@file"));
    assert_eq!(get(gateway.web(), "h", "/").status, 429);
}

#[test]
fn a_broken_file_does_not_affect_working_routes() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes(&backend.url(), &[]));
    gateway.write(
        "second.yml",
        &routes(&backend.url(), &["second".to_owned()])
            .replace("all:", "all2:")
            .replace("a:", "b:")
            .replace("service: a", "service: b"),
    );
    eventually("the second file is live", || gateway.api("/api/http/routers").contains("second@file"));
    gateway.write("second.yml", "http:\n  routers:\n    second: {rule: 'Host(`second.test`)', service: [\n");
    eventually("the broken file is reported", || gateway.problems().iter().any(|p| p.contains("second.yml")));
    assert_eq!(get(gateway.web(), "second.test", "/").status, 200);
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    gateway.remove("second.yml");
    eventually("the file's routes are gone", || !gateway.api("/api/http/routers").contains("second@file"));
}

#[test]
fn files_are_seen_however_they_are_saved() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve("http: {}");
    let folder = gateway.folder();
    // An editor's dance: write beside, move the old one away, move the new one in.
    std::fs::write(folder.join("new.yml~"), routes(&backend.url(), &["dance".to_owned()])).unwrap();
    std::fs::rename(folder.join("routes.yml"), folder.join("routes.yml.bak")).unwrap();
    std::fs::rename(folder.join("new.yml~"), folder.join("routes.yml")).unwrap();
    eventually("a file that was moved in", || get(gateway.web(), "dance.test", "/").status == 200);
    // Kubernetes' way: a link to a folder that is swapped.
    for generation in ["one", "two"] {
        let data = folder.join(format!("..data_{generation}"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(
            data.join("linked.yml"),
            format!("http: {{routers: {{{generation}: {{rule: 'Host(`{generation}.test`)', service: a}}}}}}"),
        )
        .unwrap();
        std::os::unix::fs::symlink(&data, folder.join("..tmp")).unwrap();
        std::fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
        if generation == "one" {
            std::os::unix::fs::symlink(folder.join("..data/linked.yml"), folder.join("linked.yml")).unwrap();
        }
        eventually(generation, || get(gateway.web(), &format!("{generation}.test"), "/").status == 200);
    }
}

/// Routes through one middleware, with or without another router beside.
fn behind(middleware: &str, backend: &str, other: bool) -> String {
    let other = if other { "    other: {rule: 'Host(`other.test`)', service: a}\n" } else { "" };
    format!(
        "http:\n  middlewares:\n    m: {middleware}\n  routers:\n    r: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}}\n{other}  services:\n    a: {{loadBalancer: {{servers: [{{url: '{backend}'}}]}}}}\n"
    )
}

#[test]
fn requests_in_flight_are_counted_through_a_reload() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let backend = Backend::with(move |seen, stream| {
        use std::io::Write as _;
        if seen.target() == "/held" {
            let _ = held.lock().unwrap().recv();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok()
    });
    let limit = "{inFlightReq: {amount: 1, sourceCriterion: {requestHost: true}}}";
    let gateway = Gateway::serve(&behind(limit, &backend.url(), false));
    let mut first = Client::connect(gateway.web());
    first.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the first has reached the server", || !backend.seen().is_empty());
    assert_eq!(get(gateway.web(), "h", "/").status, 429);
    gateway.write("routes.yml", &behind(limit, &backend.url(), true));
    eventually("the change is live", || gateway.api("/api/http/routers").contains("other@file"));
    assert_eq!(get(gateway.web(), "h", "/").status, 429, "the first is still open");
    release.send(()).unwrap();
    assert_eq!(first.read().unwrap().status, 200);
    eventually("there is room again", || get(gateway.web(), "h", "/").status == 200);
}

#[test]
fn an_open_breaker_stays_open_through_a_reload() {
    let backend = Backend::bytes("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n");
    let breaker = "{circuitBreaker: {expression: 'ResponseCodeRatio(500, 600, 0, 600) > 0.5', checkPeriod: 10ms, fallbackDuration: 1h}}";
    let gateway = Gateway::serve(&behind(breaker, &backend.url(), false));
    eventually("the breaker opens", || get(gateway.web(), "h", "/").status == 503);
    gateway.write("routes.yml", &behind(breaker, &backend.url(), true));
    eventually("the change is live", || gateway.api("/api/http/routers").contains("other@file"));
    // So it does when an option changes that says nothing of when it opens.
    let other_status = breaker.replace("1h", "1h, responseCode: 529");
    gateway.write("routes.yml", &behind(&other_status, &backend.url(), true));
    eventually("the change is live", || get(gateway.web(), "h", "/").status == 529);
    let seen = backend.seen().len();
    assert_eq!(get(gateway.web(), "h", "/").status, 529);
    assert_eq!(backend.seen().len(), seen, "an open breaker asks nobody");
    // Another expression is another breaker.
    gateway.write("routes.yml", &behind(&breaker.replace("> 0.5", "> 0.6"), &backend.url(), true));
    eventually("the server is asked again", || {
        get(gateway.web(), "h", "/");
        backend.seen().len() > seen
    });
}
