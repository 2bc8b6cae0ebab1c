//! StatsD, and Datadog's DogStatsD, which has tags.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{UdpSocket, UnixDatagram, UnixStream};

use super::deltas::{Deltas, Recent};
use super::lines::Packets;
use super::{PushError, System};
use crate::observability::metrics::metric::{Metric, Type, Value, Writer};
use crate::settings::{Datadog, StatsD};

/// The host and port of an agent on this machine.
const HOST: &str = "localhost";
const PORT: &str = "8125";

/// How an agent is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Udp(String),
    /// A socket of either kind.
    Unix(String),
    UnixDatagram(String),
    UnixStream(String),
}

impl Target {
    fn parse(address: &str) -> Self {
        let path = |scheme: &str| address.strip_prefix(scheme).map(str::to_owned);
        let unix = path("unix://").map(Self::Unix);
        let unix = unix.or_else(|| path("unixgram://").map(Self::UnixDatagram));
        let unix = unix.or_else(|| path("unixstream://").map(Self::UnixStream));
        unix.unwrap_or_else(|| Self::Udp(path("udp://").unwrap_or_else(|| address.to_owned())))
    }
}

/// A system with lines of text.
pub(super) struct Lines {
    target: Target,
    prefix: String,
    has_tags: bool,
    deltas: Deltas,
    /// Kept between pushes: a refusal is reported by the next packet.
    socket: Option<UdpSocket>,
}

/// Returns StatsD.
pub(super) fn plain(options: &StatsD) -> Lines {
    Lines::new(&options.address, &options.prefix, false)
}

/// Returns Datadog. Without an address, the environment says where the agent is, as for Traefik.
pub(super) fn datadog(options: &Datadog) -> Lines {
    let variable = |name: &str, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    let address = match options.address.is_empty() {
        true => address(&variable("DD_AGENT_HOST", HOST), &variable("DD_DOGSTATSD_PORT", PORT)),
        false => options.address.clone(),
    };
    Lines::new(&address, &options.prefix, true)
}

/// Joins a host and a port.
fn address(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl Lines {
    fn new(address: &str, prefix: &str, has_tags: bool) -> Self {
        Self {
            target: Target::parse(address),
            prefix: prefix.to_owned(),
            has_tags,
            deltas: Deltas::default(),
            socket: None,
        }
    }
}

impl System for Lines {
    type Batch = Vec<Vec<u8>>;

    fn render(&mut self, collect: &mut dyn FnMut(&mut dyn Writer)) -> Self::Batch {
        self.deltas.begin();
        let mut rendering = Rendering {
            prefix: &self.prefix,
            has_tags: self.has_tags,
            deltas: &mut self.deltas,
            packets: Packets::default(),
            current: None,
            gauges: BTreeMap::new(),
            counts: BTreeMap::new(),
        };
        collect(&mut rendering);
        let batch = rendering.finish();
        self.deltas.end();
        batch
    }

    async fn send(&mut self, batch: Self::Batch) -> Result<(), PushError> {
        match &self.target {
            Target::Udp(address) => {
                let socket = udp(self.socket.take(), address).await?;
                let sent = packets(&socket, &batch).await;
                self.socket = Some(socket);
                sent?;
            }
            Target::UnixDatagram(path) => datagrams(path, batch).await?,
            Target::UnixStream(path) => stream(path, batch).await?,
            Target::Unix(path) => match datagrams(path, batch.clone()).await {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => {
                    stream(path, batch).await?
                }
                sent => sent?,
            },
        }
        Ok(())
    }
}

/// Connects to one of the addresses of a name, unless `kept` is connected to one.
async fn udp(kept: Option<UdpSocket>, address: &str) -> io::Result<UdpSocket> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    if let Some(socket) = kept
        && socket.peer_addr().is_ok_and(|peer| addresses.contains(&peer))
    {
        return Ok(socket);
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("`{address}` has no address"));
    for address in addresses {
        let local = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(local).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sends packets. The error may be that an earlier one was refused, so the one that reports it is sent again.
async fn packets(socket: &UdpSocket, batch: &[Vec<u8>]) -> io::Result<()> {
    let mut refused = Ok(());
    for packet in batch {
        match socket.send(packet).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refused = Err(error);
                socket.send(packet).await?;
            }
            sent => {
                sent?;
            }
        }
    }
    refused
}

async fn datagrams(path: &str, batch: Vec<Vec<u8>>) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    for packet in batch {
        socket.send(&packet).await?;
    }
    Ok(())
}

/// Sends packets over a stream: each follows its length, as the agent expects.
async fn stream(path: &str, batch: Vec<Vec<u8>>) -> io::Result<()> {
    let mut stream = UnixStream::connect(path).await?;
    for packet in batch {
        // Packets are short.
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        stream.write_all(&length.to_le_bytes()).await?;
        stream.write_all(&packet).await?;
    }
    stream.shutdown().await
}

/// The lines of one push.
struct Rendering<'a> {
    prefix: &'a str,
    has_tags: bool,
    deltas: &'a mut Deltas,
    packets: Packets,
    /// Name and type of the current metric, if it is pushed.
    current: Option<(String, Type)>,
    /// Without tags: gauges by name, and counts.
    gauges: BTreeMap<String, f64>,
    counts: BTreeMap<String, u64>,
}

impl Rendering<'_> {
    fn line(&mut self, name: &str, value: f64, kind: &str, rate: Option<f64>, tags: &str) {
        let mut line = format!("{name}:{value:.6}|{kind}");
        if let Some(rate) = rate {
            // Writing to a string cannot fail.
            let _ = write!(line, "|@{rate}");
        }
        if !tags.is_empty() {
            let _ = write!(line, "|#{tags}");
        }
        line.push('\n');
        self.packets.push(&line);
    }

    fn count(&mut self, name: &str, count: u64, tags: &str) {
        match self.has_tags {
            true => self.line(name, count as f64, "c", None, tags),
            false => *self.counts.entry(name.to_owned()).or_default() += count,
        }
    }

    fn gauge(&mut self, name: &str, value: f64, tags: &str) {
        if self.has_tags {
            return self.line(name, value, "g", None, tags);
        }
        // Without tags there is one value for all series: of connections their sum, or else the lowest, which is that
        // of a server that is down and of the certificate that expires first.
        let is_sum = name.ends_with(".connections");
        let merge = |old: &mut f64| *old = if is_sum { *old + value } else { old.min(value) };
        self.gauges.entry(name.to_owned()).and_modify(merge).or_insert(value);
    }

    fn durations(&mut self, name: &str, recent: &Recent<'_>, tags: &str) {
        for (seconds, count) in recent.values() {
            // Receivers count a line as often as the rate says; the remainder is cut off.
            let rate = (count > 1).then(|| (1.0 - 1e-9) / count as f64);
            match self.has_tags {
                true => self.line(name, seconds, "h", rate, tags),
                false => self.line(name, seconds * 1e3, "ms", rate, tags),
            }
        }
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        for (name, count) in std::mem::take(&mut self.counts) {
            self.line(&name, count as f64, "c", None, "");
        }
        for (name, value) in std::mem::take(&mut self.gauges) {
            self.line(&name, value, "g", None, "");
        }
        self.packets.finish()
    }
}

impl Writer for Rendering<'_> {
    fn metric(&mut self, metric: Metric<'_>) {
        let name = |name: &str| match self.prefix.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.prefix),
        };
        self.current = metric.pushed.map(|pushed| (name(pushed.statsd), metric.kind));
    }

    fn series(&mut self, labels: &[(&str, &str)], value: Value<'_>) {
        let Some((name, kind)) = self.current.clone() else { return };
        let tags: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}:{}", tag(value))).collect();
        let tags = tags.join(",");
        let series = format!("{name}|{tags}");
        let tags = if self.has_tags { tags.as_str() } else { "" };
        match value {
            Value::Durations(all) => {
                let recent = Recent::of(self.deltas, &series, all);
                self.durations(&name, &recent, tags);
            }
            Value::Count(count) if kind == Type::Counter => {
                let growth = self.deltas.of(&series, &[count])[0];
                if growth > 0 {
                    self.count(&name, growth, tags);
                }
            }
            Value::Count(count) => self.gauge(&name, count as f64, tags),
            Value::Number(value) => self.gauge(&name, value, tags),
        }
    }
}

/// Replaces what ends a tag or a line.
fn tag(value: &str) -> String {
    value.replace([',', '|', '\n'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observability::metrics::metric::Durations;

    fn push(lines: &mut Lines, requests: u64) -> String {
        let batch = lines.render(&mut |out| {
            out.metric(Metric::counter("a_total", "Help.").pushed("a.total"));
            out.series(&[("b", "c,|")], Value::Count(requests));
            out.series(&[("b", "d")], Value::Count(1));
            out.metric(Metric::gauge("hidden", "Not pushed."));
            out.series(&[], Value::Count(9));
            out.metric(Metric::gauge("up", "Help.").pushed("up"));
            out.series(&[("b", "c")], Value::Count(1));
            out.series(&[("b", "d")], Value::Count(0));
            out.metric(Metric { kind: Type::Histogram, ..Metric::gauge("t", "Help.").pushed("t") });
            let counts = [requests, 0];
            let durations = Durations {
                bounds: &[1_000_000_000],
                counts: &counts,
                nanoseconds: requests * 250_000_000,
                are_bounds_fixed: false,
                exemplars: &[],
            };
            out.series(&[("b", "c")], Value::Durations(durations));
        });
        String::from_utf8(batch.concat()).unwrap()
    }

    #[test]
    fn datadog_has_tags() {
        let mut lines = Lines::new("localhost:1", "p", true);
        assert_eq!(
            push(&mut lines, 1),
            "p.a.total:1.000000|c|#b:c__\np.a.total:1.000000|c|#b:d\np.up:1.000000|g|#b:c\np.up:0.000000|g|#b:d\n\
             p.t:0.250000|h|#b:c\n"
        );
        assert_eq!(
            push(&mut lines, 5),
            "p.a.total:4.000000|c|#b:c__\np.up:1.000000|g|#b:c\np.up:0.000000|g|#b:d\n\
             p.t:0.250000|h|@0.24999999975|#b:c\n"
        );
    }

    #[test]
    fn statsd_has_one_line_per_name() {
        let mut lines = Lines::new("localhost:1", "", false);
        assert_eq!(push(&mut lines, 1), "t:250.000000|ms\na.total:2.000000|c\nup:0.000000|g\n");
        assert_eq!(push(&mut lines, 1), "up:0.000000|g\n");
    }

    #[test]
    fn addresses_have_schemes() {
        assert_eq!(Target::parse("a:1"), Target::Udp("a:1".into()));
        assert_eq!(Target::parse("udp://a:1"), Target::Udp("a:1".into()));
        assert_eq!(Target::parse("unix:///a"), Target::Unix("/a".into()));
        assert_eq!(Target::parse("unixgram:///a"), Target::UnixDatagram("/a".into()));
        assert_eq!(Target::parse("unixstream:///a"), Target::UnixStream("/a".into()));
        assert_eq!(address("::1", "2"), "[::1]:2");
    }
}
