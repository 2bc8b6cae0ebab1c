//! Log records for a collector: what the process log and the access log have in common.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tidegate_clients::OptionError;
use tidegate_clients::otlp::{Exporter, Queue, Signal, attribute, detect, scope};
use tokio::runtime::Handle;

use crate::settings::OtlpLog;

/// Starts the queue of a log. `record` runs on its task, so requests do not pay for it.
pub(crate) fn start<T: Send + 'static>(
    options: &OtlpLog,
    handle: &Handle,
    size: fn(&T) -> usize,
    record: fn(T) -> LogRecord,
) -> Result<Queue<T>, OptionError> {
    let exporter = Exporter::new(&options.connection(), Signal::Logs)?;
    let resource = detect(&options.service_name, &options.resource_attributes);
    let pack = move |items: Vec<T>| message(&resource, items.into_iter().map(record).collect());
    Ok(Queue::start_sized(exporter, handle, size, pack))
}

fn message(resource: &Resource, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let scoped = ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() };
    let logs = ResourceLogs {
        resource: Some(resource.clone()),
        scope_logs: vec![scoped],
        ..ResourceLogs::default()
    };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

/// Returns an attribute with a value of JSON; `None` for `null`.
pub(crate) fn attribute_of(key: &str, value: serde_json::Value) -> Option<KeyValue> {
    Some(attribute(key, any_value(value)?))
}

fn any_value(value: serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    let wrapped = |value| AnyValue { value: any_value(value) };
    Some(match value {
        Json::Null => return None,
        Json::Bool(value) => Value::BoolValue(value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::IntValue(whole),
            None => Value::DoubleValue(number.as_f64()?),
        },
        Json::String(text) => Value::StringValue(text),
        Json::Array(values) => {
            Value::ArrayValue(ArrayValue { values: values.into_iter().map(wrapped).collect() })
        }
        Json::Object(members) => Value::KvlistValue(KeyValueList {
            values: members.into_iter().filter_map(|(key, value)| attribute_of(&key, value)).collect(),
        }),
    })
}

/// Returns a body of text.
pub(crate) fn body(text: String) -> Option<AnyValue> {
    Some(AnyValue { value: Some(Value::StringValue(text)) })
}

/// Returns a time in nanoseconds since 1970.
pub(crate) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
