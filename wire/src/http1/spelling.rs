//! How a peer spells the names of fields, which the header map of the HTTP library does not keep.

use bytes::Bytes;
use http::HeaderName;

use super::names::{self, Form};

/// Maximum number of irregular names that are kept of one head, so that looking for them has a bound.
const MAX_IRREGULAR: usize = 64;

/// The spelling of the names in a head: one rule for all, and those that it does not give.
///
/// Most heads follow a rule and keep nothing. Irregular names are slices of the head, in the order of their lines. If
/// there are more than 64, the rest follow the rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spelling {
    rule: Rule,
    irregular: Vec<Bytes>,
    /// A bit for each length, up to 63, of an irregular name.
    lengths: u64,
}

/// How names are spelt by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// As they are usual: `Content-Type`, `ETag`, `Sec-WebSocket-Key`.
    #[default]
    Usual,
    /// In lower case: `content-type`.
    Lower,
}

impl Spelling {
    /// The usual spelling of all names.
    pub const USUAL: Self = Self { rule: Rule::Usual, irregular: Vec::new(), lengths: 0 };
    /// All names in lower case.
    pub const LOWER: Self = Self { rule: Rule::Lower, irregular: Vec::new(), lengths: 0 };

    /// Returns the rule.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Returns the names that do not follow the rule, as they were received.
    pub fn irregular(&self) -> impl Iterator<Item = &[u8]> {
        self.irregular.iter().map(Bytes::as_ref)
    }

    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, irregular: Vec::new(), lengths: 0 }
    }

    /// Returns true if the rule does not spell a name as it was received.
    #[inline]
    pub(super) fn is_irregular(&self, form: Form) -> bool {
        match form {
            Form::Either => false,
            Form::Usual => self.rule == Rule::Lower,
            Form::Lower => self.rule == Rule::Usual,
            Form::Irregular => true,
        }
    }

    /// Keeps an irregular name as it was received.
    pub(super) fn keep(&mut self, name: Bytes) {
        if self.irregular.len() < MAX_IRREGULAR {
            self.lengths |= bit(name.len());
            self.irregular.push(name);
        }
    }

    /// Starts to write names.
    pub(super) fn speller(&self) -> Speller<'_> {
        let unusual = if self.rule == Rule::Usual { self.lengths } else { u64::MAX };
        Speller { spelling: self, unusual, next: 0 }
    }
}

/// Writes names in a spelling.
pub(super) struct Speller<'a> {
    spelling: &'a Spelling,
    /// The lengths of known names that are perhaps not written as usual.
    unusual: u64,
    /// The irregular name after the last one that was written. As a rule, names are written in their order.
    next: usize,
}

impl<'a> Speller<'a> {
    /// Writes a line, after the end of the one before. `known` is what [`names::find`] returns for the name.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        name: &HeaderName,
        known: Option<&names::Known>,
        value: &[u8],
        out: &mut Vec<u8>,
    ) {
        match known {
            Some(known) if self.unusual & bit(known.length()) == 0 => known.write(out),
            _ => self.write_name(name, known, out),
        }
        out.extend_from_slice(value);
    }

    fn write_name(&mut self, name: &HeaderName, known: Option<&names::Known>, out: &mut Vec<u8>) {
        let (irregular, rule) = (self.irregular(name), self.spelling.rule);
        if let (None, Rule::Usual, Some(known)) = (irregular, rule, known) {
            return known.write(out);
        }
        out.extend_from_slice(b"\r\n");
        let start = out.len();
        out.extend_from_slice(irregular.unwrap_or(name.as_str().as_bytes()));
        if irregular.is_none() && rule == Rule::Usual {
            title(&mut out[start..]);
        }
        out.extend_from_slice(b": ");
    }

    fn irregular(&mut self, name: &HeaderName) -> Option<&'a [u8]> {
        let all = &self.spelling.irregular;
        if self.spelling.lengths & bit(name.as_str().len()) == 0 {
            return None;
        }
        let (before, after) = all.split_at(self.next.min(all.len()));
        let is_it = |one: &Bytes| one.eq_ignore_ascii_case(name.as_str().as_bytes());
        let found = after.iter().position(is_it).map(|at| at + before.len());
        let found = found.or_else(|| before.iter().position(is_it))?;
        self.next = found + 1;
        Some(&all[found])
    }
}

/// Returns the bit of [`Spelling::lengths`].
fn bit(length: usize) -> u64 {
    1 << length.min(63)
}

/// Capitalises each word of a name.
fn title(name: &mut [u8]) {
    let mut starts = true;
    for byte in name {
        if starts {
            byte.make_ascii_uppercase();
        }
        starts = *byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(spelling: &Spelling, names: &[&str]) -> String {
        let (mut out, mut speller) = (Vec::new(), spelling.speller());
        for name in names {
            let name: HeaderName = name.parse().unwrap();
            speller.write(&name, names::find(&name), b"", &mut out);
        }
        String::from_utf8(out).unwrap().replace("\r\n", "").replace(':', "")
    }

    fn kept(rule: Rule, names: &'static [&'static str]) -> Spelling {
        let mut spelling = Spelling::new(rule);
        for name in names {
            let form =
                names::identify(name.as_bytes()).map_or_else(|| names::form(name.as_bytes()), |it| it.1);
            if spelling.is_irregular(form) {
                spelling.keep(Bytes::from_static(name.as_bytes()));
            }
        }
        spelling
    }

    #[test]
    fn rules_spell_all_names() {
        let names = ["content-type", "etag", "x-a1-b", "sec-websocket-key", "1-a"];
        let usual = "Content-Type ETag X-A1-B Sec-WebSocket-Key 1-A ";
        assert_eq!(written(&Spelling::USUAL, &names), usual);
        assert_eq!(written(&Spelling::LOWER, &names), "content-type etag x-a1-b sec-websocket-key 1-a ");
    }

    #[test]
    fn irregular_names_are_kept_and_found_in_any_order() {
        let spelling = kept(Rule::Usual, &["Host", "ETAG", "X-a", "accept", "x-A", "Other"]);
        assert_eq!(spelling.irregular().count(), 4);
        assert_eq!(
            written(&spelling, &["host", "etag", "x-a", "accept", "x-a"]),
            "Host ETAG X-a accept x-A "
        );
        assert_eq!(written(&spelling, &["accept", "etag", "x-b", "x-a"]), "accept ETAG X-B X-a ");
        let spelling = kept(Rule::Lower, &["host", "x-a", "User-Agent", "X-B"]);
        assert_eq!(written(&spelling, &["host", "user-agent", "x-b", "x-c"]), "host User-Agent X-B x-c ");
    }

    #[test]
    fn few_names_are_kept_of_a_hostile_head() {
        let mut spelling = Spelling::new(Rule::Usual);
        for _ in 0..1000 {
            spelling.keep(Bytes::from_static(b"x-A"));
        }
        assert_eq!(spelling.irregular().count(), MAX_IRREGULAR);
    }
}
