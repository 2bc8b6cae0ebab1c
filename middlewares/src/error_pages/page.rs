//! Files with pages.

use bytes::Bytes;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use tidegate_core::BuildError;

use super::format::{Details, NAMES};

/// Maximum length of a page in bytes.
const MAX_LENGTH: usize = 1024 * 1024;
/// Steps that a template may take.
const FUEL: u64 = 100_000;
/// The name of the template in its environment. Messages name the file instead.
const NAME: &str = "page";

/// A file, which is a template if its name ends in `.j2`.
#[derive(Debug)]
pub(super) struct Page {
    path: String,
    media_type: &'static str,
    content_type: &'static str,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Static(Bytes),
    Template(Box<Environment<'static>>),
}

/// Extensions, with the media type and the value of `Content-Type`.
const TYPES: &[(&str, &str, &str)] = &[
    ("html", "text/html", "text/html; charset=utf-8"),
    ("htm", "text/html", "text/html; charset=utf-8"),
    ("txt", "text/plain", "text/plain; charset=utf-8"),
    ("json", "application/json", "application/json"),
    ("xml", "application/xml", "application/xml"),
];

impl Page {
    /// Parses the content of a file. Its type follows from its name.
    pub(super) fn parse(path: &str, content: &[u8]) -> Result<Self, BuildError> {
        let wrong = |message: String| BuildError::new(format!("{path}: {message}"));
        if content.len() > MAX_LENGTH {
            return Err(wrong(format!("longer than {MAX_LENGTH} bytes")));
        }
        let template = path.strip_suffix(".j2");
        let extension = template.unwrap_or(path).rsplit_once('.').map_or("", |(_, extension)| extension);
        let known = TYPES.iter().find(|(own, _, _)| own.eq_ignore_ascii_case(extension));
        let &(_, media_type, content_type) = known.ok_or_else(|| {
            wrong("unknown type: expected `.html`, `.txt`, `.json` or `.xml`, and `.j2` after that for a template".into())
        })?;
        let content = match template {
            None => Content::Static(Bytes::copy_from_slice(content)),
            Some(_) => {
                let text = std::str::from_utf8(content).map_err(|_| wrong("not UTF-8".into()))?;
                let escape = match media_type {
                    "text/html" | "application/xml" => AutoEscape::Html,
                    "application/json" => AutoEscape::Json,
                    _ => AutoEscape::None,
                };
                let environment = compile(text, escape).map_err(|error| wrong(described(&error)))?;
                Content::Template(Box::new(environment))
            }
        };
        let page = Self { path: path.to_owned(), media_type, content_type, content };
        // A name that does not exist is a mistake of the page, not of the first request that needs it.
        page.try_render(&Details::sample()).map_err(|error| wrong(described(&error)))?;
        Ok(page)
    }

    /// Returns the type without parameters.
    pub(super) fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// Returns the value of `Content-Type`.
    pub(super) fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// Returns the page for an error; `None` if the template fails.
    pub(super) fn render(&self, details: &Details<'_>) -> Option<Bytes> {
        match self.try_render(details) {
            Ok(body) => Some(body),
            Err(error) => {
                tracing::warn!("{}: {}", self.path, described(&error));
                None
            }
        }
    }

    fn try_render(&self, details: &Details<'_>) -> Result<Bytes, minijinja::Error> {
        match &self.content {
            Content::Static(bytes) => Ok(bytes.clone()),
            Content::Template(environment) => {
                Ok(environment.get_template(NAME)?.render(details.values())?.into())
            }
        }
    }
}

fn compile(text: &str, escape: AutoEscape) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(move |_| escape.clone());
    environment.add_template_owned(NAME, text.to_owned())?;
    Ok(environment)
}

/// Returns the message of an error with its line.
fn described(error: &minijinja::Error) -> String {
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, _) => format!("undefined value: expected one of {NAMES}"),
        (ErrorKind::OutOfFuel, _) => format!("more than {FUEL} steps"),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}
