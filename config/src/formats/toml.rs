//! TOML. Every node knows its line.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{excerpt, yaml::LARGEST};
use crate::origin::{Origin, Problem};
use crate::tree::{Node, Table, Value};

/// Reads a file. `path` says where it is; the problem has an excerpt.
pub fn read(path: &str, bytes: &[u8]) -> Result<Node, Problem> {
    let path: Arc<str> = path.into();
    if bytes.len() > LARGEST {
        let message = format!("the file has {} bytes; at most {LARGEST} are read", bytes.len());
        return Err(Problem {
            origin: Origin::File { path, line: 0, column: 0 },
            object: None,
            message,
            excerpt: None,
        });
    }
    let text = super::text(&path, bytes)?;
    let lines = Lines::new(path, text);
    let document = DeTable::parse(text).map_err(|error| {
        let origin = lines.origin(error.span().map_or(0, |span| span.start));
        let message = format!("invalid TOML: {}", error.message());
        let excerpt = excerpt::render(text, &origin, &message);
        Problem { origin, object: None, message, excerpt }
    })?;
    Ok(Node { origin: lines.origin(0), value: table(&lines, document.get_ref()) })
}

fn table(lines: &Lines, source: &DeTable<'_>) -> Value {
    let mut table = Table::default();
    for (key, value) in source {
        let node = Node { origin: lines.origin(key.span().start), value: self::value(lines, value) };
        table.push(key.get_ref().to_string(), node);
    }
    Value::Table(table)
}

fn value(lines: &Lines, source: &Spanned<DeValue<'_>>) -> Value {
    match source.get_ref() {
        DeValue::String(text) => Value::Leaf(text.to_string()),
        DeValue::Integer(number) => {
            let decimal = i64::from_str_radix(number.as_str(), number.radix());
            Value::Leaf(decimal.map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()))
        }
        DeValue::Float(number) => Value::Leaf(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Value::Leaf(flag.to_string()),
        DeValue::Datetime(time) => Value::Leaf(time.to_string()),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Node { origin: lines.origin(item.span().start), value: value(lines, item) })
                .collect(),
        ),
        DeValue::Table(inner) => table(lines, inner),
    }
}

/// Finds lines by byte.
struct Lines {
    path: Arc<str>,
    starts: Vec<usize>,
}

impl Lines {
    fn new(path: Arc<str>, text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { path, starts: std::iter::once(0).chain(ends).collect() }
    }

    fn origin(&self, at: usize) -> Origin {
        let line = self.starts.partition_point(|start| *start <= at);
        let column = at - self.starts[line.saturating_sub(1)] + 1;
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Origin::File { path: self.path.clone(), line: number(line), column: number(column) }
    }
}
