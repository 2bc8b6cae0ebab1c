//! Indirect values: `${NAME}` is an environment variable, and `file:/run/secrets/x` the content of a file.

use std::fs::File;
use std::io::{self, Read};

use tidegate_config::Problem;
use tidegate_config::tree::{Node, Value};

/// Maximum size of a file used as a value, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Problems found during expansion.
#[derive(Default)]
pub(super) struct Expanded {
    /// Values that are kept as written.
    pub(super) warnings: Vec<Problem>,
    /// Values that must not be kept as written.
    pub(super) problems: Vec<Problem>,
}

/// Expands all values of a tree. `variable` looks up environment variables.
///
/// `${NAME:-text}` uses the text if the variable is not set; `$${` is a literal `${`. A variable that is not
/// set is kept as written, as in Traefik, with a warning. Below `cluster`, which is not in Traefik and
/// contains a secret, that is an error, and so is an unreadable file. One trailing line break of a file is
/// removed.
pub(super) fn expand(node: &mut Node, variable: &dyn Fn(&str) -> Option<String>) -> Expanded {
    let mut expanded = Expanded::default();
    walk(node, variable, &mut expanded, false);
    expanded
}

fn walk(
    node: &mut Node,
    variable: &dyn Fn(&str) -> Option<String>,
    expanded: &mut Expanded,
    in_cluster: bool,
) {
    match &mut node.value {
        Value::Null => {}
        Value::Leaf(text) => {
            let outcome = value(text, variable);
            let problem =
                |message| Problem { origin: node.origin.clone(), object: None, message, excerpt: None };
            match outcome {
                Ok(Some(expanded)) => *text = expanded,
                Ok(None) => {}
                Err(ExpandError::Variable(error)) if !in_cluster => {
                    expanded.warnings.push(problem(format!("{error}: the value stays as it is written")));
                }
                Err(error) => expanded.problems.push(problem(error.to_string())),
            }
        }
        Value::List(list) => list.iter_mut().for_each(|node| walk(node, variable, expanded, in_cluster)),
        Value::Table(table) => table.iter_mut().for_each(|(key, node)| {
            walk(node, variable, expanded, in_cluster || key.eq_ignore_ascii_case("cluster"));
        }),
    }
}

/// Why a value cannot be expanded.
#[derive(Debug, thiserror::Error)]
enum ExpandError {
    #[error(transparent)]
    Variable(#[from] VariableError),
    #[error("the file `{path}` of this value cannot be read: {source}")]
    File { path: String, source: io::Error },
    #[error("the file `{path}` of this value cannot be read: it has more than {MAX_FILE_SIZE} bytes")]
    FileTooLarge { path: String },
}

/// Why an environment variable cannot be expanded.
#[derive(Debug, thiserror::Error)]
enum VariableError {
    #[error("`{0}` has a `${{` without its `}}`")]
    Open(String),
    #[error("`${{{0}}}` names no environment variable; write `$${{` for a plain `${{`")]
    Name(String),
    #[error("the environment variable `{0}` is not set")]
    NotSet(String),
}

/// Returns the expanded text; `None` if there is nothing to expand.
fn value(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, ExpandError> {
    let expanded = match text.contains("${") {
        true => Some(variables(text, variable)?),
        false => None,
    };
    match expanded.as_deref().unwrap_or(text).strip_prefix("file:") {
        Some(path) => contents(path).map(Some),
        None => Ok(expanded),
    }
}

fn variables(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, VariableError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let (inside, after) =
            rest[at + 2..].split_once('}').ok_or_else(|| VariableError::Open(text.to_owned()))?;
        let (name, default) =
            inside.split_once(":-").map_or((inside, None), |(name, text)| (name, Some(text)));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(VariableError::Name(inside.to_owned()));
        }
        let value = variable(name).or_else(|| default.map(str::to_owned));
        out.push_str(&value.ok_or_else(|| VariableError::NotSet(name.to_owned()))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn contents(path: &str) -> Result<String, ExpandError> {
    let path = path.strip_prefix("//").unwrap_or(path);
    let bad = |source| ExpandError::File { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(bad)?;
    file.take(MAX_FILE_SIZE + 1).read_to_string(&mut text).map_err(bad)?;
    if text.len() as u64 > MAX_FILE_SIZE {
        return Err(ExpandError::FileTooLarge { path: path.to_owned() });
    }
    let end =
        text.strip_suffix('\n').map_or(text.len(), |rest| rest.strip_suffix('\r').unwrap_or(rest).len());
    text.truncate(end);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tidegate_config::Origin;

    use super::*;

    /// Returns the value after the expansion, and the message about it; empty if there is none.
    fn expanded(text: &str) -> (String, String) {
        let mut node = Node::leaf(Origin::Internal, text);
        let variable = |name: &str| (name == "HOST").then(|| "h.test".to_owned());
        let Expanded { mut warnings, mut problems } = expand(&mut node, &variable);
        let problem = problems.pop().or_else(|| warnings.pop());
        (
            node.as_leaf().unwrap_or_default().to_owned(),
            problem.map(|problem| problem.message).unwrap_or_default(),
        )
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, expected) in [
            ("http://${HOST}:80/${HOST}", "http://h.test:80/h.test"),
            ("${NONE:-x y}", "x y"),
            ("$${HOST} $HOST {{ .Name }}", "${HOST} $HOST {{ .Name }}"),
            ("plain", "plain"),
        ] {
            assert_eq!(expanded(text), (expected.to_owned(), String::new()));
        }
        assert_eq!(
            expanded("${NONE}").1,
            "the environment variable `NONE` is not set: the value stays as it is written"
        );
        assert!(expanded("${HOST").1.contains("without its `}`"));
        assert!(expanded("${a b}").1.contains("names no environment variable"));
    }

    #[test]
    fn files_are_read_without_their_last_line_break() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        writeln!(file, "s3cret").expect("written");
        for scheme in ["file:", "file://"] {
            let text = format!("{scheme}{}", file.path().display());
            assert_eq!(expanded(&text), ("s3cret".to_owned(), String::new()));
        }
        assert!(expanded("file:/no/such/file").1.contains("cannot be read"));
    }
}
