//! A store of gateways for tests.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_core::BoxFuture;
use tidegate_core::store::{Bucket, Draw, Drawn, SharedStore, StoreError, Turn};

/// Gives scripted turns, and keeps which keys were set. Everything else is unavailable.
#[derive(Default)]
pub(crate) struct FakeStore {
    /// The replies to requests for a token, last one first.
    pub(crate) turns: Mutex<Vec<Result<Turn, StoreError>>>,
    /// The requests for a token.
    pub(crate) asked: Mutex<Vec<(String, Bucket, Duration)>>,
    /// The keys that were set, and for how long.
    pub(crate) keys: Mutex<HashMap<String, Duration>>,
    /// Whether keys cannot be set.
    pub(crate) is_down: AtomicBool,
}

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { reason: "unreachable".into() })
}

fn refuse<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, StoreError>> {
    Box::pin(async { unavailable() })
}

impl SharedStore for FakeStore {
    fn take<'a>(
        &'a self,
        key: &'a str,
        bucket: &'a Bucket,
        deadline: Duration,
    ) -> BoxFuture<'a, Result<Turn, StoreError>> {
        self.asked.lock().unwrap().push((key.to_owned(), *bucket, deadline));
        let turn = self.turns.lock().unwrap().pop();
        Box::pin(async move { turn.unwrap_or_else(unavailable) })
    }

    fn draw<'a>(&'a self, _: &'a [Draw], _: Duration) -> BoxFuture<'a, Result<Vec<Drawn>, StoreError>> {
        refuse()
    }

    fn get<'a>(&'a self, _: &'a str, _: Duration) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        refuse()
    }

    fn set<'a>(
        &'a self,
        _: &'a str,
        _: &'a [u8],
        _: Duration,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        refuse()
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<&'a [u8]>,
        _: &'a [u8],
        expiry: Duration,
        _: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        assert_eq!(expected, None);
        if self.is_down.load(Ordering::Relaxed) {
            return refuse();
        }
        let is_first = self.keys.lock().unwrap().insert(key.to_owned(), expiry).is_none();
        Box::pin(std::future::ready(Ok(is_first)))
    }

    fn add_member<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: usize,
        _: Duration,
        _: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        refuse()
    }

    fn members<'a>(
        &'a self,
        _: &'a str,
        _: usize,
        _: Duration,
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        refuse()
    }
}
