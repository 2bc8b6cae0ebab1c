//! Limits costly work: occasional work starts at once, and constant work takes a share of the time.

use std::time::Duration;

use tokio::time::Instant;

/// Requires a rest after each piece of work, as a multiple of its cost and on credit up to a limit: a few changes in a row
/// are processed at once, and a flood of them takes part of one core.
#[derive(Clone, Debug)]
pub struct Throttle {
    rest: u32,
    credit: Duration,
    /// When the rest that is owed ends.
    even: Instant,
}

impl Throttle {
    /// Returns a throttle that rests `rest` times what work has cost, when more than `credit` of rest is owed.
    pub fn new(rest: u32, credit: Duration) -> Self {
        Self { rest, credit, even: Instant::now() }
    }

    /// When the next piece of work may begin; a time that has passed when it may begin at once.
    pub fn next(&self) -> Instant {
        self.even.checked_sub(self.credit).unwrap_or(self.even)
    }

    /// Takes note of what a piece of work has cost. A rest is never longer than `longest`.
    pub fn spent(&mut self, cost: Duration, longest: Duration) {
        // While work is done, nothing is paid for.
        self.even = (self.even + cost).max(Instant::now()) + (cost * self.rest).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn a_few_are_done_at_once_and_a_flood_takes_a_part_of_the_time() {
        let mut throttle = Throttle::new(3, Duration::from_secs(1));
        let begun = Instant::now();
        let mut at_once = 0;
        for done in 1..=100_u32 {
            if throttle.next() <= Instant::now() {
                at_once += u32::from(done == at_once + 1);
            }
            tokio::time::sleep_until(throttle.next()).await;
            tokio::time::sleep(COST).await;
            throttle.spent(COST, LONGEST);
        }
        assert_eq!(at_once, 4, "the credit of a second is three rests of 300 ms");
        let part = (COST * 100).as_secs_f64() / begun.elapsed().as_secs_f64();
        assert!((0.24..0.27).contains(&part), "{part}");
        tokio::time::sleep(LONGEST).await;
        assert!(throttle.next() <= Instant::now(), "after a while all is paid for");
    }

    #[tokio::test(start_paused = true)]
    async fn no_rest_is_longer_than_the_longest() {
        let mut throttle = Throttle::new(3, Duration::ZERO);
        tokio::time::sleep(LONGEST * 30).await;
        throttle.spent(LONGEST * 30, LONGEST);
        assert_eq!(throttle.next(), Instant::now() + LONGEST);
    }
}
