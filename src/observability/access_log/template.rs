//! Lines in the form of `accessLog.template`: text with the names of fields in braces.

use std::borrow::Cow;
use std::ops::Range;

use tidegate_core::expression::place;

use super::error::TemplateError;
use super::escape::push_escaped;
use super::fields::{Number, Text, Time};
use super::filter::{self, Known};
use super::line::{Entry, REDACTED, push_number};
use super::modes::{Mode, Modes};
use super::nanoseconds;

/// A compiled template.
pub(super) struct Template {
    parts: Vec<Part>,
    /// Length of the template, from which the capacity of a line follows.
    fixed: usize,
}

enum Part {
    Fixed(Box<str>),
    Number(Number),
    Time(Time),
    Text(Text),
    Aborted,
}

impl Template {
    /// Compiles a template. The error names the place of the mistake.
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.trim().is_empty() {
            return Err(TemplateError::Empty);
        }
        let (mut parts, mut fixed, mut at) = (Vec::new(), String::new(), 0);
        while let Some(found) = text[at..].find(['{', '}']).map(|found| at + found) {
            fixed.push_str(&text[at..found]);
            let brace = &text[found..=found];
            if text[found + 1..].starts_with(brace) {
                fixed.push_str(brace);
                at = found + 2;
                continue;
            }
            let name = name_after(text, found)?;
            if !fixed.is_empty() {
                parts.push(Part::Fixed(std::mem::take(&mut fixed).into()));
            }
            at = name.end + 1;
            parts.push(part(text, name)?);
        }
        fixed.push_str(&text[at..]);
        if fixed.contains(|c: char| c.is_control() && c != '\t') {
            return Err(TemplateError::Control);
        }
        parts.push(Part::Fixed(fixed.into()));
        Ok(Self { parts, fixed: text.len() })
    }

    /// Returns true if the template has headers.
    pub(super) fn needs_headers(&self) -> bool {
        let is_header = |text: &Text| {
            matches!(text, Text::RequestHeader(_) | Text::OriginHeader(_) | Text::DownstreamHeader(_))
        };
        self.parts.iter().any(|part| matches!(part, Part::Text(text) if is_header(text)))
    }

    /// Returns the line of a request.
    pub(super) fn line(&self, entry: &Entry<'_>, modes: &Modes) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.fixed + 256);
        for part in &self.parts {
            match part {
                Part::Fixed(text) => line.extend_from_slice(text.as_bytes()),
                Part::Number(Number::GzipRatio) => {
                    // Writing to a Vec cannot fail.
                    drop(serde_json::to_writer(&mut line, &entry.gzip_ratio()));
                }
                // All others are whole and not negative.
                Part::Number(number) => push_number(&mut line, entry.number(*number) as u64),
                Part::Time(time) => push_number(&mut line, nanoseconds(entry.time(*time))),
                Part::Text(text) => push_text(&mut line, &shown(entry, text, modes)),
                Part::Aborted => line.extend_from_slice(match entry.aborted {
                    Some(_) => b"true",
                    None => b"false",
                }),
            }
        }
        line.push(b'\n');
        line
    }
}

/// Returns the value of a text field, redacted if it is a header that must be.
fn shown<'a>(entry: &'a Entry<'_>, text: &Text, modes: &Modes) -> Cow<'a, str> {
    let value = entry.text(text, modes);
    match text {
        Text::RequestHeader(name) | Text::OriginHeader(name) | Text::DownstreamHeader(name)
            if !value.is_empty() && modes.of_header(name) == Mode::Redact =>
        {
            REDACTED.into()
        }
        _ => value,
    }
}

fn push_text(line: &mut Vec<u8>, text: &str) {
    if text.is_empty() { line.push(b'-') } else { push_escaped(line, text) }
}

/// Returns the range of the name after the brace at `at`.
fn name_after(text: &str, at: usize) -> Result<Range<usize>, TemplateError> {
    let end = text[at..].strip_prefix('{').and_then(|rest| rest.find('}'));
    match end {
        Some(length) => Ok(at + 1..at + 1 + length),
        None => Err(TemplateError::Brace { place: place(text, at), brace: text[at..=at].to_owned() }),
    }
}

fn part(text: &str, name: Range<usize>) -> Result<Part, TemplateError> {
    let at = name.start;
    let name = text[name].trim();
    let found = filter::known(name).and_then(|known| known.ok_or_else(|| filter::unknown(name)));
    match found {
        Ok(Known::Number(number)) => Ok(Part::Number(number)),
        Ok(Known::Time(time)) => Ok(Part::Time(time)),
        Ok(Known::Text(text)) => Ok(Part::Text(text)),
        Ok(Known::Aborted) => Ok(Part::Aborted),
        Err(source) => Err(TemplateError::Field { place: place(text, at), source: Box::new(source) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_place_and_what_was_expected() {
        for (text, expected) in [
            ("", "is empty"),
            (
                "{StartUTC} {RequestHots}",
                "column 13: RequestHots is not a field of the access log; did you mean RequestHost?",
            ),
            ("a {b", "column 3: `{` has no match"),
            ("a } b", "column 3: `}` has no match"),
            ("{request_}", "expected the name of a header after `request_`"),
            ("a\nb", "one line"),
        ] {
            let error = Template::parse(text).err().unwrap_or_else(|| panic!("{text}")).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn headers_are_kept_only_if_the_template_has_some() {
        assert!(!Template::parse("{RequestPath} {{x}}").unwrap().needs_headers());
        assert!(Template::parse("{downstream_Content-Type}").unwrap().needs_headers());
    }
}
