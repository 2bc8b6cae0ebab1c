//! Metrics of TCP connections and UDP sessions: by router, service and server.

use std::net::UdpSocket;
use std::time::Duration;

use crate::support::streams::{Server, connect, say, take};
use crate::support::{Gateway, eventually, get};

const FLAGS: &[&str] = &[
    "--metrics.prometheus.addRoutersLabels=true",
    "--metrics.addServersLabels=true",
    "--entryPoints.dns.address=127.0.0.1:0/udp",
    "--entryPoints.dns.udp.timeout=300ms",
];

/// Returns the value of a sample, by its name and labels.
fn value(gateway: &Gateway, series: &str) -> Option<f64> {
    let text = get(gateway.address("traefik"), "h", "/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok())
}

fn config(kind: &str, server: &str, router: &str) -> String {
    let rule = if kind == "tcp" { "entryPoints: [web], rule: 'HostSNI(`*`)', " } else { "" };
    format!(
        "{kind}:\n  routers:\n    {router}: {{{rule}service: s}}\n  services:\n    \
         s: {{loadBalancer: {{servers: [{{address: '{server}'}}]}}}}\n"
    )
}

/// Returns the level and the labels of a router, its service and its server.
fn levels(server: &str) -> [(&'static str, String); 3] {
    [
        ("router", r#"router="a@file",service="s@file""#.to_owned()),
        ("service", r#"service="s@file""#.to_owned()),
        ("server", format!(r#"server="{server}",service="s@file""#)),
    ]
}

#[test]
fn tcp_connections_have_durations_and_servers() {
    let server = Server::greeter("mail");
    let address = server.address.to_string();
    let gateway = Gateway::with(FLAGS, &config("tcp", &address, "a"));
    let mut client = connect(gateway.web());
    assert_eq!(take(&mut client, 16), "hello from mail\n");
    assert_eq!(say(&mut client, "echo"), "echo");
    for (level, labels) in levels(&address) {
        let value = |what: &str| value(&gateway, &format!("tidegate_tcp_{level}_{what}{{{labels}}}"));
        eventually("bytes are counted", || value("sent_bytes_total") == Some(20.0));
        assert_eq!(value("received_bytes_total"), Some(4.0), "{level}");
        assert_eq!(value("open_connections"), Some(1.0), "{level}");
        assert_eq!(value("connection_duration_seconds_count"), Some(0.0), "{level}");
    }
    drop(client);
    for (level, labels) in levels(&address) {
        let name = format!("tidegate_tcp_{level}_connection_duration_seconds");
        let value = |what: &str, le: &str| value(&gateway, &format!("{name}{what}{{{labels}{le}}}"));
        eventually("it is closed", || value("_count", "") == Some(1.0));
        assert!(value("_sum", "").unwrap() > 0.0);
        assert_eq!(value("_bucket", r#",le="86400""#), Some(1.0));
    }
}

#[test]
fn udp_sessions_are_counted_with_their_datagrams() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let gateway = Gateway::with(FLAGS, &config("udp", &address, "a"));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(gateway.address("dns")).unwrap();
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    let mut bytes = [0; 64];
    for datagram in ["ask", "again"] {
        client.send(datagram.as_bytes()).unwrap();
        let (length, peer) = server.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], datagram.as_bytes());
        server.send_to(b"answer", peer).unwrap();
        assert_eq!(client.recv(&mut bytes).unwrap(), 6);
    }
    for (level, labels) in levels(&address) {
        let value = |what: &str| value(&gateway, &format!("tidegate_udp_{level}_{what}{{{labels}}}"));
        // The answer may arrive before it is counted.
        eventually("the answers are counted", || value("sent_datagrams_total") == Some(2.0));
        assert_eq!(value("sessions_total"), Some(1.0), "{level}");
        assert_eq!(value("received_datagrams_total"), Some(2.0), "{level}");
        assert_eq!(value("received_bytes_total"), Some(8.0), "{level}");
        assert_eq!(value("sent_bytes_total"), Some(12.0), "{level}");
        eventually("the session has ended", || value("open_sessions") == Some(0.0));
        assert_eq!(value("session_duration_seconds_count"), Some(1.0), "{level}");
        assert!(value("session_duration_seconds_sum").unwrap() >= 0.3, "{level}");
    }
    // The service is reused for another router, and keeps its counts; so does its server.
    gateway.write("routes.yml", &config("udp", &address, "b"));
    let [(_, router), (_, service), (_, server)] = levels(&address);
    let sessions = |level: &str, labels: &str| {
        value(&gateway, &format!("tidegate_udp_{level}_sessions_total{{{labels}}}"))
    };
    eventually("the router has gone", || sessions("router", &router).is_none());
    assert_eq!((sessions("service", &service), sessions("server", &server)), (Some(1.0), Some(1.0)));
    gateway.write("routes.yml", &config("udp", "127.0.0.1:9", "b"));
    eventually("the server has gone", || sessions("server", &server).is_none());
    assert_eq!(sessions("service", &service), Some(1.0));
}

#[test]
fn servers_are_left_out_by_default() {
    let server = Server::greeter("mail");
    let address = server.address.to_string();
    let gateway = Gateway::with(&FLAGS[..1], &config("tcp", &address, "a"));
    let [_, (_, service), (_, server)] = levels(&address);
    let connections = |level: &str, labels: &str| {
        value(&gateway, &format!("tidegate_tcp_{level}_connections_total{{{labels}}}"))
    };
    assert_eq!(connections("service", &service), Some(0.0));
    assert_eq!(connections("server", &server), None);
}
