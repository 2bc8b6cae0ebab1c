//! Kinds of middlewares that are registered at startup, and how their options are decoded.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor,
};
use tidegate_middlewares::KINDS;
use tidegate_middlewares::runtime::{Runtime, RuntimeOptions};

use crate::decode::{DecodeError, decode};
use crate::origin::Origin;
use crate::tree::{Node, Table, Value};

/// The key for the condition, next to that of the kind.
pub(crate) const WHEN: &str = "when";

/// A registered kind of middleware.
#[derive(Clone)]
pub(crate) struct RuntimeKind {
    key: Arc<str>,
    read: fn(Arc<str>, &Node) -> Result<Runtime, DecodeError>,
}

/// Kinds by key in lower case.
static REGISTERED: RwLock<BTreeMap<String, RuntimeKind>> = RwLock::new(BTreeMap::new());

/// Registers a kind of middleware under a key, next to the built-in ones. Its options are read by the same
/// decoder: numbers from text, keys without regard to case. Call it before the first configuration is read;
/// it takes effect for the whole process.
pub fn register<T: RuntimeOptions + DeserializeOwned>(key: &str) -> Result<(), RegisterError> {
    let is_taken = |known: &str| known.eq_ignore_ascii_case(key);
    if key.is_empty() || is_taken(WHEN) || KINDS.iter().any(|known| is_taken(known)) {
        return Err(RegisterError(key.to_owned()));
    }
    let read = |key: Arc<str>, node: &Node| Ok(Runtime::new(key, decode::<T>(node)?));
    let kind = RuntimeKind { key: key.into(), read };
    match REGISTERED.write().entry(key.to_ascii_lowercase()) {
        std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(kind)),
        std::collections::btree_map::Entry::Occupied(_) => return Err(RegisterError(key.to_owned())),
    }
    Ok(())
}

/// The key of a kind of middleware is empty or already in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid key `{0}` for a kind of middleware: it is empty or already in use")]
pub struct RegisterError(String);

impl RuntimeKind {
    /// Returns the kind with this key, ignoring case.
    pub(crate) fn find(key: &str) -> Option<Self> {
        let registered = REGISTERED.read();
        if registered.is_empty() { None } else { registered.get(&key.to_ascii_lowercase()).cloned() }
    }

    /// Returns the default options.
    pub(crate) fn defaults<E: de::Error>(&self) -> Result<Runtime, E> {
        self.decode(&node(Value::Null))
    }

    fn decode<E: de::Error>(&self, node: &Node) -> Result<Runtime, E> {
        (self.read)(self.key.clone(), node).map_err(|error| {
            let path = error.path();
            let separator = if path.is_empty() { "" } else { ": " };
            E::custom(format_args!("{path}{separator}{}", error.message()))
        })
    }
}

impl<'de> DeserializeSeed<'de> for RuntimeKind {
    type Value = Option<Runtime>;

    /// Deserialises options of this kind; `None` for an absent value.
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match Node::deserialize(deserializer)? {
            Node { value: Value::Null, .. } => Ok(None),
            options => self.decode(&options).map(Some),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    /// Deserialises any value, without origins.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

fn node(value: Value) -> Node {
    Node { origin: Origin::Internal, value }
}

fn leaf<E>(text: impl ToString) -> Result<Node, E> {
    Ok(node(Value::Leaf(text.to_string())))
}

impl<'de> Visitor<'de> for Anything {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("options")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(node(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        leaf(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        leaf(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        leaf(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        leaf(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        leaf(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(node(Value::List(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut table = Table::default();
        while let Some((key, value)) = entries.next_entry()? {
            table.push(key, value);
        }
        Ok(node(Value::Table(table)))
    }
}
