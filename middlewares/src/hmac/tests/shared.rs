//! Keys of consumers, and signatures that gateways remember together.

use std::sync::atomic::Ordering;

use tidegate_core::Reason;
use tidegate_core::consumer::SignatureKey;
use tidegate_core::consumers::{Credential, CredentialKind};

use super::super::Redis;
use super::*;
use crate::testing::FakeStore;

/// A consumer with keys of signatures, all with this id.
fn owner(name: &str, id: &str, secrets: &[&str]) -> Arc<Entry> {
    let consumer = Arc::new(Consumer { name: name.into(), ..Consumer::default() });
    let credential = |secret: &&str| Credential {
        path: String::new(),
        kind: CredentialKind::Signature(Arc::new(SignatureKey {
            id: id.into(),
            secret: secret.as_bytes().into(),
            algorithm: "".into(),
            consumer: consumer.clone(),
        })),
    };
    let credentials = secrets.iter().map(credential).collect();
    Arc::new(Entry { consumer, credentials, is_broken: false })
}

#[test]
fn keys_of_consumers_are_accepted_without_a_list() {
    const OTHER: &str = "fedcba9876543210fedcba9876543210";
    let protected = Protected::new(Hmac::default());
    let store = |entries: &[Arc<Entry>]| protected.world.consumers.store(Arc::new(Consumers::new(entries).0));
    let nonce = std::cell::Cell::new(0);
    let sign = || {
        nonce.set(nonce.get() + 1);
        let mut signing = Signing::get(protected.now());
        signing.parameters = format!("{};nonce=\"{}\"", signing.parameters, nonce.get());
        signing.sign()
    };
    assert_eq!(protected.check(sign()), (401, "the key is unknown".into()));
    store(&[owner("acme@file", "k", &[SECRET])]);
    let response = protected.send(sign());
    assert_eq!((response.status().as_u16(), testing::text(response).as_str()), (200, "signature k acme"));
    store(&[owner("acme@file", "k", &[OTHER])]);
    assert_eq!(protected.check(sign()), (401, "the signature is invalid".into()));
    // Two consumers with one id: who has either secret gets 503, a stranger 401.
    store(&[owner("acme@file", "k", &[SECRET]), owner("other@file", "k", &[OTHER])]);
    let response = protected.send(sign());
    assert_eq!((response.status().as_u16(), response.reason), (503, Some(Reason::ConsumerBroken)));
    store(&[owner("acme@file", "k", &[OTHER]), owner("other@file", "k", &[OTHER])]);
    assert_eq!(protected.check(sign()), (401, "the signature is invalid".into()));
    // With keys of its own, it asks for no others.
    let strict = Protected::new(Hmac { keys: vec![key("own", SECRET)], ..Hmac::default() });
    strict.world.consumers.store(Arc::new(Consumers::new(&[owner("acme@file", "k", &[SECRET])]).0));
    assert_eq!(strict.check(Signing::get(strict.now()).sign()), (401, "the key is unknown".into()));
}

#[test]
fn gateways_with_one_store_refuse_each_others_replays() {
    let store = Arc::new(FakeStore::default());
    let on_failure = |on_failure: &str| {
        let redis = Redis { on_failure: on_failure.into(), ..Redis::default() };
        let (mut world, clock) = World::stopped();
        world.store = Some(store.clone());
        let middleware = build_in(&world, Hmac { redis: Some(redis), ..options() }).unwrap();
        Protected { world, clock, middleware }
    };
    let (one, other) = (on_failure("deny"), on_failure("deny"));
    let signing = Signing::get(one.now());
    let statuses = [&one, &other, &one].map(|gateway| gateway.send(signing.sign()).status().as_u16());
    assert_eq!(statuses, [200, 401, 401]);
    let (key, expiry) = store.keys.lock().unwrap().clone().into_iter().next().unwrap();
    assert_eq!(expiry, Duration::from_secs(360));
    assert!(key.starts_with("tidegate:hmac:m@file:"), "{key}");
    let note = &one.middleware.predict(signing.sign()).notes;
    assert_eq!(note, &["asks Redis whether the signature has been used"]);
    store.is_down.store(true, Ordering::Relaxed);
    for (mode, expected) in [("deny", [503, 503]), ("allow", [200, 200]), ("local", [200, 401])] {
        let gateway = on_failure(mode);
        gateway.clock.advance(Duration::from_secs(1));
        let signing = Signing::get(gateway.now());
        let statuses = [(); 2].map(|()| gateway.send(signing.sign()).status().as_u16());
        assert_eq!(statuses, expected, "{mode}");
    }
}
