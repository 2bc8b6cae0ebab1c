//! The serde `Deserializer` over a node.

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

use super::DecodeError;
use crate::origin::Origin;
use crate::suggest;
use crate::tree::{Node, Step, Table, Value, is_affirmative};

type Result<T> = std::result::Result<T, DecodeError>;

/// Deserialises one value.
#[derive(Clone, Copy)]
pub(super) enum Reader<'de> {
    Null,
    Leaf(&'de str),
    List(&'de [Node]),
    Table(&'de Table),
    /// A flag given more than once.
    Repeated(&'de [Node]),
}

impl<'de> Reader<'de> {
    pub(super) fn new(node: &'de Node) -> Self {
        match &node.value {
            Value::Null => Self::Null,
            Value::Leaf(text) => Self::Leaf(text),
            Value::List(list) if matches!(node.origin, Origin::Flag(_)) => Self::Repeated(list),
            Value::List(list) => Self::List(list),
            Value::Table(table) => Self::Table(table),
        }
    }

    /// Returns the text of a leaf; `wanted` describes what was expected.
    fn text(self, wanted: &dyn de::Expected) -> Result<&'de str> {
        match self {
            Self::Leaf(text) => Ok(text),
            Self::Repeated(list) => list
                .last()
                .and_then(Node::as_leaf)
                .ok_or_else(|| DecodeError::custom(format_args!("a list is given: expected {wanted}"))),
            Self::Null => Err(DecodeError::custom(format_args!("nothing is given: expected {wanted}"))),
            Self::List(_) => Err(DecodeError::custom(format_args!("a list is given: expected {wanted}"))),
            Self::Table(_) => Err(DecodeError::custom(format_args!("a table is given: expected {wanted}"))),
        }
    }

    fn number<T: std::str::FromStr>(self, wanted: &'static str) -> Result<T> {
        let text = self.text(&wanted)?;
        text.trim()
            .parse()
            .map_err(|_| DecodeError::custom(format_args!("invalid value `{text}`: expected {wanted}")))
    }

    /// Returns the table for a struct; `None`, which means defaults, for an affirmative leaf.
    fn fields(self) -> Result<Option<&'de Table>> {
        match self {
            Self::Table(table) => Ok(Some(table)),
            Self::Null => Ok(None),
            Self::Leaf(text) if is_affirmative(text) => Ok(None),
            Self::Leaf(text) if text.eq_ignore_ascii_case("false") => Err(DecodeError::switched_off()),
            Self::Leaf(text) => Err(DecodeError::custom(format_args!(
                "`{text}` is given: expected options, or `true` for all defaults"
            ))),
            Self::List(_) | Self::Repeated(_) => {
                Err(DecodeError::custom(format_args!("a list is given: expected options")))
            }
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty: $wanted:literal,)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(self.number::<$type>($wanted)?)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Leaf(text) => visitor.visit_borrowed_str(text),
            Self::List(_) | Self::Repeated(_) => self.deserialize_seq(visitor),
            Self::Table(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        // The forms accepted by Go's strconv.ParseBool.
        match self.text(&"`true` or `false`")? {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => visitor.visit_bool(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => visitor.visit_bool(false),
            text => {
                Err(DecodeError::custom(format_args!("invalid value `{text}`: expected `true` or `false`")))
            }
        }
    }

    numbers! {
        deserialize_i8 visit_i8 i8: "an integer from -128 to 127",
        deserialize_i16 visit_i16 i16: "an integer from -32768 to 32767",
        deserialize_i32 visit_i32 i32: "a 32-bit integer",
        deserialize_i64 visit_i64 i64: "an integer",
        deserialize_u8 visit_u8 u8: "an integer from 0 to 255",
        deserialize_u16 visit_u16 u16: "an integer from 0 to 65535",
        deserialize_u32 visit_u32 u32: "an integer from 0 to 4294967295",
        deserialize_u64 visit_u64 u64: "a non-negative integer",
        deserialize_f32 visit_f32 f32: "a number",
        deserialize_f64 visit_f64 f64: "a number",
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Null => visitor.visit_borrowed_str(""),
            _ => {
                let text = self.text(&visitor as &dyn de::Expected)?;
                visitor.visit_borrowed_str(text)
            }
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Null => visitor.visit_seq(Items { items: [].into_iter() }),
            Self::List(list) => visitor.visit_seq(Nodes::new(
                list.iter().enumerate().map(|(i, node)| (Step::Index(i), &node.origin, Self::new(node))),
            )),
            Self::Leaf(text) => visitor.visit_seq(Items { items: items(text) }),
            Self::Repeated(list) => {
                visitor.visit_seq(Items { items: list.iter().filter_map(Node::as_leaf).flat_map(items) })
            }
            Self::Table(table) => {
                let (list, strays) = table.items();
                match strays.first() {
                    None => visitor.visit_seq(Nodes::new(list.into_iter().flat_map(|(key, node)| {
                        elements(node).map(|read| (Step::Key(key.to_owned()), &node.origin, read))
                    }))),
                    // In keys and labels, an index was intended.
                    Some((key, node)) if !list.is_empty() || !matches!(node.origin, Origin::File { .. }) => {
                        Err(DecodeError::custom(format_args!(
                            "invalid list index `{key}`: expected a number"
                        ))
                        .at(&node.origin)
                        .under(Step::Key((*key).to_owned())))
                    }
                    Some(_) => Err(DecodeError::custom("a table is given: expected a list")),
                }
            }
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let table = self.fields()?;
        visitor.visit_map(Entries::new(table, None))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let table = self.fields()?;
        visitor.visit_map(Entries::new(table, Some(fields)))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self {
            Self::Leaf(text) if !text.is_empty() => {
                visitor.visit_enum(Variant { name: text, variants, options: None })
            }
            Self::Table(table) => {
                let mut given = table.iter().filter(|(_, node)| node.value != Value::Null);
                // A key without a value (`compress:` in YAML) still selects its kind.
                let first = given.next().or_else(|| table.iter().next());
                match (first, given.next()) {
                    (Some((key, node)), None) => visitor
                        .visit_enum(Variant { name: key, variants, options: Some(node) })
                        .map_err(|error| error.at(&node.origin).under(Step::Key(key.to_owned()))),
                    (Some(_), Some(_)) => Err(DecodeError::custom(
                        "cannot create middleware: multi-types middleware not supported, consider declaring two \
                         different pieces of middleware instead",
                    )),
                    (None, _) => Err(DecodeError::custom(format_args!(
                        "invalid middleware type or middleware does not exist: {}",
                        suggest::expected(variants)
                    ))),
                }
            }
            Self::List(_) | Self::Repeated(_) => {
                Err(DecodeError::custom("a list is given: expected exactly one key with its options"))
            }
            _ => Err(DecodeError::custom(format_args!("nothing is given: {}", suggest::expected(variants)))),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i128 u128 bytes byte_buf }
}

/// Splits a comma-separated list.
fn items(text: &str) -> impl Iterator<Item = &str> {
    // Empty elements are kept, as in Traefik: they are then reported as missing names.
    let whole = (!text.trim().is_empty()).then_some(text);
    whole.into_iter().flat_map(|text| text.split(',')).map(str::trim)
}

/// Returns the elements of one indexed entry of a list. As in Traefik, an entry in a key-value store may be a
/// comma-separated list; only lists of names are split, so that regular expressions stay intact.
fn elements(node: &Node) -> impl Iterator<Item = Reader<'_>> {
    let is_name = |part: &str| {
        let mut letters = part.trim().chars();
        letters.all(|letter| letter.is_alphanumeric() || "-_.:/@*+".contains(letter))
    };
    let names = match (&node.origin, &node.value) {
        (Origin::Key(_), Value::Leaf(text)) if text.contains(',') && text.split(',').all(is_name) => {
            Some(text)
        }
        _ => None,
    };
    let whole = names.is_none().then(|| Reader::new(node));
    whole.into_iter().chain(names.into_iter().flat_map(|text| items(text)).map(Reader::Leaf))
}

/// The entries of a table, for a map or, with the names of its fields, for a struct.
struct Entries<'de> {
    rest: Box<dyn Iterator<Item = (&'de str, &'de Node)> + 'de>,
    fields: Option<&'static [&'static str]>,
    value: Option<(&'de str, &'de Node)>,
}

impl<'de> Entries<'de> {
    fn new(table: Option<&'de Table>, fields: Option<&'static [&'static str]>) -> Self {
        let rest: Box<dyn Iterator<Item = _>> = match table {
            Some(table) => Box::new(table.iter()),
            None => Box::new(std::iter::empty()),
        };
        Self { rest, fields, value: None }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, node));
        let Some(fields) = self.fields else {
            return seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some);
        };
        match fields.iter().find(|field| field.eq_ignore_ascii_case(key)) {
            // A field without a value counts as absent.
            Some(_) if node.value == Value::Null => self.next_key_seed(seed),
            Some(field) => seed.deserialize(StrDeserializer::new(field)).map(Some),
            None => {
                seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some).map_err(|_: DecodeError| {
                    DecodeError::unknown_key(key, fields).at(&node.origin).under(Step::Key(key.to_owned()))
                })
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        let (key, node) = self.value.take().ok_or_else(|| DecodeError::custom("a value without its key"))?;
        seed.deserialize(Reader::new(node))
            .map_err(|error| error.at(&node.origin).under(Step::Key(key.to_owned())))
    }
}

/// The elements of a list.
struct Nodes<I> {
    rest: I,
}

impl<'de, I: Iterator<Item = (Step, &'de Origin, Reader<'de>)>> Nodes<I> {
    fn new(rest: I) -> Self {
        Self { rest }
    }
}

impl<'de, I: Iterator<Item = (Step, &'de Origin, Reader<'de>)>> de::SeqAccess<'de> for Nodes<I> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some((step, origin, read)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(read).map(Some).map_err(|error| error.at(origin).under(step))
    }

    // Without it, a list of one element gets the memory of four.
    fn size_hint(&self) -> Option<usize> {
        self.rest.size_hint().1
    }
}

/// The elements of a comma-separated list.
struct Items<I> {
    items: I,
}

impl<'de, I: Iterator<Item = &'de str>> de::SeqAccess<'de> for Items<I> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(text) = self.items.next() else { return Ok(None) };
        seed.deserialize(Reader::Leaf(text)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.items.size_hint().1
    }
}

/// The selected kind and its options.
struct Variant<'de> {
    name: &'de str,
    variants: &'static [&'static str],
    /// `None` when the kind is given as text.
    options: Option<&'de Node>,
}

impl<'de> de::EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let known = self.variants.iter().find(|variant| variant.eq_ignore_ascii_case(self.name));
        match (known, self.options) {
            (Some(variant), _) => Ok((seed.deserialize(StrDeserializer::new(variant))?, self)),
            (None, None) => Ok((seed.deserialize(BorrowedStrDeserializer::new(self.name))?, self)),
            (None, Some(_)) => Err(DecodeError::unknown_key(self.name, self.variants)),
        }
    }
}

impl<'de> Variant<'de> {
    fn reader(&self) -> Result<Reader<'de>> {
        self.options.map(Reader::new).ok_or_else(|| {
            DecodeError::custom(format_args!("`{}` is given as text: expected a key with options", self.name))
        })
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<()> {
        match self.options {
            Some(node) if !node.is_empty() => Err(DecodeError::custom("no options are expected here")),
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self.reader()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.reader()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.reader()?.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use tidegate_core::values::Duration;

    use crate::decode::decode;
    use crate::formats::yaml;
    use crate::tree::Node;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
    struct Sample {
        count: u16,
        ratio: f64,
        on: bool,
        wait: Duration,
        numbers: Vec<i32>,
        inner: Option<Inner>,
        kind: Option<Choice>,
        some: Option<bool>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
    struct Inner {
        name: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    enum Choice {
        Plain,
        With(Inner),
        Amount { amount: i64 },
    }

    fn node(text: &str) -> Node {
        yaml::read("f.yml", text.as_bytes()).expect("valid YAML")
    }

    fn sample(text: &str) -> Sample {
        decode(&node(text)).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn error(text: &str) -> String {
        decode::<Sample>(&node(text)).expect_err(text).to_string()
    }

    #[test]
    fn text_is_parsed_as_the_expected_type() {
        let read = sample("COUNT: '7'\nratio: 0.5\nOn: 'True'\nwait: 90\nnumbers: 1, 2,-3\n");
        assert_eq!((read.count, read.ratio, read.on, read.wait), (7, 0.5, true, Duration::from_secs(90)));
        assert_eq!(read.numbers, [1, 2, -3]);
        assert_eq!(sample("numbers: {'1': 5, '0': 4, '10': 6}").numbers, [4, 5, 6]);
        assert_eq!(sample("numbers: ''").numbers, [0; 0]);
        assert_eq!(sample("count:\nnumbers: ~\ninner: null"), Sample::default());
    }

    #[test]
    fn true_means_defaults_and_false_means_none() {
        for text in ["inner: true", "inner: ''", "inner: {}"] {
            assert_eq!(sample(text).inner, Some(Inner::default()), "{text}");
        }
        assert_eq!(sample("inner: false\nsome: false"), Sample { some: Some(false), ..Sample::default() });
        assert_eq!(
            error("inner: 5"),
            "f.yml:1: inner: `5` is given: expected options, or `true` for all defaults"
        );
    }

    #[test]
    fn a_kind_is_selected_by_its_key() {
        assert_eq!(sample("kind: plain").kind, Some(Choice::Plain));
        assert_eq!(sample("kind: {WITH: {name: n}}").kind, Some(Choice::With(Inner { name: "n".into() })));
        assert_eq!(sample("kind: {with: true}").kind, Some(Choice::With(Inner::default())));
        assert_eq!(sample("kind: {amount: {amount: 3}}").kind, Some(Choice::Amount { amount: 3 }));
        assert!(error("kind: with").contains("expected a key with options"));
        assert!(error("kind: {amount: {}}").contains("`amount` is required"));
        assert!(error("kind: {with: {}, plain: {}}").contains("multi-types middleware not supported"));
    }

    #[test]
    fn errors_name_the_key_the_line_and_what_was_expected() {
        for (text, expected) in [
            ("count: 70000", "f.yml:1: count: invalid value `70000`: expected an integer from 0 to 65535"),
            ("on: yes", "f.yml:1: on: invalid value `yes`: expected `true` or `false`"),
            (
                "on: true\nwait: soon",
                "f.yml:2: wait: `soon` is not a duration: expected a form like `1m30s` or a number of seconds",
            ),
            ("numbers: [1, x]", "f.yml:1: numbers[1]: invalid value `x`: expected a 32-bit integer"),
            ("inner:\n  nam: x", "f.yml:2: inner.nam: unknown key: did you mean `name`?"),
            ("inner:\n  zzz: x", "f.yml:2: inner.zzz: unknown key: expected `name`"),
            ("count: [1]", "f.yml:1: count: a list is given: expected an integer from 0 to 65535"),
            ("numbers: {a: 1}", "f.yml:1: numbers: a table is given: expected a list"),
            ("count: 1\nCount: 2", "f.yml:1: `count` is given twice"),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
    }
}
