//! What policies define, and which functions call which.
//!
//! Rego has no recursion. The evaluator notices when a rule needs itself, but not when a function calls itself, which
//! would exhaust the stack: so this is refused before anything is evaluated.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Maximum number of rules of all policies of a middleware.
pub(super) const MAX_RULES: usize = 2000;

/// Why policies are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OutlineError {
    #[error("the policies have {0} rules: the maximum is {MAX_RULES}")]
    TooManyRules(usize),
    #[error("the function `{0}` calls itself, which Rego does not allow")]
    Recursion(String),
    #[error("an expression is nested too deeply")]
    TooDeep,
}

/// What policies define.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// Paths of all rules: `data.app.allow`.
    pub(super) rules: BTreeSet<String>,
    /// Paths of all packages: `data.app`.
    pub(super) packages: BTreeSet<String>,
}

/// A module, as far as names in it have a meaning.
struct Module<'a> {
    package: Vec<&'a str>,
    /// Imported paths by the name that they have in the module.
    imports: BTreeMap<&'a str, Vec<&'a str>>,
}

impl Outline {
    /// Reads the syntax tree of the evaluator, in JSON.
    pub(super) fn read(tree: &str) -> Result<Self, OutlineError> {
        let tree: Value = serde_json::from_str(tree).map_err(|_| OutlineError::TooDeep)?;
        let mut outline = Self::default();
        let mut calls: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut count = 0;
        for entry in tree.as_array().into_iter().flatten() {
            let source = entry.pointer("/source/contents").and_then(Value::as_str).unwrap_or_default();
            let Some(ast) = entry.get("ast") else { continue };
            let module = Module::read(ast, source);
            outline.packages.insert(joined(&module.package));
            for rule in ast.get("rules").and_then(Value::as_array).into_iter().flatten() {
                count += 1;
                let head = rule.pointer("/Spec/head").and_then(Value::as_object);
                let head = head.and_then(|head| head.iter().next());
                let refr =
                    head.and_then(|(_, head)| head.get("refr")).or_else(|| rule.pointer("/Default/refr"));
                let Some(path) = refr.and_then(path) else { continue };
                let name = joined(module.package.iter().copied().chain(path));
                if head.is_some_and(|(kind, _)| kind == "Func") {
                    module.calls(rule, calls.entry(name.clone()).or_default());
                }
                outline.rules.insert(name);
            }
        }
        match recursive(&calls) {
            Some(name) => Err(OutlineError::Recursion(name.to_owned())),
            None if count > MAX_RULES => Err(OutlineError::TooManyRules(count)),
            None => Ok(outline),
        }
    }
}

impl<'a> Module<'a> {
    fn read(ast: &'a Value, source: &'a str) -> Self {
        let package = ast.pointer("/package/refr").and_then(path).unwrap_or_default();
        let imports = ast.get("imports").and_then(Value::as_array).into_iter().flatten();
        let imports = imports.filter_map(|import| {
            let path = path(import.get("refr")?)?;
            let name = import.get("as").filter(|name| !name.is_null());
            let name = name.and_then(|span| text(span, source)).or_else(|| path.last().copied())?;
            Some((name, path))
        });
        Self { package: ["data"].into_iter().chain(package).collect(), imports: imports.collect() }
    }

    /// Collects the names of the functions that are called, or named in place of others (`with f as g`).
    fn calls(&self, tree: &Value, found: &mut BTreeSet<String>) {
        match tree {
            Value::Object(members) => {
                for (name, value) in members {
                    if matches!(&**name, "fcn" | "as")
                        && let Some(path) = path(value)
                    {
                        found.insert(self.resolved(&path));
                    }
                    self.calls(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.calls(value, found)),
            _ => {}
        }
    }

    fn resolved(&self, path: &[&str]) -> String {
        match path.split_first() {
            Some((&"data", _)) => joined(path),
            Some((first, rest)) if self.imports.contains_key(first) => {
                joined(self.imports.get(first).into_iter().flatten().chain(rest))
            }
            _ => joined(self.package.iter().chain(path)),
        }
    }
}

fn joined<T: AsRef<str>>(path: impl IntoIterator<Item = T>) -> String {
    let mut joined = String::new();
    for part in path {
        if !joined.is_empty() {
            joined.push('.');
        }
        joined.push_str(part.as_ref());
    }
    joined
}

/// Returns the parts of a reference; `None` for other expressions.
fn path(expression: &Value) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let mut at = expression;
    loop {
        let (kind, value) = at.as_object()?.iter().next()?;
        match &**kind {
            "Var" => {
                parts.push(value.get("value")?.as_str()?);
                parts.reverse();
                return Some(parts);
            }
            "RefDot" => parts.push(value.pointer("/field/1")?.as_str()?),
            "RefBrack" => parts.push(value.pointer("/index/String/value")?.as_str()?),
            _ => return None,
        }
        at = value.get("refr")?;
    }
}

/// Returns the text of a span.
fn text<'a>(span: &Value, source: &'a str) -> Option<&'a str> {
    let place = |name: &str| span.get(name)?.as_u64().and_then(|place| usize::try_from(place).ok());
    source.get(place("start")?..place("end")?)
}

/// Returns a function that calls itself, directly or through others.
fn recursive(calls: &BTreeMap<String, BTreeSet<String>>) -> Option<&str> {
    // Functions that call no others, or only such ones, are removed until no more are left.
    let mut left = calls.clone();
    loop {
        let before = left.len();
        let names: BTreeSet<String> = left.keys().cloned().collect();
        left.retain(|_, called| called.iter().any(|name| names.contains(name)));
        if left.len() == before {
            break;
        }
    }
    // From any of the rest, calls lead into a circle.
    let mut seen = BTreeSet::new();
    let mut at = left.keys().next()?;
    while seen.insert(at) {
        at = left.get(at)?.iter().find(|name| left.contains_key(*name))?;
    }
    calls.get_key_value(at).map(|(name, _)| &**name)
}
