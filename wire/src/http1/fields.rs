//! Field lines (RFC 9112 section 5): found line by line as they arrive, and made into a header map at the end.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::error::{Error, ErrorKind};
use super::limits::Limits;
use super::lines::Lines;
use super::message::{Options, trim};
use super::names::{self, Form, Known, Role};
use super::spelling::{Rule, Spelling};

/// The field lines of an incomplete section, as offsets from its start: that of a head includes its first line.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) lines: Lines,
    list: Vec<Place>,
    /// The spelling of the first name that has a regular one.
    rule: Option<Rule>,
    pub(super) seen: Seen,
    source: Source,
    last: Option<Box<Last>>,
}

/// Where the fields come from.
#[derive(Debug, Default)]
enum Source {
    /// Lines that are not kept.
    #[default]
    Trailers,
    /// Lines of a head, from this offset on.
    Head(usize, FirstLine),
    /// The last head.
    Last,
}

/// What decides, besides its lines, what the fields of a head mean: the version, and whether there is no body.
pub(super) type FirstLine = (Version, bool);

/// What the fields of a head say that the codec understands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) host: bool,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) options: Options,
    /// A response has fields that concern this connection only.
    pub(super) hop_by_hop: bool,
}

/// The fields of the last head. Most peers repeat them on a connection, so they are not parsed again.
#[derive(Debug, Default)]
struct Last {
    first: FirstLine,
    /// Its field lines, with the empty line at their end.
    lines: Vec<u8>,
    /// What they are, once they have come twice: slices of a copy, as those of a buffer would keep it from being used
    /// again.
    parsed: Option<Parsed>,
}

#[derive(Debug)]
struct Parsed {
    headers: HeaderMap,
    spelling: Spelling,
    seen: Seen,
}

/// A field line.
#[derive(Debug)]
struct Place {
    name: Range<usize>,
    value: Range<usize>,
    /// Another name is looked up at the end.
    known: Option<&'static Known>,
    form: Form,
}

/// A field that was found.
pub(super) struct Field<'a> {
    /// What its name means.
    pub(super) role: Role,
    /// Its value, without the white space around it. It may still have control characters.
    pub(super) value: &'a [u8],
    /// Where the value starts.
    pub(super) at: usize,
}

impl Field<'_> {
    /// Checks the value before the section is complete, and one that does not become part of the map, which checks all.
    pub(super) fn check_value(&self) -> Result<(), Error> {
        let wrong = |at| Error::new(ErrorKind::FieldValue, self.at + at);
        self.value.iter().position(is_control).map_or(Ok(()), |at| Err(wrong(at)))
    }
}

/// The fields that most sections have at most, so that their list is allocated once.
const USUAL_FIELDS: usize = 24;
/// Maximum size of field lines that are kept to be compared with the next ones.
const MAX_KEPT: usize = 1024;
/// Maximum size of a head that is copied for its fields.
const MAX_COPIED: usize = 2 * MAX_KEPT;

impl Fields {
    /// Begins a head after its first line. Returns true if its fields are those of the last head: then it is complete.
    pub(super) fn begin(&mut self, head: &[u8], first: FirstLine, limits: &Limits) -> bool {
        let start = self.lines.consumed();
        self.source = Source::Head(start, first);
        let Some(Last { first: last, lines, parsed: Some(parsed) }) = self.last.as_deref() else {
            return false;
        };
        let end = start + lines.len();
        let fits = end <= limits.head as usize && parsed.headers.len() <= limits.fields as usize;
        let is_last = fits && *last == first && head.get(start..end) == Some(lines);
        if is_last {
            self.seen = parsed.seen;
            self.source = Source::Last;
            self.lines.skip(end);
        }
        is_last
    }

    /// Adds the field in a line of the section.
    pub(super) fn push<'a>(
        &mut self,
        section: &'a [u8],
        line: Range<usize>,
        max: u32,
    ) -> Result<Field<'a>, Error> {
        let start = line.start;
        if self.list.len() >= max as usize {
            return Err(Error::new(ErrorKind::TooManyFields, start));
        }
        let line = &section[line];
        let length = memchr::memchr(b':', line).unwrap_or(line.len());
        let name = &line[..length];
        let (known, form) = match names::identify(name) {
            Some((known, form)) if length < line.len() => (Some(known), form),
            _ => (None, other_form(line, length).map_err(|(kind, at)| Error::new(kind, start + at))?),
        };
        let (leading, value) = value(line.get(length + 1..).unwrap_or_default());
        let at = start + length + 1 + leading;
        if self.rule.is_none() {
            self.rule = match form {
                Form::Usual => Some(Rule::Usual),
                Form::Lower => Some(Rule::Lower),
                Form::Either | Form::Irregular => None,
            };
        }
        let (name, place) = (start..start + length, at..at + value.len());
        let place = Place { name, value: place, known, form };
        if self.list.capacity() == 0 {
            self.list.reserve_exact(USUAL_FIELDS);
        }
        self.list.push(place);
        let role = known.map_or(Role::Other, |known| known.role);
        Ok(Field { role, value, at })
    }

    /// Takes back the last field.
    pub(super) fn pop(&mut self) {
        self.list.pop();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds all fields to an empty map, with room for `added` more, and returns the spelling of their names, both as
    /// slices of the section or of a copy. Starts again.
    pub(super) fn build(
        &mut self,
        section: &Bytes,
        headers: &mut HeaderMap,
        added: usize,
    ) -> Result<Spelling, Error> {
        let seen = std::mem::take(&mut self.seen);
        self.lines = Lines::default();
        match (std::mem::take(&mut self.source), self.last.as_deref_mut()) {
            (Source::Last, Some(Last { parsed: Some(parsed), .. })) => {
                *headers = parsed.headers.clone();
                return Ok(parsed.spelling.clone());
            }
            (Source::Head(start, first), Some(last))
                if last.first == first && last.lines == section[start..] =>
            {
                let is_small = section.len() <= MAX_COPIED && self.list.len() <= USUAL_FIELDS;
                if last.parsed.is_some() || !is_small {
                    return self.parse(section, headers, added);
                }
                let spelling = self.parse(&Bytes::copy_from_slice(section), headers, added)?;
                let parsed = Parsed { headers: headers.clone(), spelling: spelling.clone(), seen };
                self.last.get_or_insert_default().parsed = Some(parsed);
                return Ok(spelling);
            }
            (Source::Head(start, first), _) if section.len() - start <= MAX_KEPT => {
                let last = self.last.get_or_insert_default();
                (last.first, last.parsed) = (first, None);
                last.lines.clear();
                last.lines.extend_from_slice(&section[start..]);
            }
            _ => {}
        }
        self.parse(section, headers, added)
    }

    fn parse(&mut self, section: &Bytes, headers: &mut HeaderMap, added: usize) -> Result<Spelling, Error> {
        let too_many = |_| Error::new(ErrorKind::TooManyFields, section.len());
        headers.try_reserve(self.list.len() + added).map_err(too_many)?;
        let mut spelling = Spelling::new(self.rule.take().unwrap_or_default());
        for place in &self.list {
            let (name, value) = (place.name.clone(), place.value.clone());
            if spelling.is_irregular(place.form) {
                spelling.keep(section.slice(name.clone()));
            }
            let value = HeaderValue::from_maybe_shared(section.slice(value.clone()))
                .map_err(|_| wrong_value(section, value))?;
            let fits = match place.known {
                Some(known) => headers.try_append(&known.name, value),
                None => {
                    let wrong = |_| Error::new(ErrorKind::FieldName, name.start);
                    let parsed = HeaderName::from_bytes(&section[name.clone()]).map_err(wrong)?;
                    headers.try_append(parsed, value)
                }
            };
            fits.map_err(|_| Error::new(ErrorKind::TooManyFields, name.start))?;
        }
        self.list.clear();
        Ok(spelling)
    }

    /// Gives the memory of the list back.
    pub(super) fn release(&mut self) {
        self.list = Vec::new();
    }

    /// Returns the number of bytes that are allocated, about.
    pub(super) fn allocated(&self) -> usize {
        let kept = self.last.as_ref().map_or(0, |last| {
            let of_field = 2 * size_of::<(HeaderName, HeaderValue)>();
            let of_map = |parsed: &Parsed| MAX_COPIED + parsed.headers.len() * of_field;
            size_of::<Last>() + last.lines.capacity() + last.parsed.as_ref().map_or(0, of_map)
        });
        self.list.capacity() * size_of::<Place>() + kept
    }
}

/// Checks a name that is not known, and returns how it is spelt.
fn other_form(line: &[u8], length: usize) -> Result<Form, (ErrorKind, usize)> {
    let token = line[..length].iter().position(|byte| !names::is_token(*byte)).unwrap_or(length);
    if length == 0 || token < length || length == line.len() || length > usize::from(u16::MAX) {
        return Err((wrong_name(line, token), token));
    }
    Ok(names::form(&line[..length]))
}

/// Returns a value without the white space around it, and how much of that is before it.
#[inline]
fn value(rest: &[u8]) -> (usize, &[u8]) {
    let leading = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    (leading, trim(&rest[leading..]))
}

/// Returns what is wrong with a line whose name ends after `length` bytes.
fn wrong_name(line: &[u8], length: usize) -> ErrorKind {
    let spaces = line[length..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    match line.get(length + spaces) {
        _ if length == 0 && spaces > 0 => ErrorKind::Folded,
        Some(b':') if spaces > 0 => ErrorKind::SpaceBeforeColon,
        _ => ErrorKind::FieldName,
    }
}

/// Returns what is wrong with a value: the first byte that none may have.
fn wrong_value(section: &[u8], value: Range<usize>) -> Error {
    let at = value.start + section[value].iter().position(is_control).unwrap_or(0);
    let kind = if section.get(at) == Some(&b'\r') { ErrorKind::LineEnd } else { ErrorKind::FieldValue };
    Error::new(kind, at)
}

fn is_control(byte: &u8) -> bool {
    (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f
}
