//! What describes the sender of telemetry: its resource, and attributes in general.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// Returns an attribute.
pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// Returns the scope of everything that the gateway sends.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "github.com/tidegate/tidegate".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// Reads the resource of this process, with `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME`.
pub fn detect(service: &str, configured: &BTreeMap<String, String>) -> Resource {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    resource(service, configured, &variable("OTEL_RESOURCE_ATTRIBUTES"), &variable("OTEL_SERVICE_NAME"))
}

/// Returns the resource of a process. `configured` attributes are overridden by those of the environment, and
/// the service name by `OTEL_SERVICE_NAME`, as in Traefik.
pub fn resource(
    service: &str,
    configured: &BTreeMap<String, String>,
    environment: &str,
    environment_service: &str,
) -> Resource {
    let mut all = BTreeMap::new();
    let mut set = |key: &str, value: &str| all.insert(key.to_owned(), value.to_owned());
    set("service.name", service);
    set("service.version", env!("CARGO_PKG_VERSION"));
    set("telemetry.sdk.language", "rust");
    set("telemetry.sdk.name", "tidegate");
    set("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    set("os.type", std::env::consts::OS);
    set("host.arch", std::env::consts::ARCH);
    for (key, value) in configured {
        set(key, value);
    }
    for pair in environment.split(',') {
        if let Some((key, value)) = pair.split_once('=') {
            set(key.trim(), &unescape(value.trim()));
        }
    }
    if !environment_service.is_empty() {
        set("service.name", environment_service);
    }
    let attributes = all.iter().map(|(key, value)| attribute(key, Value::StringValue(value.clone())));
    Resource { attributes: attributes.collect(), ..Resource::default() }
}

/// Decodes percent-encoding; invalid sequences stay as they are.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let decoded = match (first, tail) {
            (b'%', [high, low, ..]) => {
                let digits = [*high, *low];
                str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        out.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}
