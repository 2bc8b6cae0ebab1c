//! Search filters (RFC 4515), parsed once with their placeholders.
//!
//! Values of requests are never part of the text: they are inserted as octets when the filter is encoded. So nothing in
//! them has a meaning, and nothing needs to be escaped.

use super::ber;

/// Maximum nesting of a filter.
const MAX_DEPTH: usize = 16;
const AND: u8 = 0xa0;
const OR: u8 = 0xa1;
const NOT: u8 = 0xa2;
const EQUAL: u8 = 0xa3;
const SUBSTRINGS: u8 = 0xa4;
const GREATER: u8 = 0xa5;
const LESS: u8 = 0xa6;
const PRESENT: u8 = 0x87;
const APPROXIMATE: u8 = 0xa8;

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FilterError {
    /// The text ends or has something else where this is expected.
    #[error("expected {expected} at `{at}`")]
    Expected {
        /// What is missing.
        expected: &'static str,
        /// The rest of the text, shortened.
        at: String,
    },
    /// Too many parentheses.
    #[error("nested too deeply: the maximum is {MAX_DEPTH}")]
    Depth,
    /// A matching rule (`:=`), which is not supported.
    #[error("matching rules (`:=`) are not supported")]
    MatchingRule,
    /// No placeholder: every user would get the same result.
    #[error("expected `%s`, which stands for the user")]
    NoPlaceholder,
}

/// A filter with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Present(String),
    /// A comparison with its tag.
    Compare(u8, String, Value),
    /// The parts between the asterisks.
    Substrings(String, Vec<Value>),
}

/// A value of a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Value(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    /// The index of a placeholder.
    Placeholder(usize),
}

impl Filter {
    /// Parses a filter. `placeholders` are the letters after `%`, such as `s`, of which it must contain one.
    pub(super) fn parse(text: &str, placeholders: &[char]) -> Result<Self, FilterError> {
        let text = text.trim();
        // As in other clients, the outer parentheses may be missing.
        let whole = if text.starts_with('(') { text.to_owned() } else { format!("({text})") };
        let mut parser = Parser { rest: &whole, placeholders };
        let filter = parser.filter(0)?;
        if !parser.rest.is_empty() {
            return Err(parser.expected("the end"));
        }
        if filter.has_placeholder() { Ok(filter) } else { Err(FilterError::NoPlaceholder) }
    }

    /// Matches every entry.
    pub(super) fn everything() -> Self {
        Self::Present("objectClass".to_owned())
    }

    /// Appends the filter with these values for its placeholders.
    pub(super) fn encode(&self, out: &mut Vec<u8>, values: &[&[u8]]) {
        let each = |out: &mut Vec<u8>, parts: &[Self]| parts.iter().for_each(|part| part.encode(out, values));
        match self {
            Self::All(parts) => ber::nested(out, AND, |out| each(out, parts)),
            Self::Any(parts) => ber::nested(out, OR, |out| each(out, parts)),
            Self::Not(part) => ber::nested(out, NOT, |out| part.encode(out, values)),
            Self::Present(attribute) => ber::put(out, PRESENT, attribute.as_bytes()),
            Self::Compare(tag, attribute, value) => ber::nested(out, *tag, |out| {
                ber::put(out, ber::OCTETS, attribute.as_bytes());
                ber::put(out, ber::OCTETS, &value.with(values));
            }),
            Self::Substrings(attribute, parts) => ber::nested(out, SUBSTRINGS, |out| {
                ber::put(out, ber::OCTETS, attribute.as_bytes());
                ber::nested(out, ber::SEQUENCE, |out| {
                    for (index, part) in parts.iter().enumerate().filter(|(_, part)| !part.0.is_empty()) {
                        let tag = match index {
                            0 => 0x80,
                            last if last + 1 == parts.len() => 0x82,
                            _ => 0x81,
                        };
                        ber::put(out, tag, &part.with(values));
                    }
                });
            }),
        }
    }

    /// Returns the attributes that are compared with placeholder `index` as a whole.
    pub(super) fn attributes_of(&self, index: usize) -> Vec<&str> {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                parts.iter().flat_map(|part| part.attributes_of(index)).collect()
            }
            Self::Compare(EQUAL, attribute, value) if value.0 == [Piece::Placeholder(index)] => {
                vec![attribute]
            }
            _ => Vec::new(),
        }
    }

    fn has_placeholder(&self) -> bool {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::has_placeholder),
            Self::Not(part) => part.has_placeholder(),
            Self::Present(_) => false,
            Self::Compare(_, _, value) => value.has_placeholder(),
            Self::Substrings(_, parts) => parts.iter().any(Value::has_placeholder),
        }
    }
}

impl Value {
    fn with(&self, values: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Bytes(bytes) => out.extend_from_slice(bytes),
                Piece::Placeholder(index) => out.extend_from_slice(values.get(*index).unwrap_or(&&[][..])),
            }
        }
        out
    }

    fn has_placeholder(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Placeholder(_)))
    }

    fn push(&mut self, byte: u8) {
        match self.0.last_mut() {
            Some(Piece::Bytes(bytes)) => bytes.push(byte),
            _ => self.0.push(Piece::Bytes(vec![byte])),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    placeholders: &'a [char],
}

impl<'a> Parser<'a> {
    fn filter(&mut self, depth: usize) -> Result<Filter, FilterError> {
        if depth > MAX_DEPTH {
            return Err(FilterError::Depth);
        }
        self.take('(', "`(`")?;
        let filter = match self.rest.chars().next() {
            Some(kind @ ('&' | '|')) => {
                self.rest = &self.rest[1..];
                let mut parts = vec![self.filter(depth + 1)?];
                while self.rest.starts_with('(') {
                    parts.push(self.filter(depth + 1)?);
                }
                if kind == '&' { Filter::All(parts) } else { Filter::Any(parts) }
            }
            Some('!') => {
                self.rest = &self.rest[1..];
                Filter::Not(Box::new(self.filter(depth + 1)?))
            }
            _ => self.comparison()?,
        };
        self.take(')', "`)`")?;
        Ok(filter)
    }

    fn comparison(&mut self) -> Result<Filter, FilterError> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b';' | b'_');
        let length = self.rest.bytes().position(|byte| !is_part(byte)).unwrap_or(self.rest.len());
        let (attribute, rest) = self.rest.split_at(length);
        if attribute.is_empty() {
            return Err(self.expected("an attribute"));
        }
        self.rest = rest;
        let operators = [("=", EQUAL), (">=", GREATER), ("<=", LESS), ("~=", APPROXIMATE)];
        let found = operators.into_iter().find_map(|(text, tag)| Some((self.rest.strip_prefix(text)?, tag)));
        let Some((rest, tag)) = found else {
            let is_rule = self.rest.starts_with(':');
            return Err(if is_rule { FilterError::MatchingRule } else { self.expected("`=`") });
        };
        self.rest = rest;
        let mut parts = self.values()?;
        Ok(match parts.as_slice() {
            [_] => Filter::Compare(tag, attribute.to_owned(), parts.remove(0)),
            _ if tag != EQUAL => return Err(self.expected("a value without `*`")),
            [first, last] if first.0.is_empty() && last.0.is_empty() => Filter::Present(attribute.to_owned()),
            _ if parts.iter().all(|part| part.0.is_empty()) => return Err(self.expected("a value")),
            _ => Filter::Substrings(attribute.to_owned(), parts),
        })
    }

    /// Returns the parts between asterisks, up to the closing parenthesis.
    fn values(&mut self) -> Result<Vec<Value>, FilterError> {
        let mut parts = vec![Value::default()];
        loop {
            let Some(character) = self.rest.chars().next() else { return Ok(parts) };
            let (text, rest) = self.rest.split_at(character.len_utf8());
            let Some(part) = parts.last_mut() else { return Ok(parts) };
            match character {
                ')' => return Ok(parts),
                '(' => return Err(self.expected("`\\28` instead of `(`")),
                '*' => parts.push(Value::default()),
                '\\' => {
                    let digits = rest.get(..2).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
                    let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                    part.push(byte.ok_or_else(|| self.expected("two hexadecimal digits after `\\`"))?);
                    self.rest = &rest[2..];
                    continue;
                }
                '%' => {
                    let letter = rest.chars().next();
                    let index = self.placeholders.iter().position(|known| Some(*known) == letter);
                    let Some(index) = index else { return Err(self.expected("`%s`, or `\\25` for `%`")) };
                    part.0.push(Piece::Placeholder(index));
                    self.rest = &rest[1..];
                    continue;
                }
                _ => text.bytes().for_each(|byte| part.push(byte)),
            }
            self.rest = rest;
        }
    }

    fn take(&mut self, character: char, expected: &'static str) -> Result<(), FilterError> {
        self.rest = self.rest.strip_prefix(character).ok_or_else(|| self.expected(expected))?;
        Ok(())
    }

    fn expected(&self, expected: &'static str) -> FilterError {
        FilterError::Expected { expected, at: self.rest.chars().take(20).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Filter, FilterError> {
        Filter::parse(text, &['s', 'u'])
    }

    fn encoded(text: &str, user: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        parse(text).unwrap().encode(&mut out, &[user, b"other"]);
        out
    }

    /// Reads a filter of two comparisons: all tags and values, in order.
    fn leaves(mut reader: ber::Reader<'_>, out: &mut Vec<(u8, Vec<u8>)>) {
        while !reader.is_empty() {
            let (tag, content) = reader.next().unwrap();
            if tag & 0x20 != 0 {
                leaves(ber::Reader::new(content), out)
            } else {
                out.push((tag, content.to_vec()))
            }
        }
    }

    #[test]
    fn filters_are_encoded_as_in_the_rfc() {
        assert_eq!(encoded("(uid=%s)", b"ann"), b"\xa3\x0a\x04\x03uid\x04\x03ann");
        assert_eq!(encoded("uid=%s", b"ann"), encoded("(uid=%s)", b"ann"));
        assert_eq!(
            encoded("(&(a=*)(!(b=%s))(|(c>=1)(c<=2)(c~=\\2a%u)))", b"x"),
            b"\xa0\x2c\x87\x01a\xa2\x08\xa3\x06\x04\x01b\x04\x01x\xa1\x1d\xa5\x06\x04\x01c\x04\x011\xa6\x06\x04\x01c\x04\x012\xa8\x0b\x04\x01c\x04\x06*other"
        );
        assert_eq!(encoded("(cn=a*%s*c)", b"*"), b"\xa4\x0f\x04\x02cn\x30\x09\x80\x01a\x81\x01*\x82\x01c");
    }

    #[test]
    fn wrong_filters_are_explained() {
        for (text, error) in [
            ("(uid=ann)", "expected `%s`, which stands for the user"),
            ("(uid=%s", "expected `)` at ``"),
            ("(uid=%s))", "expected the end at `)`"),
            ("(&)", "expected `(` at `)`"),
            ("(uid=%d)", "expected `%s`, or `\\25` for `%` at `%d)`"),
            ("(uid=\\2)", "expected two hexadecimal digits after `\\` at `\\2)`"),
            ("(uid:dn:=%s)", "matching rules (`:=`) are not supported"),
            ("(=%s)", "expected an attribute at `=%s)`"),
            ("(a>=%s*)", "expected a value without `*` at `)`"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), error, "{text}");
        }
        assert_eq!(parse(&format!("{}(a=%s)", "(!".repeat(40))), Err(FilterError::Depth));
    }

    #[test]
    fn the_attributes_of_the_user_are_known() {
        let filter = parse("(&(objectClass=person)(|(uid=%s)(mail=%s)(cn=%s*)(!(x=%s))))").unwrap();
        assert_eq!(filter.attributes_of(0), ["uid", "mail"]);
        assert!(filter.attributes_of(1).is_empty());
    }

    proptest! {
        #[test]
        fn no_value_changes_the_structure(user in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut found = Vec::new();
            let bytes = encoded("(&(objectClass=person)(uid=%s))", &user);
            leaves(ber::Reader::new(&bytes), &mut found);
            let octets = |text: &[u8]| (ber::OCTETS, text.to_vec());
            prop_assert_eq!(found, vec![octets(b"objectClass"), octets(b"person"), octets(b"uid"), octets(&user)]);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[()&|!*%su=\\\\2a<>~:é]{0,30}") {
            if let Ok(filter) = parse(&text) {
                filter.encode(&mut Vec::new(), &[]);
            }
        }
    }
}
