//! Field lines (RFC 9112 section 5): found line by line as they arrive, and made into a header map at the end.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};

use super::error::{Error, ErrorKind};
use super::find::find;
use super::limits::Limits;
use super::message::{Options, trim};
use super::names::{self, Form, Role};
use super::spelling::{Rule, Spelling};

/// The field lines of an incomplete section, as offsets from its start.
#[derive(Debug, Default)]
pub(super) struct Fields {
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
    count: usize,
    headers: HeaderMap,
    spelling: Spelling,
    seen: Seen,
}

/// A field line.
#[derive(Debug)]
struct Place {
    name: u32,
    value: u32,
    value_length: u32,
    name_length: u16,
    /// The number of a known name; another one is looked up at the end.
    known: u8,
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
/// The number of names that are not known.
const UNKNOWN: u8 = u8::MAX;

impl Fields {
    /// Begins a head whose field lines start at `start`. Returns where it ends if they are those of the last head: then
    /// it can be built at once.
    pub(super) fn begin(
        &mut self,
        head: &[u8],
        start: usize,
        first: FirstLine,
        limits: &Limits,
    ) -> Option<usize> {
        self.source = Source::Head(start, first);
        let Last { lines, parsed, .. } = self.last.as_deref().filter(|last| last.first == first)?;
        let (parsed, end) = (parsed.as_ref()?, start + lines.len());
        let fits = end <= limits.head as usize && parsed.count <= limits.fields as usize;
        if !fits || head.get(start..end) != Some(lines) {
            return None;
        }
        self.seen = parsed.seen;
        self.source = Source::Last;
        Some(end)
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
        let length = find(b':', line).unwrap_or(line.len());
        let name = &line[..length];
        let (number, form) = match names::identify(name) {
            Some(known) if length < line.len() => known,
            _ => (UNKNOWN, other_form(line, length).map_err(|(kind, at)| Error::new(kind, start + at))?),
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
        // A section is smaller than 4 GiB, as `Limits` has no larger number.
        let place = Place {
            name: start as u32,
            value: at as u32,
            value_length: value.len() as u32,
            name_length: length as u16,
            known: number,
            form,
        };
        if self.list.capacity() == 0 {
            self.list.reserve_exact(USUAL_FIELDS);
        }
        self.list.push(place);
        let role = names::known(number).map_or(Role::Other, |known| known.role);
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
        match (std::mem::take(&mut self.source), self.last.as_deref_mut()) {
            (Source::Last, Some(Last { parsed: Some(parsed), .. })) => {
                *headers = parsed.headers.clone();
                return Ok(parsed.spelling.clone());
            }
            (Source::Head(start, first), Some(last))
                if last.first == first && last.lines == section[start..] =>
            {
                if last.parsed.is_none() {
                    let count = self.list.len();
                    let built = self.parse(&Bytes::copy_from_slice(section), headers, added)?;
                    let (headers, spelling) = (headers.clone(), built.clone());
                    let parsed = Parsed { count, headers, spelling, seen };
                    self.last.get_or_insert_default().parsed = Some(parsed);
                    return Ok(built);
                }
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
            let name = place.name as usize..place.name as usize + usize::from(place.name_length);
            let value = place.value as usize..(place.value + place.value_length) as usize;
            if spelling.is_irregular(place.form) {
                spelling.keep(section.slice(name.clone()));
            }
            let value = HeaderValue::from_maybe_shared(section.slice(value.clone()))
                .map_err(|_| wrong_value(section, value))?;
            let fits = match names::known(place.known) {
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
            let count = last.parsed.as_ref().map_or(0, |parsed| parsed.headers.len());
            size_of::<Last>() + last.lines.capacity() * 2 + count * 2 * size_of::<(HeaderName, HeaderValue)>()
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
    if let [b' ', value @ ..] = rest
        && value.first().is_some_and(|first| *first > b' ')
        && value.last().is_some_and(|last| *last > b' ')
    {
        return (1, value);
    }
    let value = trim(rest);
    let leading = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    (leading, value)
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
