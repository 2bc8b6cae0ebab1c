//! Used proofs in a store that gateways share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::{Case, DpopOptions, Redis, World};
use crate::testing::FakeStore;

#[test]
fn a_proof_counts_once_for_all_gateways_of_a_store() {
    let store = Arc::new(FakeStore::default());
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
    let values = store.keys.lock().unwrap().clone();
    assert!(values.iter().all(|(key, expiry)| key.starts_with("tidegate:dpop:") && expiry.as_secs() == 120));
    // Nobody passes while it is unknown which proofs are used.
    store.is_down.store(true, Ordering::Relaxed);
    assert_eq!(two.send(two.request("DPoP", &[&two.proof(&json!({}))])).status(), 503);
}
