//! The expression language of rules, constraints, breakers and filters: calls with string or number
//! arguments, `!`, `&&`, `||`, comparisons and parentheses.
//!
//! The grammar is the subset of Go expressions that Traefik uses: `!` binds tighter than comparisons, then
//! `&&`, then `||`. Strings are in backticks (raw) or double quotes (with Go's escapes).

mod lexer;
mod nearest;
mod parser;
mod print;

use std::ops::Range;

/// A parsed expression. Every node has its position in the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// True if both are.
    And(Box<Expression>, Box<Expression>),
    /// True if either is.
    Or(Box<Expression>, Box<Expression>),
    /// True if the operand is not.
    Not(Box<Expression>),
    /// A call: `Host(`a.example`)`.
    Call(Call),
    /// A comparison of a call with a number: `NetworkErrorRatio() > 0.5`.
    Compare {
        /// The left side.
        call: Call,
        /// The operator.
        operator: Comparison,
        /// The right side.
        value: f64,
    },
    /// A field, alone or compared: `DownstreamStatus >= 500`. Only returned by [`parse_fields`].
    Field(Field),
}

/// A field and its test.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The name as written.
    pub name: String,
    /// The test; `None` if it stands alone.
    pub test: Option<Test>,
    /// Byte range of the name.
    pub span: Range<usize>,
}

/// A test of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Compares it with a value.
    Compare(Comparison, Value),
    /// Matches it with a pattern (`=~`), or checks that it does not match (`!~`).
    Matches {
        /// The pattern.
        pattern: String,
        /// True for `!~`.
        negated: bool,
    },
}

/// A value to compare a field with.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string, unquoted.
    Text(String),
    /// A number.
    Number(f64),
    /// A duration: `1m30s`.
    Duration(crate::values::Duration),
}

/// A function call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The name as written.
    pub name: String,
    /// The arguments, unquoted.
    pub arguments: Vec<Argument>,
    /// Byte range of the whole call.
    pub span: Range<usize>,
}

/// An argument of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A string, unquoted.
    Text(String),
    /// A number.
    Number(f64),
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the operators")]
pub enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// A syntax error and its position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What was found and expected.
    pub message: String,
    /// Byte range of the error.
    pub span: Range<usize>,
}

impl SyntaxError {
    /// Returns the message with its position in `text`: `column 5: expected …`.
    pub fn located(&self, text: &str) -> String {
        let end = text.trim_end().len();
        format!("{}: {}", place(text, self.span.start.min(end)), self.message)
    }
}

/// Formats a position for messages: the column, and the line if there are several.
pub fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
    match text.trim_end().contains('\n') {
        true => format!("line {}, column {column}", before.matches('\n').count() + 1),
        false => format!("column {column}"),
    }
}

/// Maximum length of a text in bytes.
pub const MAX_LENGTH: usize = 64 * 1024;

/// Maximum nesting depth of parentheses and negations.
pub const MAX_NESTING: usize = 64;

/// Parses a text. Nesting and length are limited, so that no text can exhaust the stack or the memory.
///
/// Chains of `&&` and `||` become balanced trees, so recursing into an [`Expression`] is safe with any number
/// of alternatives. The order of operands is kept.
pub fn parse(text: &str) -> Result<Expression, SyntaxError> {
    parser::parse(text, false)
}

/// Parses a text with fields next to calls. A field can be compared with strings, numbers and durations
/// (`Duration > 1s`) and matched with patterns (`=~`, `!~`); its name may contain `-`.
pub fn parse_fields(text: &str) -> Result<Expression, SyntaxError> {
    parser::parse(text, true)
}

/// Returns the name in `known` that is most similar to `name`, for "did you mean".
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest::nearest(name, known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn printed(text: &str) -> String {
        parse(text).map_or_else(|e| format!("error: {e}"), |e| e.to_string())
    }

    #[test]
    fn binds_not_before_and_before_or() {
        assert_eq!(printed("A() || B() && !C()"), "A() || B() && !C()");
        assert_eq!(printed("(A() || B()) && !(C() && D())"), "(A() || B()) && !(C() && D())");
        assert_eq!(printed("((A()))"), "A()");
        assert!(
            matches!(parse("A() || B() && C()").unwrap(), Expression::Or(_, right) if matches!(*right, Expression::And(..)))
        );
    }

    #[test]
    fn reads_strings_and_numbers() {
        let Expression::Call(call) = parse(r#"F(`a\d`, "q\"\\\n\u00e9\x41\101", -1.5e2, 7,)"#).unwrap()
        else {
            panic!("no call")
        };
        assert_eq!(
            call.arguments,
            [
                Argument::Text(r"a\d".into()),
                Argument::Text("q\"\\\néAA".into()),
                Argument::Number(-150.0),
                Argument::Number(7.0)
            ]
        );
        assert_eq!(call.span, 0..45);
    }

    #[test]
    fn compares_calls_with_numbers() {
        let found = parse("NetworkErrorRatio() >= 0.5 && !(LatencyAtQuantileMS(50.0) != 100)").unwrap();
        assert_eq!(found.to_string(), "NetworkErrorRatio() >= 0.5 && !(LatencyAtQuantileMS(50) != 100)");
    }

    #[test]
    fn errors_name_what_and_where() {
        for (text, message, span) in [
            ("", "empty expression", 0..0),
            ("Host(`a`", "the call of Host is never closed", 0..4),
            ("Host(`a)", "this string is never closed: a backtick is missing", 5..8),
            ("Host('a')", "strings cannot have single quotes: write `…` or \"…\"", 5..6),
            ("Host(`a`) &&", "expected a call like Host(`…`), found the end", 12..12),
            ("Host(`a`) & Path(`/`)", "expected `&&`, found a single `&`", 10..11),
            ("Host(`a`) Path(`/`)", "expected `&&`, `||` or the end, found `Path`", 10..14),
            ("(Host(`a`)", "this `(` is never closed", 0..1),
            ("Host(`a`))", "unmatched `)`", 9..10),
            ("Host", "`Host` must be called, like Host(`…`)", 0..4),
            ("Host(a)", "the arguments of Host are strings or numbers: write `…` around a", 5..6),
            ("!A() > 1", "only a call can be on the left of `>`", 0..6),
            ("A() > B()", "expected a number, found `B`", 6..7),
            ("`a`", "expected a call like Host(`…`), found a string alone", 0..3),
            (r#"A("\q")"#, "unknown escape `\\q`", 3..5),
            (r#"A("\xff")"#, "the string is not valid UTF-8", 2..8),
            ("A(0x10)", "`0x10` is not a number", 2..6),
        ] {
            assert_eq!(parse(text).unwrap_err(), SyntaxError { message: message.into(), span }, "{text}");
        }
    }

    #[test]
    fn places_are_columns_and_lines() {
        for (text, shown) in [
            ("Host(`a`) && ", "column 13: expected a call like Host(`…`), found the end"),
            ("Host(`é`))", "column 10: unmatched `)`"),
            ("A() &&\n  B() C()", "line 2, column 7: expected `&&`, `||` or the end, found `C`"),
            ("Host(`a", "column 6: this string is never closed: a backtick is missing"),
        ] {
            assert_eq!(parse(text).unwrap_err().located(text), shown);
        }
    }

    #[test]
    fn fields_and_calls_can_be_combined() {
        for text in [
            "DownstreamStatus >= 500 || Duration > 1s && !PathPrefix(`/health`)",
            "RouterName == `a@file` && !(request_User-Agent =~ `bot` || Aborted)",
            "Duration <= 1m30s && RetryAttempts != 0 && request_X-Y !~ `z`",
            "!Aborted && N() > 0.5",
        ] {
            let parsed = parse_fields(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed.to_string(), text);
        }
        for (text, message, span) in [
            ("A == ", "expected a string, a number or a duration, found the end", 5..5),
            ("A =~ 5", "expected a pattern in quotes, found the number 5", 5..6),
            ("A > 1sec", "`1sec` is neither a number nor a duration", 4..8),
            ("F() == `a`", "expected a number, found a string", 7..10),
            ("!A > 1", "only a call or a field can be on the left of `>`", 0..4),
            ("A > B", "expected a string, a number or a duration, found `B`", 4..5),
            ("A = 1", "expected `==`, found a single `=`", 2..3),
        ] {
            assert_eq!(
                parse_fields(text).unwrap_err(),
                SyntaxError { message: message.into(), span },
                "{text}"
            );
        }
        assert!(parse("A > 1").unwrap_err().message.contains("`A` must be called"));
        assert!(parse("A() =~ `x`").unwrap_err().message.contains("a single `=`"));
        assert!(parse("A() > 1s").is_err());
    }

    #[test]
    fn limits_hold_and_long_chains_stay_shallow() {
        let deep = format!("{}A(){}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(parse(&deep).unwrap_err().message.contains("nested too deeply"));
        assert!(parse(&"!".repeat(60_000)).unwrap_err().message.contains("nested too deeply"));
        assert!(parse(&" ".repeat(MAX_LENGTH + 1)).unwrap_err().message.contains("too long"));

        let wide = vec!["Host(`a`)"; 4_000].join(" || ");
        let parsed = parse(&wide).unwrap();
        fn depth(e: &Expression) -> usize {
            match e {
                Expression::And(a, b) | Expression::Or(a, b) => 1 + depth(a).max(depth(b)),
                Expression::Not(a) => 1 + depth(a),
                _ => 1,
            }
        }
        assert!(depth(&parsed) <= 14);
        assert_eq!(parsed.to_string(), wide);
    }

    fn texts() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            ("[A-D]", "[a-z`\"\\\\\r\u{e9}]{0,4}")
                .prop_map(|(name, text)| format!("{name}({})", Argument::Text(text))),
            ("[A-D]", -5i32..5, 0usize..6).prop_map(|(name, n, o)| {
                format!("{name}({n}) {} 0.5", ["<", "<=", ">", ">=", "==", "!="][o])
            }),
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 2..5).prop_map(|v| format!("({})", v.join("||"))),
                prop::collection::vec(inner.clone(), 2..5).prop_map(|v| format!("({})", v.join(" &&\n"))),
                inner.prop_map(|e| format!("!({e})")),
            ]
        })
    }

    /// Evaluates an expression, with the value of each leaf derived from its printed form.
    fn truth(e: &Expression, seed: u64) -> bool {
        match e {
            Expression::And(a, b) => truth(a, seed) && truth(b, seed),
            Expression::Or(a, b) => truth(a, seed) || truth(b, seed),
            Expression::Not(a) => !truth(a, seed),
            leaf => leaf.to_string().bytes().fold(seed, |h, b| h.wrapping_mul(31) ^ u64::from(b)) & 4 == 0,
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_keep_the_meaning(text in texts()) {
            let first = parse(&text).unwrap();
            let second = parse(&first.to_string()).unwrap();
            prop_assert_eq!(first.to_string(), second.to_string());
            for seed in 0..8 {
                prop_assert_eq!(truth(&first, seed), truth(&second, seed));
            }
        }

        #[test]
        fn no_text_panics(text in "[-A-C(){}`\"'!&|<>=,.0-9\\\\xuUe/* \n\u{e9}]{0,40}") {
            for error in [parse(&text), parse_fields(&text)].into_iter().filter_map(Result::err) {
                prop_assert!(error.span.start <= error.span.end && error.span.end <= text.len(), "{:?}", error);
                prop_assert!(text.is_char_boundary(error.span.start) && text.is_char_boundary(error.span.end), "{:?}", error);
            }
        }
    }
}
