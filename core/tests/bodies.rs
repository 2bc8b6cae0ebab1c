//! What can be done with bodies, whatever they are made of.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use proptest::prelude::*;
use tidegate_core::body::MinDataRate;
use tidegate_core::{
    Body, BodyError, BodyErrorKind, CollectError, Collected, End, Frames, Guard, Polled, Tee, Teed,
};

/// What a body does when it is polled.
#[derive(Clone, Debug)]
enum Step {
    Wait,
    Data(Vec<u8>),
    Trailers,
    Fail,
}

/// A body that follows a script.
struct Script {
    steps: VecDeque<Step>,
    /// Whether its length is known.
    is_sized: bool,
    min_rate: Arc<Mutex<MinDataRate>>,
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

impl Frames for Script {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        Poll::Ready(match self.steps.pop_front() {
            None => None,
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Data(data)) => Some(Ok(Frame::data(data.into()))),
            Some(Step::Trailers) => Some(Ok(Frame::trailers(trailers()))),
            Some(Step::Fail) => Some(Err(BodyError::TimedOut)),
        })
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_sized { SizeHint::with_exact(length(&self.steps) as u64) } else { SizeHint::default() }
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        *self.min_rate.lock() = min_rate;
        true
    }
}

/// Bytes of data.
fn length<'a>(steps: impl IntoIterator<Item = &'a Step>) -> usize {
    steps.into_iter().map(|step| if let Step::Data(data) = step { data.len() } else { 0 }).sum()
}

fn script(steps: &[Step]) -> Body {
    Body::of_frames(Script {
        steps: steps.iter().cloned().collect(),
        is_sized: false,
        min_rate: Arc::default(),
    })
}

fn data(text: &str) -> Step {
    Step::Data(text.into())
}

/// What a guard has seen.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<(usize, bool, Vec<End>)>>);

impl Seen {
    fn on(&self, body: Body) -> Body {
        body.with_guard(Box::new(self.clone()))
    }

    fn bytes(&self) -> usize {
        self.0.lock().0
    }

    fn ends(&self) -> Vec<End> {
        self.0.lock().2.clone()
    }
}

impl Guard for Seen {
    fn data(&mut self, length: usize) {
        self.0.lock().0 += length;
    }

    fn trailers(&mut self, _: &HeaderMap) {
        self.0.lock().1 = true;
    }

    fn end(self: Box<Self>, end: End) {
        self.0.lock().2.push(end);
    }
}

/// Polls until it is ready: nothing in these tests waits for anything else.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    for _ in 0..1000 {
        if let Some(value) = (&mut future).now_or_never() {
            return value;
        }
    }
    panic!("never ready");
}

/// Reads the data frame that comes next.
fn next(body: &mut Body) -> Bytes {
    ready(body.frame()).unwrap().unwrap().into_data().unwrap()
}

/// How a script ends, and what comes before.
fn expected(steps: &[Step]) -> Result<Collected, BodyErrorKind> {
    let mut whole = Collected::default();
    let mut bytes = Vec::new();
    for step in steps {
        match step {
            Step::Wait => {}
            Step::Data(data) => bytes.extend_from_slice(data),
            Step::Trailers => {
                whole.trailers = Some(trailers());
                break;
            }
            Step::Fail => return Err(BodyErrorKind::TimedOut),
        }
    }
    whole.bytes = bytes.into();
    Ok(whole)
}

fn collected(body: Body) -> Result<Collected, BodyErrorKind> {
    ready(body.collect(u64::MAX)).map_err(|error| BodyError::from(error).kind())
}

/// Scripts end with trailers, a failure, or neither.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::Wait),
        3 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Step::Data),
    ];
    let end = prop_oneof![3 => Just(None), 1 => Just(Some(Step::Trailers)), 1 => Just(Some(Step::Fail))];
    (proptest::collection::vec(step, 0..8), end).prop_map(|(mut steps, end)| {
        steps.extend(end);
        steps
    })
}

proptest! {
    #[test]
    fn what_was_read_and_the_rest_are_the_same_body(steps in steps(), frames in 0usize..6) {
        let seen = Seen::default();
        let mut body = seen.on(script(&steps));
        let mut read = Vec::new();
        for _ in 0..frames {
            // Like a middleware that looks at the beginning only.
            match ready(body.frame()) {
                Some(Ok(frame)) if frame.is_data() => read.push(frame.into_data().unwrap()),
                Some(Ok(frame)) => {
                    let trailers = frame.into_trailers().ok();
                    body = Collected { bytes: Bytes::new(), trailers }.into();
                    break;
                }
                Some(Err(error)) => {
                    body = Body::failed(error);
                    break;
                }
                None => break,
            }
        }
        let whole = collected(Body::prefixed(read, body));
        prop_assert_eq!(&whole, &expected(&steps));
        // Nothing is counted twice.
        let length = length(&steps);
        prop_assert_eq!(seen.bytes(), length);
        prop_assert_eq!(seen.ends(), vec![whole.map_or_else(End::Failed, |_| End::Complete)]);
    }

    #[test]
    fn sizes_count_what_is_left(parts in proptest::collection::vec("[a-z]{0,9}", 0..5)) {
        let steps: VecDeque<_> = parts.iter().map(|part| data(part)).collect();
        let inner = Body::of_frames(Script { steps, is_sized: true, min_rate: Arc::default() });
        let mut body = Body::prefixed(parts.iter().cloned().map(Bytes::from), inner);
        let mut left = 2 * parts.iter().map(String::len).sum::<usize>() as u64;
        prop_assert_eq!(body.size_hint().exact(), Some(left));
        while let Some(frame) = ready(body.frame()) {
            left -= frame.unwrap().into_data().unwrap().len() as u64;
            prop_assert_eq!(body.size_hint().exact(), Some(left));
        }
        prop_assert_eq!(left, 0);
    }

    #[test]
    fn a_copy_equals_what_has_passed(steps in steps(), limit in 0u64..80) {
        let (body, tee) = script(&steps).tee(limit);
        let passed = collected(body);
        prop_assert_eq!(&passed, &expected(&steps));
        let length = length(&steps);
        match (ready(tee), passed) {
            (Teed::TooLarge, _) => prop_assert!(length as u64 > limit),
            (_, _) if length as u64 > limit => prop_assert!(false, "the limit was passed"),
            (Teed::Complete(copy), passed) => prop_assert_eq!(Ok(copy), passed),
            (Teed::Failed(kind), passed) => prop_assert_eq!(Err(kind), passed),
            (Teed::Dropped(_), _) => prop_assert!(false, "it was read to its end"),
        }
    }

    #[test]
    fn a_body_can_be_taken_back_at_any_time(steps in steps(), frames in 0usize..6, drops in any::<bool>()) {
        let (mut body, tee) = script(&steps).tee(u64::MAX);
        let mut failed = false;
        for _ in 0..frames {
            match ready(body.frame()) {
                Some(Err(_)) => failed = true,
                Some(Ok(_)) => {}
                None => break,
            }
        }
        let _kept = (!drops).then_some(body);
        let again = tee.reclaim();
        prop_assert_eq!(again.is_none(), failed);
        if let Some(again) = again {
            prop_assert_eq!(collected(again), expected(&steps));
        }
    }

    #[test]
    fn data_is_changed_and_nothing_else(steps in steps()) {
        let seen = Seen::default();
        let body = seen.on(script(&steps)).map_data(|bytes| [&bytes[..], &bytes[..]].concat().into());
        let before = expected(&steps);
        match (collected(body), before) {
            (Ok(after), Ok(before)) => {
                prop_assert_eq!(after.bytes.len(), 2 * before.bytes.len());
                prop_assert_eq!(after.trailers, before.trailers);
                prop_assert_eq!(seen.bytes(), before.bytes.len(), "guards see what it was");
                prop_assert_eq!(seen.ends(), vec![End::Complete]);
            }
            (after, before) => prop_assert_eq!(after, before),
        }
    }
}

#[test]
fn known_content_stays_in_one_piece() {
    let body = Body::full("abc").map_data(|bytes| bytes.to_ascii_uppercase().into());
    assert_eq!(body.as_bytes().unwrap(), "ABC");
    assert_eq!(Body::prefixed([Bytes::from("abc")], Body::empty()).as_bytes().unwrap(), "abc");
    assert_eq!(Body::prefixed([Bytes::new()], Body::full("abc")).as_bytes().unwrap(), "abc");
    let collected = Collected { bytes: "abc".into(), trailers: None };
    assert_eq!(Body::from(collected).as_bytes().unwrap(), "abc");
}

#[test]
fn frames_that_become_empty_are_left_out() {
    let body = script(&[data("a"), data("b"), data("c"), Step::Trailers]);
    let mut body = body.map_data(|bytes| if bytes == "b" { Bytes::new() } else { bytes });
    assert_eq!((next(&mut body), next(&mut body)), ("a".into(), "c".into()));
    assert!(ready(body.frame()).unwrap().unwrap().is_trailers());
    assert!(body.size_hint().exact().is_none());
}

#[test]
fn a_body_that_is_too_large_can_be_read_all_the_same() {
    let seen = Seen::default();
    let body = seen.on(script(&[data("one"), data("two"), data("three"), Step::Trailers]));
    let Err(CollectError::TooLarge { limit: 5, body }) = ready(body.collect(5)) else {
        panic!("it is larger")
    };
    assert_eq!(body.read, "onetwo");
    assert_eq!(seen.ends(), []);
    let whole = collected(body.into_body()).unwrap();
    assert_eq!((whole.bytes, whole.trailers), ("onetwothree".into(), Some(trailers())));
    assert_eq!(seen.bytes(), 11);
}

#[test]
fn a_body_that_announces_too_much_is_not_read() {
    let seen = Seen::default();
    let error = ready(seen.on(Body::full("abcdef")).collect(5)).unwrap_err();
    assert_eq!(error.to_string(), "body larger than 5 bytes");
    assert_eq!(seen.bytes(), 0);
    assert_eq!(collected(error.into_body()).unwrap().bytes, "abcdef");
}

#[test]
fn a_body_that_failed_fails_for_the_next_reader() {
    let error = ready(script(&[data("one"), Step::Fail]).collect(5)).unwrap_err();
    assert_eq!(collected(error.into_body()), Err(BodyErrorKind::TimedOut));
}

#[test]
fn content_with_trailers_has_no_exact_length() {
    let body = Body::from(Collected { bytes: "abc".into(), trailers: Some(trailers()) });
    assert_eq!((body.size_hint().lower(), body.size_hint().exact()), (3, None));
    assert!(!body.is_end_stream());
    assert_eq!(collected(body).unwrap().trailers, Some(trailers()));
}

#[test]
fn guards_learn_how_a_body_ended() {
    let ended = |steps: &[Step], frames: usize| {
        let seen = Seen::default();
        let mut body = seen.on(script(steps));
        for _ in 0..frames {
            drop(ready(body.frame()));
        }
        drop(body);
        seen.ends()
    };
    assert_eq!(ended(&[data("a")], 1), [End::Dropped]);
    assert_eq!(ended(&[data("a")], 2), [End::Complete]);
    assert_eq!(ended(&[data("a"), Step::Trailers], 2), [End::Complete], "nothing comes behind trailers");
    assert_eq!(ended(&[data("a"), Step::Fail], 3), [End::Failed(BodyErrorKind::TimedOut)]);
    let seen = Seen::default();
    let mut body = seen.on(script(&[data("a")]));
    body.fail(&BodyError::Gone("reset".into()));
    body.fail(&BodyError::TimedOut);
    drop(body);
    assert_eq!(seen.ends(), [End::Failed(BodyErrorKind::Gone)]);
}

#[test]
fn what_is_left_of_a_dropped_body_can_be_read_on() {
    let seen = Seen::default();
    let (mut body, mut tee) = seen.on(script(&[data("one"), data("two"), Step::Trailers])).tee(100);
    assert_eq!(next(&mut body), "one");
    assert!((&mut tee).now_or_never().is_none());
    drop(body);
    assert_eq!(seen.ends(), [], "the copy keeps it");
    let Teed::Dropped(unfinished) = ready(tee) else { panic!("it was dropped") };
    assert_eq!(unfinished.read, "one");
    let whole = collected(unfinished.into_body()).unwrap();
    assert_eq!((whole.bytes, whole.trailers), ("onetwo".into(), Some(trailers())));
    assert_eq!(seen.ends(), [End::Complete]);
}

#[test]
fn a_body_whose_copy_nobody_wants_goes_on_and_ends_with_its_reader() {
    let seen = Seen::default();
    let (mut body, tee) = seen.on(script(&[data("one"), data("two")])).tee(100);
    assert_eq!(next(&mut body), "one");
    drop(tee);
    assert_eq!(next(&mut body), "two");
    drop(body);
    assert_eq!(seen.ends(), [End::Dropped]);
    let (body, tee) = seen.on(script(&[data("one")])).tee(100);
    drop(body);
    drop(tee);
    assert_eq!(seen.ends(), [End::Dropped, End::Dropped]);
}

#[test]
fn a_copy_that_is_too_large_is_known_at_once_and_keeps_nothing() {
    let seen = Seen::default();
    let (mut body, mut tee) = seen.on(script(&[data("one"), data("two"), data("three")])).tee(5);
    assert_eq!((next(&mut body), next(&mut body)), ("one".into(), "two".into()));
    assert!(matches!((&mut tee).now_or_never(), Some(Teed::TooLarge)));
    assert!(tee.reclaim().is_none());
    assert_eq!(next(&mut body), "three", "its reader does not notice");
    let (mut body, tee) = seen.on(script(&[data("long"), data("er")])).tee(3);
    assert_eq!(next(&mut body), "long");
    drop(body);
    assert_eq!(seen.ends(), [End::Dropped], "what cannot be given is not kept");
    drop(tee);
}

#[test]
fn who_loses_a_body_fails_and_is_woken() {
    struct Count(Mutex<usize>);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            *self.0.lock() += 1;
        }
    }
    struct Silent;
    impl Frames for Silent {
        fn poll_next(&mut self, _: &mut Context<'_>) -> Polled {
            Poll::Pending
        }
    }
    let count = Arc::new(Count(Mutex::new(0)));
    let waker = Waker::from(count.clone());
    let (mut body, tee) = Body::of_frames(Silent).tee(100);
    let mut frame = Box::pin(body.frame());
    assert!(frame.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(frame);
    assert!(tee.reclaim().is_some());
    assert_eq!(*count.0.lock(), 1);
    assert!(!body.is_end_stream());
    assert!(ready(body.frame()).unwrap().is_err());
}

#[test]
fn whoever_waits_for_a_copy_is_woken() {
    let (mut body, tee) = script(&[data("one"), Step::Trailers]).tee(100);
    let waiting = async {
        let reading = async {
            while let Some(frame) = body.frame().await {
                frame.unwrap();
            }
        };
        futures_util::future::join(tee, reading).await.0
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let Teed::Complete(copy) = runtime.block_on(waiting) else { panic!("it was read to its end") };
    assert_eq!((copy.bytes, copy.trailers), ("one".into(), Some(trailers())));
}

#[test]
fn a_new_pace_reaches_the_body_below() {
    let min_rate = Arc::new(Mutex::new(MinDataRate::default()));
    let inner =
        Body::of_frames(Script { steps: VecDeque::new(), is_sized: false, min_rate: min_rate.clone() });
    let (body, _tee): (Body, Tee) = Body::prefixed([Bytes::from("read")], inner).tee(100);
    let mut body = body.map_data(|bytes| bytes);
    let new = MinDataRate { stall: None, rate: 7 };
    assert!(body.set_min_rate(new));
    assert_eq!(*min_rate.lock(), new);
}
