//! `tidegate demo`: a self-contained demo with two backends, route files and local HTTPS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Maximum length of a request body that a demo backend reads, in bytes.
const MAX_BODY_LEN: usize = 1 << 20;

/// The initial route file, with placeholders for the addresses of the backends.
const ROUTES: &str = include_str!("demo_routes.yml");

/// Refuses ports that are in use before anything is written: another demo may be running in this folder.
pub(super) fn check_ports(ports: Ports) -> anyhow::Result<()> {
    for (flag, port) in [("--http", ports.http), ("--https", ports.https), ("--api", ports.api)] {
        std::net::TcpListener::bind(("127.0.0.1", port))
            .with_context(|| format!("cannot listen on 127.0.0.1:{port}; choose another port with {flag}"))?;
    }
    Ok(())
}

/// Writes the demo's route folder and returns the static settings as flags.
///
/// The route file is rewritten at each start, since the backends get new ports.
pub(super) fn prepare(folder: &Path, backends: [SocketAddr; 2], ports: Ports) -> anyhow::Result<Vec<String>> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the route folder {}", folder.display()))?;
    let text = ROUTES
        .replace("{backend-1}", &backends[0].to_string())
        .replace("{backend-2}", &backends[1].to_string());
    let file = folder.join("routes.yml");
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let mut flags = vec![
        format!("--entryPoints.web.address=127.0.0.1:{}", ports.http),
        format!("--entryPoints.websecure.address=127.0.0.1:{}", ports.https),
        // Every route is also available over HTTPS, including passwords, with one more middleware.
        "--entryPoints.websecure.http.tls=true".to_owned(),
        "--entryPoints.websecure.http.middlewares=hardened@file".to_owned(),
        format!("--entryPoints.traefik.address=127.0.0.1:{}", ports.api),
        format!("--providers.file.directory={}", folder.display()),
        "--api.insecure=true".to_owned(),
        "--ping=true".to_owned(),
        "--accessLog=true".to_owned(),
        "--log.level=INFO".to_owned(),
    ];
    if docker_socket().exists() {
        flags.push("--providers.docker=true".to_owned());
        flags.push("--providers.docker.exposedByDefault=false".to_owned());
    }
    Ok(flags)
}

/// The ports of the demo's entry points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// Plain HTTP.
    pub(super) http: u16,
    /// HTTPS with a generated certificate.
    pub(super) https: u16,
    /// API and dashboard.
    pub(super) api: u16,
}

/// Returns instructions on what to try.
pub(super) fn guide(folder: &Path, ports: Ports) -> String {
    let Ports { http, https, api } = ports;
    let docker = if docker_socket().exists() {
        "A Docker Engine runs here, so labelled containers are served too:\n  \
         docker run -d --label tidegate.enable=true --label 'tidegate.http.routers.mine.rule=Host(`mine.localhost`)' IMAGE"
    } else {
        "No Docker Engine runs here; with one, labelled containers are served too."
    };
    format!(
        "Tidegate demo. Try:\n\
         \x20 curl http://127.0.0.1:{http}/                            two backends in turn\n\
         \x20 curl http://127.0.0.1:{http}/api/hello                   the prefix is stripped\n\
         \x20 curl -H 'Host: one.localhost' http://127.0.0.1:{http}/   one backend by name\n\
         \x20 curl -u tide:gate http://127.0.0.1:{http}/private        with a password\n\
         \x20 curl -k https://127.0.0.1:{https}/                        the same over HTTPS, certificate made at start\n\
         \x20 curl http://127.0.0.1:{api}/api/http/routers             what is served and why\n\
         \x20 http://127.0.0.1:{api}/dashboard/                        the same in a browser\n\n\
         Edit {} or add files beside it, and the next request goes by them. Ctrl-C ends the demo.\n{docker}\n",
        folder.join("routes.yml").display()
    )
}

/// Returns the socket of a Docker Engine on this machine.
fn docker_socket() -> PathBuf {
    PathBuf::from("/var/run/docker.sock")
}

/// Runs a demo backend until the process exits: it responds to every request with a report of it.
///
/// `/status/N` responds with status N, `/delay/MS` waits that many milliseconds first.
pub(super) async fn backend(listener: TcpListener, name: String) {
    let name: std::sync::Arc<str> = name.into();
    let mut terminate = std::pin::pin!(terminated());
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut terminate => break,
        };
        let name = name.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| report(request, name.clone(), peer));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = terminated() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

async fn report(
    request: http::Request<hyper::body::Incoming>,
    name: std::sync::Arc<str>,
    peer: SocketAddr,
) -> Result<http::Response<Full<Bytes>>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let length = Limited::new(body, MAX_BODY_LEN).collect().await.map(|body| body.to_bytes().len());
    let mut parts = head.uri.path().split('/').skip(1);
    let status = match (parts.next(), parts.next().and_then(|n| n.parse::<u64>().ok())) {
        (Some("status"), Some(status)) => {
            u16::try_from(status).ok().and_then(|s| http::StatusCode::from_u16(s).ok())
        }
        (Some("delay"), Some(milliseconds)) => {
            tokio::time::sleep(std::time::Duration::from_millis(milliseconds.min(60_000))).await;
            None
        }
        _ => None,
    };
    let mut text =
        format!("Name: {name}\nRemoteAddr: {peer}\n{} {} {:?}\n", head.method, head.uri, head.version);
    for (key, value) in &head.headers {
        text.push_str(&format!("{key}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    match length {
        Ok(0) => {}
        Ok(length) => text.push_str(&format!("Body: {length} bytes\n")),
        Err(error) => text.push_str(&format!("Body: failed ({error})\n")),
    }
    let mut response = http::Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status.unwrap_or(http::StatusCode::OK);
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_routes_get_the_backends_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports { http: 1, https: 2, api: 3 };
        let flags =
            prepare(folder.path(), [([127, 0, 0, 1], 7001).into(), ([127, 0, 0, 1], 7002).into()], ports)
                .unwrap();
        let text = std::fs::read_to_string(folder.path().join("routes.yml")).unwrap();
        assert!(text.contains("http://127.0.0.1:7001") && text.contains("http://127.0.0.1:7002"), "{text}");
        assert!(!text.contains("{backend"), "{text}");
        assert!(flags.iter().any(|flag| flag == "--entryPoints.websecure.address=127.0.0.1:2"));
    }

    #[test]
    fn a_port_in_use_is_reported_with_its_flag() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check_ports(Ports { http: 0, https: port, api: 0 }).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(&format!("127.0.0.1:{port}")) && error.contains("--https"), "{error}");
    }
}
