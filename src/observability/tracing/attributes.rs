//! Attributes of spans.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tidegate_clients::otlp::attribute;

/// Maximum length of a recorded text in bytes.
pub(super) const MAX_TEXT: usize = 4096;

/// Returns a text attribute, at most 4 KiB long.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    let end = value.floor_char_boundary(MAX_TEXT);
    attribute(key, Value::StringValue(value[..end].to_owned()))
}

/// Returns a numeric attribute.
pub(super) fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}
