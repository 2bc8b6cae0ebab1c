//! YAML, including JSON. Every node has its line.
//!
//! Limits keep a hostile or faulty file from exhausting the memory: see the constants. Duplicate keys are
//! refused with the line of the second one.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::excerpt;
use crate::origin::{Origin, Problem};
use crate::tree::{Node, Table, Value};

/// Maximum size of a file in bytes, enough for some 100,000 routers.
pub const MAX_FILE_SIZE: usize = 32 << 20;
/// Maximum number of nodes after resolving aliases.
const MAX_NODES: usize = 1_500_000;
/// Maximum number of nodes in anchors, counted once for each enclosing anchor.
const MAX_ANCHORED_NODES: usize = 200_000;
/// Maximum number of nodes from aliases.
const MAX_ALIASED_NODES: usize = 100_000;
/// Maximum nesting depth.
const MAX_DEPTH: usize = 64;

/// Parses a file. `path` is used in origins and messages; problems include an excerpt.
pub fn read(path: &str, bytes: &[u8]) -> Result<Node, Problem> {
    read_within(path, bytes, 1)
}

/// Like [`read`], with limits that are multiplied by `times`.
pub(super) fn read_within(path: &str, bytes: &[u8], times: usize) -> Result<Node, Problem> {
    let path: Arc<str> = path.into();
    super::check_size(&path, bytes, MAX_FILE_SIZE * times)?;
    let text = super::text(&path, bytes)?;
    match super::json::read(&path, text) {
        Some(node) => Ok(node),
        None => read_text(path, text, MAX_NODES * times),
    }
}

fn read_text(path: Arc<str>, text: &str, max_nodes: usize) -> Result<Node, Problem> {
    let mut reader = Reader {
        path,
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        max_nodes,
        anchored: 0,
        aliased: 0,
    };
    reader.stream().map_err(|Fault { message, origin }| {
        let excerpt = excerpt::render(text, &origin, &message);
        Problem { origin, object: None, message, excerpt }
    })
}

/// Like [`read`], but also parses JSON as YAML.
#[cfg(test)]
pub(super) fn read_yaml(path: &str, bytes: &[u8]) -> Result<Node, Problem> {
    let path = path.into();
    let text = super::text(&path, bytes)?;
    read_text(path, text, MAX_NODES)
}

struct Fault {
    message: String,
    origin: Origin,
}

struct Reader<'a> {
    path: Arc<str>,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    /// Anchored nodes and their sizes.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    max_nodes: usize,
    anchored: usize,
    aliased: usize,
}

impl<'a> Reader<'a> {
    /// Parses the stream, which must consist of one document.
    fn stream(&mut self) -> Result<Node, Fault> {
        let mut document = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if document.is_some() => {
                    return Err(self.fault("multiple documents: expected one document per file", span.start));
                }
                event => document = Some(self.node(event, span, 0)?),
            }
        }
        let empty =
            Node { origin: Origin::File { path: self.path.clone(), line: 1, column: 1 }, value: Value::Null };
        Ok(document.unwrap_or(empty))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.scan_fault(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Fault> {
        self.nodes += 1;
        if self.nodes > self.max_nodes {
            return Err(self.fault(&format!("the file has more than {} values", self.max_nodes), span.start));
        }
        if depth > MAX_DEPTH {
            return Err(
                self.fault(&format!("values are nested more than {MAX_DEPTH} levels deep"), span.start)
            );
        }
        let origin = self.origin(span.start);
        let first = self.nodes;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                (anchor, if plain { plain_scalar(&text) } else { Value::Leaf(text.into_owned()) })
            }
            Event::SequenceStart(_, anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(_, anchor, _) => (anchor, self.table(depth)?),
            Event::Alias(anchor) => return self.alias(anchor, origin, span.start),
            _ => return Err(self.fault("expected a value", span.start)),
        };
        let node = Node { origin, value };
        if anchor > 0 {
            let size = self.nodes - first + 1;
            self.anchored += size;
            if self.anchored > MAX_ANCHORED_NODES {
                return Err(
                    self.fault(&format!("anchors contain more than {MAX_ANCHORED_NODES} values"), span.start)
                );
            }
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize, origin: Origin, at: Marker) -> Result<Node, Fault> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            return Err(self.fault("the alias is inside its own anchor", at));
        };
        self.nodes += size;
        self.aliased += size;
        let value = node.value.clone();
        if self.aliased > MAX_ALIASED_NODES {
            return Err(self.fault(&format!("aliases expand to more than {MAX_ALIASED_NODES} values"), at));
        }
        Ok(Node { origin, value })
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut list = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(list)),
                (event, span) => list.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut table = Table::default();
        let mut merged = Vec::new();
        loop {
            let (key, at) = match self.next()? {
                (Event::MappingEnd, _) => break,
                (Event::Scalar(key, ..), span) => (key, span.start),
                (_, span) => return Err(self.fault("expected a string as key", span.start)),
            };
            let (event, span) = self.next()?;
            let mut node = self.node(event, span, depth + 1)?;
            if key == "<<" {
                merged.push((node, at));
                continue;
            }
            // The origin of a value is its key, where people look for it.
            node.origin = self.origin(at);
            if !table.push(key.clone().into_owned(), node) {
                return Err(self.fault(&format!("duplicate key `{key}`"), at));
            }
        }
        for (node, at) in merged {
            self.merge(&mut table, node, at)?;
        }
        Ok(Value::Table(table))
    }

    /// Merges `<<: *a` or `<<: [*a, *b]`: adds the keys that are not present yet.
    fn merge(&self, table: &mut Table, node: Node, at: Marker) -> Result<(), Fault> {
        match node.value {
            Value::Table(other) => {
                for (key, node) in other.iter() {
                    table.push(key.to_owned(), node.clone());
                }
                Ok(())
            }
            Value::List(list) => list.into_iter().try_for_each(|node| self.merge(table, node, at)),
            _ => Err(self.fault("expected a mapping to merge", at)),
        }
    }

    fn origin(&self, at: Marker) -> Origin {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Origin::File { path: self.path.clone(), line: number(at.line()), column: number(at.col() + 1) }
    }

    fn fault(&self, message: &str, at: Marker) -> Fault {
        Fault { message: message.to_owned(), origin: self.origin(at) }
    }

    fn scan_fault(&self, error: &ScanError) -> Fault {
        Fault { message: format!("invalid YAML: {}", error.info()), origin: self.origin(*error.marker()) }
    }
}

/// Converts an unquoted scalar: null becomes `Null`, and integers become decimal.
fn plain_scalar(text: &str) -> Value {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = match digits.get(..2) {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 10,
    };
    let number = match radix {
        10 if digits.contains('_') && digits.starts_with(|first: char| first.is_ascii_digit()) => {
            digits.replace('_', "").parse::<i64>().ok()
        }
        10 => None,
        radix => i64::from_str_radix(&digits[2..].replace('_', ""), radix).ok(),
    };
    match number {
        Some(number) if text.starts_with('-') => Value::Leaf((-number).to_string()),
        Some(number) => Value::Leaf(number.to_string()),
        None => Value::Leaf(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(text: &str) -> Vec<String> {
        let node = read("f.yml", text.as_bytes()).expect("valid YAML");
        node.flatten().into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    fn refused(text: &str) -> Problem {
        read("f.yml", text.as_bytes()).expect_err("invalid")
    }

    #[test]
    fn scalars_keep_their_text() {
        let text = "a: 1.10\nb: 'true'\nc: 0x1F\nd: 1_000\ne: ~\nf:\ng: \"null\"\nh: -0o17\ni: |\n  x\n  y\nj: 007\n";
        let expected = ["a=1.10", "b=true", "c=31", "d=1000", "g=null", "h=-15", "i=x\ny\n", "j=007"];
        assert_eq!(leaves(text), expected);
    }

    #[test]
    fn json_is_read_and_empty_files_are_empty() {
        assert_eq!(leaves("{\"a\": {\"b\": [1, \"x\"], \"c\": {}}}"), ["a.b[0]=1", "a.b[1]=x", "a.c="]);
        for text in ["", "# nothing\n", "---\n"] {
            assert!(read("f.yml", text.as_bytes()).expect("valid").is_empty(), "{text:?}");
        }
    }

    #[test]
    fn json_of_other_programs_is_read() {
        assert_eq!(
            leaves("{\n\t\"a\": \"\\u00e9\\/\\t\",\n\t\"b\":[1,2]\r\n}\n"),
            ["a=é/\t", "b[0]=1", "b[1]=2"]
        );
        assert_eq!(leaves("{\"a\": \"\\ud83d\\ude00\"}"), ["a=😀"]);
        assert_eq!(leaves("{\"a\":{},\"b\":\"x: y # z\"}"), ["a=", "b=x: y # z"]);
    }

    #[test]
    fn aliases_and_merges_are_filled_in() {
        let text = "x: &a {p: 1, q: 2}\ny: *a\nz:\n  <<: *a\n  q: 3\nl:\n  <<: [*a, {r: 4}]\n";
        let expected = ["x.p=1", "x.q=2", "y.p=1", "y.q=2", "z.q=3", "z.p=1", "l.p=1", "l.q=2", "l.r=4"];
        assert_eq!(leaves(text), expected);
    }

    #[test]
    fn every_value_has_its_line() {
        let node = read("f.yml", b"http:\n  routers:\n    r:\n      rule: x\n").expect("valid");
        let origin = |path: &[&str]| node.get(path).map(|node| node.origin.clone());
        let at = |line, column| Some(Origin::File { path: "f.yml".into(), line, column });
        assert_eq!(origin(&["http", "routers", "r"]), at(3, 5));
        assert_eq!(origin(&["http", "routers", "r", "rule"]), at(4, 7));
    }

    #[test]
    fn duplicate_keys_are_refused_with_an_excerpt() {
        let problem = refused("http:\n  routers:\n    r: {rule: a}\n    r: {rule: b}\n");
        assert_eq!(problem.to_string(), "f.yml:4: duplicate key `r`");
        let excerpt = problem.excerpt.expect("an excerpt");
        assert!(excerpt.contains("4 |     r: {rule: b}") && excerpt.contains("--> f.yml:4:5"), "{excerpt}");
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(refused(&bomb).message.contains("aliases expand to more than"));
        assert!(
            refused(&format!("{}{}", "[".repeat(5000), "]".repeat(5000)))
                .to_string()
                .starts_with("f.yml:1: ")
        );
        assert!(refused(&format!("a: {}", "- ".repeat(3000))).to_string().starts_with("f.yml:1: "));
        assert!(refused("a: &a [*a]\n").to_string().starts_with("f.yml:1: "));
        let large = vec![b' '; MAX_FILE_SIZE + 1];
        assert!(read("f.yml", &large).expect_err("too large").message.contains("the maximum is"));
    }

    #[test]
    fn invalid_yaml_is_reported_with_its_line() {
        let problem = refused("a: 1\nb: [1, 2\nc: 3\n");
        assert!(problem.to_string().starts_with("f.yml:"), "{problem}");
        assert!(problem.message.contains("invalid YAML: "), "{problem}");
        assert!(refused("a: 1\n---\nb: 2\n").message.contains("one document"));
        assert!(refused("? [a]\n: b\n").message.contains("expected a string as key"));
    }

    #[test]
    fn large_route_files_are_read() {
        let routers: Vec<String> = (0..20_000)
            .map(|n| format!("\"r{n}\": {{\"rule\": \"Host(`h{n}.test`)\", \"service\": \"s\"}}"))
            .collect();
        let text = format!("{{\"http\": {{\"routers\": {{{}}}}}}}", routers.join(", "));
        let node = read("f.yml", text.as_bytes()).expect("valid");
        let provided = crate::decode::decode_config(&node);
        assert_eq!((provided.config.http.routers.len(), provided.problems.len()), (20_000, 0));
    }
}
