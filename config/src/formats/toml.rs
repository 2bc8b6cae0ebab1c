//! TOML. Every node has its line.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{excerpt, yaml::MAX_FILE_SIZE};
use crate::origin::{Origin, Problem};
use crate::tree::{Node, Table, Value};

/// Parses a file. `path` is used in origins and messages; problems include an excerpt.
pub fn read(path: &str, bytes: &[u8]) -> Result<Node, Problem> {
    read_within(path, bytes, 1)
}

/// Like [`read`], with limits that are multiplied by `times`.
pub(super) fn read_within(path: &str, bytes: &[u8], times: usize) -> Result<Node, Problem> {
    let path: Arc<str> = path.into();
    super::check_size(&path, bytes, MAX_FILE_SIZE * times)?;
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

/// Maps byte offsets to lines.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode_config;

    #[test]
    fn tables_and_values_are_read_with_their_lines() {
        let text = "[http.routers.r]\nrule = \"Path(`/`)\"\npriority = 0x10\ntls = {}\n\n\
                    [[http.services.s.loadBalancer.servers]]\nurl = \"http://a\"\n\
                    [[http.services.s.loadBalancer.servers]]\nurl = \"http://b\"\nweight = 2\n";
        let node = read("f.toml", text.as_bytes()).expect("valid TOML");
        let provided = decode_config(&node);
        assert_eq!(provided.problems, []);
        let router = &provided.config.http.routers["r"];
        assert_eq!((router.priority, router.tls.is_some()), (16, true));
        let servers = &provided.config.http.services["s"].load_balancer.as_ref().expect("a balancer").servers;
        assert_eq!(servers.iter().map(|server| server.weight).collect::<Vec<_>>(), [None, Some(2)]);
        let rule = node.get(&["http", "routers", "r", "rule"]).map(|node| node.origin.clone());
        assert_eq!(rule, Some(Origin::File { path: "f.toml".into(), line: 2, column: 1 }));
    }

    #[test]
    fn duplicate_keys_are_refused_with_their_line() {
        let problem = read("f.toml", b"a = 1\nb = 2\na = 3\n").expect_err("invalid");
        assert!(problem.to_string().starts_with("f.toml:3: invalid TOML: "), "{problem}");
        assert!(problem.excerpt.is_some_and(|excerpt| excerpt.contains("3 | a = 3")));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let text = format!("a = {}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(read("f.toml", text.as_bytes()).is_err());
    }
}
