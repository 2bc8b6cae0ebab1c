//! `rfc2136`: dynamic updates (RFC 2136) of a name server, signed with a shared key (RFC 8945).

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tidegate_core::BoxFuture;

use super::query::{NameServer, PORT, Resolvers, header, put_name};
use super::variables::Variables;
use super::{Patience, Provider, Record};
use crate::error::Error;

const TXT: u16 = 16;
const SOA: u16 = 6;
const TSIG: u16 = 250;
const IN: u16 = 1;
const NONE: u16 = 254;
const ANY: u16 = 255;
/// Operation code 5 (RFC 2136 section 1.3).
const UPDATE: u16 = 5 << 11;
/// Maximum difference between clocks, in seconds.
const FUDGE: u16 = 300;

pub(super) struct Rfc2136 {
    server: NameServer,
    key: Option<Key>,
    ttl: u32,
    patience: Patience,
}

/// A shared key.
struct Key {
    name: String,
    algorithm: String,
    secret: hmac::Key,
}

impl Rfc2136 {
    /// Reads `RFC2136_NAMESERVER`, `RFC2136_TSIG_KEY`, `RFC2136_TSIG_SECRET`, `RFC2136_TSIG_ALGORITHM`,
    /// `RFC2136_TSIG_FILE`, `RFC2136_TTL`, `RFC2136_PROPAGATION_TIMEOUT` and `RFC2136_POLLING_INTERVAL`.
    pub(super) fn new(variables: &Variables<'_>) -> Result<Self, Error> {
        let server = variables.required(&["RFC2136_NAMESERVER"])?;
        let server = NameServer::parse(&server).ok_or_else(|| {
            Error::local(format!("invalid RFC2136_NAMESERVER `{server}`: expected `host[:port]`"))
        })?;
        let mut algorithm = variables.first(&["RFC2136_TSIG_ALGORITHM"]);
        let mut name = variables.first(&["RFC2136_TSIG_KEY"]);
        let mut secret = variables.first(&["RFC2136_TSIG_SECRET"]);
        if let Some(path) = variables.first(&["RFC2136_TSIG_FILE"]) {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Error::local(format!("RFC2136_TSIG_FILE: `{path}`: {error}")))?;
            name = quoted(&text, "key");
            algorithm = quoted(&text, "algorithm").or(algorithm);
            secret = quoted(&text, "secret");
        }
        let key = match (name, secret) {
            (Some(name), Some(secret)) => {
                Some(Key::new(&name, algorithm.as_deref().unwrap_or("hmac-sha1"), &secret)?)
            }
            (None, None) => None,
            _ => return Err(Error::local("RFC2136_TSIG_KEY and RFC2136_TSIG_SECRET go together")),
        };
        let ttl = variables.number(&["RFC2136_TTL"], 120)?;
        Ok(Self { server, key, ttl, patience: variables.patience("RFC2136", 60, 2)? })
    }

    async fn change(&self, record: &Record, add: bool) -> Result<(), Error> {
        let resolvers = Resolvers { servers: vec![self.server.clone()], port: PORT };
        let zone = resolvers.zone(&record.name).await?;
        let id = fastrand::u16(..);
        let now = u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
        let mut message = update(id, &zone, record, add.then_some(self.ttl))?;
        if let Some(key) = &self.key {
            key.sign(&mut message, id, now)?;
        }
        let (server, answer) = resolvers.exchange(&message).await?;
        match answer.get(3).map(|flags| flags & 0x0f) {
            Some(0) => Ok(()),
            Some(code) => Err(Error::dns(format!(
                "update of {zone} at {server}: the server replied: {}",
                code_name(code)
            ))),
            None => Err(Error::dns(format!("update at {server}: the answer is too short"))),
        }
    }
}

impl Provider for Rfc2136 {
    fn present<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.change(record, true))
    }

    fn clean_up<'a>(&'a self, record: &'a Record, _: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.change(record, false))
    }

    fn patience(&self) -> Patience {
        self.patience
    }
}

impl Key {
    fn new(name: &str, algorithm: &str, secret: &str) -> Result<Self, Error> {
        let algorithm = algorithm.trim_end_matches('.').to_lowercase();
        let digest = match algorithm.as_str() {
            "hmac-sha1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            "hmac-sha224" => hmac::HMAC_SHA224,
            "hmac-sha256" => hmac::HMAC_SHA256,
            "hmac-sha384" => hmac::HMAC_SHA384,
            "hmac-sha512" => hmac::HMAC_SHA512,
            other => {
                return Err(Error::local(format!(
                    "RFC2136_TSIG_ALGORITHM: `{other}` is unknown: expected hmac-sha1, -sha224, -sha256, -sha384 or -sha512"
                )));
            }
        };
        let secret = BASE64_STANDARD
            .decode(secret.trim())
            .map_err(|error| Error::local(format!("RFC2136_TSIG_SECRET is not base64: {error}")))?;
        Ok(Self {
            name: name.trim_end_matches('.').to_lowercase(),
            algorithm,
            secret: hmac::Key::new(digest, &secret),
        })
    }

    /// Adds a signature (RFC 8945 section 4.2 and 4.3.3).
    fn sign(&self, message: &mut Vec<u8>, id: u16, now: u64) -> Result<(), Error> {
        let mut name = Vec::new();
        put_name(&mut name, &self.name)?;
        let mut algorithm = Vec::new();
        put_name(&mut algorithm, &self.algorithm)?;
        let time = &now.to_be_bytes()[2..];
        let signed = [
            &message[..],
            &name,
            &ANY.to_be_bytes(),
            &[0; 4],
            &algorithm,
            time,
            &FUDGE.to_be_bytes(),
            // No error and no other data.
            &[0; 4],
        ]
        .concat();
        let mac = hmac::sign(&self.secret, &signed);
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
        let data = [
            &algorithm[..],
            time,
            &FUDGE.to_be_bytes(),
            &length(mac.as_ref()),
            mac.as_ref(),
            &id.to_be_bytes(),
            &[0; 4],
        ]
        .concat();
        message.extend(
            [&name[..], &TSIG.to_be_bytes(), &ANY.to_be_bytes(), &[0; 4], &length(&data), &data].concat(),
        );
        // The additional section has one more record.
        message[11] += 1;
        Ok(())
    }
}

/// Builds an update that adds a record with a time to live, or removes it.
fn update(id: u16, zone: &str, record: &Record, ttl: Option<u32>) -> Result<Vec<u8>, Error> {
    let mut message = header(id, UPDATE, [1, 0, 1, 0]);
    put_name(&mut message, zone)?;
    message.extend([SOA, IN].into_iter().flat_map(u16::to_be_bytes));
    put_name(&mut message, &record.name)?;
    message.extend([TXT, if ttl.is_some() { IN } else { NONE }].into_iter().flat_map(u16::to_be_bytes));
    message.extend(ttl.unwrap_or(0).to_be_bytes());
    let length = u8::try_from(record.value.len()).map_err(|_| Error::dns("the record is too long"))?;
    message.extend((u16::from(length) + 1).to_be_bytes());
    message.push(length);
    message.extend(record.value.as_bytes());
    Ok(message)
}

fn code_name(code: u8) -> String {
    match code {
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        3 => "NXDOMAIN".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        8 => "NXRRSET".into(),
        9 => "NOTAUTH".into(),
        10 => "NOTZONE".into(),
        code => format!("code {code}"),
    }
}

/// Returns the value of a keyword in a key file of BIND: `algorithm hmac-sha256;`, `key "name" {`.
fn quoted(text: &str, word: &str) -> Option<String> {
    let mut words =
        text.split(|c: char| c.is_whitespace() || c == ';' || c == '{').filter(|word| !word.is_empty());
    words.by_ref().find(|found| *found == word)?;
    Some(words.next()?.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hickory_resolver::proto::op::Message;

    use super::*;

    fn record() -> Record {
        Record {
            domain: "a.test".into(),
            token: String::new(),
            key_authorization: String::new(),
            name: "_acme-challenge.a.test".into(),
            value: "value".into(),
        }
    }

    #[test]
    fn an_update_is_read_by_others() {
        for (ttl, class) in [(Some(120), 1), (None, 254)] {
            let message = update(9, "a.test", &record(), ttl).unwrap();
            let read = Message::from_vec(&message).unwrap();
            assert_eq!((read.metadata.id, u8::from(read.metadata.op_code)), (9, 5));
            assert_eq!(read.queries[0].name().to_ascii(), "a.test.");
            let record = &read.authorities[0];
            assert_eq!(
                (record.name.to_ascii().as_str(), u16::from(record.dns_class)),
                ("_acme-challenge.a.test.", class)
            );
        }
    }

    #[test]
    fn a_signature_covers_message_and_variables() {
        let key = Key::new("K.test.", "HMAC-SHA256", "c2VjcmV0").unwrap();
        let mut message = update(9, "a.test", &record(), Some(120)).unwrap();
        let bare = message.clone();
        key.sign(&mut message, 9, 1_700_000_000).unwrap();
        assert_eq!((message[11], bare[11]), (1, 0));
        let read = Message::from_vec(&message).unwrap();
        assert!(read.signature.is_some() || !read.additionals.is_empty());
        // The MAC, computed independently from the digest components in RFC 8945.
        let mut digested = bare;
        digested.extend(b"\x01k\x04test\x00\x00\xff\x00\x00\x00\x00\x0bhmac-sha256\x00");
        digested.extend([0, 0, 0x65, 0x53, 0xf1, 0x00, 0x01, 0x2c, 0, 0, 0, 0]);
        let expected = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), &digested);
        let found = message.windows(32).any(|window| window == expected.as_ref());
        assert!(found);
    }

    #[test]
    fn a_key_file_of_bind_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "key \"acme\" {\n\talgorithm hmac-sha512;\n\tsecret \"c2VjcmV0\";\n};\n")
            .unwrap();
        let given = BTreeMap::from([
            ("RFC2136_NAMESERVER".to_owned(), "127.0.0.1".to_owned()),
            ("RFC2136_TSIG_FILE".to_owned(), file.path().display().to_string()),
        ]);
        let key = Rfc2136::new(&Variables::new(&given)).unwrap().key.unwrap();
        assert_eq!((key.name.as_str(), key.algorithm.as_str()), ("acme", "hmac-sha512"));
    }
}
