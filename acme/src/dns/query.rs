//! Queries to specific name servers, which a caching resolver does not support.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, RecordType};
use tidegate_clients::dial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::error::Error;

/// Timeout for a response over UDP, and over TCP.
const UDP_PATIENCE: Duration = Duration::from_secs(3);
const TCP_PATIENCE: Duration = Duration::from_secs(10);
const TRIES: usize = 2;
/// Maximum number of CNAMEs to follow.
const MAX_CNAMES: usize = 10;
const SYSTEM: &str = "/etc/resolv.conf";

/// Recursive name servers.
pub(super) struct Resolvers {
    pub(super) servers: Vec<NameServer>,
    /// The port of the name servers of zones.
    pub(super) port: u16,
}

/// A name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NameServer {
    /// An address.
    At(SocketAddr),
    /// A host, which is resolved for each query.
    Named(String, u16),
}

impl NameServer {
    /// Parses `host[:port]`: an address, or a name that the system resolves.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Some(address) = address(text) {
            return Some(Self::At(address));
        }
        let (host, port) =
            text.rsplit_once(':').map_or((text, Some(PORT)), |(host, port)| (host, port.parse().ok()));
        let is_name = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let host = host.trim_end_matches('.');
        host.split('.').all(is_name).then_some(Self::Named(host.to_owned(), port?))
    }

    /// Returns its current addresses.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        match self {
            Self::At(address) => Ok(vec![*address]),
            Self::Named(host, port) => {
                let found = dial::lookup(host, None).await;
                let found = found.map_err(|error| Error::dns(format!("name server {host}: {error}")))?;
                Ok(found.addresses().iter().map(|address| SocketAddr::new(*address, *port)).collect())
            }
        }
    }
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> Self {
        Self::At(address)
    }
}

/// The port of name servers (RFC 1035 section 4.2).
pub(super) const PORT: u16 = 53;

impl Resolvers {
    /// Uses these servers (`host[:port]`, addresses or names), or those of the system if there are none.
    pub(super) fn new(given: &[String]) -> Result<Self, Error> {
        let mut servers = Vec::new();
        for text in given {
            let server = NameServer::parse(text.trim());
            servers.push(server.ok_or_else(|| {
                Error::local(format!("resolvers: `{text}` is not a name server: expected `host[:port]`"))
            })?);
        }
        if servers.is_empty() {
            let system = std::fs::read_to_string(SYSTEM).unwrap_or_default();
            let named = system.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
            servers = named.filter_map(|server| Some(address(server.trim())?.into())).collect();
        }
        if servers.is_empty() {
            servers.push(SocketAddr::from(([127, 0, 0, 1], PORT)).into());
        }
        Ok(Self { servers, port: PORT })
    }

    /// Queries one after the other until one responds.
    pub(super) async fn ask(&self, name: &str, kind: RecordType) -> Result<Message, Error> {
        let one = |server| async move {
            let answer = ask(server, name, kind, true).await?;
            match answer.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
                code => Err(Error::dns(format!("{server} answers {code} to {kind} of {name}"))),
            }
        };
        self.first(one).await
    }

    /// Sends a message to one after the other until one responds. Returns its address and the response.
    pub(super) async fn exchange(&self, message: &[u8]) -> Result<(SocketAddr, Vec<u8>), Error> {
        let one = |server| async move {
            let answer = exchange(server, message).await;
            answer
                .map(|answer| (server, answer))
                .map_err(|error| Error::dns(format!("update at {server}: {error}")))
        };
        self.first(one).await
    }

    /// Returns the first response of all addresses of all servers, or the last error.
    async fn first<T, F>(&self, one: impl Fn(SocketAddr) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = Error::dns("there is no name server");
        for server in &self.servers {
            let addresses = match server.addresses().await {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            for address in addresses {
                match one(address).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    /// Returns the name at the end of a chain of CNAMEs, or the name itself if there is none or the queries fail.
    pub(super) async fn follow(&self, name: &str) -> String {
        let mut name = name.to_owned();
        for _ in 0..MAX_CNAMES {
            let Ok(answer) = self.ask(&name, RecordType::CNAME).await else { break };
            let next = answer.answers.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if same(&record.name.to_ascii(), &name) => Some(target.0.to_ascii()),
                _ => None,
            });
            match next {
                Some(next) => name = next.trim_end_matches('.').to_lowercase(),
                None => break,
            }
        }
        name
    }

    /// Returns the zone of a name: its nearest parent with an SOA record.
    pub(super) async fn zone(&self, name: &str) -> Result<String, Error> {
        let mut rest = name;
        loop {
            let answer = self.ask(rest, RecordType::SOA).await?;
            let owner = answer.answers.iter().find(|record| matches!(record.data, RData::SOA(_)));
            if owner.is_some_and(|record| same(&record.name.to_ascii(), rest)) {
                return Ok(rest.to_owned());
            }
            match rest.split_once('.') {
                Some((_, parent)) if parent.contains('.') || !parent.is_empty() => rest = parent,
                _ => return Err(Error::dns(format!("could not find the start of authority for '{name}'"))),
            }
        }
    }

    /// Returns the addresses of the name servers of a zone, each with its name.
    pub(super) async fn authorities(&self, zone: &str) -> Result<Vec<(String, SocketAddr)>, Error> {
        let answer = self.ask(zone, RecordType::NS).await?;
        let names = answer.answers.iter().filter_map(|record| match &record.data {
            RData::NS(name) => Some(name.0.to_ascii()),
            _ => None,
        });
        let mut found = Vec::new();
        for name in names {
            for ip in self.addresses(name.trim_end_matches('.')).await {
                found.push((name.clone(), SocketAddr::new(ip, self.port)));
            }
        }
        match found.is_empty() {
            true => Err(Error::dns(format!("could not determine authoritative nameservers of {zone}"))),
            false => Ok(found),
        }
    }

    async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let Ok(answer) = self.ask(name, kind).await else { continue };
            found.extend(answer.answers.iter().filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            }));
            // One address family is enough: the other may be unreachable.
            if !found.is_empty() {
                break;
            }
        }
        found
    }
}

/// Returns the values of the TXT records in a response.
pub(super) fn texts(answer: &Message) -> Vec<String> {
    let records = answer.answers.iter().filter_map(|record| match &record.data {
        RData::TXT(text) => {
            Some(text.txt_data.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>())
        }
        _ => None,
    });
    records.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

/// Queries a name server.
pub(super) async fn ask(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    recursive: bool,
) -> Result<Message, Error> {
    let id = fastrand::u16(..);
    let mut message = header(id, if recursive { 0x0100 } else { 0 }, [1, 0, 0, 0]);
    put_name(&mut message, name)?;
    message.extend(u16::from(kind).to_be_bytes());
    message.extend(1u16.to_be_bytes());
    let failed = |error: &dyn std::fmt::Display| {
        Error::dns(format!("{server} does not answer {kind} of {name}: {error}"))
    };
    let mut last = None;
    for _ in 0..TRIES {
        match exchange(server, &message).await {
            Ok(bytes) => {
                let answer = Message::from_vec(&bytes).map_err(|error| failed(&error))?;
                if answer.metadata.id != id {
                    return Err(failed(&"it answers something else"));
                }
                return Ok(answer);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(failed(&last.unwrap_or_else(|| io::ErrorKind::TimedOut.into())))
}

/// Sends a message, and again over TCP if the response is truncated. Returns the response.
async fn exchange(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let over_udp = tokio::time::timeout(UDP_PATIENCE, udp(server, message)).await;
    let answer = over_udp.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    // TC, RFC 1035 section 4.1.1.
    if answer.get(2).is_some_and(|flags| flags & 0x02 != 0) {
        let over_tcp = tokio::time::timeout(TCP_PATIENCE, tcp(server, message)).await;
        return over_tcp.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    }
    Ok(answer)
}

async fn udp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // A response to an earlier query is skipped.
        if length >= 2 && buffer[..2] == message[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn tcp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Writes the header of a message: identifier, flags, and sizes of its sections (RFC 1035 section 4.1.1).
pub(super) fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect()
}

/// Writes a name as labels (RFC 1035 section 3.1).
pub(super) fn put_name(message: &mut Vec<u8>, name: &str) -> Result<(), Error> {
    for label in name.trim_end_matches('.').split('.').filter(|label| !label.is_empty()) {
        let length = u8::try_from(label.len()).ok().filter(|length| *length < 64);
        message.push(length.ok_or_else(|| Error::dns(format!("`{name}` has a label that is too long")))?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    Ok(())
}

/// Parses `host[:port]` with an address as host; the default port is 53.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.parse().ok().or_else(|| Some(SocketAddr::new(bare.parse().ok()?, PORT)))
}

fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_leave_the_port_out() {
        for (text, expected) in [
            ("1.1.1.1", Some("1.1.1.1:53")),
            ("1.1.1.1:5353", Some("1.1.1.1:5353")),
            ("::1", Some("[::1]:53")),
            ("[::1]:54", Some("[::1]:54")),
            ("dns.test", None),
        ] {
            assert_eq!(address(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
        let named = Resolvers::new(&["ns.example.com".to_owned(), "ns2.test.:5353".to_owned()]).unwrap();
        let expected = [("ns.example.com", 53), ("ns2.test", 5353)];
        assert_eq!(named.servers, expected.map(|(host, port)| NameServer::Named(host.to_owned(), port)));
        assert!(Resolvers::new(&["a:b:c".to_owned()]).is_err());
        assert!(Resolvers::new(&["x y".to_owned()]).err().unwrap().to_string().contains("x y"));
    }

    #[test]
    fn a_question_is_read_back() {
        let mut message = header(7, 0x0100, [1, 0, 0, 0]);
        put_name(&mut message, "a.test.").unwrap();
        message.extend([0, 16, 0, 1]);
        let read = Message::from_vec(&message).unwrap();
        assert_eq!((read.metadata.id, read.queries[0].name().to_ascii().as_str()), (7, "a.test."));
        assert!(put_name(&mut Vec::new(), &"a".repeat(64)).is_err());
    }
}
