//! Adds and changes API keys in the text of a configuration file, so that everything else, comments included, stays as
//! it is.
//!
//! The edit is made in the text, at the places that the parser reports. Whatever the text looks like, the result is
//! parsed again and compared: a file that cannot be edited like this stays unchanged.

use serde_json::Value as Json;
use tidegate_config::formats;
use tidegate_config::tree::{Node, Value};
use tidegate_config::{Origin, Problem};

/// The options of a key by name.
pub(super) type Fields = serde_json::Map<String, Json>;

/// A change of the keys of a consumer.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Adds a key to a consumer, which is created if it does not exist.
    Add { consumer: String, fields: Fields },
    /// Sets options of a key.
    Set { consumer: String, id: String, fields: Fields },
}

/// Why a text cannot be edited.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(super) struct EditError {
    line: usize,
    problem: String,
}

impl EditError {
    fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, problem: problem.into() }
    }
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Toml,
}

impl Format {
    /// Parses a text.
    fn read(self, text: &str) -> Result<Node, Problem> {
        let name = match self {
            Self::Yaml => "keys.yml",
            Self::Toml => "keys.toml",
        };
        formats::read_large(name, text.as_bytes())
    }
}

/// Returns true for files that have consumers and nothing else, under `consumers` instead of `http.consumers`.
pub(super) fn is_dedicated(root: &Node) -> bool {
    root.get(&["consumers"]).is_some()
}

/// Where the keys of a consumer are.
struct Keys<'a> {
    /// `consumers` or `http.consumers`.
    section: &'static [&'static str],
    consumer: &'a str,
}

impl<'a> Keys<'a> {
    /// Finds the section in a file. An empty file of consumers is `dedicated`.
    fn new(root: &Node, dedicated: bool, consumer: &'a str) -> Self {
        let section: &[&str] =
            if dedicated || is_dedicated(root) { &["consumers"] } else { &["http", "consumers"] };
        Self { section, consumer }
    }

    fn path(&self) -> Vec<&str> {
        let rest = [self.consumer, "credentials", "apiKeys"];
        self.section.iter().copied().chain(rest).collect()
    }

    /// Returns the keys.
    fn list<'n>(&self, root: &'n Node) -> &'n [Node] {
        root.get(&self.path()).map_or(&[], elements)
    }

    /// Finds a key.
    fn item<'n>(&self, root: &'n Node, id: &str) -> Option<(usize, &'n Node)> {
        let is_it = |item: &Node| item.get(&["id"]).and_then(Node::as_leaf) == Some(id);
        self.list(root).iter().enumerate().find(|(_, item)| is_it(item))
    }

    /// Returns the line that a message should name.
    fn line(&self, root: &Node) -> usize {
        let whole = self.path();
        let known = (1..=whole.len()).rev().find_map(|depth| root.get(&whole[..depth]));
        known.map_or(1, |node| line(node) + 1)
    }
}

/// Applies a change to a text, and makes sure that nothing else has changed.
pub(super) fn apply(
    format: Format,
    dedicated: bool,
    text: &str,
    change: &Change,
) -> Result<String, EditError> {
    let root = format.read(text).map_err(|problem| EditError::new(1, problem.message))?;
    let (Change::Add { consumer, .. } | Change::Set { consumer, .. }) = change;
    let keys = Keys::new(&root, dedicated, consumer);
    let edited = match (change, format) {
        (Change::Add { fields, .. }, Format::Yaml) => add_to_yaml(text, &root, &keys, fields)?,
        (Change::Add { fields, .. }, Format::Toml) => add_to_toml(text, &root, &keys, fields),
        (Change::Set { id, fields, .. }, _) => {
            let (_, item) = keys
                .item(&root, id)
                .ok_or_else(|| EditError::new(1, format!("no key `{id}` of consumer `{consumer}`")))?;
            set(format, text, item, fields)?
        }
    };
    let next = format.read(&edited).ok();
    if next.is_some_and(|next| is_as_intended(&root, &next, &keys, change)) {
        return Ok(edited);
    }
    Err(EditError::new(
        keys.line(&root),
        "the keys of this consumer are written in a form that cannot be edited: write each option on its own line",
    ))
}

/// Returns the elements of a list.
fn elements(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(list) => list,
        _ => &[],
    }
}

/// Compares the trees before and after a change.
fn is_as_intended(before: &Node, after: &Node, keys: &Keys<'_>, change: &Change) -> bool {
    let (index, fields) = match change {
        Change::Add { fields, .. } => (keys.list(before).len(), fields),
        Change::Set { id, fields, .. } => match keys.item(before, id) {
            Some((index, _)) => (index, fields),
            None => return false,
        },
    };
    let Some(now) = keys.list(after).get(index) else { return false };
    let is_set =
        fields.iter().all(|(name, value)| now.get(&[name]).is_some_and(|node| is_value(node, value)));
    let added = now.as_table().map_or(0, |table| table.iter().count());
    let counts = match change {
        Change::Add { .. } => added == fields.len(),
        Change::Set { .. } => true,
    };
    let item = format!("{}[{index}]", keys.path().join(".")).to_ascii_lowercase();
    let others = |node: &Node| -> Vec<(String, String)> {
        let is_other = |(key, value): &(String, String)| {
            let key = key.to_ascii_lowercase();
            let is_field = fields.keys().any(|name| {
                let rest = key.strip_prefix(&*item).and_then(|rest| rest.strip_prefix('.'));
                let rest = rest.and_then(|rest| rest.strip_prefix(&*name.to_ascii_lowercase()));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
            });
            // Empty tables and lists on the way are filled.
            let is_filled = value.is_empty()
                && (item.starts_with(&format!("{key}.")) || item.starts_with(&format!("{key}[")));
            !is_field && !is_filled && !key.is_empty()
        };
        node.flatten().into_iter().filter(is_other).collect()
    };
    is_set && counts && others(before) == others(after)
}

fn is_value(node: &Node, expected: &Json) -> bool {
    match expected {
        Json::Array(list) => {
            let found = elements(node);
            found.len() == list.len() && found.iter().zip(list).all(|(node, value)| is_value(node, value))
        }
        other => node.as_leaf() == other.as_str(),
    }
}

/// Returns the index of the line where a node was written, and of its column.
fn position(node: &Node) -> (usize, usize) {
    match node.origin {
        Origin::File { line, column, .. } => {
            ((line as usize).saturating_sub(1), (column as usize).saturating_sub(1))
        }
        _ => (0, 0),
    }
}

fn line(node: &Node) -> usize {
    position(node).0
}

/// A text as lines, to which others can be added.
struct Lines<'a> {
    lines: Vec<&'a str>,
    newline: &'static str,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
        Self { lines: text.lines().collect(), newline }
    }

    fn get(&self, index: usize) -> &'a str {
        self.lines.get(index).copied().unwrap_or("")
    }

    /// Returns the number of lines up to the end of the block whose first line is `first`, and whose contents have
    /// a larger indentation. The elements of a list may have the same (`is_entry`).
    fn end_of_block(&self, first: usize, indent: usize, is_entry: bool) -> usize {
        let mut end = first + 1;
        for (index, line) in self.lines.iter().enumerate().skip(first + 1) {
            let content = line.trim_start();
            let own = line.len() - content.len();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let is_element = is_entry && own == indent && (content.starts_with("- ") || content == "-");
            if own <= indent && !is_element {
                break;
            }
            end = index + 1;
        }
        end
    }

    /// Returns the text with lines inserted after the first `after` ones.
    fn insert(&self, after: usize, added: &[String]) -> String {
        let after = after.min(self.lines.len());
        let (front, back) = self.lines.split_at(after);
        let all = front.iter().copied().chain(added.iter().map(String::as_str)).chain(back.iter().copied());
        let mut text = String::new();
        for line in all {
            text.push_str(line);
            text.push_str(self.newline);
        }
        text
    }

    /// Returns the text with one line replaced.
    fn replace(&self, index: usize, line: &str) -> String {
        let mut lines = self.lines.clone();
        if let Some(old) = lines.get_mut(index) {
            *old = line;
        }
        Lines { lines, newline: self.newline }.insert(0, &[])
    }
}

/// Returns true if the element or entry at this place is in braces or brackets.
fn is_inline(lines: &Lines<'_>, (line, column): (usize, usize)) -> bool {
    let front = lines.get(line).get(..column).unwrap_or_default().trim_end();
    front.ends_with(['{', '[', ','])
}

fn add_to_yaml(text: &str, root: &Node, keys: &Keys<'_>, fields: &Fields) -> Result<String, EditError> {
    let (lines, whole) = (Lines::new(text), keys.path());
    let mut at = root;
    let mut depth = 0;
    while let Some(next) = whole.get(depth).and_then(|key| at.get(&[key])) {
        if next.is_empty() || matches!(&next.value, Value::List(list) if list.is_empty()) {
            return fill(&lines, next, &whole[depth + 1..], fields);
        }
        (at, depth) = (next, depth + 1);
    }
    let rest = &whole[depth..];
    if let Value::List(list) = &at.value
        && rest.is_empty()
        && let Some(last) = list.last()
    {
        let (line, column) = position(last);
        let dash = lines.get(line).get(..column).and_then(|front| front.rfind('-'));
        return match dash {
            Some(dash) if !is_inline(&lines, (line, column)) => {
                let end = lines.end_of_block(line, dash, false);
                Ok(lines.insert(end, &yaml_item(dash, fields)))
            }
            _ => {
                Err(EditError::new(line + 1, "the keys are written in brackets: write each on its own line"))
            }
        };
    }
    let entries = at.as_table().map(|table| table.iter().collect::<Vec<_>>()).unwrap_or_default();
    let (Some((_, first)), Some((_, last))) = (entries.first(), entries.last()) else {
        return Ok(lines.insert(lines.lines.len(), &yaml_lines(0, rest, fields)));
    };
    if is_inline(&lines, position(first)) {
        let problem = format!(
            "`{}` is written in braces: write each option on its own line",
            whole[depth.saturating_sub(1)]
        );
        return Err(EditError::new(line(first) + 1, problem));
    }
    let (_, indent) = position(first);
    let end = lines.end_of_block(line(last), indent, true);
    Ok(lines.insert(end, &yaml_lines(indent, rest, fields)))
}

/// Writes below a key that has no value, `{}` or `[]`.
fn fill(lines: &Lines<'_>, empty: &Node, rest: &[&str], fields: &Fields) -> Result<String, EditError> {
    let (index, column) = position(empty);
    let line = lines.get(index);
    let colon = line.get(column..).and_then(|rest| rest.find(':')).map(|at| column + at + 1);
    let Some((front, value)) = colon.and_then(|colon| line.split_at_checked(colon)) else {
        return Err(EditError::new(index + 1, "expected a key"));
    };
    let (value, comment) = value
        .split_once('#')
        .map_or((value, ""), |(value, _)| (value, line.get(front.len() + value.len()..).unwrap_or_default()));
    if !matches!(value.trim(), "" | "{}" | "[]" | "null" | "~") {
        return Err(EditError::new(index + 1, "expected a key without a value"));
    }
    let own = if comment.is_empty() { front.to_owned() } else { format!("{front} {comment}") };
    let text = lines.replace(index, &own);
    Ok(Lines::new(&text).insert(index + 1, &yaml_lines(column + 2, rest, fields)))
}

/// Writes a new key below the keys of a path.
fn yaml_lines(indent: usize, path: &[&str], fields: &Fields) -> Vec<String> {
    let header =
        |(depth, key): (usize, &&str)| format!("{}{}:", " ".repeat(indent + 2 * depth), yaml_key(key));
    let mut lines: Vec<String> = path.iter().enumerate().map(header).collect();
    lines.extend(yaml_item(indent + 2 * path.len(), fields));
    lines
}

fn yaml_item(indent: usize, fields: &Fields) -> Vec<String> {
    let space = " ".repeat(indent);
    let line = |(index, (name, value)): (usize, (&String, &Json))| {
        format!("{space}{} {name}: {value}", if index == 0 { "-" } else { " " })
    };
    fields.iter().enumerate().map(line).collect()
}

/// Writes a name as a key; in quotes if it could mean something else.
fn yaml_key(name: &str) -> String {
    let is_plain = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        && !["null", "true", "false", "yes", "no", "on", "off", "y", "n"]
            .contains(&&*name.to_ascii_lowercase());
    if is_plain { name.to_owned() } else { Json::from(name).to_string() }
}

fn add_to_toml(text: &str, root: &Node, keys: &Keys<'_>, fields: &Fields) -> String {
    let (lines, consumer) = (Lines::new(text), keys.consumer);
    let is_bare = !consumer.is_empty()
        && consumer.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let name = if is_bare { consumer.to_owned() } else { Json::from(consumer).to_string() };
    let mut added = vec![String::new(), format!("[[{}.{name}.credentials.apiKeys]]", keys.section.join("."))];
    added.extend(fields.iter().map(|(name, value)| format!("{name} = {}", toml_value(value))));
    let last = keys.list(root).last();
    let is_header = |line: &str| line.trim_start().starts_with('[');
    let end = match last.map(line) {
        Some(first) => {
            let after = lines.lines.iter().skip(first + 1).position(|line| is_header(line));
            let end = after.map_or(lines.lines.len(), |after| first + 1 + after);
            // Comments and empty lines belong to the next table.
            let is_content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
            lines.lines.iter().take(end).rposition(is_content).map_or(end, |last| last + 1)
        }
        None => lines.lines.len(),
    };
    lines.insert(end, &added)
}

/// JSON's strings and lists of strings are TOML's.
fn toml_value(value: &Json) -> String {
    match value {
        Json::Array(list) => {
            format!("[{}]", list.iter().map(Json::to_string).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Sets options of a key: replaces values, and adds missing options behind `id`.
fn set(format: Format, text: &str, item: &Node, fields: &Fields) -> Result<String, EditError> {
    let mut text = text.to_owned();
    // From the end, so that places in front of it stay valid.
    let mut edits: Vec<((usize, usize), bool, &String, &Json)> = Vec::new();
    let id = item.get(&["id"]).ok_or_else(|| EditError::new(line(item) + 1, "the key has no `id`"))?;
    for (name, value) in fields {
        match item.get(&[name]) {
            Some(node) => edits.push((position(node), true, name, value)),
            None => edits.push((position(id), false, name, value)),
        }
    }
    edits.sort_by_key(|(place, ..)| std::cmp::Reverse(*place));
    for (place, replaces, name, value) in edits {
        let lines = Lines::new(&text);
        let (index, column) = place;
        let line = lines.get(index);
        let in_braces = is_inline(&lines, place);
        let shown = if format == Format::Toml { toml_value(value) } else { value.to_string() };
        let Some((start, end)) = value_span(format, line, column, in_braces) else {
            return Err(EditError::new(index + 1, "expected an option with its value on the same line"));
        };
        text = match (replaces, in_braces) {
            (true, _) => lines.replace(index, &format!("{}{shown}{}", &line[..start], &line[end..])),
            (false, true) => {
                // JSON needs the quotes.
                let quote = if line[column..].starts_with('"') { "\"" } else { "" };
                let separator = if format == Format::Toml { " =" } else { ":" };
                let added = format!(", {quote}{name}{quote}{separator} {shown}");
                lines.replace(index, &format!("{}{added}{}", &line[..end], &line[end..]))
            }
            (false, false) if format == Format::Toml => {
                let indent = &line[..line.len() - line.trim_start().len()];
                lines.insert(index + 1, &[format!("{indent}{name} = {shown}")])
            }
            (false, false) => lines.insert(index + 1, &[format!("{}{name}: {shown}", " ".repeat(column))]),
        };
    }
    Ok(text)
}

/// Returns where the value of the option at `column` begins and ends in its line.
fn value_span(format: Format, line: &str, column: usize, in_braces: bool) -> Option<(usize, usize)> {
    let separator = if format == Format::Toml { '=' } else { ':' };
    let after = line.get(column..)?.find(separator).map(|at| column + at + 1)?;
    let rest = line.get(after..)?;
    let start = after + (rest.len() - rest.trim_start().len());
    let value = line.get(start..)?;
    let length = match value.chars().next()? {
        quote @ ('"' | '\'') => end_of_quoted(value, quote)?,
        '[' => value.find(']')? + 1,
        '{' | '|' | '>' | '&' | '*' | '#' => return None,
        _ => {
            let end = match in_braces {
                true => value.find([',', '}'])?,
                false => value.find(" #").unwrap_or(value.len()),
            };
            value.get(..end)?.trim_end().len()
        }
    };
    (length > 0).then_some((start, start + length))
}

/// Returns the length of a quoted text that ends in its line.
fn end_of_quoted(value: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, character) in value.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if quote == '"' => is_escaped = true,
            _ if character == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(pairs: &[(&str, Json)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn new_key() -> Fields {
        fields(&[("id", "k2".into()), ("sha256", "ff".into()), ("scopes", Json::from(vec!["read", "write"]))])
    }

    fn add(format: Format, text: &str, consumer: &str) -> Result<String, EditError> {
        apply(format, false, text, &Change::Add { consumer: consumer.into(), fields: new_key() })
    }

    fn set(format: Format, text: &str, id: &str) -> Result<String, EditError> {
        let fields = fields(&[("state", "grace".into()), ("expires", "2027-01-01".into())]);
        apply(format, false, text, &Change::Set { consumer: "ann".into(), id: id.into(), fields })
    }

    const YAML: &str = "\
# who may come in
http:
  consumers:
    ann:   # the first
      groups: [ops]
      credentials:
        apiKeys:
          # on her laptop
          - id: k0
            sha256: \"00\"   # a comment

          - {id: k1, sha256: '01', label: \"x, } #\"}
        # no passwords
        basicAuth: [ann]

    # the second
    bob:
      groups:
      - dev
    eve: {}
  routers:
    r: {rule: \"Path(`/`)\"}
";

    #[test]
    fn keys_are_added_to_yaml() {
        let item = |indent: usize| {
            let space = " ".repeat(indent);
            format!("{space}- id: \"k2\"\n{space}  sha256: \"ff\"\n{space}  scopes: [\"read\",\"write\"]\n")
        };
        let after = |text: &str, line: &str, added: &str| {
            assert!(text.contains(line));
            text.replacen(line, &format!("{line}{added}"), 1)
        };
        let list = "          - {id: k1, sha256: '01', label: \"x, } #\"}\n";
        assert_eq!(add(Format::Yaml, YAML, "ann").unwrap(), after(YAML, list, &item(10)));
        let bob = format!("      credentials:\n        apiKeys:\n{}", item(10));
        assert_eq!(add(Format::Yaml, YAML, "bob").unwrap(), after(YAML, "      - dev\n", &bob));
        let eve = YAML.replace("eve: {}\n", &format!("eve:\n{bob}"));
        assert_eq!(add(Format::Yaml, YAML, "eve").unwrap(), eve);
        let zoe = after(YAML, "    eve: {}\n", &format!("    zoe:\n{bob}"));
        assert_eq!(add(Format::Yaml, YAML, "zoe").unwrap(), zoe);
        for (text, expected) in [
            ("", format!("http:\n  consumers:\n    ann:\n{bob}")),
            ("# empty\n", format!("# empty\nhttp:\n  consumers:\n    ann:\n{bob}")),
            ("http:\n", format!("http:\n  consumers:\n    ann:\n{bob}")),
            ("http:\n  consumers: # all\n", format!("http:\n  consumers: # all\n    ann:\n{bob}")),
            ("tls: {}\n", format!("tls: {{}}\nhttp:\n  consumers:\n    ann:\n{bob}")),
        ] {
            assert_eq!(add(Format::Yaml, text, "ann").unwrap(), expected, "{text}");
        }
        let empty = "http:\n  consumers:\n    ann:\n      credentials:\n        apiKeys: []\n";
        let expected = format!("http:\n  consumers:\n    ann:\n{bob}");
        assert_eq!(add(Format::Yaml, empty, "ann").unwrap(), expected);
    }

    #[test]
    fn options_are_set_in_yaml() {
        let block = YAML.replace(
            "          - id: k0\n",
            "          - id: k0\n            expires: \"2027-01-01\"\n            state: \"grace\"\n",
        );
        let inline = YAML.replace("{id: k1,", "{id: k1, expires: \"2027-01-01\", state: \"grace\",");
        let changed = |id| set(Format::Yaml, YAML, id).unwrap();
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&changed("k0")), sorted(&block));
        assert_eq!(changed("k1").len(), inline.len());
        let again =
            changed("k0").replace("\"grace\"", "active # now").replace("\"2027-01-01\"", "'2026-01-01'");
        let replaced = set(Format::Yaml, &again, "k0").unwrap();
        assert!(
            replaced.contains("state: \"grace\" # now\n") && replaced.contains("expires: \"2027-01-01\"\n")
        );
        assert!(set(Format::Yaml, YAML, "k9").unwrap_err().to_string().contains("no key `k9`"));
    }

    #[test]
    fn files_of_consumers_have_a_shorter_path() {
        let change = Change::Add { consumer: "ann".into(), fields: fields(&[("id", "k2".into())]) };
        for (format, dedicated, text, expected) in [
            (
                Format::Yaml,
                true,
                "",
                "consumers:\n  ann:\n    credentials:\n      apiKeys:\n        - id: \"k2\"\n",
            ),
            (
                Format::Yaml,
                false,
                "consumers:\n  bob: {}\n",
                "consumers:\n  bob: {}\n  ann:\n    credentials:\n      apiKeys:\n        - id: \"k2\"\n",
            ),
            (Format::Toml, true, "", "\n[[consumers.ann.credentials.apiKeys]]\nid = \"k2\"\n"),
        ] {
            assert_eq!(apply(format, dedicated, text, &change).unwrap(), expected);
        }
    }

    proptest! {
        /// Whatever a file looks like, an edit changes the intended key and nothing else, or is refused.
        #[test]
        fn an_edit_is_right_or_refused(
            text in "(http|consumers):( \\{\\}|\n  consumers:)?(\n    (ann|bob|'c d'):( # x| \\{\\}| \\{groups: \\[a\\]\\}|\n      groups:\n      - a|\n      credentials:\n        apiKeys:\n        - id: k1\n          sha256: a))*\n?",
            consumer in "ann|bob|c d|null|é",
            sets: bool,
        ) {
            let change = match sets {
                true => Change::Set { consumer, id: "k1".into(), fields: fields(&[("state", "grace".into())]) },
                false => Change::Add { consumer, fields: new_key() },
            };
            if let Ok(edited) = apply(Format::Yaml, false, &text, &change) {
                let lines = |text: &str| text.lines().filter(|line| line.contains("- a") || line.contains("sha256: a")).count();
                prop_assert_eq!(lines(&text), lines(&edited), "{}\n{}", text, edited);
            }
        }

        #[test]
        fn no_text_panics(text in "[a-c:{}\\[\\],\"'|> \n#=.~é-]{0,60}", toml: bool) {
            let format = if toml { Format::Toml } else { Format::Yaml };
            let _ = apply(format, false, &text, &Change::Add { consumer: "a".into(), fields: new_key() });
        }
    }

    #[test]
    fn what_cannot_be_edited_stays() {
        for (text, expected) in [
            ("http: {consumers: {ann: {groups: [a]}}}\n", "line 1: `ann` is written in braces"),
            (
                "http:\n  consumers:\n    ann:\n      credentials:\n        apiKeys: [{id: k0, sha256: '00'}]\n",
                "line 5: the keys are written in brackets",
            ),
            (
                "x: &k\n  - id: k0\n    sha256: a\nhttp:\n  consumers:\n    ann:\n      credentials:\n        apiKeys: *k\n",
                "line 8: the keys of this consumer are written in a form that cannot be edited",
            ),
            ("http:\n  - [\n", "line 1: "),
        ] {
            let error = add(Format::Yaml, text, "ann").unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn line_ends_of_windows_stay() {
        let text = YAML.replace('\n', "\r\n");
        let edited = add(Format::Yaml, &text, "ann").unwrap();
        assert_eq!(edited.replace("\r\n", "\n"), add(Format::Yaml, YAML, "ann").unwrap());
        assert_eq!(edited.matches('\n').count(), edited.matches("\r\n").count());
    }

    #[test]
    fn keys_in_toml_are_added_and_changed() {
        let text = "\
# who may come in
[http.consumers.ann]
groups = [\"ops\"]

# her laptop
[[http.consumers.ann.credentials.apiKeys]]
id = \"k0\" # first
sha256 = \"00\"
state = \"active\"

# the second
[http.consumers.bob]
groups = [\"dev\"]
";
        let item = |name: &str| {
            format!(
                "\n[[http.consumers.{name}.credentials.apiKeys]]\nid = \"k2\"\nsha256 = \"ff\"\nscopes = [\"read\", \"write\"]\n"
            )
        };
        let ann = text.replace("state = \"active\"\n", &format!("state = \"active\"\n{}", item("ann")));
        assert_eq!(add(Format::Toml, text, "ann").unwrap(), ann);
        assert_eq!(add(Format::Toml, text, "bob").unwrap(), format!("{text}{}", item("bob")));
        assert_eq!(add(Format::Toml, text, "a b").unwrap(), format!("{text}{}", item("\"a b\"")));
        let expected = text
            .replace("id = \"k0\" # first\n", "id = \"k0\" # first\nexpires = \"2027-01-01\"\n")
            .replace("\"active\"", "\"grace\"");
        assert_eq!(set(Format::Toml, text, "k0").unwrap(), expected);
        let inline = "[http.consumers.ann]\ncredentials = {apiKeys = [{id = \"k0\", sha256 = \"00\"}]}\n";
        assert!(add(Format::Toml, inline, "ann").unwrap_err().to_string().contains("cannot be edited"));
        let set = set(Format::Toml, inline, "k0").unwrap();
        assert!(set.contains("state = \"grace\"") && set.contains("expires = \"2027-01-01\""), "{set}");
    }
}
