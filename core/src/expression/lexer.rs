//! Splits an expression into tokens.

use std::ops::Range;

use super::{Comparison, SyntaxError};
use crate::values::Duration;

/// A token of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(String),
    Text(String),
    Number(f64),
    Open,
    Close,
    Comma,
    Not,
    And,
    Or,
    Compare(Comparison),
    /// `=~`, or `!~` if true.
    Match(bool),
    Duration(Duration),
    End,
}

impl Token {
    /// Describes the token in an error.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Name(name) => format!("`{name}`"),
            Self::Text(_) => "a string".into(),
            Self::Number(number) => format!("the number {number}"),
            Self::Open => "`(`".into(),
            Self::Close => "`)`".into(),
            Self::Comma => "`,`".into(),
            Self::Not => "`!`".into(),
            Self::And => "`&&`".into(),
            Self::Or => "`||`".into(),
            Self::Compare(operator) => format!("`{operator}`"),
            Self::Match(false) => "`=~`".into(),
            Self::Match(true) => "`!~`".into(),
            Self::Duration(duration) => format!("the duration {duration}"),
            Self::End => "the end".into(),
        }
    }
}

/// A text and the position of the next token.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    /// Whether to accept fields: durations, `=~` and `-` in names.
    fields: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, fields: bool) -> Self {
        Self { text, at: 0, fields }
    }

    /// Returns the next token and its position.
    pub(super) fn next(&mut self) -> Result<(Token, Range<usize>), SyntaxError> {
        self.skip_blank()?;
        let start = self.at;
        let Some(&byte) = self.text.as_bytes().get(start) else { return Ok((Token::End, start..start)) };
        let token = match byte {
            b'(' => self.take(1, Token::Open),
            b')' => self.take(1, Token::Close),
            b',' => self.take(1, Token::Comma),
            b'`' => self.raw_string()?,
            b'"' => self.quoted_string()?,
            b'0'..=b'9' | b'.' | b'-' | b'+' => self.number()?,
            b'_' => self.name(),
            _ if self.rest().starts_with(|c: char| c.is_ascii_alphabetic()) => self.name(),
            _ => self.operator()?,
        };
        Ok((token, start..self.at))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn take(&mut self, length: usize, token: Token) -> Token {
        self.at += length;
        token
    }

    fn error(&self, start: usize, length: usize, message: impl Into<String>) -> SyntaxError {
        SyntaxError { message: message.into(), span: start..(start + length).min(self.text.len()) }
    }

    /// Skips whitespace and Go comments.
    fn skip_blank(&mut self) -> Result<(), SyntaxError> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                match trimmed.find("*/") {
                    Some(end) => self.at += end + 2,
                    None => return Err(self.error(self.at, 2, "this comment is never closed")),
                }
            } else {
                return Ok(());
            }
        }
    }

    fn name(&mut self) -> Token {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || (self.fields && c == '-')))
            .unwrap_or(rest.len());
        let name = rest.get(..length).unwrap_or(rest).to_owned();
        self.take(length, Token::Name(name))
    }

    fn number(&mut self) -> Result<Token, SyntaxError> {
        let rest = self.rest().as_bytes();
        let mut length = usize::from(matches!(rest.first(), Some(b'-' | b'+')));
        while let Some(&byte) = rest.get(length) {
            let signed_exponent =
                matches!(byte, b'-' | b'+') && matches!(rest.get(length - 1), Some(b'e' | b'E'));
            if !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || signed_exponent) {
                break;
            }
            length += 1;
        }
        let written = self.rest().get(..length).unwrap_or("");
        match written.replace('_', "").parse::<f64>() {
            Ok(number) if number.is_finite() && written.bytes().any(|b| b.is_ascii_digit()) => {
                Ok(self.take(length, Token::Number(number)))
            }
            _ if !self.fields => Err(self.error(self.at, length, format!("`{written}` is not a number"))),
            _ => match written.parse() {
                Ok(duration) => Ok(self.take(length, Token::Duration(duration))),
                Err(_) => Err(self.error(
                    self.at,
                    length,
                    format!("`{written}` is neither a number nor a duration"),
                )),
            },
        }
    }

    fn operator(&mut self) -> Result<Token, SyntaxError> {
        const OPERATORS: [(&str, Token); 9] = [
            ("&&", Token::And),
            ("||", Token::Or),
            ("<=", Token::Compare(Comparison::LessOrEqual)),
            (">=", Token::Compare(Comparison::GreaterOrEqual)),
            ("==", Token::Compare(Comparison::Equal)),
            ("!=", Token::Compare(Comparison::NotEqual)),
            ("<", Token::Compare(Comparison::Less)),
            (">", Token::Compare(Comparison::Greater)),
            ("!", Token::Not),
        ];
        let rest = self.rest();
        for (written, negated) in [("=~", false), ("!~", true)] {
            if self.fields && rest.starts_with(written) {
                return Ok(self.take(written.len(), Token::Match(negated)));
            }
        }
        for (written, token) in OPERATORS {
            if rest.starts_with(written) {
                return Ok(self.take(written.len(), token));
            }
        }
        let found = rest.chars().next().unwrap_or_default();
        let message = match found {
            '\'' => "strings cannot have single quotes: write `…` or \"…\"".to_owned(),
            '&' => "expected `&&`, found a single `&`".to_owned(),
            '|' => "expected `||`, found a single `|`".to_owned(),
            '=' => "expected `==`, found a single `=`".to_owned(),
            '{' | '}' => format!("unexpected `{found}`: patterns must be strings"),
            _ => format!("unexpected character {found:?}"),
        };
        Err(self.error(self.at, found.len_utf8(), message))
    }

    fn raw_string(&mut self) -> Result<Token, SyntaxError> {
        let body = self.rest().get(1..).unwrap_or("");
        let Some(end) = body.find('`') else {
            return Err(self.error(
                self.at,
                self.text.len(),
                "this string is never closed: a backtick is missing",
            ));
        };
        // Go removes carriage returns from raw strings.
        let value = body.get(..end).unwrap_or("").replace('\r', "");
        Ok(self.take(end + 2, Token::Text(value)))
    }

    fn quoted_string(&mut self) -> Result<Token, SyntaxError> {
        let start = self.at;
        let mut value = Vec::new();
        self.at += 1;
        loop {
            let Some(found) = self.rest().chars().next() else {
                return Err(self.error(
                    start,
                    self.text.len(),
                    "this string is never closed: a `\"` is missing",
                ));
            };
            match found {
                '"' => break,
                '\n' => {
                    return Err(self.error(
                        start,
                        self.at - start,
                        "a string in double quotes must end on the same line",
                    ));
                }
                '\\' => self.escape(&mut value)?,
                _ => {
                    self.at += found.len_utf8();
                    value.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
        self.at += 1;
        String::from_utf8(value)
            .map(Token::Text)
            .map_err(|_| self.error(start, self.at - start, "the string is not valid UTF-8"))
    }

    /// Parses an escape of a quoted string (Go specification, "Rune literals").
    fn escape(&mut self, value: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let start = self.at;
        let kind = self.rest().chars().nth(1).unwrap_or_default();
        let simple = match kind {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '"' => Some(kind as u8),
            _ => None,
        };
        if let Some(byte) = simple {
            value.push(byte);
            self.at += 2;
            return Ok(());
        }
        let (skip, digits, radix) = match kind {
            'x' => (2, 2, 16),
            'u' => (2, 4, 16),
            'U' => (2, 8, 16),
            '0'..='7' => (1, 3, 8),
            _ => {
                let message = format!("unknown escape `\\{}`", kind.escape_debug());
                return Err(self.error(start, 1 + kind.len_utf8(), message));
            }
        };
        let written = self.rest().get(skip..skip + digits).unwrap_or("");
        let all_digits = written.len() == digits && written.chars().all(|c| c.is_digit(radix));
        let code = u32::from_str_radix(written, radix).ok().filter(|_| all_digits);
        match (kind, code) {
            ('u' | 'U', Some(code)) if char::from_u32(code).is_some() => {
                let c = char::from_u32(code).unwrap_or_default();
                value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            ('x' | '0'..='7', Some(code)) if code < 256 => value.push(code as u8),
            _ => return Err(self.error(start, skip + digits, "the escape is incomplete or out of range")),
        }
        self.at += skip + digits;
        Ok(())
    }
}
