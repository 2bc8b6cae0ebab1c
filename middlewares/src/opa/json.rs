//! JSON that has one meaning only.

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Maximum depth.
const MAX_DEPTH: usize = 64;

/// Parses JSON. An object with two members of one name is not parsed: others may read the other one.
pub(super) fn parse(body: &[u8]) -> Option<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = deserializer.deserialize_any(Unambiguous(MAX_DEPTH)).ok()?;
    deserializer.end().ok().map(|()| value)
}

/// Reads JSON without duplicate names, to this depth.
#[derive(Clone, Copy)]
struct Unambiguous(usize);

impl<'de> DeserializeSeed<'de> for Unambiguous {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON without duplicate names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(self.inner()?)? {
            values.push(value);
        }
        Ok(Value::from(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.inner()?)?;
            if values.insert(name, value).is_some() {
                return Err(A::Error::custom("two members have one name"));
            }
        }
        Ok(Value::from(values))
    }
}

impl Unambiguous {
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("nested too deeply"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_bodies_are_not_parsed() {
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        for (body, is_parsed) in [
            (r#"{"a": {"b": [1, -1, 1.5, null, true, "x"]}}"#.to_owned(), true),
            (r#"{"a": 1, "a": 2}"#.to_owned(), false),
            (r#"[{"x": {"a": 1, "\u0061": 2}}]"#.to_owned(), false),
            (r#"{"a": 1} {}"#.to_owned(), false),
            (r#"{"a": 1"#.to_owned(), false),
            (deep(64), true),
            (deep(65), false),
            (deep(100_000), false),
        ] {
            let value = parse(body.as_bytes());
            assert_eq!(value.is_some(), is_parsed, "{body:.60}");
            if let Some(value) = value {
                assert_eq!(value, serde_json::from_str::<Value>(&body).unwrap());
            }
        }
    }
}
