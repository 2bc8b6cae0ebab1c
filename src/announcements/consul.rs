//! Announcements in Consul: a key for each, whose last segment is its number, and `head` with the series and the
//! highest number, which is written in the same transaction. `maintenance` has the switches of routers.

use serde::{Deserialize, Serialize};
use tidegate_clients::OptionError;
use tidegate_clients::consul::keys::{encode, encode_path};
use tidegate_clients::consul::store::{Follow, Listing as Keys, MAX_OPERATIONS, Operation, Refusal, Store};
use tidegate_core::announced::Mark;

use super::announcement::{Listing, MAX_KEPT, is_id};
use super::error::ChannelError;
use crate::maintenance::Replica;
use crate::settings::{Cluster as Options, ClusterConsul};

/// A client of the list.
pub(super) struct Consul {
    store: Store,
    follow: Follow,
    /// Prefix of all keys, with a trailing slash.
    prefix: String,
}

#[derive(Serialize, Deserialize)]
struct Head {
    series: String,
    number: u64,
}

impl Consul {
    pub(super) fn new(place: &ClusterConsul, options: &Options) -> Result<Self, OptionError> {
        let prefix = format!("{}/{}/announcements/", encode_path(&place.prefix), encode(&options.name));
        let store = Store::new(&place.place())?;
        Ok(Self { follow: store.follow(&prefix), store, prefix })
    }

    pub(super) fn endpoint(&self) -> String {
        format!("Consul at {}", self.store.endpoint())
    }

    /// Returns the list at once, and from the second call on when it has changed. After failures, calls wait.
    pub(super) async fn next(&mut self, known: &Mark) -> Result<Listing, ChannelError> {
        loop {
            let keys = self.follow.next(&self.store).await?;
            let (head, index) = self.head(&keys, known)?;
            if let Some(head) = head {
                return Ok(self.listing(head, keys));
            }
            let begin = Operation::Swap {
                key: format!("{}head", self.prefix),
                value: encode_head(&known.series, known.number),
                index,
            };
            match self.store.apply(&[begin]).await {
                // The change, by this gateway or another one, is the next list.
                Ok(_) | Err(Refusal::Condition(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Adds an announcement, if there is one, merges the switches into those of the store, and returns the highest
    /// number. Fails as contended if others have changed something meanwhile.
    pub(super) async fn append(
        &mut self,
        known: &Mark,
        text: &str,
        switches: Option<&Replica>,
    ) -> Result<u64, ChannelError> {
        let keys = self.store.read(&self.prefix, true).await?;
        let mut operations = Vec::new();
        if let Some(switches) = switches {
            operations.extend(self.replace(&keys, switches)?);
        }
        let number = self.add(keys, known, text, &mut operations)?;
        if !operations.is_empty() {
            self.store.apply(&operations).await?;
        }
        Ok(number)
    }

    /// Returns what merges switches into those of the store, if it lacks some.
    fn replace(&self, keys: &Keys, switches: &Replica) -> Result<Option<Operation>, ChannelError> {
        let key = self.switches_key();
        let stored = keys.entries.iter().find(|entry| entry.key == key);
        let text = switches.merged_into(stored.map(|entry| &*entry.value))?;
        let index = stored.map_or(0, |entry| entry.index);
        Ok(text.map(|text| Operation::Swap { key, value: text.into(), index }))
    }

    /// Appends what adds an announcement, if there is one, and returns the highest number then.
    fn add(
        &self,
        keys: Keys,
        known: &Mark,
        text: &str,
        operations: &mut Vec<Operation>,
    ) -> Result<u64, ChannelError> {
        let (head, index) = self.head(&keys, known)?;
        let Head { series, number } =
            head.unwrap_or_else(|| Head { series: known.series.clone(), number: known.number });
        if text.is_empty() {
            return Ok(number);
        }
        let number = number.saturating_add(1);
        let key = format!("{}head", self.prefix);
        operations.push(Operation::Swap { key, value: encode_head(&series, number), index });
        let key = format!("{}{number:020}", self.prefix);
        operations.push(Operation::Set { key, value: text.into() });
        let old = keys.entries.into_iter().map(|entry| entry.key);
        let old = old
            .filter(|key| self.number(key).is_some_and(|old| old.saturating_add(MAX_KEPT as u64) <= number));
        let room = MAX_OPERATIONS - operations.len();
        operations.extend(old.take(room).map(|key| Operation::Delete { key }));
        Ok(number)
    }

    fn switches_key(&self) -> String {
        format!("{}maintenance", self.prefix)
    }

    /// Returns the head, unless there is none, or it is from before something that this gateway knows; and its index.
    fn head(&self, keys: &Keys, known: &Mark) -> Result<(Option<Head>, u64), ChannelError> {
        let name = format!("{}head", self.prefix);
        let Some(entry) = keys.entries.iter().find(|entry| entry.key == name) else { return Ok((None, 0)) };
        let head: Head = serde_json::from_slice(&entry.value).map_err(|_| ChannelError::Unexpected)?;
        if !is_id(&head.series) {
            return Err(ChannelError::Unexpected);
        }
        let is_old = head.series == known.series && head.number < known.number;
        Ok(((!is_old).then_some(head), entry.index))
    }

    fn number(&self, key: &str) -> Option<u64> {
        key.strip_prefix(&self.prefix)?.parse().ok()
    }

    fn listing(&self, Head { series, number }: Head, mut keys: Keys) -> Listing {
        let key = self.switches_key();
        let switches = keys.entries.iter_mut().find(|entry| entry.key == key);
        let switches = switches.map(|entry| std::mem::take(&mut entry.value));
        let texts =
            keys.entries.into_iter().filter_map(|entry| Some((self.number(&entry.key)?, entry.value)));
        Listing { series, number, texts: texts.collect(), switches }
    }
}

fn encode_head(series: &str, number: u64) -> Vec<u8> {
    serde_json::to_vec(&Head { series: series.to_owned(), number }).unwrap_or_default()
}
