//! Announcements in Redis: a stream whose ids are the numbers, a hash with the series and the highest number, and a
//! string with the switches of routers.

use std::time::Duration;

use tidegate_clients::OptionError;
use tidegate_clients::redis::{Connection, Master, Value, cmd};
use tidegate_core::announced::Mark;

use super::announcement::{Listing, MAX_KEPT};
use super::error::ChannelError;
use crate::maintenance::Replica;
use crate::settings::{Cluster as Options, ClusterRedis};

const SCRIPT: &str = include_str!("append.lua");
/// How long a command waits for an announcement. A list that was lost is noticed after that.
const BLOCKING_TIME: Duration = Duration::from_secs(5);

/// A client of the list.
pub(super) struct Redis {
    master: Master,
    head: String,
    list: String,
    switches: String,
    connection: Option<Connection>,
    /// The highest number in the last list.
    seen: Option<u64>,
}

impl Redis {
    pub(super) fn new(place: &ClusterRedis, options: &Options) -> Result<Self, OptionError> {
        // The hash tag keeps all keys on one node of a Redis Cluster.
        let key = |what: &str| format!("{}:{{{}}}:{what}", place.prefix, options.name);
        Ok(Self {
            master: Master::new(place.place())?,
            head: key("announced"),
            list: key("announcements"),
            switches: key("maintenance"),
            connection: None,
            seen: None,
        })
    }

    pub(super) fn endpoint(&self) -> String {
        format!("Redis at {}", self.master.endpoint())
    }

    /// Returns the list at once, and from the second call on when it may have changed.
    pub(super) async fn next(&mut self, known: &Mark) -> Result<Listing, ChannelError> {
        let outcome = self.wait_and_read(known).await;
        self.seen = outcome.as_ref().ok().map(|listing| listing.number);
        if outcome.is_err() {
            self.give_up();
        }
        outcome
    }

    async fn wait_and_read(&mut self, known: &Mark) -> Result<Listing, ChannelError> {
        if let Some(seen) = self.seen {
            let mut command = cmd("XREAD");
            command.arg("BLOCK").arg(BLOCKING_TIME.as_millis() as u64);
            command.arg("STREAMS").arg(&self.list).arg(format!("{seen}-0"));
            self.connection().await?.query::<Value>(&command).await?;
        }
        Ok(self.read(known).await?.0)
    }

    /// Adds an announcement, if there is one, merges the switches into those of the store, and returns the highest
    /// number. Fails as contended if others have changed something meanwhile.
    pub(super) async fn append(
        &mut self,
        known: &Mark,
        text: &str,
        switches: Option<&Replica>,
    ) -> Result<u64, ChannelError> {
        let outcome = self.merge_and_add(known, text, switches).await;
        if !matches!(outcome, Ok(_) | Err(ChannelError::Contended(_))) {
            self.give_up();
        }
        outcome
    }

    async fn merge_and_add(
        &mut self,
        known: &Mark,
        text: &str,
        switches: Option<&Replica>,
    ) -> Result<u64, ChannelError> {
        let (mut digest, mut merged) = (String::new(), String::new());
        if let Some(switches) = switches {
            let (listing, read) = self.read(known).await?;
            let Some(lacking) = switches.merged_into(listing.switches.as_deref())? else {
                // They are there, or come with the announcement of another change.
                return match text {
                    "" => Ok(listing.number),
                    text => self.add(known, [text, "", ""]).await,
                };
            };
            (digest, merged) = (read, lacking);
        }
        self.add(known, [text, &digest, &merged]).await
    }

    fn give_up(&mut self) {
        self.connection = None;
        self.master.advance();
    }

    async fn connection(&mut self) -> Result<&mut Connection, ChannelError> {
        if let Some(peer) = self.connection.as_ref().and_then(Connection::peer)
            && !peer.is_current().await
        {
            self.connection = None;
        }
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(self.master.connect().await?)),
        }
    }

    /// Returns the list, and the digest of the switches.
    async fn read(&mut self, known: &Mark) -> Result<(Listing, String), ChannelError> {
        decode(self.run_script(known, ["", "", ""]).await?).ok_or(ChannelError::Unexpected)
    }

    /// Adds the first text as an announcement, and replaces the switches that have the digest, the second one, by the
    /// third. Either may be empty. Returns the highest number.
    async fn add(&mut self, known: &Mark, texts: [&str; 3]) -> Result<u64, ChannelError> {
        match self.run_script(known, texts).await? {
            Value::Array(parts) if parts.is_empty() => {
                Err(ChannelError::Contended("the switches were replaced meanwhile".to_owned()))
            }
            reply => decode_number(reply).ok_or(ChannelError::Unexpected),
        }
    }

    async fn run_script(&mut self, known: &Mark, texts: [&str; 3]) -> Result<Value, ChannelError> {
        let mut command = cmd("EVAL");
        command.arg(SCRIPT).arg(3).arg(&self.head).arg(&self.list).arg(&self.switches);
        command.arg(&known.series).arg(known.number).arg(MAX_KEPT).arg(&texts);
        Ok(self.connection().await?.query(&command).await?)
    }
}

fn strings(reply: Value) -> Option<impl Iterator<Item = Option<Vec<u8>>>> {
    let Value::Array(parts) = reply else { return None };
    Some(parts.into_iter().map(|part| match part {
        Value::BulkString(text) => Some(text),
        _ => None,
    }))
}

/// Decodes the reply to a change.
fn decode_number(reply: Value) -> Option<u64> {
    String::from_utf8(strings(reply)?.nth(1)??).ok()?.parse().ok()
}

/// Decodes the list, and the digest of the switches.
fn decode(reply: Value) -> Option<(Listing, String)> {
    let mut parts = strings(reply)?;
    let mut text = || String::from_utf8(parts.next()??).ok();
    let (series, number, digest) = (text()?, text()?.parse().ok()?, text()?);
    let switches = Some(parts.next()??).filter(|text| !text.is_empty());
    let mut texts = Vec::new();
    while let Some(number) = parts.next() {
        let number = String::from_utf8(number?).ok()?.parse().ok()?;
        texts.push((number, parts.next()??));
    }
    Some((Listing { series, number, texts, switches }, digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_the_script_are_decoded() {
        let list = |texts: &[&str]| {
            Value::Array(texts.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect())
        };
        let expected = |switches| {
            let listing =
                Listing { series: "s".into(), number: 7, texts: vec![(7, b"{}".to_vec())], switches };
            Some((listing, "d".to_owned()))
        };
        assert_eq!(decode(list(&["s", "7", "d", "", "7", "{}"])), expected(None));
        assert_eq!(decode(list(&["s", "7", "d", "{}", "7", "{}"])), expected(Some(b"{}".to_vec())));
        assert_eq!(decode_number(list(&["s", "7"])), Some(7));
        for odd in [
            list(&[]),
            list(&["s"]),
            list(&["s", "x", "d", ""]),
            list(&["s", "7", "d"]),
            list(&["s", "7", "d", "", "7"]),
            Value::Nil,
        ] {
            assert_eq!(decode(odd), None);
        }
    }
}
