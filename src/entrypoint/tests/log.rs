//! What the access log is told.

use parking_lot::Mutex;
use tidegate_core::Record;

use super::*;

/// Target, status, bytes sent, complete, router.
type Line = (String, u16, u64, bool, Option<Arc<str>>);

#[derive(Default)]
struct Kept(Mutex<Vec<Line>>);

impl RequestLog for Kept {
    fn begin(&self, _: &Request, route: Option<&Route>) -> Option<Arc<Record>> {
        let record = Record::begin();
        record.note(|fields| fields.router = route.map(|route| route.name.clone()));
        Some(Arc::new(record))
    }

    fn finish(&self, finished: Finished) {
        let router = finished.record.fields().router;
        let line =
            (finished.uri.to_string(), finished.status.as_u16(), finished.sent, finished.complete, router);
        self.0.lock().push(line);
    }
}

#[test]
fn every_request_is_told_once() {
    let kept = Arc::new(Kept::default());
    let gate = gate_with(|_| {}, Options { workers: 1, log: Some(kept.clone()) });
    gate.exchange("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi");
    gate.exchange(get("/panic"));
    gate.exchange(get("/break"));
    eventually(|| kept.0.lock().len() == 3);
    let router: Option<Arc<str>> = Some("r@test".into());
    assert_eq!(
        *kept.0.lock(),
        [
            ("/upload".to_owned(), 200, 7, true, router.clone()),
            ("/panic".to_owned(), 500, 21, true, router.clone()),
            ("/break".to_owned(), 200, 8192, false, router),
        ]
    );
}
