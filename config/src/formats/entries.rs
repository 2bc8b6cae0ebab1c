//! Assembles single entries, such as labels and keys, into one tree; reports contradictions and invalid
//! entries.
//!
//! A lost entry breaks the object that it names, since its value is unknown: a router that lost its
//! middlewares must not serve requests without them.

use crate::Kind;

use crate::origin::{ObjectRef, Origin, Problem};
use crate::tree::{Node, Value};

/// Maximum length of a key in bytes.
pub(super) const MAX_KEY_LEN: usize = 4096;
/// Maximum number of steps in a key.
pub(super) const MAX_KEY_DEPTH: usize = 32;

/// Number of steps that identify an object: `http`, `routers` and its name.
const OBJECT_DEPTH: usize = 3;

/// Why an entry is invalid.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The key exceeds the maximum length.
    #[error("the key is longer than {MAX_KEY_LEN} bytes")]
    KeyTooLong,
    /// The key of a store has too many steps.
    #[error("the key has more than {MAX_KEY_DEPTH} parts")]
    KeyTooDeep,
    /// A label or flag has too many steps.
    #[error("`{key}` has more than {MAX_KEY_DEPTH} parts")]
    LabelTooDeep {
        /// The key without its prefix.
        key: String,
    },
    /// A step is empty.
    #[error("`{key}` has an empty part: expected names between {separator}")]
    EmptyStep {
        /// The key without its prefix or root.
        key: String,
        /// The separator, in the plural.
        separator: &'static str,
    },
    /// The brackets do not contain a number.
    #[error("`{step}` in `{key}`: expected an index like `[0]`")]
    Index {
        /// The step with the brackets.
        step: String,
        /// The key without its prefix.
        key: String,
    },
    /// The value exceeds the maximum length.
    #[error("the value is longer than {limit} bytes")]
    ValueTooLong {
        /// The maximum length.
        limit: usize,
    },
    /// The value is not UTF-8.
    #[error("the value is not valid UTF-8")]
    ValueNotText,
    /// The source has no value for the key.
    #[error(transparent)]
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

/// One entry as written.
pub(super) struct Entry<'a> {
    /// Index of its prefix or root: where two give the same option, the first one wins.
    pub(super) rank: usize,
    /// The complete key.
    pub(super) key: &'a str,
    /// The steps below the prefix, or why they are invalid.
    pub(super) steps: Result<Vec<&'a str>, EntryError>,
    /// The leading steps that could be parsed.
    pub(super) begins: Vec<&'a str>,
    /// The value, or why it is missing.
    pub(super) value: Result<&'a str, EntryError>,
}

/// The result of assembling entries.
#[derive(Clone, Debug)]
pub struct Read {
    /// The tree.
    pub node: Node,
    /// The problems found. A lost entry breaks the object that it names.
    pub problems: Vec<Problem>,
    /// The first lost entry that does not name an object.
    pub astray: Option<Problem>,
}

/// An entry that did not make it into the tree.
struct Lost<'a> {
    key: &'a str,
    begins: Vec<&'a str>,
    message: String,
}

/// Entries by option: the steps in lower case, with a terminator that sorts before all other characters.
type Sorted<'a> = Vec<(String, Entry<'a>)>;

/// Builds the tree.
pub(super) fn assemble<'a>(
    entries: impl IntoIterator<Item = Entry<'a>>,
    origin: impl Fn(&str) -> Origin,
) -> Read {
    let mut sorted: Sorted<'a> = entries.into_iter().map(|entry| (place(&entry), entry)).collect();
    sorted.sort_unstable_by(|(a, one), (b, two)| (a, one.rank, one.key).cmp(&(b, two.rank, two.key)));
    let (mut lost, mut problems) = (Vec::new(), Vec::new());
    let problem = |key: &str, object: Option<ObjectRef>, message: String| Problem {
        origin: origin(key),
        object,
        message,
        excerpt: None,
    };
    let values = settle(sorted, &mut lost, |key, winner| {
        problems.push(problem(key, None, format!("`{winner}` takes precedence")));
    });
    let mut node = Node::table(origin(""));
    fill(&mut node, &values, &mut lost, &origin);
    for Lost { key, begins, .. } in &lost {
        add_placeholder(&mut node, begins, &origin(key));
    }
    let mut astray = None;
    for Lost { key, begins, message } in lost {
        let problem = problem(key, object(&node, &begins), message);
        if problem.object.is_none() && !begins.is_empty() && astray.is_none() {
            astray = Some(problem.clone());
        }
        problems.push(problem);
    }
    Read { node, problems, astray }
}

/// A value that takes effect.
struct Setting<'a> {
    place: String,
    key: &'a str,
    steps: Vec<&'a str>,
    text: &'a str,
}

/// Chooses among entries for the same option: the lowest rank wins. Calls `beaten` for those of a higher
/// rank, with the key that wins.
fn settle<'a>(
    sorted: Sorted<'a>,
    lost: &mut Vec<Lost<'a>>,
    mut beaten: impl FnMut(&str, &str),
) -> Vec<Setting<'a>> {
    let mut values: Vec<Setting<'a>> = Vec::new();
    let mut first_rank = 0;
    for (place, entry) in sorted {
        let Entry { rank, key, steps, begins, value } = entry;
        let (steps, text) = match steps.and_then(|steps| Ok((steps, value?))) {
            Ok(read) => read,
            Err(error) => {
                lost.push(Lost { key, begins, message: error.to_string() });
                continue;
            }
        };
        match values.last() {
            Some(known) if known.place != place => {}
            Some(known) if known.text == text => continue,
            Some(winner) if rank > first_rank => {
                beaten(key, winner.key);
                continue;
            }
            Some(winner) => {
                let message = format!("contradicts `{}`, which sets the same option", winner.key);
                lost.push(Lost { key, begins, message });
                continue;
            }
            None => {}
        }
        first_rank = rank;
        values.push(Setting { place, key, steps, text });
    }
    values
}

/// Adds the values to the tree.
fn fill<'a>(
    node: &mut Node,
    values: &[Setting<'a>],
    lost: &mut Vec<Lost<'a>>,
    origin: &impl Fn(&str) -> Origin,
) {
    let mut above = Vec::new();
    for (number, value) in values.iter().enumerate() {
        // A value next to options comes last: options of many objects outweigh a stray value.
        let next = values.get(number + 1);
        if next.is_some_and(|next| next.place.starts_with(value.place.as_str())) {
            above.push(value);
        } else if let Err(conflict) = node.set(&value.steps, &origin(value.key), value.text) {
            lost.push(Lost { key: value.key, begins: value.steps.clone(), message: conflict.to_string() });
        }
    }
    for value in above {
        if let Err(conflict) = node.set(&value.steps, &origin(value.key), value.text)
            && !node.get(&value.steps).is_some_and(|list| equals_list(list, value.text))
        {
            lost.push(Lost { key: value.key, begins: value.steps.clone(), message: conflict.to_string() });
        }
    }
}

/// Identifies the option of an entry, ignoring case. Ends with a byte below all others, so that nested
/// options share the prefix and follow directly.
fn place(entry: &Entry<'_>) -> String {
    let steps = entry.steps.as_deref().unwrap_or(&entry.begins);
    let mut place = String::with_capacity(entry.key.len() + 1);
    for step in steps {
        place.push_str(step);
        place.push('\0');
    }
    place.make_ascii_lowercase();
    place
}

/// Returns true when a list written entry by entry has exactly the elements of this comma-separated list.
fn equals_list(list: &Node, text: &str) -> bool {
    let Some(items) = list.as_table().and_then(|table| table.as_list()) else { return false };
    let written = items.iter().map(|(_, node)| node.as_leaf());
    written.eq(text.split(',').map(|item| Some(item.trim())))
}

/// Adds a broken router or certificate of which nothing else is known: a router must hold its traffic, and
/// certificates are identified by their position.
fn add_placeholder(node: &mut Node, begins: &[&str], origin: &Origin) {
    if let Some(path) = begins.get(..OBJECT_DEPTH)
        && kind(path).is_some_and(|kind| kind.is_router() || kind == Kind::Certificate)
        && node.get(path).is_none()
    {
        let _ = node.set(path, origin, "");
    }
}

/// Returns the object of an entry, in the spelling of the tree.
fn object(node: &Node, begins: &[&str]) -> Option<ObjectRef> {
    let path = begins.get(..OBJECT_DEPTH)?;
    let (kind, name) = (kind(path)?, path[OBJECT_DEPTH - 1]);
    let table = match node.get(&path[..OBJECT_DEPTH - 1]).map(|section| &section.value) {
        Some(Value::Table(table)) => Some(table),
        _ => None,
    };
    if kind == Kind::Certificate {
        let place = table?.as_list()?.iter().position(|(key, _)| *key == name)?;
        return Some(ObjectRef { kind, name: place.to_string() });
    }
    let known = table.and_then(|table| table.spelling(name));
    Some(ObjectRef { kind, name: known.unwrap_or(name).to_owned() })
}

fn kind(path: &[&str]) -> Option<Kind> {
    Kind::of_section(path.first()?, path.get(1)?)
}
