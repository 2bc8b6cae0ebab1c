//! Smooth weighted round robin.

use parking_lot::Mutex;

/// The members of a service with their weights.
pub struct RoundRobin {
    members: Vec<(String, i64)>,
    credits: Mutex<Vec<i64>>,
}

impl RoundRobin {
    /// Returns a round robin over members by name and weight. Members with a weight of zero or less are never
    /// chosen.
    pub fn new(members: Vec<(String, i64)>) -> Self {
        let credits = Mutex::new(vec![0; members.len()]);
        Self { members, credits }
    }

    /// Returns true if these are the members.
    pub fn is_for(&self, members: &[(String, i64)]) -> bool {
        self.members == members
    }

    /// Returns the next allowed member; `None` if there is none.
    pub fn next(&self, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let mut credits = self.credits.lock();
        let (mut total, mut best) = (0i64, None);
        for (index, (_, weight)) in self.members.iter().enumerate() {
            if *weight <= 0 || !allowed(index) {
                continue;
            }
            total = total.saturating_add(*weight);
            credits[index] = credits[index].saturating_add(*weight);
            if best.is_none_or(|best: usize| credits[index] > credits[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        credits[best] = credits[best].saturating_sub(total);
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[i64]) -> RoundRobin {
        RoundRobin::new(
            weights.iter().enumerate().map(|(index, weight)| (index.to_string(), *weight)).collect(),
        )
    }

    #[test]
    fn choices_follow_the_weights_and_are_interleaved() {
        let turns = turns(&[3, 1, 0]);
        let order: Vec<_> = (0..8).map(|_| turns.next(|_| true).unwrap()).collect();
        assert_eq!(order, [0, 0, 1, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn members_that_are_down_are_skipped() {
        let turns = turns(&[1, 1, 1]);
        let order: Vec<_> = (0..4).map(|_| turns.next(|index| index != 1).unwrap()).collect();
        assert_eq!(order, [0, 2, 0, 2]);
        assert_eq!(turns.next(|_| false), None);
        assert_eq!(RoundRobin::new(Vec::new()).next(|_| true), None);
    }
}
