//! Go's regular expressions (RE2 syntax) on the `regex` crate.
//!
//! Both are linear-time engines with nearly the same syntax. The differences are translated: `\Q…\E`, literal
//! braces, ASCII-only `\d`, `\s`, `\w` and `\b`, `\<` and `\>`, and set operations in classes, which exist
//! only in Rust.

use regex::{Regex, RegexBuilder};

use super::error::PatternError;

/// Maximum size of a compiled program in bytes: patterns come from anyone who can set labels.
const SIZE_LIMIT: usize = 1 << 20;
/// Maximum size of the cache of one lazy DFA, in bytes.
const DFA_LIMIT: usize = 1 << 18;

/// Compiles a pattern.
pub(crate) fn compile(pattern: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(&translate(pattern))
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(DFA_LIMIT)
        .octal(true)
        .build()
        .map_err(|error| describe(pattern, &error))
}

/// Explains common mistakes in simpler words.
fn describe(pattern: &str, error: &regex::Error) -> PatternError {
    let whole = error.to_string();
    let reason = whole.lines().last().unwrap_or("").trim_start_matches("error: ");
    let reason = match (error, reason) {
        (regex::Error::CompiledTooBig(_), _) => "it is too large",
        (_, "unclosed group") => "a closing `)` is missing",
        (_, "unopened group") => "a `)` closes nothing",
        (_, "unclosed character class") => "a closing `]` is missing",
        (_, "repetition operator missing expression") => {
            "there is nothing to repeat before `*`, `+`, `?` or `{`"
        }
        (_, other) => other,
    };
    PatternError { pattern: pattern.to_owned(), reason: reason.to_owned() }
}

/// Translates what has another meaning, or none, in the `regex` crate.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match c {
            '\\' => taken = escape(rest, false, &mut out),
            '[' => taken = class(rest, &mut out),
            '{' if !is_repetition(rest) => out.push_str("\\{"),
            '}' if !closes_repetition(pattern, pattern.len() - rest.len()) => out.push_str("\\}"),
            _ => out.push(c),
        }
        rest = rest.get(taken..).unwrap_or("");
    }
    out
}

/// Translates the escape at the start of `rest` and returns its length.
fn escape(rest: &str, in_class: bool, out: &mut String) -> usize {
    let Some(c) = rest.chars().nth(1) else {
        out.push('\\');
        return 1;
    };
    let (plain, inside) = match c {
        'd' => ("[0-9]", "0-9"),
        'D' => ("[^0-9]", "[^0-9]"),
        'w' => ("[0-9A-Za-z_]", "0-9A-Za-z_"),
        'W' => ("[^0-9A-Za-z_]", "[^0-9A-Za-z_]"),
        's' => ("[\\t\\n\\f\\r ]", "\\t\\n\\f\\r "),
        'S' => ("[^\\t\\n\\f\\r ]", "[^\\t\\n\\f\\r ]"),
        '<' => ("<", "<"),
        '>' => (">", ">"),
        'b' => ("(?-u:\\b)", "\\b"),
        'B' => ("(?-u:\\B)", "\\B"),
        'Q' if !in_class => {
            let body = rest.get(2..).unwrap_or("");
            let literal = body.split("\\E").next().unwrap_or("");
            out.push_str(&regex::escape(literal));
            return (2 + literal.len() + 2).min(rest.len());
        }
        _ => {
            out.push('\\');
            out.push(c);
            // `\x{41}` and `\p{Greek}` keep their braces.
            let brace = rest.get(2..).filter(|_| matches!(c, 'x' | 'p' | 'P')).filter(|r| r.starts_with('{'));
            let braced = brace.and_then(|r| r.get(..=r.find('}')?)).unwrap_or("");
            out.push_str(braced);
            return 1 + c.len_utf8() + braced.len();
        }
    };
    out.push_str(if in_class { inside } else { plain });
    2
}

/// Translates the character class at the start of `rest` and returns its length.
fn class(rest: &str, out: &mut String) -> usize {
    let opening = if rest.starts_with("[^") { 2 } else { 1 };
    out.push_str(rest.get(..opening).unwrap_or("["));
    let mut at = opening;
    let mut before = '\0';
    while let Some(c) = rest.get(at..).and_then(|r| r.chars().next()) {
        let here = rest.get(at..).unwrap_or("");
        let mut taken = c.len_utf8();
        match c {
            ']' if at > opening => {
                out.push(']');
                return at + 1;
            }
            ']' => out.push_str("\\]"),
            '\\' => taken = escape(here, true, out),
            '[' => match here.starts_with("[:").then(|| here.find(":]")).flatten() {
                Some(end) => {
                    taken = end + 2;
                    out.push_str(here.get(..taken).unwrap_or(""));
                }
                None => out.push_str("\\["),
            },
            '&' | '~' => out.extend(['\\', c]),
            '-' if before == '-' => out.push_str("\\-"),
            _ => out.push(c),
        }
        before = c;
        at += taken;
    }
    at
}

/// Returns true if a text that starts with `{` is a repetition: `{2}`, `{2,}` or `{2,3}`.
fn is_repetition(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('{').and_then(|t| t.split_once('}')).map(|(inner, _)| inner) else {
        return false;
    };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    !least.is_empty() && least.len() < 6 && least.bytes().chain(most.bytes()).all(|b| b.is_ascii_digit())
}

fn closes_repetition(pattern: &str, at: usize) -> bool {
    let before = pattern.get(..at).unwrap_or("");
    before.rfind('{').and_then(|open| pattern.get(open..=at)).is_some_and(is_repetition)
}

/// Returns the common prefix of everything that `pattern` matches: the text after `^`, up to the first
/// special character.
pub(super) fn literal_prefix(pattern: &str) -> Option<String> {
    let body = pattern.strip_prefix('^').filter(|_| is_plain(pattern))?;
    let mut found = String::new();
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        let literal = match c {
            '\\' => match chars.next() {
                Some(escaped) if escaped.is_ascii_punctuation() => escaped,
                _ => break,
            },
            c if "[](){}.*+?|^$".contains(c) => break,
            c => c,
        };
        if matches!(chars.peek(), Some('*' | '?' | '{' | '+')) {
            break;
        }
        found.push(literal);
    }
    (!found.is_empty()).then_some(found)
}

/// Returns the common suffix of everything that `pattern` matches: the text before `$`, back to the first
/// special character.
pub(super) fn literal_suffix(pattern: &str) -> Option<String> {
    let body = pattern.strip_suffix('$').filter(|_| is_plain(pattern))?;
    let mut found = Vec::new();
    let mut chars = body.chars().rev().peekable();
    while let Some(c) = chars.next() {
        let escaped = chars.peek() == Some(&'\\');
        match c {
            '.' if escaped => {
                chars.next();
                // A backslash that is itself escaped makes the dot special.
                if chars.peek() == Some(&'\\') {
                    break;
                }
                found.push(c);
            }
            c if !escaped && (c.is_ascii_alphanumeric() || c == '-') => found.push(c),
            _ => break,
        }
    }
    (!found.is_empty()).then(|| found.into_iter().rev().collect())
}

/// Returns true for patterns without alternatives, flags and quoted parts.
fn is_plain(pattern: &str) -> bool {
    !pattern.contains('|') && !pattern.contains("(?") && !pattern.contains("\\Q")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_gos_syntax() {
        for (pattern, text, matches) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^\w$", "é", false),
            (r"^[\w.]+$", "a.b", true),
            (r"^[^\s]+$", "a b", false),
            (r"\bfoo\b", "éfooé", true),
            (r"a\Bb", "ab", true),
            (r"^\Qa.b\E+$", "a.bbb", true),
            (r"^\Qa.b", "a.b", true),
            (r"^{id}$", "{id}", true),
            (r"^a{2}$", "aa", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^[a[]$", "[", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[a~~b]+$", "~", true),
            (r"^[]a]+$", "]a", true),
            (r"^[[:alpha:]_]+$", "ab_", true),
            (r"^\<a\>$", "<a>", true),
            (r"^\x{41}\p{Greek}\pN$", "Aα1", true),
            (r"^\101$", "A", true),
            (r"(?i)^ab$", "AB", true),
            (r"^a.c$", "a\nc", false),
        ] {
            let compiled = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert_eq!(compiled.is_match(text), matches, "{pattern} on {text}");
        }
    }

    #[test]
    fn errors_are_go_errors() {
        assert_eq!(
            compile("(").unwrap_err().to_string(),
            "invalid regular expression `(`: a closing `)` is missing"
        );
        assert_eq!(
            compile("[").unwrap_err().to_string(),
            "invalid regular expression `[`: a closing `]` is missing"
        );
        assert!(compile("((a{1000}){1000}){1000}").unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn literal_ends_are_read_off() {
        assert_eq!(literal_prefix(r"^/api/v[0-9]+"), Some("/api/v".into()));
        assert_eq!(literal_prefix(r"^/a\.b?c"), Some("/a.".into()));
        assert_eq!(literal_prefix(r"^/a\d"), Some("/a".into()));
        assert_eq!(literal_prefix("^/a|/b"), None);
        assert_eq!(literal_prefix("/a"), None);
        assert_eq!(literal_suffix(r"^[a-z]+\.ex-1\.test$"), Some(".ex-1.test".into()));
        assert_eq!(literal_suffix(r"^a\d$"), None);
        assert_eq!(literal_suffix(r"a{2}b$"), Some("b".into()));
        assert_eq!(literal_suffix(r"(?i)test$"), None);
        assert_eq!(literal_suffix(r"a.test$"), Some("test".into()));
        assert_eq!(literal_suffix(r"a\\.test$"), Some("test".into()));
    }
}
