//! Records where each option of an object was written, so that problems point to the option that causes them.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::origin::{ObjectRef, Origin};
use crate::tree::{Node, Value};

/// Where each object was written.
pub type Origins = BTreeMap<ObjectRef, ObjectOrigin>;

/// Maximum number of options per object whose places are kept.
const MAX_OPTIONS: usize = 100;
/// Minimum length of a name or value to be found inside a word.
const MIN_VALUE: usize = 4;

/// Where an object and its options were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectOrigin {
    /// The object's first key.
    pub origin: Origin,
    options: Arc<[OptionOrigin]>,
}

/// An option by its path, such as `tls.domains[0].main`, and where it was written.
type OptionOrigin = (Arc<str>, Origin);

/// Interned paths of options, since most objects have the same ones.
#[derive(Debug, Default)]
pub(crate) struct Paths(HashSet<Arc<str>>);

impl Paths {
    fn shared(&mut self, path: &str) -> Arc<str> {
        match self.0.get(path) {
            Some(known) => known.clone(),
            None => {
                let path: Arc<str> = path.into();
                self.0.insert(path.clone());
                path
            }
        }
    }
}

impl From<Origin> for ObjectOrigin {
    fn from(origin: Origin) -> Self {
        Self { origin, options: Arc::default() }
    }
}

impl fmt::Display for ObjectOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)
    }
}

impl ObjectOrigin {
    /// Collects the places in an object that is about to be decoded.
    pub(crate) fn from_node(node: &Node, paths: &mut Paths) -> Self {
        let mut options = Vec::new();
        collect(node, &mut String::new(), paths, &mut options);
        Self { origin: node.origin.clone(), options: options.into() }
    }

    /// Returns where an option was written: the option itself, its first part, or the value that contains it.
    /// `None` when it was not written. Keys ignore case.
    pub fn option(&self, path: &str) -> Option<&Origin> {
        let is = |known: &OptionOrigin| known.0.eq_ignore_ascii_case(path);
        let within = |outer: &str, inner: &str| {
            let begins = inner.get(..outer.len()).is_some_and(|head| head.eq_ignore_ascii_case(outer));
            begins && matches!(inner.as_bytes().get(outer.len()), Some(b'.' | b'['))
        };
        let mut all = self.options.iter();
        let found = all.clone().find(|known| is(known)).or_else(|| {
            all.clone()
                .find(|known| within(path, &known.0))
                .or_else(|| all.find(|known| within(&known.0, path)))
        });
        found.map(|(_, origin)| origin)
    }

    /// Returns the place of the whole object, for problems caused by missing options.
    pub fn whole(&self) -> Origin {
        match &self.origin {
            Origin::Label { container, .. } => {
                Origin::Label { container: container.clone(), label: "".into() }
            }
            Origin::Tag { service, .. } => Origin::Tag { service: service.clone(), tag: "".into() },
            Origin::Key(key) => {
                let path = self.options.first().map_or("", |(path, _)| path);
                let depth = path.split(['.', '[']).filter(|step| !step.is_empty()).count();
                let end = (0..depth).try_fold(key.len(), |end, _| key[..end].rfind('/')).unwrap_or(key.len());
                Origin::Key(key[..end].into())
            }
            other => other.clone(),
        }
    }

    /// Returns the place of the option that caused a problem: the one that the message names, or whose value
    /// in `object` it quotes. Otherwise it is the only option, unless `is_router`: problems of routers may be
    /// caused by what is missing.
    pub fn locate(&self, message: &str, object: &Json, is_router: bool) -> Origin {
        // The expected value may be that of another option.
        let about = message.split_once(": expected").map_or(message, |(about, _)| about);
        let text = Words::from_message(about);
        let score =
            |(path, _): &&OptionOrigin| text.name_score(path) + text.quote_score(value_at(object, path));
        let best =
            self.options.iter().rev().map(|option| (score(&option), option)).max_by_key(|(score, _)| *score);
        match (best, &*self.options) {
            (Some((1.., (_, origin))), _) => origin.clone(),
            (_, [(_, only)]) if !is_router => only.clone(),
            _ => self.whole(),
        }
    }
}

fn collect(node: &Node, path: &mut String, paths: &mut Paths, into: &mut Vec<OptionOrigin>) {
    if into.len() >= MAX_OPTIONS {
        return;
    }
    let length = path.len();
    let mut below = |step: &dyn fmt::Display, node: &Node, path: &mut String| {
        path.push_str(&step.to_string());
        collect(node, path, paths, into);
        path.truncate(length);
    };
    match &node.value {
        Value::Table(table) if !table.is_empty() => {
            for (key, node) in table.iter() {
                if length == 0 {
                    below(&key, node, path);
                } else if key.bytes().all(|byte| byte.is_ascii_digit()) {
                    below(&format_args!("[{key}]"), node, path);
                } else {
                    below(&format_args!(".{key}"), node, path);
                }
            }
        }
        Value::List(list) if !list.is_empty() => {
            for (index, node) in list.iter().enumerate() {
                below(&format_args!("[{index}]"), node, path);
            }
        }
        _ if length > 0 => into.push((paths.shared(path), node.origin.clone())),
        _ => {}
    }
}

/// Returns the value at a path, ignoring case.
fn value_at<'j>(object: &'j Json, path: &str) -> Option<&'j Json> {
    let steps = path.split(['.', '[']).map(|step| step.trim_end_matches(']'));
    steps.filter(|step| !step.is_empty()).try_fold(object, |value, step| match value {
        Json::Object(members) => members.get(step).or_else(|| {
            members.iter().find(|(key, _)| key.eq_ignore_ascii_case(step)).map(|(_, value)| value)
        }),
        Json::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

/// A message, split into its own words and quoted values.
struct Words {
    whole: String,
    /// The text outside double quotes, in lower case.
    own: String,
    /// The words in quotes or brackets.
    quoted: Vec<String>,
}

impl Words {
    fn from_message(message: &str) -> Self {
        let mut own = String::with_capacity(message.len());
        let mut quoted = vec![String::new()];
        let mut end = None;
        for letter in message.chars() {
            let closing = match letter {
                '"' | '`' => Some(letter),
                '[' => Some(']'),
                '(' => Some(')'),
                _ => None,
            };
            match (end, closing) {
                (Some(end_letter), _) if end_letter == letter => {
                    end = None;
                    quoted.push(String::new());
                }
                (None, Some(closing)) => end = Some(closing),
                (Some(_), _) if letter.is_whitespace() || letter == ',' => quoted.push(String::new()),
                (Some(_), _) => {
                    if let Some(word) = quoted.last_mut() {
                        word.push(letter);
                    }
                }
                (None, None) => {}
            }
            if end != Some('"') {
                own.push(letter.to_ascii_lowercase());
            }
        }
        Self { whole: message.to_owned(), own, quoted }
    }

    /// Rates how precisely an option is named: by its path, its key, in the singular, or by its parent.
    fn name_score(&self, path: &str) -> u32 {
        let path = path.to_ascii_lowercase();
        let keys: Vec<&str> = path.split('.').map(|key| key.split('[').next().unwrap_or(key)).collect();
        let (last, outer) = keys.split_last().map_or(("", &[][..]), |(last, outer)| (*last, outer));
        let is_word = |key: &str| {
            let words = self.own.split(|letter: char| !letter.is_ascii_alphanumeric());
            !key.is_empty() && words.into_iter().any(|word| word == key)
        };
        let own = match last {
            _ if keys.len() > 1 && self.own.contains(&keys.join(".")) => 5,
            last if is_word(last) => 4,
            last if last.len() >= MIN_VALUE && self.own.contains(last.trim_end_matches('s')) => 3,
            _ => 0,
        };
        own + u32::from(outer.iter().any(|key| is_word(key)))
    }

    /// Rates how precisely the value of an option is quoted.
    fn quote_score(&self, value: Option<&Json>) -> u32 {
        let text = match value {
            Some(Json::Array(items)) => {
                return items.iter().map(|item| self.quote_score(Some(item))).max().unwrap_or(0);
            }
            Some(Json::String(text)) => text.clone(),
            Some(Json::Number(number)) => number.to_string(),
            _ => return 0,
        };
        let is = |word: &String| *word == text || word.split_once('@').is_some_and(|(name, _)| name == text);
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let found = !text.is_empty() && self.quoted.iter().any(is)
            || is_number && self.whole.split_whitespace().any(|word| word == text)
            || !is_plain && text.len() >= MIN_VALUE && self.whole.contains(&text);
        4 * u32::from(found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::formats::{labels, yaml};

    fn of_labels(pairs: &[(&str, &str)], path: &[&str]) -> ObjectOrigin {
        let origin = |label: &str| Origin::Label { container: "c".into(), label: label.into() };
        let (node, problems) = labels::read(pairs.iter().copied(), &["traefik"], origin);
        assert_eq!(problems, []);
        ObjectOrigin::from_node(node.get(path).expect("an object"), &mut Paths::default())
    }

    #[test]
    fn router_problems_point_to_the_label_that_causes_them() {
        let at = |option: &str| format!("traefik.http.routers.r.{option}");
        let (points, rule, service) = (at("entrypoints"), at("rule"), at("service"));
        let (middlewares, resolver) = (at("middlewares"), at("tls.certresolver"));
        let origin = of_labels(
            &[
                (&points, "web,priority"),
                (&rule, "Host(`a`"),
                (&service, "rule"),
                (&middlewares, "pw,service"),
                (&resolver, "le"),
            ],
            &["http", "routers", "r"],
        );
        let object = json!({
            "entryPoints": ["web", "priority"], "rule": "Host(`a`", "service": "rule",
            "middlewares": ["pw", "service"], "tls": {"certResolver": "le"}
        });
        for (message, label) in [
            ("invalid rule \"Host(`a`\" at column 9: expected `)`, found the end", rule.as_str()),
            ("the service \"rule@docker\" does not exist", &service),
            ("middleware \"service@docker\" does not exist", &middlewares),
            ("entryPoint \"priority\" doesn't exist", &points),
            ("no valid entryPoint for this router", &points),
            ("tls.certResolver `le` is none of the settings' `certificatesResolvers`", &resolver),
            ("the router priority 5 exceeds the maximum", ""),
            ("it is cursed", ""),
        ] {
            let shown = Origin::Label { container: "c".into(), label: label.into() };
            assert_eq!(origin.locate(message, &object, true), shown, "{message}");
        }
        assert_eq!(
            origin.option("TLS").map(ToString::to_string),
            Some(format!("container c, label {resolver}"))
        );
        assert_eq!(origin.option("priority"), None);
    }

    #[test]
    fn middleware_problems_point_to_the_line_that_causes_them() {
        let text = "sourceRange:\n  - 10.0.0.0/8\n  - 10.0.0.x\nrejectStatusCode: 7\n";
        let node = yaml::read("f.yml", text.as_bytes()).expect("valid YAML");
        let origin = ObjectOrigin::from_node(&node, &mut Paths::default());
        let object = json!({"sourceRange": ["10.0.0.0/8", "10.0.0.x"], "rejectStatusCode": 7});
        let line = |message: &str| origin.locate(message, &object, false).to_string();
        assert_eq!(line("cannot parse CIDRs [10.0.0.x]: no"), "f.yml:3");
        assert_eq!(line("invalid HTTP status code 7"), "f.yml:4");
        assert_eq!(line("invalid network `10.0.0.x`: expected one like `10.0.0.0/8`"), "f.yml:3");
        assert_eq!(line("it is cursed"), "f.yml:1");
        let key = |key: &str| Origin::Key(key.into());
        let options = [("tls.domains[0].main".into(), key("a/traefik/http/routers/r/tls/domains/0/main"))];
        let origin = ObjectOrigin { origin: options[0].1.clone(), options: options.into() };
        assert_eq!(origin.whole(), key("a/traefik/http/routers/r"));
    }
}
