//! The contents of an event of the process log.

use std::fmt;

use tidegate_core::current_request;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// The message and the other fields of an event.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) others: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    /// Reads an event, and adds the identifiers of the request that it is about.
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        current_request::current(|exchange| {
            if let Some(id) = exchange.request_id() {
                fields.others.push(("requestId", id.into()));
            }
            if let Some(trace) = exchange.trace() {
                fields.others.push(("traceId", trace.trace_id_hex().into()));
            }
        });
        fields
    }

    pub(super) fn json(self, level: &Level, time: &str) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("level".into(), level.as_str().to_ascii_lowercase().into());
        for (name, value) in self.others {
            object.insert(name.into(), value);
        }
        object.insert("time".into(), time.into());
        object.insert("message".into(), self.message.into());
        object.into()
    }

    fn put(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// Returns the path of a source file without the folders of the build machine.
pub(super) fn source(path: &str) -> &str {
    if !path.starts_with('/') {
        return path;
    }
    let within = path.rfind("/src/").unwrap_or(path.len());
    path[..within].rfind('/').map_or(path, |slash| &path[slash + 1..])
}
