//! Regular expressions and replacements in the syntax of Go's `regexp`, as users of Traefik write them.

use regex::bytes::{Captures, Regex, RegexBuilder};
use tidegate_core::BuildError;

/// Compiles an expression in Go's syntax.
/// As in Go, and unlike the `regex` crate, `\d`, `\w`, `\s` and `\b` are ASCII only, a brace that does not
/// start a repetition is literal, and `[`, `&&`, `--` have no meaning inside a class.
/// have no meaning inside a class: all of this is so in Go and not in Rust's own syntax.
pub fn compile(expression: &str) -> Result<Regex, BuildError> {
    RegexBuilder::new(&translate(expression)).build().map_err(|error| {
        let text = error.to_string();
        let reason = text.rsplit("error: ").next().unwrap_or(&text).trim();
        BuildError::new(format!("invalid regular expression `{expression}`: {}", plain_reason(reason)))
    })
}

/// Explains a parser error without the parser's jargon.
fn plain_reason(reason: &str) -> &str {
    match reason {
        "unclosed group" => "a closing `)` is missing",
        "unopened group" => "a `)` closes nothing",
        "unclosed character class" => "a closing `]` is missing",
        "repetition operator missing expression" => "there is nothing to repeat before `*`, `+`, `?` or `{`",
        other => other,
    }
}

/// A replacement in which `$1`, `${1}` and `${name}` refer to groups and `$$` is a dollar sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Template {
    /// Parses a replacement for `regex`. As in Go, a name is as long as possible, so `$1x` is the group `1x`;
    /// a group that does not exist is empty; a `$` that does not start a name is literal.
    pub fn new(text: &str, regex: &Regex) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            push_text(&mut pieces, &rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                push_text(&mut pieces, "$");
                rest = after;
            } else if let Some((name, after)) = group_name(rest) {
                pieces.extend(group_index(name, regex).map(Piece::Group));
                rest = after;
            } else {
                push_text(&mut pieces, "$");
            }
        }
        push_text(&mut pieces, rest);
        Self(pieces)
    }

    /// Replaces every match in the text (Go's `ReplaceAllString`); `None` when there is no match.
    pub fn replace_all(&self, regex: &Regex, text: &str) -> Option<String> {
        let mut matches = regex.captures_iter(text.as_bytes()).peekable();
        matches.peek()?;
        let mut replaced = Vec::with_capacity(text.len() + 16);
        let mut copied = 0;
        for captures in matches {
            let Some(whole) = captures.get(0) else { continue };
            replaced.extend_from_slice(&text.as_bytes()[copied..whole.start()]);
            self.expand(&captures, &mut replaced);
            copied = whole.end();
        }
        replaced.extend_from_slice(&text.as_bytes()[copied..]);
        Some(
            String::from_utf8(replaced)
                .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
        )
    }

    fn expand(&self, captures: &Captures<'_>, to: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => to.extend_from_slice(text.as_bytes()),
                Piece::Group(index) => {
                    to.extend_from_slice(captures.get(*index).map_or(b"", |m| m.as_bytes()))
                }
            }
        }
    }
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(last)) => last.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

/// Returns the name after a `$`, with or without braces, and the rest of the text.
fn group_name(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('{');
    let from = inner.unwrap_or(text);
    let end = from.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(from.len());
    let (name, after) = from.split_at(end);
    if name.is_empty() {
        return None;
    }
    if inner.is_some() { after.strip_prefix('}').map(|after| (name, after)) } else { Some((name, after)) }
}

fn group_index(name: &str, regex: &Regex) -> Option<usize> {
    let is_number = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if is_number {
        return name.parse().ok().filter(|&index| index < regex.captures_len());
    }
    regex.capture_names().position(|known| known == Some(name))
}

const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Za-z_";
const SPACE: &str = r"\t\n\f\r ";

/// Translates an expression from Go's syntax to that of the `regex` crate.
fn translate(expression: &str) -> String {
    let mut out = String::with_capacity(expression.len() + 16);
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '\\' => translate_escape(rest, &mut out, false),
            '[' => translate_class(rest, &mut out),
            '{' if !is_repetition(rest) => {
                out.push_str(r"\{");
                &rest[1..]
            }
            _ => {
                out.push(c);
                &rest[c.len_utf8()..]
            }
        };
    }
    out
}

/// Translates the escape at the start of `text` and returns the rest.
fn translate_escape<'a>(text: &'a str, out: &mut String, in_class: bool) -> &'a str {
    let Some(c) = text[1..].chars().next() else {
        out.push('\\');
        return "";
    };
    let after = &text[1 + c.len_utf8()..];
    let set = match c {
        'd' | 'D' => DIGIT,
        'w' | 'W' => WORD,
        's' | 'S' => SPACE,
        'b' | 'B' if !in_class => {
            out.push_str(if c == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" });
            return after;
        }
        'C' if !in_class => {
            out.push_str("(?s-u:.)");
            return after;
        }
        'Q' if !in_class => {
            let (literal, rest) = after.split_once(r"\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(literal));
            return rest;
        }
        '<' | '>' => {
            out.push(c);
            return after;
        }
        _ => {
            out.push('\\');
            out.push(c);
            return after;
        }
    };
    match (in_class, c.is_ascii_lowercase()) {
        (true, true) => out.push_str(set),
        (_, lower) => {
            out.push_str(if lower { "[" } else { "[^" });
            out.push_str(set);
            out.push(']');
        }
    }
    after
}

/// Translates the character class at the start of `text` and returns the rest.
fn translate_class<'a>(text: &'a str, out: &mut String) -> &'a str {
    out.push('[');
    let mut rest = &text[1..];
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    let mut first = true;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            ']' if !first => {
                out.push(']');
                return after;
            }
            '\\' => translate_escape(rest, out, true),
            '[' if after.starts_with(':') && after.contains(":]") => {
                let end = after.find(":]").map_or(0, |at| at + 2);
                out.push('[');
                out.push_str(&after[..end]);
                &after[end..]
            }
            '-' if after.starts_with('-') => {
                out.push_str(r"\-");
                after
            }
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(c);
                after
            }
            _ => {
                out.push(c);
                after
            }
        };
        first = false;
    }
    ""
}

/// Returns true when `text` starts with `{n}`, `{n,}` or `{n,m}`.
fn is_repetition(text: &str) -> bool {
    let Some((inner, _)) = text[1..].split_once('}') else { return false };
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match inner.split_once(',') {
        None => number(inner),
        Some((from, to)) => number(from) && (to.is_empty() || number(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replaced(expression: &str, template: &str, text: &str) -> Option<String> {
        let regex = compile(expression).unwrap();
        Template::new(template, &regex).replace_all(&regex, text)
    }

    #[test]
    fn replacements_follow_go() {
        for (expression, template, text, expected) in [
            ("^/api/(.*)", "/$1", "/api/x", "/x"),
            ("^/api/(.*)", "/${1}x", "/api/a", "/ax"),
            ("^/api/(.*)", "/$1x", "/api/a", "/"),
            ("^/api/(.*)", "/$$1", "/api/a", "/$1"),
            ("^/api/(.*)", "/$", "/api/a", "/$"),
            ("^/api/(.*)", "/${1", "/api/a", "/${1"),
            ("(?P<v>v[0-9])", "<$v>", "/v1/v2", "/<v1>/<v2>"),
            ("(?<v>v)", "${v}", "v", "v"),
            ("a", "$2", "bab", "bb"),
            ("x*", "-", "abxd", "-a-b-d-"),
        ] {
            assert_eq!(
                replaced(expression, template, text).as_deref(),
                Some(expected),
                "{expression} {template}"
            );
        }
        assert_eq!(replaced("b", "c", "a"), None);
    }

    #[test]
    fn syntax_follows_go() {
        for (expression, yes, no) in [
            (r"^\d+$", "12", "\u{661}\u{662}"),
            (r"^\w+$", "ab_1", "\u{e9}"),
            (r"^[\w\._-]+$", "a.b-c", "a~b"),
            (r"^/foo/{id}$", "/foo/{id}", "/foo/i"),
            (r"^a{2}$", "aa", "a{2}"),
            (r"^[[]$", "[", "]"),
            (r"^[]a]+$", "]a", "b"),
            (r"^[a&&b]+$", "&", "c"),
            (r"^[[:digit:]\D]$", "a", ""),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^https?:\/\/", "http://", "ftp://"),
            (r"^[^\s]$", "a", " "),
            (r"a\b", "a-", "a_"),
        ] {
            let regex = compile(expression).unwrap();
            assert!(regex.is_match(yes.as_bytes()), "{expression} {yes}");
            assert!(!regex.is_match(no.as_bytes()), "{expression} {no}");
        }
        assert!(
            compile("(")
                .unwrap_err()
                .to_string()
                .starts_with("invalid regular expression `(`: a closing `)` is missing")
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(expression in r"[\[\]{}()\\^$a-c1,:&~QEdwsbC-]{0,20}", template in r"[${}a1]{0,8}") {
            if let Ok(regex) = compile(&expression) {
                let _ = Template::new(&template, &regex).replace_all(&regex, "abc1");
            }
        }
    }
}
