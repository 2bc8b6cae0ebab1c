//! Attributes of spans.

use http::{HeaderMap, HeaderName};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use tidegate_clients::otlp::attribute;

/// Maximum length of a recorded text in bytes.
const MAX_TEXT: usize = 4096;

/// Returns a text attribute, at most 4 KiB long.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    let end = value.floor_char_boundary(MAX_TEXT);
    attribute(key, Value::StringValue(value[..end].to_owned()))
}

/// Returns a numeric attribute.
pub(super) fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

/// Returns the attributes of the headers with these names. `side` is `request` or `response`.
pub(super) fn captured<'a>(
    side: &str,
    names: impl IntoIterator<Item = &'a HeaderName>,
    headers: &HeaderMap,
) -> Vec<KeyValue> {
    let value = |text: String| AnyValue { value: Some(Value::StringValue(text)) };
    let mut attributes = Vec::new();
    for name in names {
        let values: Vec<AnyValue> =
            headers.get_all(name).iter().map(|text| value(lossy(text.as_bytes()))).collect();
        if !values.is_empty() {
            let key = format!("http.{side}.header.{name}");
            attributes.push(attribute(&key, Value::ArrayValue(ArrayValue { values })));
        }
    }
    attributes
}

/// Returns a header as text, at most 4 KiB long.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned()
}
