//! The structured fields of signatures (RFC 9651): dictionaries of inner lists and of byte sequences.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;

use super::refusal::Refusal;

/// Maximum length of a field in bytes.
const MAX_FIELD: usize = 16 * 1024;
/// Maximum number of members of a dictionary, of elements of a list, and of parameters.
const MAX_MEMBERS: usize = 64;

/// A bare item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Integer(i64),
    Text(String),
    Token(String),
    Bytes(Vec<u8>),
    Boolean(bool),
}

/// Parameters in their order.
pub(super) type Parameters = Vec<(String, Item)>;

/// An element of an inner list: a text with parameters.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) parameters: Parameters,
    /// Name and parameters as they are written.
    pub(super) written: String,
}

/// A member of `Signature-Input`.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) label: String,
    pub(super) components: Vec<Component>,
    pub(super) parameters: Parameters,
    /// The list with its parameters as it is written.
    pub(super) written: String,
}

/// Returns all values of a field as one text, which is ASCII; `None` if there is none.
pub(super) fn joined(headers: &HeaderMap, name: &str) -> Result<Option<String>, Refusal> {
    let mut joined: Option<String> = None;
    for value in headers.get_all(name) {
        let text = value.to_str().map_err(|_| Refusal::Malformed)?;
        match &mut joined {
            None => joined = Some(text.to_owned()),
            Some(all) => {
                all.push_str(", ");
                all.push_str(text);
            }
        }
        if joined.as_ref().is_some_and(|all| all.len() > MAX_FIELD) {
            return Err(Refusal::Malformed);
        }
    }
    Ok(joined)
}

/// Reads `Signature-Input` (RFC 9421 section 4.1).
pub(super) fn inputs(text: &str) -> Result<Vec<Input>, Refusal> {
    dictionary(text, |cursor, label| {
        let start = cursor.at;
        cursor.expect(b'(')?;
        let mut components = Vec::new();
        loop {
            cursor.skip(b" ");
            if cursor.take(b')') {
                break;
            }
            if components.len() >= MAX_MEMBERS {
                return Err(Refusal::Malformed);
            }
            let start = cursor.at;
            let Item::Text(name) = cursor.item()? else { return Err(Refusal::Malformed) };
            let parameters = cursor.parameters()?;
            components.push(Component { name, parameters, written: cursor.since(start) });
            if !matches!(cursor.peek(), Some(b' ' | b')')) {
                return Err(Refusal::Malformed);
            }
        }
        let parameters = cursor.parameters()?;
        Ok(Input { label, components, parameters, written: cursor.since(start) })
    })
}

/// Reads a dictionary of byte sequences: `Signature` (RFC 9421 section 4.2), `Content-Digest` (RFC 9530 section 2).
pub(super) fn byte_sequences(text: &str) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
    dictionary(text, |cursor, label| {
        let Item::Bytes(bytes) = cursor.item()? else { return Err(Refusal::Malformed) };
        cursor.parameters()?;
        Ok((label, bytes))
    })
}

/// Reads a dictionary. Names that occur twice are malformed: two readers could take different ones.
fn dictionary<T>(
    text: &str,
    mut member: impl FnMut(&mut Cursor<'_>, String) -> Result<T, Refusal>,
) -> Result<Vec<T>, Refusal> {
    let mut cursor = Cursor { bytes: text.as_bytes(), at: 0 };
    let (mut names, mut members) = (Vec::new(), Vec::new());
    cursor.skip(b" ");
    loop {
        let name = cursor.key()?;
        if names.contains(&name) || members.len() >= MAX_MEMBERS {
            return Err(Refusal::Malformed);
        }
        names.push(name.clone());
        cursor.expect(b'=')?;
        members.push(member(&mut cursor, name)?);
        cursor.skip(b" \t");
        if cursor.peek().is_none() {
            return Ok(members);
        }
        cursor.expect(b',')?;
        cursor.skip(b" \t");
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, Refusal> {
        let byte = self.peek().ok_or(Refusal::Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Refusal> {
        if self.take(byte) { Ok(()) } else { Err(Refusal::Malformed) }
    }

    fn skip(&mut self, bytes: &[u8]) {
        while self.peek().is_some_and(|byte| bytes.contains(&byte)) {
            self.at += 1;
        }
    }

    /// Takes bytes for as long as they are of a kind.
    fn run(&mut self, is_one: impl Fn(u8) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&is_one) {
            self.at += 1;
        }
        self.since(start)
    }

    fn since(&self, start: usize) -> String {
        String::from_utf8_lossy(self.bytes.get(start..self.at).unwrap_or_default()).into_owned()
    }

    fn key(&mut self) -> Result<String, Refusal> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'*') {
            return Err(Refusal::Malformed);
        }
        let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte);
        Ok(self.run(is_key))
    }

    fn parameters(&mut self) -> Result<Parameters, Refusal> {
        let mut parameters: Parameters = Vec::new();
        while self.take(b';') {
            self.skip(b" ");
            let name = self.key()?;
            let value = if self.take(b'=') { self.item()? } else { Item::Boolean(true) };
            if parameters.len() >= MAX_MEMBERS || parameters.iter().any(|(other, _)| *other == name) {
                return Err(Refusal::Malformed);
            }
            parameters.push((name, value));
        }
        Ok(parameters)
    }

    fn item(&mut self) -> Result<Item, Refusal> {
        match self.peek().ok_or(Refusal::Malformed)? {
            b'"' => self.text().map(Item::Text),
            b':' => {
                self.at += 1;
                let text = self.run(|byte| byte != b':');
                self.expect(b':')?;
                BASE64_STANDARD.decode(text).map(Item::Bytes).map_err(|_| Refusal::Malformed)
            }
            b'?' => {
                self.at += 1;
                match self.next()? {
                    b'0' => Ok(Item::Boolean(false)),
                    b'1' => Ok(Item::Boolean(true)),
                    _ => Err(Refusal::Malformed),
                }
            }
            b'-' | b'0'..=b'9' => {
                let text = self.run(|byte| byte == b'-' || byte.is_ascii_digit());
                let is_integer = text.len() <= 16 && self.peek() != Some(b'.');
                let number = text.parse().ok().filter(|_| is_integer);
                number.map(Item::Integer).ok_or(Refusal::Malformed)
            }
            byte if byte.is_ascii_alphabetic() || byte == b'*' => {
                let is_token =
                    |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
                Ok(Item::Token(self.run(is_token)))
            }
            _ => Err(Refusal::Malformed),
        }
    }

    fn text(&mut self) -> Result<String, Refusal> {
        self.expect(b'"')?;
        let mut text = String::new();
        loop {
            match self.next()? {
                b'"' => return Ok(text),
                b'\\' => match self.next()? {
                    byte @ (b'"' | b'\\') => text.push(char::from(byte)),
                    _ => return Err(Refusal::Malformed),
                },
                byte @ 0x20..=0x7e => text.push(char::from(byte)),
                _ => return Err(Refusal::Malformed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn inputs_are_read_strictly() {
        let text = r#"a=("@method" "@query-param";name="Pet");created=16;keyid="k\"1";x;y=?0, b=();z=:YQ==:"#;
        let read = inputs(text).unwrap();
        assert_eq!(read[0].components[1].written, r#""@query-param";name="Pet""#);
        assert_eq!(
            read[0].written,
            r#"("@method" "@query-param";name="Pet");created=16;keyid="k\"1";x;y=?0"#
        );
        assert_eq!(read[0].parameters[1], ("keyid".into(), Item::Text("k\"1".into())));
        assert_eq!(read[1].parameters, [("z".into(), Item::Bytes(b"a".to_vec()))]);
        for wrong in [
            "",
            "a",
            "a=",
            "a=(",
            "a=()x",
            "a=(),",
            "a=(), a=()",
            "A=()",
            "a=(\"x\"\"y\")",
            "a=(x)",
            "a=();created=1;created=2",
            "a=();created=1.5",
            "a=();created=99999999999999999999",
            "a=();k=\"\u{e9}\"",
            "a=();k=:*:",
            "a=(\"x\ny\")",
        ] {
            assert!(inputs(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-a-z0-9@=();:,?\"\\\\ \u{e9}]{0,60}") {
            let _ = inputs(&text);
            let _ = byte_sequences(&text);
        }
    }
}
