//! Waits until a record is visible where the authority looks it up: at the name servers of its zone.

use std::net::SocketAddr;

use hickory_resolver::proto::rr::RecordType;
use tokio::time::Instant;

use super::query::{self, Resolvers, texts};
use super::{Patience, Record};
use crate::error::Error;
use crate::options::Propagation;

/// Waits for records, up to the provider's timeout.
pub(super) async fn wait(
    record: &Record,
    resolvers: &Resolvers,
    options: &Propagation,
    patience: Patience,
) -> Result<(), Error> {
    let end = Instant::now() + patience.timeout;
    loop {
        let Err(error) = look(record, resolvers, options).await else { return Ok(()) };
        if Instant::now() + patience.interval > end {
            return Err(Error::dns(format!(
                "propagation: time limit exceeded ({:?}): last error: {error}",
                patience.timeout
            )));
        }
        tokio::time::sleep(patience.interval).await;
    }
}

async fn look(record: &Record, resolvers: &Resolvers, options: &Propagation) -> Result<(), Error> {
    if options.require_all_rns {
        for server in &resolvers.servers {
            let mut seen = Err(Error::dns("a name server has no address"));
            for address in server.addresses().await? {
                seen = sees(address, &address.to_string(), record, true).await;
                if seen.is_ok() {
                    break;
                }
            }
            seen?;
        }
    }
    if options.disable_ans_checks {
        return Ok(());
    }
    let zone = resolvers.zone(&record.name).await?;
    for (name, server) in resolvers.authorities(&zone).await? {
        sees(server, &name, record, false).await?;
    }
    Ok(())
}

async fn sees(server: SocketAddr, label: &str, record: &Record, recursive: bool) -> Result<(), Error> {
    let answer = query::ask(server, &record.name, RecordType::TXT, recursive).await?;
    let found = texts(&answer);
    match found.contains(&record.value) {
        true => Ok(()),
        false => Err(Error::dns(format!(
            "NS {label} did not return the expected TXT record [fqdn: {}., value: {}]: {}",
            record.name,
            record.value,
            found.join(" ,")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use hickory_resolver::proto::op::Message;
    use tokio::net::UdpSocket;

    use super::super::query::{header, put_name};
    use super::*;

    const NS: u16 = 2;
    const CNAME: u16 = 5;
    const SOA: u16 = 6;
    const TXT: u16 = 16;
    const A: u16 = 1;

    /// A name server of the zone `z.test`, which shows the record from the `shown`th question on. A name of another
    /// zone points into it.
    async fn zone(shown: usize) -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let name = question.queries[0].name().to_ascii().to_lowercase();
                let kind = u16::from(question.queries[0].query_type());
                let labels = |name: &str| {
                    let mut labels = Vec::new();
                    put_name(&mut labels, name).unwrap();
                    labels
                };
                let data = match (name.as_str(), kind) {
                    ("_acme-challenge.other.test.", CNAME) => Some(labels("here.z.test")),
                    ("z.test.", SOA) => Some([labels("ns.z.test"), labels("h.z.test"), vec![0; 20]].concat()),
                    ("z.test.", NS) => Some(labels("ns.z.test")),
                    ("ns.z.test.", A) => Some(vec![127, 0, 0, 1]),
                    ("here.z.test.", TXT) => {
                        (count.fetch_add(1, Ordering::Relaxed) + 1 >= shown).then(|| b"\x05value".to_vec())
                    }
                    _ => None,
                };
                let mut answer = header(question.metadata.id, 0x8400, [1, u16::from(data.is_some()), 0, 0]);
                answer.extend(&buffer[12..length]);
                if let Some(data) = data {
                    answer.extend(labels(&name));
                    answer.extend([kind, 1].into_iter().flat_map(u16::to_be_bytes));
                    answer.extend([0, 0, 0, 60]);
                    answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
                    answer.extend(data);
                }
                socket.send_to(&answer, peer).await.unwrap();
            }
        });
        (address, asked)
    }

    fn patience(timeout: u64) -> Patience {
        Patience { timeout: Duration::from_millis(timeout), interval: Duration::from_millis(5) }
    }

    #[tokio::test]
    async fn the_zones_own_servers_are_asked_until_they_show_the_record() {
        let (address, asked) = zone(3).await;
        let resolvers = Resolvers { servers: vec![address.into()], port: address.port() };
        let name = resolvers.follow("_acme-challenge.other.test").await;
        assert_eq!(name, "here.z.test", "the CNAME is followed");
        assert_eq!(resolvers.zone(&name).await.unwrap(), "z.test");
        let record = Record {
            domain: "other.test".into(),
            token: String::new(),
            key_authorization: String::new(),
            name,
            value: "value".into(),
        };
        wait(&record, &resolvers, &Propagation::default(), patience(10_000)).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        let never = Record { value: "other".into(), ..record };
        let error = wait(&never, &resolvers, &Propagation::default(), patience(20)).await.unwrap_err();
        assert!(error.message.contains("NS ns.z.test. did not return the expected TXT record"), "{error}");
        let without = Propagation { disable_ans_checks: true, ..Propagation::default() };
        wait(&never, &resolvers, &without, patience(20)).await.unwrap();
    }
}
