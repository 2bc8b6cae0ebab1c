//! Load-balancing strategies, which choose the member for the next request.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_config::service::Strategy;

use super::preview::Choice;

/// `leasttime` distributes one in this many requests round robin, so that the time of each member stays
/// known.
const EXPLORE: u32 = 64;

/// One of the members that share requests.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) weight: f64,
}

impl Member {
    pub(super) fn new(name: &str, weight: i64) -> Self {
        Self { name: name.to_owned(), weight: weight as f64 }
    }
}

/// The state of the members, as strategies see it.
pub(super) trait Load {
    /// Returns true if the member may receive this request.
    fn allowed(&self, index: usize) -> bool;
    /// Returns its number of requests in flight.
    fn in_flight(&self, index: usize) -> usize;
    /// Returns its mean response time in microseconds; `None` if unknown.
    fn mean_time(&self, index: usize) -> Option<f64>;
    /// Returns the effective share of its weight: more than 0, and 1 unless in slow start.
    fn share(&self, _index: usize) -> f64 {
        1.0
    }
}

/// The members of a service and the state of its strategy.
pub(super) struct Balance {
    strategy: Strategy,
    members: Vec<Member>,
    /// `None` before the first choice, as the initial shares are those of the first request.
    turns: Mutex<Option<RoundRobin>>,
    /// Number of choices, for strategies that need it.
    choices: AtomicU32,
}

impl Balance {
    /// Returns the balance of these members.
    pub(super) fn new(strategy: Strategy, members: Vec<Member>) -> Self {
        Self { strategy, members, turns: Mutex::default(), choices: AtomicU32::new(0) }
    }

    /// Returns a copy, whose choices do not affect this one.
    pub(super) fn copy(&self) -> Self {
        Self {
            strategy: self.strategy,
            members: self.members.clone(),
            turns: Mutex::new(self.turns.lock().clone()),
            choices: AtomicU32::new(self.choices.load(Ordering::Relaxed)),
        }
    }

    /// Returns the member that is next for a client, without taking the turn.
    pub(super) fn peek(&self, client: IpAddr, load: &impl Load) -> Choice {
        let allowed = (0..self.members.len()).filter(|index| load.allowed(*index)).count();
        if self.strategy == Strategy::P2c && allowed > 1 {
            return Choice::Random;
        }
        self.copy().choose(client, load).into()
    }

    /// Returns the weight of a member.
    pub(super) fn weight(&self, index: usize) -> f64 {
        self.members.get(index).map_or(0.0, |member| member.weight)
    }

    pub(super) fn is_for(&self, strategy: Strategy, members: &[Member]) -> bool {
        self.strategy == strategy && self.members == members
    }

    /// Chooses a member for a client; `None` if none is allowed.
    pub(super) fn choose(&self, client: IpAddr, load: &impl Load) -> Option<usize> {
        match self.strategy {
            Strategy::Wrr => self.round_robin(load),
            Strategy::P2c => self.less_busy(load),
            Strategy::Hrw => self.highest_hash(client, load),
            Strategy::LeastTime => self.fastest(load),
            Strategy::LeastConnections => self.best(load, |index| load.in_flight(index) as f64),
        }
    }

    fn round_robin(&self, load: &impl Load) -> Option<usize> {
        self.next_turn(load, |index| load.allowed(index))
    }

    fn next_turn(&self, load: &impl Load, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let mut turns = self.turns.lock();
        let turns = turns.get_or_insert_with(|| RoundRobin::new(&self.members, |index| load.share(index)));
        turns.next(&self.members, load, allowed)
    }

    /// Returns the member with the lowest score relative to its weight; equal ones take turns.
    fn best(&self, load: &impl Load, score: impl Fn(usize) -> f64) -> Option<usize> {
        // Scores are computed once, as requests in flight change meanwhile.
        let scores: SmallVec<[f64; 16]> = (0..self.members.len())
            .map(|index| match load.allowed(index) {
                true => score(index) / (self.members[index].weight * load.share(index)),
                false => f64::INFINITY,
            })
            .collect();
        let best = scores.iter().copied().fold(f64::INFINITY, f64::min);
        if best.is_infinite() {
            return None;
        }
        self.next_turn(load, |index| scores[index] <= best)
    }

    fn less_busy(&self, load: &impl Load) -> Option<usize> {
        let count = (0..self.members.len()).filter(|index| load.allowed(*index)).count();
        let nth = |n: usize| (0..self.members.len()).filter(|index| load.allowed(*index)).nth(n);
        if count < 2 {
            return nth(0);
        }
        let first = fastrand::usize(..count);
        let second = (first + 1 + fastrand::usize(..count - 1)) % count;
        let (first, second) = (nth(first)?, nth(second)?);
        let (share, other) = (load.share(first), load.share(second));
        if share < 1.0 || other < 1.0 {
            let score = |index, share: f64| (1 + load.in_flight(index)) as f64 / share;
            // If both are idle, choose at random by share.
            let (one, two) = (score(first, share), score(second, other));
            return Some(if fastrand::f64() * (one + two) < one { second } else { first });
        }
        Some(if load.in_flight(second) < load.in_flight(first) { second } else { first })
    }

    fn highest_hash(&self, client: IpAddr, load: &impl Load) -> Option<usize> {
        let client = client.to_canonical().to_string();
        (0..self.members.len())
            .filter(|index| load.allowed(*index))
            .map(|index| (index, hash_score(&client, &self.members[index]) * load.share(index)))
            .fold(None, |best: Option<(usize, f64)>, next| match best {
                Some(best) if best.1 >= next.1 => Some(best),
                _ => Some(next),
            })
            .map(|(index, _)| index)
    }

    /// Returns the member with the shortest mean time. To keep the times up to date, some requests are
    /// distributed round robin, and a member without a known time receives one request.
    fn fastest(&self, load: &impl Load) -> Option<usize> {
        let allowed = || (0..self.members.len()).filter(|index| load.allowed(*index));
        let choice = self.choices.fetch_add(1, Ordering::Relaxed);
        if choice % EXPLORE == EXPLORE - 1 {
            let turn = (choice / EXPLORE) as usize % allowed().count().max(1);
            return allowed().nth(turn);
        }
        let typical = allowed().filter_map(|index| load.mean_time(index)).fold(f64::INFINITY, f64::min);
        let typical = if typical.is_finite() { typical } else { 1.0 };
        self.best(load, |index| match (load.mean_time(index), load.in_flight(index)) {
            (Some(time), busy) => time * (1 + busy) as f64,
            (None, 0) => 0.0,
            // It has its one request. Until the response, it counts as equal to the best.
            (None, busy) => typical * (1 + busy) as f64,
        })
    }
}

/// Returns Go's FNV-1a hash of address and name as a fraction, scaled by the weight (rendezvous hashing).
fn hash_score(client: &str, member: &Member) -> f64 {
    let hash = fnv1a(client.as_bytes(), member.name.as_bytes());
    let fraction = hash as f64 / 18_446_744_073_709_551_616.0;
    1.0 / -fraction.ln() * member.weight
}

/// Returns the 64-bit FNV-1a hash of both parts.
pub(super) fn fnv1a(first: &[u8], second: &[u8]) -> u64 {
    first.iter().chain(second).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Earliest deadline first. Replicates Go's `container/heap`, so that members with equal deadlines come in
/// the same order as in Traefik.
#[derive(Clone)]
struct RoundRobin {
    heap: Vec<(f64, usize)>,
    current: f64,
}

impl RoundRobin {
    fn new(members: &[Member], share: impl Fn(usize) -> f64) -> Self {
        let mut turns = Self { heap: Vec::with_capacity(members.len()), current: 0.0 };
        for (index, member) in members.iter().enumerate() {
            turns.push((1.0 / (member.weight * share(index)), index));
        }
        turns
    }

    fn next(
        &mut self,
        members: &[Member],
        load: &impl Load,
        allowed: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let step = |index: usize| 1.0 / (members[index].weight * load.share(index));
        for _ in 0..2 * self.heap.len() {
            let (deadline, index) = self.pop()?;
            self.current = deadline;
            self.push((deadline + step(index), index));
            if allowed(index) {
                return Some(index);
            }
        }
        // A heavy member that is not allowed is popped again and again: check the others directly.
        let position = (0..self.heap.len())
            .filter(|position| allowed(self.heap[*position].1))
            .min_by(|a, b| self.heap[*a].0.total_cmp(&self.heap[*b].0))?;
        let index = self.heap[position].1;
        self.heap[position].0 = self.heap[position].0.max(self.current) + step(index);
        self.down(position, self.heap.len());
        Some(index)
    }

    fn push(&mut self, entry: (f64, usize)) {
        self.heap.push(entry);
        let mut child = self.heap.len() - 1;
        while child > 0 {
            let parent = (child - 1) / 2;
            if self.heap[child].0 >= self.heap[parent].0 {
                break;
            }
            self.heap.swap(parent, child);
            child = parent;
        }
    }

    fn pop(&mut self) -> Option<(f64, usize)> {
        let last = self.heap.len().checked_sub(1)?;
        self.heap.swap(0, last);
        self.down(0, last);
        self.heap.pop()
    }

    fn down(&mut self, start: usize, length: usize) {
        let mut parent = start;
        loop {
            let left = 2 * parent + 1;
            if left >= length {
                return;
            }
            let right = left + 1;
            let least = if right < length && self.heap[right].0 < self.heap[left].0 { right } else { left };
            if self.heap[least].0 >= self.heap[parent].0 {
                return;
            }
            self.heap.swap(parent, least);
            parent = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct All {
        out: Vec<usize>,
        busy: Vec<usize>,
        times: Vec<Option<f64>>,
        shares: Vec<f64>,
    }

    impl Load for All {
        fn allowed(&self, index: usize) -> bool {
            !self.out.contains(&index)
        }
        fn in_flight(&self, index: usize) -> usize {
            self.busy.get(index).copied().unwrap_or(0)
        }
        fn mean_time(&self, index: usize) -> Option<f64> {
            self.times.get(index).copied().flatten()
        }
        fn share(&self, index: usize) -> f64 {
            self.shares.get(index).copied().unwrap_or(1.0)
        }
    }

    const FREE: All = All { out: Vec::new(), busy: Vec::new(), times: Vec::new(), shares: Vec::new() };
    const STRATEGIES: [Strategy; 5] =
        [Strategy::Wrr, Strategy::P2c, Strategy::Hrw, Strategy::LeastTime, Strategy::LeastConnections];
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn balance(strategy: Strategy, weights: &[i64]) -> Balance {
        let name = |index: usize| ["a", "b", "c"][index];
        Balance::new(strategy, weights.iter().enumerate().map(|(i, w)| Member::new(name(i), *w)).collect())
    }

    fn order(balance: &Balance, load: &All, count: usize) -> Vec<usize> {
        (0..count).map(|_| balance.choose(CLIENT, load).unwrap()).collect()
    }

    #[test]
    fn round_robin_follows_weights_in_the_order_of_traefik() {
        // Recorded twice with Traefik 3.7.15 and weights 3, 1 and 2.
        assert_eq!(
            order(&balance(Strategy::Wrr, &[3, 1, 2]), &FREE, 12),
            [0, 2, 0, 2, 0, 1, 0, 2, 0, 0, 2, 1]
        );
        assert_eq!(order(&balance(Strategy::Wrr, &[1, 1]), &FREE, 4), [0, 1, 0, 1]);
        assert_eq!(balance(Strategy::Wrr, &[]).choose(CLIENT, &FREE), None);
    }

    #[test]
    fn members_that_are_down_get_no_requests() {
        let heavy = balance(Strategy::Wrr, &[1_000_000, 1, 1]);
        let out = All { out: vec![0], ..FREE };
        let got = order(&heavy, &out, 10);
        assert!(got.iter().all(|index| *index != 0));
        assert_eq!(got.iter().filter(|index| **index == 1).count(), 5, "{got:?}");
        for strategy in STRATEGIES {
            let none = All { out: vec![0, 1, 2], ..FREE };
            assert_eq!(balance(strategy, &[1, 1, 1]).choose(CLIENT, &none), None, "{strategy:?}");
            let one = All { out: vec![0, 2], ..FREE };
            assert_eq!(balance(strategy, &[1, 1, 1]).choose(CLIENT, &one), Some(1), "{strategy:?}");
        }
    }

    #[test]
    fn p2c_chooses_the_less_busy_of_two() {
        let busy = All { busy: vec![5, 1], ..FREE };
        assert!(order(&balance(Strategy::P2c, &[1, 1]), &busy, 20).iter().all(|index| *index == 1));
    }

    #[test]
    fn a_client_keeps_its_member_while_it_is_up() {
        let balance = balance(Strategy::Hrw, &[1, 1, 1]);
        // Recorded with Traefik 3.7.15 for 127.0.0.1 and children `a`, `b`, `c`.
        assert_eq!(order(&balance, &FREE, 3), [0, 0, 0]);
        let other = order(&balance, &All { out: vec![0], ..FREE }, 2);
        assert!(other[0] != 0 && other[0] == other[1]);
    }

    #[test]
    fn leasttime_chooses_the_fastest_and_tries_unknown_members_first() {
        let balance = balance(Strategy::LeastTime, &[1, 1, 1]);
        let known = All { times: vec![Some(9.0), Some(2.0), Some(5.0)], ..FREE };
        assert_eq!(order(&balance, &known, 3), [1, 1, 1]);
        let busy = All { busy: vec![0, 9, 0], times: known.times.clone(), ..FREE };
        assert_eq!(order(&balance, &busy, 1), [2]);
        let unknown = All { times: vec![Some(9.0), None, None], ..FREE };
        let mut got = order(&balance, &unknown, 2);
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    }

    #[test]
    fn leasttime_neither_starves_slow_members_nor_floods_unknown_ones() {
        let balance = balance(Strategy::LeastTime, &[1, 1, 1]);
        let known = All { times: vec![Some(900.0), Some(2.0), Some(500.0)], ..FREE };
        let got = order(&balance, &known, 10 * EXPLORE as usize);
        let count = |wanted: usize| got.iter().filter(|index| **index == wanted).count();
        assert!(count(0) >= 2 && count(2) >= 2, "{} {}", count(0), count(2));
        assert!(count(1) > 9 * EXPLORE as usize, "{}", count(1));
        let waiting = All { times: vec![None, Some(2.0), Some(5.0)], busy: vec![1, 0, 0], ..FREE };
        assert_eq!(order(&balance, &waiting, 5), [1; 5], "its first request has not been answered yet");
    }

    #[test]
    fn leastconn_chooses_the_fewest_requests_in_flight_by_weight() {
        let balance = balance(Strategy::LeastConnections, &[1, 4, 1]);
        assert_eq!(order(&balance, &All { busy: vec![2, 7, 3], ..FREE }, 2), [1, 1]);
        assert_eq!(order(&balance, &All { busy: vec![1, 7, 3], ..FREE }, 2), [0, 0]);
        // All idle: round robin by weight.
        let got = order(&balance, &FREE, 12);
        assert_eq!(got.iter().filter(|index| **index == 1).count(), 8, "{got:?}");
    }

    #[test]
    fn a_member_in_slow_start_gets_its_share_with_every_strategy() {
        let slow = All { shares: vec![0.25, 1.0], ..FREE };
        let fast = Balance::new(Strategy::Wrr, vec![Member::new("a", 1), Member::new("b", 1)]);
        let got = order(&fast, &slow, 20);
        assert_eq!(got.iter().filter(|index| **index == 0).count(), 4, "one to four: {got:?}");
        assert!(got[..3].iter().all(|index| *index == 1), "its first request comes late: {got:?}");
        let busy = All { busy: vec![1, 3], shares: slow.shares.clone(), ..FREE };
        assert_eq!(order(&balance(Strategy::LeastConnections, &[1, 1]), &busy, 2), [1, 1]);
        let timed = All { times: vec![Some(1.0), Some(3.0)], shares: slow.shares.clone(), ..FREE };
        assert_eq!(order(&balance(Strategy::LeastTime, &[1, 1]), &timed, 2), [1, 1]);
        let chance = order(&balance(Strategy::P2c, &[1, 1]), &slow, 400);
        assert!((30..160).contains(&chance.iter().filter(|index| **index == 0).count()));
        let hashed = balance(Strategy::Hrw, &[1, 1]);
        let clients = |load: &All| -> Vec<usize> {
            let client = |n: u8| IpAddr::from([10, 0, 0, n]);
            (0..200).map(|n| hashed.choose(client(n), load).unwrap()).collect()
        };
        let (few, all) = (clients(&slow), clients(&FREE));
        assert!(
            few.iter().filter(|index| **index == 0).count() < all.iter().filter(|index| **index == 0).count()
        );
        assert!(
            few.iter().zip(&all).all(|(few, all)| *few == 1 || *all == 0),
            "clients only ever move to it"
        );
    }
}
