//! Used proofs in a store that gateways share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde_json::json;
use tidegate_core::BoxFuture;
use tidegate_core::store::{Bucket, Draw, Drawn, SharedStore, StoreError, Turn};

use super::{Case, DpopOptions, Redis, StdDuration, World};

/// A store in memory, which can fail.
#[derive(Default)]
struct Store {
    values: Mutex<HashMap<String, StdDuration>>,
    is_down: AtomicBool,
}

impl SharedStore for Store {
    fn take<'a>(
        &'a self,
        _: &'a str,
        _: &'a Bucket,
        _: StdDuration,
    ) -> BoxFuture<'a, Result<Turn, StoreError>> {
        panic!("no bucket is used")
    }

    fn draw<'a>(&'a self, _: &'a [Draw], _: StdDuration) -> BoxFuture<'a, Result<Vec<Drawn>, StoreError>> {
        panic!("no bucket is used")
    }

    fn get<'a>(&'a self, _: &'a str, _: StdDuration) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        panic!("values are only set")
    }

    fn set<'a>(
        &'a self,
        _: &'a str,
        _: &'a [u8],
        _: StdDuration,
        _: StdDuration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        panic!("values are only set if there is none")
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<&'a [u8]>,
        _: &'a [u8],
        expiry: StdDuration,
        _: StdDuration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        assert_eq!(expected, None);
        let is_first = self.values.lock().unwrap().insert(key.to_owned(), expiry).is_none();
        let is_down = self.is_down.load(Ordering::Relaxed);
        let down = StoreError::Unavailable { reason: "down".to_owned() };
        Box::pin(std::future::ready(if is_down { Err(down) } else { Ok(is_first) }))
    }
}

#[test]
fn a_proof_counts_once_for_all_gateways_of_a_store() {
    let store = Arc::new(Store::default());
    let redis = || Redis { endpoints: vec!["redis:6379".into()], ..Redis::default() };
    let gateway = || {
        let (mut world, clock) = World::stopped();
        world.store = Some(store.clone());
        Case::within(&world, clock, DpopOptions { redis: Some(redis()), ..DpopOptions::default() })
    };
    let one = gateway();
    let proof = one.proof(&json!({}));
    one.accepts(&proof);
    let two = Case { client: one.client, token: one.token, ..gateway() };
    two.refuses_proof(&proof, "the proof has been used");
    let values = store.values.lock().unwrap().clone();
    assert!(values.iter().all(|(key, expiry)| key.starts_with("tidegate:dpop:") && expiry.as_secs() == 120));
    // Nobody passes while it is unknown which proofs are used.
    store.is_down.store(true, Ordering::Relaxed);
    assert_eq!(two.send(two.request("DPoP", &[&two.proof(&json!({}))])).status(), 503);
}
