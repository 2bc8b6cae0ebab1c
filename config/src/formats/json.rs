//! JSON, for files written by other programs: much faster than parsing them as YAML, of which JSON is a
//! subset.
//!
//! This parser reports no errors. What it does not accept (syntax errors, duplicate keys, values above the
//! limits) is left to the YAML parser, which accepts it or reports what is wrong.

use std::sync::Arc;

use crate::origin::Origin;
use crate::tree::{Node, Table, Value};

/// Maximum nesting depth.
const MAX_DEPTH: usize = 32;

/// Parses a JSON text. `None` when the YAML parser has to decide.
pub(super) fn read(path: &Arc<str>, text: &str) -> Option<Node> {
    let mut reader = Reader { path, text, at: 0, line: 1, column: 1, counted: 0 };
    reader.space();
    if !matches!(reader.peek(), Some(b'{' | b'[')) {
        return None;
    }
    let origin = reader.origin();
    let value = reader.value(0)?;
    reader.space();
    (reader.at == text.len()).then_some(Node { origin, value })
}

struct Reader<'a> {
    path: &'a Arc<str>,
    text: &'a str,
    at: usize,
    line: u32,
    /// Column of the byte at `counted`, in characters.
    column: u32,
    counted: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            self.at += 1;
            if byte == b'\n' {
                self.line = self.line.saturating_add(1);
                (self.column, self.counted) = (1, self.at);
            }
        }
    }

    fn origin(&mut self) -> Origin {
        let passed = &self.text.as_bytes()[self.counted..self.at];
        let characters = passed.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        self.column = self.column.saturating_add(u32::try_from(characters).unwrap_or(u32::MAX));
        self.counted = self.at;
        Origin::File { path: self.path.clone(), line: self.line, column: self.column }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        match self.peek()? {
            b'{' if depth < MAX_DEPTH => self.table(depth),
            b'[' if depth < MAX_DEPTH => self.list(depth),
            b'"' => self.string().map(Value::Leaf),
            b't' => self.word("true").map(|()| Value::Leaf("true".into())),
            b'f' => self.word("false").map(|()| Value::Leaf("false".into())),
            b'n' => self.word("null").map(|()| Value::Null),
            _ => self.number().map(Value::Leaf),
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn table(&mut self, depth: usize) -> Option<Value> {
        let mut table = Table::default();
        self.at += 1;
        self.space();
        if self.take(b'}').is_some() {
            return Some(Value::Table(table));
        }
        loop {
            self.space();
            let origin = self.origin();
            let key = self.string()?;
            // A merge key in YAML.
            if key == "<<" {
                return None;
            }
            self.space();
            self.take(b':')?;
            self.space();
            let value = self.value(depth + 1)?;
            if !table.push(key, Node { origin, value }) {
                return None;
            }
            self.space();
            if self.take(b',').is_none() {
                self.take(b'}')?;
                return Some(Value::Table(table));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        let mut list = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b']').is_some() {
            return Some(Value::List(list));
        }
        loop {
            self.space();
            let origin = self.origin();
            let value = self.value(depth + 1)?;
            list.push(Node { origin, value });
            self.space();
            if self.take(b',').is_none() {
                self.take(b']')?;
                return Some(Value::List(list));
            }
        }
    }

    /// Parses a string (RFC 8259 section 7).
    fn string(&mut self) -> Option<String> {
        self.take(b'"')?;
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f | 0x7f))?;
        self.at += length;
        if self.peek() == Some(b'"') {
            let text = self.text[start..self.at].to_owned();
            self.at += 1;
            return Some(text);
        }
        let end = self.closing_quote()?;
        let text = serde_json::from_str(&self.text[start - 1..=end]).ok()?;
        self.at = end + 1;
        Some(text)
    }

    /// Returns the position of the closing quote of a string with escapes.
    fn closing_quote(&self) -> Option<usize> {
        let mut at = self.at;
        loop {
            match self.text.as_bytes().get(at)? {
                b'"' => return Some(at),
                b'\\' => at += 2,
                ..=0x1f | 0x7f => return None,
                _ => at += 1,
            }
        }
    }

    /// Parses a number (RFC 8259 section 6), whose text is kept as it is.
    fn number(&mut self) -> Option<String> {
        let start = self.at;
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if self.take(b'e').or_else(|| self.take(b'E')).is_some() {
            let _ = self.take(b'+').or_else(|| self.take(b'-'));
            self.digits()?;
        }
        Some(self.text[start..self.at].to_owned())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;
    use crate::formats::yaml;

    fn fast(text: &str) -> Option<Node> {
        read(&"f.yml".into(), text)
    }

    #[test]
    fn anything_but_plain_json_is_left_to_yaml() {
        for text in [
            "",
            "a: 1",
            "1",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{a: 1}",
            "{\"a\": yes}",
            "[1] x",
            "{'a': 1}",
            "{\"a\": 1, \"a\": 2}",
            "{\"<<\": {}}",
            "[01]",
            "[1.]",
            "[.5]",
            "[1e]",
            "[-]",
            "[\"a\nb\"]",
            "[\"\\x\"]",
            "[\"\\ud800\"]",
            "[\"a",
            "[tru]",
            "# x\n{}",
            "[nul",
            "[\"\\",
            "{}\n---\n{}",
        ] {
            assert_eq!(fast(text), None, "{text}");
        }
        assert_eq!(fast(&format!("{}{}", "[".repeat(40), "]".repeat(40))), None);
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            "[ -~éß😀\\n\\t]{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
                prop::collection::btree_map("[ -~é]{0,6}", inner, 0..5)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_yaml_reader_reads_the_same(value in prop::collection::vec(json(), 0..4), pretty: bool) {
            let value = Json::from(value);
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.expect("JSON");
            if let Some(node) = fast(&text) {
                prop_assert_eq!(node, yaml::read_yaml("f.yml", text.as_bytes()).expect("YAML"), "{}", text);
            }
        }

        #[test]
        fn only_json_is_accepted(text in "[\\[\\]{}:,\"0-9a-f\\\\.eE+-]{0,20}") {
            if fast(&text).is_some() {
                prop_assert!(serde_json::from_str::<Json>(&text).is_ok(), "{}", text);
            }
        }
    }
}
