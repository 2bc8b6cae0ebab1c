//! The busiest of many objects in bounded memory (space-saving: Metwally, Agrawal, El Abbadi 2005).

use std::collections::HashMap;
use std::hash::Hash;

use super::series::Series;

/// How often weights are halved, so that what was busy once gives way, in seconds.
const HALVED: u64 = 60;

/// The series of the busiest objects.
pub(super) struct Top<K> {
    capacity: usize,
    places: HashMap<K, usize>,
    entries: Vec<Entry<K>>,
    halved: u64,
}

struct Entry<K> {
    key: K,
    /// An upper bound of its requests, halved now and then.
    weight: u64,
    series: Series,
}

impl<K: Hash + Eq + Clone> Top<K> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, places: HashMap::new(), entries: Vec::new(), halved: 0 }
    }

    /// Returns the series of an object, which takes the place of the least busy one if all are taken. Returns `None`
    /// only without any place.
    pub(super) fn series(&mut self, key: &K, now: u64) -> Option<&mut Series> {
        let place = match self.places.get(key) {
            Some(place) => *place,
            None => self.enter(key, now)?,
        };
        let entry = self.entries.get_mut(place)?;
        entry.weight += 1;
        Some(&mut entry.series)
    }

    fn enter(&mut self, key: &K, now: u64) -> Option<usize> {
        let series = Series::new(now);
        if self.entries.len() < self.capacity {
            self.entries.push(Entry { key: key.clone(), weight: 0, series });
            self.places.insert(key.clone(), self.entries.len() - 1);
            return Some(self.entries.len() - 1);
        }
        let (place, entry) = self.entries.iter_mut().enumerate().min_by_key(|(_, entry)| entry.weight)?;
        // It keeps the weight: the newcomer may have had as many requests.
        let old = std::mem::replace(&mut entry.key, key.clone());
        entry.series = series;
        self.places.remove(&old);
        self.places.insert(key.clone(), place);
        Some(place)
    }

    /// Forgets objects without requests within the last minutes, and halves weights when it is time.
    pub(super) fn tidy(&mut self, now: u64) {
        if now < self.halved + HALVED {
            return;
        }
        self.halved = now;
        self.entries.retain(|entry| !entry.series.is_idle(now));
        self.places.clear();
        for (place, entry) in self.entries.iter_mut().enumerate() {
            entry.weight /= 2;
            self.places.insert(entry.key.clone(), place);
        }
    }

    /// Returns the objects with their series, except those without requests within the last minutes.
    pub(super) fn iter(&self, now: u64) -> impl Iterator<Item = (&K, &Series)> {
        let entries = self.entries.iter().filter(move |entry| !entry.series.is_idle(now));
        entries.map(|entry| (&entry.key, &entry.series))
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Outcome;
    use super::*;

    fn add(top: &mut Top<u32>, key: u32, now: u64) {
        top.series(&key, now).unwrap().add(Outcome { is_error: false, time: None }, now);
    }

    #[test]
    fn busy_objects_stay_while_strangers_come_and_go() {
        let mut top = Top::new(10);
        for round in 0..10_000_u32 {
            for busy in 0..5 {
                add(&mut top, busy, 0);
            }
            add(&mut top, 1000 + round, 0);
        }
        let found: Vec<u32> = top.iter(0).map(|(key, _)| *key).collect();
        assert_eq!((found.len(), top.places.len()), (10, 10));
        for busy in 0..5 {
            let series = top.iter(0).find(|(key, _)| **key == busy).unwrap().1;
            assert_eq!(series.numbers(0, 0.0).requests[2], 10_000);
        }
    }

    #[test]
    fn objects_without_requests_are_forgotten() {
        let mut top = Top::new(10);
        add(&mut top, 1, 0);
        add(&mut top, 2, 200);
        top.tidy(301);
        assert_eq!(top.iter(301).map(|(key, _)| *key).collect::<Vec<_>>(), [2]);
        add(&mut top, 2, 301);
        assert_eq!(top.entries.len(), 1, "its place is found");
    }

    #[test]
    fn without_a_place_nothing_is_kept() {
        assert!(Top::new(0).series(&1, 0).is_none());
    }
}
