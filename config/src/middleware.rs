//! HTTP middlewares: the options of exactly one kind, and when they apply.

use std::fmt;

use serde::de::value::MapDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use tidegate_core::reference::{References, Visit, VisitMut};
use tidegate_middlewares::{KINDS, Kind, Options};

use crate::plugins::{PLUGIN, Plugin};
use crate::runtime::{RuntimeKind, WHEN};
use crate::suggest;

/// Traefik's `http.middlewares.<name>`, extended with a condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Middleware {
    /// The options of its kind.
    pub options: Options,
    /// A rule in the language of routers: requests that do not match skip the middleware. Empty to apply to
    /// all. Not in Traefik.
    pub when: String,
}

impl Middleware {
    /// Returns the key of its kind (`stripPrefix`).
    pub fn kind(&self) -> &str {
        self.options.kind()
    }
}

impl References for Middleware {
    fn references(&self, visit: &mut Visit<'_>) {
        self.options.references(visit);
    }

    fn references_mut(&mut self, visit: &mut VisitMut<'_>) {
        self.options.references_mut(visit);
    }
}

impl From<Options> for Middleware {
    fn from(options: Options) -> Self {
        Self { options, when: String::new() }
    }
}

impl Serialize for Middleware {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let has_condition = !self.when.is_empty();
        let mut map = serializer.serialize_map(Some(1 + usize::from(has_condition)))?;
        self.options.serialize_into(&mut map)?;
        if has_condition {
            map.serialize_entry(WHEN, &self.when)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Middleware {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Middleware;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("exactly one kind of middleware with its options")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Middleware, A::Error> {
        let mut when = String::new();
        let mut chosen = None;
        let mut named = None;
        let mut registered: Option<RuntimeKind> = None;
        while let Some(key) = map.next_key::<String>()? {
            if key.eq_ignore_ascii_case(WHEN) {
                when = map.next_value::<Option<String>>()?.unwrap_or_default();
                continue;
            }
            if key.eq_ignore_ascii_case(PLUGIN) {
                match map.next_value_seed(Plugin)? {
                    Some(_) if chosen.is_some() => return Err(several()),
                    options => chosen = chosen.or(options),
                }
                continue;
            }
            if let Some(kind) = RuntimeKind::find(&key) {
                match map.next_value_seed(kind.clone())? {
                    None => registered = registered.or(Some(kind)),
                    Some(_) if chosen.is_some() => return Err(several()),
                    Some(options) => chosen = Some(Options::Runtime(options)),
                }
                continue;
            }
            let kind = KINDS.iter().find(|kind| kind.eq_ignore_ascii_case(&key));
            if kind.is_none() && chosen.is_some() {
                return Err(several());
            }
            match map.next_value_seed(Kind(kind.unwrap_or(&key.as_str())))? {
                None => named = named.or(kind),
                Some(_) if chosen.is_some() => return Err(several()),
                options => chosen = options,
            }
        }
        // A key without a value (`compress:` in YAML) still selects its kind.
        if let (None, Some(kind)) = (&chosen, named) {
            let nothing = std::iter::empty::<(&str, &str)>();
            chosen = Kind(kind).deserialize(Given(MapDeserializer::<_, A::Error>::new(nothing)))?;
        }
        if let (None, Some(kind)) = (&chosen, registered) {
            chosen = Some(Options::Runtime(kind.defaults()?));
        }
        let options = chosen.ok_or_else(|| {
            de::Error::custom(format_args!(
                "invalid middleware type or middleware does not exist: {}",
                suggest::expected(KINDS)
            ))
        })?;
        Ok(Middleware { options, when })
    }
}

fn several<E: de::Error>() -> E {
    E::custom(
        "cannot create middleware: multi-types middleware not supported, consider declaring two \
         different pieces of middleware instead",
    )
}

/// Deserialises a value that is known to be present.
struct Given<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Given<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_some(self.0)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{DecodeError, decode};
    use crate::formats::yaml;
    use crate::runtime;

    fn read(text: &str) -> Result<Middleware, DecodeError> {
        let node = yaml::read("f.yml", text.as_bytes()).expect("valid YAML");
        decode(&node)
    }

    #[test]
    fn a_condition_is_given_next_to_the_kind() {
        for text in [
            "addprefix: {prefix: /x}\nwhen: Method(`GET`)",
            "WHEN: Method(`GET`)\naddPrefix: {prefix: /x}\ncompress:",
        ] {
            let middleware = read(text).unwrap();
            assert_eq!(
                (middleware.kind(), middleware.when.as_str()),
                ("addPrefix", "Method(`GET`)"),
                "{text}"
            );
            let shown = serde_json::to_value(&middleware).unwrap();
            assert_eq!(shown, serde_json::json!({"addPrefix": {"prefix": "/x"}, "when": "Method(`GET`)"}));
            assert_eq!(serde_json::from_value::<Middleware>(shown).unwrap(), middleware);
        }
        let plain = read("addPrefix: {prefix: /x}\nwhen:").unwrap();
        assert_eq!(serde_json::to_value(&plain).unwrap(), serde_json::json!({"addPrefix": {"prefix": "/x"}}));
    }

    #[test]
    fn a_kind_without_options_has_its_defaults() {
        for text in ["compress:", "compress: true", "Compress: {}", "compress: ''"] {
            assert_eq!(read(text).unwrap().kind(), "compress", "{text}");
        }
    }

    #[test]
    fn errors_name_the_key_and_its_line() {
        for (text, expected) in [
            ("addPrefix: {prefix: /x}\ncompress: {}", "multi-types middleware not supported"),
            ("addPrefix:\n  prefx: /x", "f.yml:2: addPrefix.prefx: unknown key: did you mean `prefix`?"),
            ("adPrefix:\n  prefix: /x", "f.yml:1: adPrefix: unknown key: did you mean `addPrefix`?"),
            ("compress:\nwhen: [a]", "f.yml:2: when: a list is given"),
            ("when: Method(`GET`)", "invalid middleware type or middleware does not exist: expected"),
            ("{}", "invalid middleware type or middleware does not exist: expected"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
    struct Stamp {
        max_age: u32,
        behind: Vec<String>,
    }

    impl tidegate_core::Build for Stamp {
        const PER_ROUTER: bool = true;

        tidegate_core::references!(Self { behind, .. }, visit => {
            for name in behind {
                visit(tidegate_core::reference::Target::Middleware, name);
            }
        });

        fn build(
            &self,
            _: &tidegate_core::BuildContext<'_>,
        ) -> Result<std::sync::Arc<dyn tidegate_core::Middleware>, tidegate_core::BuildError> {
            Err(tidegate_core::BuildError::new("not in this test"))
        }
    }

    #[test]
    fn registered_kinds_are_read_like_built_in_ones() {
        assert_eq!(runtime::register::<Stamp>("stampOfTests"), Ok(()));
        for taken in ["StampOfTests", "addprefix", "when", ""] {
            assert!(runtime::register::<Stamp>(taken).is_err(), "{taken}");
        }
        let text = "stampoftests: {maxage: '5', behind: 'a,b'}\nwhen: Method(`GET`)";
        let stamp = read(text).unwrap();
        assert_eq!((stamp.kind(), stamp.when.as_str()), ("stampOfTests", "Method(`GET`)"));
        assert!(stamp.options.is_per_router());
        let shown = serde_json::to_value(&stamp).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({"stampOfTests": {"maxAge": 5, "behind": ["a", "b"]}, "when": "Method(`GET`)"})
        );
        assert_eq!(serde_json::from_value::<Middleware>(shown).unwrap(), stamp);
        assert_ne!(read("stampOfTests: {maxAge: 6}").unwrap(), stamp);
        assert_eq!(read("stampOfTests:").unwrap(), read("stampOfTests: {}").unwrap());
        let mut qualified = stamp.clone();
        tidegate_core::reference::qualify(&mut qualified, "file");
        let shown = serde_json::to_value(&qualified).unwrap();
        assert_eq!(shown["stampOfTests"]["behind"], serde_json::json!(["a@file", "b@file"]));
        assert!(!tidegate_core::reference::has_plain(&qualified));
    }

    #[test]
    fn errors_in_registered_kinds_name_their_options() {
        runtime::register::<Stamp>("otherStamp").unwrap();
        for (text, expected) in [
            (
                "otherStamp: {maxAge: x}",
                "f.yml:1: otherStamp: maxAge: invalid value `x`: expected an integer from",
            ),
            ("otherStamp: {maxag: 1}", "f.yml:1: otherStamp: maxag: unknown key: did you mean `maxAge`?"),
            ("otherStamp: {}\naddPrefix: {}", "multi-types middleware not supported"),
            ("addPrefix: {}\notherStamp: {}", "multi-types middleware not supported"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
