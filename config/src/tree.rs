//! The tree that labels, tags, keys, environment variables, flags, YAML and TOML are parsed into.
//!
//! A leaf is always text: numbers and booleans are parsed by the type that is decoded, so that `5` means the
//! same in a label and in a file. A list written key by key (`domains[0].main`) is a table with the keys `0`,
//! `1`, ….

use std::fmt;

use foldhash::HashMap;

use crate::origin::Origin;

/// Minimum length of tables that use an index.
const MIN_INDEXED_LEN: usize = 16;

/// A value, and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it was written: its key, or the value itself in a list.
    pub origin: Origin,
    /// What was written.
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Nothing (`key:` in YAML): equivalent to an absent key.
    #[default]
    Null,
    /// Text, a number or a boolean, as written.
    Leaf(String),
    /// A sequence.
    List(Vec<Node>),
    /// Values by key.
    Table(Table),
}

/// Values by key, in the order of writing. Keys keep their spelling; see [`Table::get`] for comparisons.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<(String, Node)>,
    /// Positions by lower-case key, for long tables.
    index: Option<Box<HashMap<String, usize>>>,
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

/// Some values of a table with their keys.
pub(crate) type Items<'t> = Vec<(&'t str, &'t Node)>;

/// A step from a node to a child.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// An element of a list.
    Index(usize),
}

/// Formats a path as people write it: `tls.domains[0].main`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a>(pub &'a [Step]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if position > 0 && is_index(key) => write!(f, "[{key}]")?,
                Step::Key(key) if position > 0 => write!(f, ".{key}")?,
                Step::Key(key) => f.write_str(key)?,
            }
        }
        Ok(())
    }
}

impl Node {
    /// Creates a leaf.
    pub fn leaf(origin: Origin, text: impl Into<String>) -> Self {
        Self { origin, value: Value::Leaf(text.into()) }
    }

    /// Creates an empty table.
    pub fn table(origin: Origin) -> Self {
        Self { origin, value: Value::Table(Table::default()) }
    }

    /// Returns the table, if it is one.
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Returns the text, if it is a leaf.
    pub fn as_leaf(&self) -> Option<&str> {
        match &self.value {
            Value::Leaf(text) => Some(text),
            _ => None,
        }
    }

    /// Returns true for null and empty tables.
    pub fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Table(table) => table.is_empty(),
            _ => false,
        }
    }

    /// Returns the node at a path of keys, ignoring case.
    pub fn get(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.as_table()?.get(key))
    }

    /// Like [`Node::get`].
    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, key| match &mut node.value {
            Value::Table(table) => table.get_mut(key),
            _ => None,
        })
    }

    /// Sets a leaf at a path, creating tables as needed. Keys ignore case, and the first spelling is kept.
    ///
    /// Where a leaf and a table meet, the table wins if the leaf is empty or `true`; any other value is an
    /// error with the path where they meet.
    pub fn set(&mut self, path: &[&str], origin: &Origin, text: &str) -> Result<(), Conflict> {
        let mut node = self;
        for (depth, key) in path.iter().enumerate() {
            if node.as_leaf().is_some_and(is_affirmative) || node.value == Value::Null {
                node.value = Value::Table(Table::default());
            }
            let Value::Table(table) = &mut node.value else {
                return Err(Conflict { path: path[..depth].join("."), other: node.origin.clone() });
            };
            node = table.entry(key, origin);
        }
        match &node.value {
            Value::Table(table) if !table.is_empty() && is_affirmative(text) => Ok(()),
            Value::Table(table) if !table.is_empty() => {
                Err(Conflict { path: path.join("."), other: node.origin.clone() })
            }
            _ => {
                *node = Self::leaf(origin.clone(), text);
                Ok(())
            }
        }
    }

    /// Removes the node at a path of keys, ignoring case.
    pub fn remove(&mut self, path: &[&str]) -> Option<Node> {
        let (last, front) = path.split_last()?;
        let mut node = self;
        for key in front {
            let Value::Table(table) = &mut node.value else { return None };
            node = table.get_mut(key)?;
        }
        let Value::Table(table) = &mut node.value else { return None };
        table.remove(last)
    }

    /// Removes the node at a path from an error. Returns true if it was present.
    pub(crate) fn remove_steps(&mut self, steps: &[Step]) -> bool {
        let Some((first, rest)) = steps.split_first() else { return false };
        match (&mut self.value, first) {
            (Value::Table(table), Step::Key(key)) if rest.is_empty() => table.remove_exact(key).is_some(),
            (Value::Table(table), Step::Key(key)) => table
                .entries
                .iter_mut()
                .find(|(name, _)| name == key)
                .is_some_and(|(_, node)| node.remove_steps(rest)),
            (Value::List(list), Step::Index(index)) if rest.is_empty() && *index < list.len() => {
                list.remove(*index);
                true
            }
            (Value::List(list), Step::Index(index)) => {
                list.get_mut(*index).is_some_and(|node| node.remove_steps(rest))
            }
            _ => false,
        }
    }

    /// Overlays this node with `other`, whose leaves and lists win; tables are merged.
    pub fn overlay(&mut self, other: Node) {
        match (&mut self.value, other.value) {
            (Value::Table(below), Value::Table(above)) => {
                for (key, node) in above.entries {
                    match below.get_mut(&key) {
                        Some(existing) => existing.overlay(node),
                        None => {
                            below.push(key, node);
                        }
                    }
                }
            }
            (_, Value::Null) => {}
            // `--api` over a file's `api: {dashboard: false}` keeps the file's options.
            (Value::Table(below), Value::Leaf(text)) if is_affirmative(&text) && !below.is_empty() => {}
            (value, above) => {
                *value = above;
                self.origin = other.origin;
            }
        }
    }

    /// Returns all leaves with their paths (`a.b[0].c`), in order. Empty tables and lists become empty texts.
    pub fn flatten(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        flatten_into(self, &mut Vec::new(), &mut all);
        all
    }
}

/// A leaf and a table at the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The path.
    pub path: String,
    /// Where the other one was written.
    pub other: Origin,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` has a value here and options in {}", self.path, self.other)
    }
}

impl Table {
    /// Returns the value of a key: the one with this spelling, or else the first that differs only in case.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.position(key).map(|position| &self.entries[position].1)
    }

    /// Like [`Table::get`].
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.position(key).map(|position| &mut self.entries[position].1)
    }

    /// Returns a key as it is spelt here, compared as in [`Table::get`].
    pub(crate) fn spelling(&self, key: &str) -> Option<&str> {
        self.position(key).map(|position| self.entries[position].0.as_str())
    }

    /// Adds a value under a new key. Returns false, without adding it, when this exact spelling is present.
    pub fn push(&mut self, key: String, node: Node) -> bool {
        let clash = self.position(&key);
        if clash.is_some_and(|position| self.entries[position].0 == key) {
            return false;
        }
        if self.entries.len() >= MIN_INDEXED_LEN {
            let entries = &self.entries;
            let index = self.index.get_or_insert_with(|| {
                // The first of several spellings wins, so later ones are inserted before it.
                let positions = entries.iter().enumerate().rev();
                Box::new(positions.map(|(position, (key, _))| (key.to_ascii_lowercase(), position)).collect())
            });
            index.entry(key.to_ascii_lowercase()).or_insert(entries.len());
        }
        self.entries.push((key, node));
        true
    }

    /// Removes a value; keys are compared as in [`Table::get`].
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        self.position(key).map(|position| self.take(position))
    }

    /// Returns the keys and values in the order of writing.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Node)> {
        self.entries.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// Like [`Table::iter`].
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&str, &mut Node)> {
        self.entries.iter_mut().map(|(key, node)| (key.as_str(), node))
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns true if there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the values by index if all keys are numbers, as in lists from labels, variables and keys.
    pub(crate) fn as_list(&self) -> Option<Items<'_>> {
        let (items, strays) = self.items();
        strays.is_empty().then_some(items)
    }

    /// Returns the values by index, and those whose keys are not numbers.
    pub(crate) fn items(&self) -> (Items<'_>, Items<'_>) {
        let (mut items, mut strays) = (Vec::with_capacity(self.len()), Vec::new());
        for (key, node) in self.iter() {
            match key.parse::<u64>() {
                Ok(number) if is_index(key) => items.push((number, key, node)),
                _ => strays.push((key, node)),
            }
        }
        items.sort_by_key(|(number, ..)| *number);
        (items.into_iter().map(|(_, key, node)| (key, node)).collect(), strays)
    }

    /// Returns true if any key is an index, as in a list written entry by entry.
    pub(crate) fn has_indexes(&self) -> bool {
        self.iter().any(|(key, _)| is_index(key))
    }

    fn entry(&mut self, key: &str, origin: &Origin) -> &mut Node {
        let position = self.position(key).unwrap_or_else(|| {
            self.push(key.to_owned(), Node { origin: origin.clone(), value: Value::Null });
            self.entries.len() - 1
        });
        &mut self.entries[position].1
    }

    fn position(&self, key: &str) -> Option<usize> {
        let Some(index) = &self.index else {
            let exact = self.entries.iter().position(|(name, _)| name == key);
            return exact
                .or_else(|| self.entries.iter().position(|(name, _)| name.eq_ignore_ascii_case(key)));
        };
        let first = *index.get(&key.to_ascii_lowercase())?;
        if self.entries[first].0 == key {
            return Some(first);
        }
        // Another spelling comes first; this one may follow.
        let exact = self.entries[first..].iter().position(|(name, _)| name == key);
        Some(exact.map_or(first, |offset| first + offset))
    }

    fn remove_exact(&mut self, key: &str) -> Option<Node> {
        let position = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.take(position))
    }

    fn take(&mut self, position: usize) -> Node {
        // Later positions change; the index is rebuilt when it is next needed.
        self.index = None;
        self.entries.remove(position).1
    }
}

/// Returns true for values that enable an object with its defaults: `true` and the empty text.
pub(crate) fn is_affirmative(text: &str) -> bool {
    text.is_empty() || text.eq_ignore_ascii_case("true")
}

fn is_index(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit())
}

fn flatten_into(node: &Node, path: &mut Vec<Step>, all: &mut Vec<(String, String)>) {
    match &node.value {
        Value::Null => {}
        Value::Leaf(text) => all.push((Path(path).to_string(), text.clone())),
        Value::List(list) if list.is_empty() => all.push((Path(path).to_string(), String::new())),
        Value::Table(table) if table.is_empty() => all.push((Path(path).to_string(), String::new())),
        Value::List(list) => {
            for (index, node) in list.iter().enumerate() {
                path.push(Step::Index(index));
                flatten_into(node, path, all);
                path.pop();
            }
        }
        Value::Table(table) => {
            for (key, node) in table.iter() {
                path.push(Step::Key(key.to_owned()));
                flatten_into(node, path, all);
                path.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(leaves: &[(&str, &str)]) -> Node {
        let mut node = Node::table(Origin::Internal);
        for (key, value) in leaves {
            let steps: Vec<&str> = key.split('.').collect();
            node.set(&steps, &Origin::Key((*key).into()), value).expect("no conflict");
        }
        node
    }

    fn leaves(node: &Node) -> Vec<String> {
        node.flatten().into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn keys_ignore_case() {
        let tree = node(&[("Http.Routers.R.rule", "a"), ("http.routers.r.Service", "s")]);
        assert_eq!(leaves(&tree), ["Http.Routers.R.rule=a", "Http.Routers.R.Service=s"]);
        assert_eq!(tree.get(&["HTTP", "routers", "r", "RULE"]).and_then(Node::as_leaf), Some("a"));
    }

    #[test]
    fn an_exact_spelling_is_preferred() {
        for count in [0, 40] {
            let mut table = Table::default();
            for index in 0..count {
                assert!(table.push(format!("k{index}"), Node::leaf(Origin::Internal, "")));
            }
            assert!(table.push("Foo".into(), Node::leaf(Origin::Internal, "1")));
            assert!(table.push("foo".into(), Node::leaf(Origin::Internal, "2")));
            assert!(!table.push("foo".into(), Node::leaf(Origin::Internal, "3")));
            let found = |key: &str, table: &Table| table.get(key).and_then(Node::as_leaf).map(str::to_owned);
            assert_eq!(found("foo", &table).as_deref(), Some("2"));
            assert_eq!(found("FOO", &table).as_deref(), Some("1"));
            table.remove("Foo");
            assert_eq!(found("FOO", &table).as_deref(), Some("2"));
            assert!(table.push("bar".into(), Node::leaf(Origin::Internal, "4")));
            assert_eq!(found("BAR", &table).as_deref(), Some("4"));
        }
    }

    #[test]
    fn options_win_over_true_at_the_same_path() {
        let yes_first = node(&[("m.compress", "true"), ("m.compress.min", "1")]);
        let yes_last = node(&[("m.compress.min", "1"), ("m.compress", "true")]);
        assert_eq!(leaves(&yes_first), ["m.compress.min=1"]);
        assert_eq!(leaves(&yes_last), ["m.compress.min=1"]);
        let mut other = node(&[("m.compress", "gzip")]);
        let conflict = other.set(&["m", "compress", "min"], &Origin::Internal, "1").expect_err("a conflict");
        assert_eq!(conflict.to_string(), "`m.compress` has a value here and options in key m.compress");
    }

    #[test]
    fn overlays_win_key_by_key() {
        let mut below = node(&[("log.level", "INFO"), ("log.format", "json"), ("api.dashboard", "false")]);
        below.overlay(node(&[("LOG.level", "DEBUG"), ("api", "true"), ("ping", "true")]));
        assert_eq!(
            leaves(&below),
            ["log.level=DEBUG", "log.format=json", "api.dashboard=false", "ping=true"]
        );
        assert_eq!(
            below.get(&["log", "level"]).map(|node| &node.origin),
            Some(&Origin::Key("LOG.level".into()))
        );
    }

    #[test]
    fn paths_are_formatted_as_people_write_them() {
        let steps =
            [Step::Key("tls".into()), Step::Key("domains".into()), Step::Key("0".into()), Step::Index(2)];
        assert_eq!(Path(&steps).to_string(), "tls.domains[0][2]");
    }
}
