//! Values that gateways keep for each other in Redis, with a real server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::store::Stores;
use tidegate_core::store::{Bucket, SharedStore, StoreError, StoreOptions, Turn};
use tidegate_core::values::Secret;
use tokio::runtime::Runtime;

use crate::support::eventually;
use crate::support::outside::{Redis, cluster};

const HOUR: Duration = Duration::from_secs(3600);
/// Long enough for a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store as one gateway has it.
struct Shared {
    runtime: Runtime,
    store: Arc<dyn SharedStore>,
}

impl Shared {
    fn new(servers: &[&Redis]) -> Self {
        let runtime = Runtime::new().unwrap();
        let options = StoreOptions {
            endpoints: servers.iter().map(|redis| redis.address.to_string()).collect(),
            tls: None,
            username: Secret::default(),
            password: Secret::default(),
            db: 0,
            pool_size: 4,
            min_idle: 0,
            read_timeout: PATIENCE,
            write_timeout: PATIENCE,
            dial_timeout: PATIENCE,
            sentinel: None,
        };
        let store = Stores::new(runtime.handle().clone()).draft().get(&options).unwrap();
        Self { runtime, store }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.runtime.block_on(self.store.get(key, PATIENCE))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn set(&self, key: &str, value: &[u8], expiry: Duration) -> Result<(), StoreError> {
        self.runtime.block_on(self.store.set(key, value, expiry, PATIENCE))
    }

    fn compare_and_set(&self, key: &str, expected: Option<&[u8]>, value: &[u8]) -> Result<bool, StoreError> {
        self.runtime.block_on(self.store.compare_and_set(key, expected, value, HOUR, PATIENCE))
    }
}

#[test]
#[ignore = "needs redis-server"]
fn values_are_seen_by_other_gateways_until_they_expire() {
    let redis = Redis::start(&[]);
    let (one, two) = (Shared::new(&[&redis]), Shared::new(&[&redis]));
    assert_eq!(two.get("tidegate:t:a"), Ok(None));
    let value: Vec<u8> = (0..=255).chain(*b"\r\n$3\r\n").collect();
    assert_eq!(one.set("tidegate:t:a", &value, HOUR), Ok(()));
    assert_eq!(two.get("tidegate:t:a"), Ok(Some(value)));
    let left: u64 = redis.command(&["PTTL", "tidegate:t:a"]).trim().parse().unwrap();
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    assert_eq!(two.set("tidegate:t:a", b"short", Duration::from_millis(1)), Ok(()));
    eventually("it has expired", || one.get("tidegate:t:a") == Ok(None));
    let longest = vec![b'x'; tidegate_core::store::MAX_VALUE];
    assert_eq!(one.set("tidegate:t:long", &longest, HOUR), Ok(()));
    assert_eq!(
        two.get("tidegate:t:long").map(|value| value.map(|value| value.len())),
        Ok(Some(longest.len()))
    );
    redis.command(&["APPEND", "tidegate:t:long", "y"]);
    assert!(
        two.get("tidegate:t:long").unwrap_err().to_string().contains("longer than"),
        "somebody else has written it"
    );
    redis.command(&["LPUSH", "tidegate:t:list", "y"]);
    assert!(two.get("tidegate:t:list").unwrap_err().to_string().contains("WRONGTYPE"));
}

#[test]
#[ignore = "needs redis-server"]
fn a_value_is_replaced_only_if_it_is_the_expected_one() {
    let redis = Redis::start(&[]);
    let (one, two) = (Shared::new(&[&redis]), Shared::new(&[&redis]));
    let key = "tidegate:t:a";
    assert_eq!(one.compare_and_set(key, Some(b"a"), b"b"), Ok(false), "there is none");
    assert_eq!(one.compare_and_set(key, None, b"a"), Ok(true));
    assert_eq!(two.compare_and_set(key, None, b"b"), Ok(false));
    assert_eq!(two.compare_and_set(key, Some(b"b"), b"c"), Ok(false));
    assert_eq!(one.get(key), Ok(Some(b"a".to_vec())));
    redis.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(two.compare_and_set(key, Some(b"a"), b"c"), Ok(true));
    let left: u64 = redis.command(&["PTTL", key]).trim().parse().unwrap();
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    // Of many that expect the same value one succeeds.
    let won = std::thread::scope(|scope| {
        let threads: Vec<_> = [&one, &two]
            .into_iter()
            .cycle()
            .take(20)
            .enumerate()
            .map(|(n, shared)| {
                scope.spawn(move || shared.compare_and_set(key, Some(b"c"), format!("{n}").as_bytes()))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
}

#[test]
#[ignore = "needs redis-server"]
fn values_in_a_cluster_are_where_their_keys_belong() {
    let nodes = cluster(3);
    let (one, two) = (Shared::new(&[&nodes[0]]), Shared::new(&[&nodes[1], &nodes[2]]));
    for n in 0..12 {
        let (key, value) = (format!("tidegate:t:{n}"), format!("v{n}").into_bytes());
        match n % 2 {
            0 => assert_eq!(one.set(&key, &value, HOUR), Ok(())),
            _ => assert_eq!(one.compare_and_set(&key, None, &value), Ok(true)),
        }
        assert_eq!(two.get(&key), Ok(Some(value.clone())));
        assert_eq!(two.compare_and_set(&key, Some(&value), b"new"), Ok(true));
        assert_eq!(one.get(&key), Ok(Some(b"new".to_vec())));
    }
    let counts: Vec<usize> =
        nodes.iter().map(|node| node.command(&["DBSIZE"]).trim().parse().unwrap()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 12);
    assert!(counts.iter().all(|count| *count < 12), "{counts:?}");
}

#[test]
#[ignore = "needs redis-server"]
fn members_of_a_set_expire_and_those_that_expire_first_are_displaced() {
    let nodes = cluster(3);
    let (one, two) = (Shared::new(&[&nodes[0]]), Shared::new(&[&nodes[1]]));
    let key = "tidegate:t:set";
    let add = |shared: &Shared, member: &str, most: usize, expiry: Duration| {
        shared.runtime.block_on(shared.store.add_member(key, member, most, expiry, PATIENCE))
    };
    let members = |shared: &Shared, most: usize| {
        shared.runtime.block_on(shared.store.members(key, most, PATIENCE)).unwrap()
    };
    assert_eq!(members(&one, 9), Vec::<String>::new());
    for (member, hours) in [("b", 2), ("a", 1), ("d", 4), ("c", 3), ("a", 5)] {
        assert_eq!(add(&one, member, 4, HOUR * hours), Ok(()));
    }
    assert_eq!(members(&two, 9), ["a", "d", "c", "b"]);
    assert_eq!(members(&two, 2), ["a", "d"]);
    assert_eq!(add(&two, "e", 4, HOUR * 6), Ok(()));
    assert_eq!(members(&one, 9), ["e", "a", "d", "c"]);
    assert_eq!(add(&two, "short", 9, Duration::from_millis(1)), Ok(()));
    eventually("it has expired", || members(&one, 9) == ["e", "a", "d", "c"]);
    // The set expires with its last member.
    let left = nodes.iter().filter_map(|node| node.command(&["PTTL", key]).trim().parse::<i64>().ok()).max();
    assert!((21_500_000..=21_600_000).contains(&left.unwrap()), "{left:?}");
    assert!(add(&one, "x", 4, Duration::ZERO).is_err());
}

#[test]
#[ignore = "needs redis-server"]
fn while_redis_is_unavailable_every_call_fails_at_once() {
    let mut redis = Redis::start(&[]);
    let shared = Shared::new(&[&redis]);
    assert_eq!(shared.set("tidegate:t:a", b"a", HOUR), Ok(()));
    redis.kill();
    eventually("it is missed", || shared.get("tidegate:t:a").is_err());
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(shared.get("tidegate:t:a").is_err());
        assert!(shared.set("tidegate:t:a", b"b", HOUR).is_err());
        assert!(shared.compare_and_set("tidegate:t:a", None, b"b").is_err());
    }
    assert!(begun.elapsed() < PATIENCE, "300 calls have waited for less than one may: {:?}", begun.elapsed());
    redis.run();
    eventually("it is used again", || shared.get("tidegate:t:a") == Ok(None));
    assert_eq!(shared.compare_and_set("tidegate:t:a", None, b"c"), Ok(true));
    let bucket = Bucket { interval: HOUR, burst: 1, ahead: Duration::ZERO };
    let turn = shared.runtime.block_on(shared.store.take("tidegate:t:b", &bucket, PATIENCE));
    assert_eq!(turn, Ok(Turn::In(Duration::ZERO)), "limits are counted beside values");
}
