//! Claims to names that can hold one value: as long as a challenge needs its value, others wait.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::Record;
use crate::error::Error;

/// Interval of looking for the end of another challenge.
const LOOK: Duration = Duration::from_millis(500);
/// How long after it a claim that was not given back is over: its order was cancelled.
const ABANDONED: Duration = Duration::from_secs(1800);

#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<String, Slot>>);

struct Slot {
    /// The value, and the name to prove by it; none once it has been given back.
    claim: Option<(String, String)>,
    /// When others may claim the name.
    until: Instant,
}

impl Slots {
    /// Claims a name, and waits until others no longer need it.
    pub(super) async fn claim(&self, slot: &str, record: &Record, patience: Duration) -> Result<(), Error> {
        let end = Instant::now() + patience;
        loop {
            let Some(other) = self.try_claim(slot, record) else { return Ok(()) };
            if Instant::now() >= end {
                return Err(Error::dns(format!(
                    "it keeps one TXT value for a name, and another challenge{} still needs it",
                    other.map(|domain| format!(" (of {domain})")).unwrap_or_default()
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Claims a name. Returns the name for which it is still needed, if any.
    fn try_claim(&self, slot: &str, record: &Record) -> Option<Option<String>> {
        let mut slots = self.0.lock();
        let now = Instant::now();
        slots.retain(|_, slot| now < slot.until);
        if let Some(taken) = slots.get(slot) {
            match &taken.claim {
                Some((value, _)) if *value == record.value => {}
                other => return Some(other.as_ref().map(|(_, domain)| domain.clone())),
            }
        }
        let claim = Some((record.value.clone(), record.domain.clone()));
        slots.insert(slot.to_owned(), Slot { claim, until: now + ABANDONED });
        None
    }

    /// Returns true if the name holds the value of this record.
    pub(super) fn holds(&self, slot: &str, record: &Record) -> bool {
        let slots = self.0.lock();
        let claim = slots.get(slot).and_then(|slot| slot.claim.as_ref());
        claim.is_some_and(|(value, _)| *value == record.value)
    }

    /// Gives a name back. Others may claim it after a pause, because caches still show the old value.
    pub(super) fn release(&self, slot: &str, pause: Duration) {
        if let Some(slot) = self.0.lock().get_mut(slot) {
            slot.claim = None;
            slot.until = Instant::now() + pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(domain: &str, value: &str) -> Record {
        Record {
            domain: domain.into(),
            token: String::new(),
            key_authorization: String::new(),
            name: format!("_acme-challenge.{domain}"),
            value: value.into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_belongs_to_one_challenge_at_a_time() {
        let (slots, pause, patience) = (Slots::default(), Duration::from_secs(60), Duration::from_secs(120));
        let (first, second) = (record("a.x.test", "1"), record("b.x.test", "2"));
        slots.claim("s", &first, patience).await.unwrap();
        slots.claim("s", &first, patience).await.unwrap();
        assert!(slots.holds("s", &first) && !slots.holds("s", &second));
        // Another name waits, in vain.
        let begun = Instant::now();
        let error = slots.claim("s", &second, patience).await.unwrap_err();
        assert!(error.message.contains("(of a.x.test)"), "{error}");
        assert!(begun.elapsed() >= patience);
        // After the pause, the next one has it.
        slots.release("s", pause);
        let begun = Instant::now();
        slots.claim("s", &second, patience).await.unwrap();
        assert!(begun.elapsed() >= pause && begun.elapsed() < pause + 2 * LOOK);
        slots.claim("other", &first, patience).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_nobody_gives_back_ends() {
        let slots = Slots::default();
        slots.claim("s", &record("a.test", "1"), Duration::ZERO).await.unwrap();
        slots.claim("s", &record("b.test", "2"), Duration::ZERO).await.unwrap_err();
        tokio::time::advance(ABANDONED).await;
        slots.claim("s", &record("b.test", "2"), Duration::ZERO).await.unwrap();
    }
}
