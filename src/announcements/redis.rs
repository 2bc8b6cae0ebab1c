//! Announcements in Redis: a stream whose ids are the numbers, and a hash with the series and the highest number.

use std::time::Duration;

use tidegate_clients::OptionError;
use tidegate_clients::redis::{Connection, Master, Value, cmd};
use tidegate_core::announced::Mark;

use super::announcement::{Listing, MAX_KEPT};
use super::error::ChannelError;
use crate::settings::{Cluster as Options, ClusterRedis};

const SCRIPT: &str = include_str!("append.lua");
/// How long a command waits for an announcement. A list that was lost is noticed after that.
const BLOCKING_TIME: Duration = Duration::from_secs(5);

/// A client of the list.
pub(super) struct Redis {
    master: Master,
    head: String,
    list: String,
    connection: Option<Connection>,
    /// The highest number in the last list.
    seen: Option<u64>,
}

impl Redis {
    pub(super) fn new(place: &ClusterRedis, options: &Options) -> Result<Self, OptionError> {
        // The hash tag keeps both keys on one node of a Redis Cluster.
        let key = |what: &str| format!("{}:{{{}}}:{what}", place.prefix, options.name);
        Ok(Self {
            master: Master::new(place.place())?,
            head: key("announced"),
            list: key("announcements"),
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
        self.run_script(known, "").await
    }

    /// Adds an announcement, and returns its number.
    pub(super) async fn append(&mut self, known: &Mark, text: &str) -> Result<u64, ChannelError> {
        let outcome = self.run_script(known, text).await;
        if outcome.is_err() {
            self.give_up();
        }
        Ok(outcome?.number)
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

    async fn run_script(&mut self, known: &Mark, text: &str) -> Result<Listing, ChannelError> {
        let mut command = cmd("EVAL");
        command.arg(SCRIPT).arg(2).arg(&self.head).arg(&self.list);
        command.arg(&known.series).arg(known.number).arg(MAX_KEPT).arg(text);
        let reply = self.connection().await?.query(&command).await?;
        decode(reply).ok_or(ChannelError::Unexpected)
    }
}

fn decode(reply: Value) -> Option<Listing> {
    let Value::Array(parts) = reply else { return None };
    let mut parts = parts.into_iter().map(|part| match part {
        Value::BulkString(text) => Some(text),
        _ => None,
    });
    let mut text = || Some(String::from_utf8(parts.next()??).ok());
    let (series, number) = (text()??, text()??.parse().ok()?);
    let mut texts = Vec::new();
    while let Some(number) = parts.next() {
        let number = String::from_utf8(number?).ok()?.parse().ok()?;
        texts.push((number, parts.next()??));
    }
    Some(Listing { series, number, texts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_the_script_are_decoded() {
        let list = |texts: &[&str]| {
            Value::Array(texts.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect())
        };
        let expected = Listing { series: "s".into(), number: 7, texts: vec![(7, b"{}".to_vec())] };
        assert_eq!(decode(list(&["s", "7", "7", "{}"])), Some(expected));
        for odd in [list(&[]), list(&["s"]), list(&["s", "x"]), list(&["s", "7", "7"]), Value::Nil] {
            assert_eq!(decode(odd), None);
        }
    }
}
