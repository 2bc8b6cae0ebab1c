//! Dictionaries of structured fields (RFC 9651 §3.2), as far as cache directives need them: values are kept,
//! parameters are checked and dropped.

/// The value of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Integer(i64),
    Boolean(bool),
    /// A string or a token.
    Text(Vec<u8>),
    /// A decimal, a date, a byte sequence, a display string or an inner list. No directive has such a value.
    Other,
}

/// Parses a dictionary. `None` if it has any error, or no member. Of members with one name, the last counts.
pub(super) fn dictionary(text: &[u8]) -> Option<Vec<(String, Value)>> {
    let mut parser = Parser { rest: text };
    let mut members: Vec<(String, Value)> = Vec::new();
    parser.skip(|byte| byte == b' ');
    while !parser.rest.is_empty() {
        let name = parser.key()?;
        let value = if parser.eat(b'=') { parser.member()? } else { Value::Boolean(true) };
        parser.parameters()?;
        members.retain(|(other, _)| *other != name);
        members.push((name, value));
        parser.skip(|byte| matches!(byte, b' ' | b'\t'));
        if parser.rest.is_empty() {
            break;
        }
        if !parser.eat(b',') {
            return None;
        }
        parser.skip(|byte| matches!(byte, b' ' | b'\t'));
        if parser.rest.is_empty() {
            return None;
        }
    }
    (!members.is_empty()).then_some(members)
}

struct Parser<'a> {
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    fn skip(&mut self, matches: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !matches(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    /// RFC 9651 §4.2.3.3.
    fn key(&mut self) -> Option<String> {
        if !self.rest.first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'*') {
            return None;
        }
        let key = self.skip(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'*')
        });
        String::from_utf8(key.to_vec()).ok()
    }

    fn member(&mut self) -> Option<Value> {
        if self.rest.first() == Some(&b'(') { self.inner_list() } else { self.item() }
    }

    /// RFC 9651 §4.2.1.2.
    fn inner_list(&mut self) -> Option<Value> {
        self.eat(b'(');
        loop {
            self.skip(|byte| byte == b' ');
            if self.eat(b')') {
                return Some(Value::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.rest.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    /// RFC 9651 §4.2.3.1, without parameters.
    fn item(&mut self) -> Option<Value> {
        match self.rest.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
                let token =
                    self.skip(|byte| super::directives::is_token(byte) || matches!(byte, b':' | b'/'));
                Some(Value::Text(token.to_vec()))
            }
            b':' => {
                self.eat(b':');
                self.skip(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
                self.eat(b':').then_some(Value::Other)
            }
            b'?' => {
                self.eat(b'?');
                match self.next()? {
                    b'0' => Some(Value::Boolean(false)),
                    b'1' => Some(Value::Boolean(true)),
                    _ => None,
                }
            }
            b'@' => {
                self.eat(b'@');
                matches!(self.number()?, Value::Integer(_)).then_some(Value::Other)
            }
            b'%' => {
                self.eat(b'%');
                self.string().map(|_| Value::Other)
            }
            _ => None,
        }
    }

    /// RFC 9651 §4.2.4: at most 15 digits, or 12 before a point and 3 after it.
    fn number(&mut self) -> Option<Value> {
        let negative = self.eat(b'-');
        let digits = self.skip(|byte| byte.is_ascii_digit());
        if digits.is_empty() {
            return None;
        }
        if self.eat(b'.') {
            let fraction = self.skip(|byte| byte.is_ascii_digit()).len();
            return (digits.len() <= 12 && (1..=3).contains(&fraction)).then_some(Value::Other);
        }
        if digits.len() > 15 {
            return None;
        }
        let value = digits.iter().fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Some(Value::Integer(if negative { -value } else { value }))
    }

    /// RFC 9651 §4.2.5.
    fn string(&mut self) -> Option<Value> {
        if !self.eat(b'"') {
            return None;
        }
        let mut content = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Some(Value::Text(content)),
                b'\\' => content.push(self.next().filter(|byte| matches!(byte, b'"' | b'\\'))?),
                byte @ 0x20..=0x7e => content.push(byte),
                _ => return None,
            }
        }
    }

    /// RFC 9651 §4.2.3.2.
    fn parameters(&mut self) -> Option<()> {
        while self.eat(b';') {
            self.skip(|byte| byte == b' ');
            self.key()?;
            if self.eat(b'=') {
                self.item()?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_values_and_errors_spoil_everything() {
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        let one = |name: &str, value: Value| Some(vec![(name.to_owned(), value)]);
        assert_eq!(dictionary(b"max-age=60"), one("max-age", Value::Integer(60)));
        assert_eq!(dictionary(b"  no-store "), one("no-store", Value::Boolean(true)));
        assert_eq!(dictionary(b"no-store=?0"), one("no-store", Value::Boolean(false)));
        assert_eq!(dictionary(b"a=1, a=2"), one("a", Value::Integer(2)));
        assert_eq!(dictionary(b"a=-1;p=1; q=\"x\""), one("a", Value::Integer(-1)));
        assert_eq!(dictionary(b"a=\"b, \\\"c\""), one("a", text("b, \"c")));
        assert_eq!(dictionary(b"a=tok/en:x"), one("a", text("tok/en:x")));
        for other in ["a=1.5", "a=(1 2;b)", "a=()", "a=:aGk=:", "a=@1", "a=%\"x\""] {
            assert_eq!(dictionary(other.as_bytes()), one("a", Value::Other), "{other}");
        }
        for wrong in [
            "",
            " ",
            "A=1",
            "a=",
            "a=1,",
            "a=1 b",
            ",a",
            "a=\"x",
            "a=1234567890123456",
            "a=1.2345",
            "a=1.",
            "a=-",
            "a=(1",
            "a=(1,2)",
            "a=?2",
            "a=\"\u{e9}\"",
            "max-age =1",
            "a;=1",
            "a=:x",
            "a=@x",
            "a='1'",
        ] {
            assert_eq!(dictionary(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
