//! Pages with values in them, written as Go templates: `{{ .Name }}` and `{{ if .Name }}…{{ else }}…{{ end }}`.

use bytes::Bytes;

/// Maximum length of a template in bytes.
const MAX_LENGTH: usize = 1024 * 1024;

/// A parsed page.
#[derive(Debug)]
pub(super) struct Template {
    parts: Vec<Part>,
    pub(super) content_type: &'static str,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Value(String),
    /// A condition, and both branches.
    If(String, Vec<Part>, Vec<Part>),
}

/// Why a page cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("longer than {MAX_LENGTH} bytes")]
    TooLong,
    #[error("not UTF-8")]
    Encoding,
    #[error("`{{{{` without `}}}}`")]
    Open,
    #[error("`{{{{ {0} }}}}` is not supported: expected `.Name`, `if .Name`, `else` or `end`")]
    Unsupported(String),
    #[error("`if` without `end`, or the reverse")]
    Unbalanced,
    #[error("`{0}` is unknown: expected one of {1}")]
    Unknown(String, String),
}

impl Template {
    /// Parses a page. The type follows from the extension of `path`, and values are those in `names`.
    pub(super) fn parse(path: &str, text: &[u8], names: &[&str]) -> Result<Self, TemplateError> {
        if text.len() > MAX_LENGTH {
            return Err(TemplateError::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| TemplateError::Encoding)?;
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        let content_type = match extension.to_ascii_lowercase().as_str() {
            "json" => "application/json",
            "txt" => "text/plain; charset=utf-8",
            "xml" => "text/xml; charset=utf-8",
            _ => "text/html; charset=utf-8",
        };
        Ok(Self { parts: parse(text, names)?, content_type })
    }

    /// Returns the page with these values. Missing ones are empty; all are escaped for HTML.
    pub(super) fn render(&self, values: &[(&str, &str)]) -> Bytes {
        let mut page = String::new();
        render(&self.parts, values, &mut page);
        page.into()
    }
}

/// A block that is being parsed: the condition, the parts before `else`, and whether `else` has occurred.
type Open = (String, Option<Vec<Part>>);

fn parse(text: &str, names: &[&str]) -> Result<Vec<Part>, TemplateError> {
    let mut outer: Vec<(Open, Vec<Part>)> = Vec::new();
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or(TemplateError::Open)?;
        let trims_before = action.starts_with('-');
        let trims_after = action.ends_with('-');
        parts.push(Part::Text(if trims_before { before.trim_end() } else { before }.to_owned()));
        rest = if trims_after { after.trim_start() } else { after };
        let action = action.trim_matches('-').trim();
        let words: Vec<&str> = action.split_whitespace().collect();
        match words[..] {
            ["if", name] => outer.push(((known(name, names)?, None), std::mem::take(&mut parts))),
            ["else"] => match outer.last_mut() {
                Some(((_, then @ None), _)) => *then = Some(std::mem::take(&mut parts)),
                _ => return Err(TemplateError::Unbalanced),
            },
            ["end"] => {
                let ((name, then), before) = outer.pop().ok_or(TemplateError::Unbalanced)?;
                let inner = std::mem::replace(&mut parts, before);
                parts.push(match then {
                    Some(then) => Part::If(name, then, inner),
                    None => Part::If(name, inner, Vec::new()),
                });
            }
            [name] if name.starts_with('.') => parts.push(Part::Value(known(name, names)?)),
            _ if action.starts_with("/*") => {}
            _ => return Err(TemplateError::Unsupported(action.chars().take(80).collect())),
        }
    }
    parts.push(Part::Text(rest.to_owned()));
    if outer.is_empty() { Ok(parts) } else { Err(TemplateError::Unbalanced) }
}

fn known(name: &str, names: &[&str]) -> Result<String, TemplateError> {
    let plain = name.strip_prefix('.').unwrap_or(name);
    match names.contains(&plain) {
        true => Ok(plain.to_owned()),
        false => {
            Err(TemplateError::Unknown(name.chars().take(80).collect(), format!(".{}", names.join(", ."))))
        }
    }
}

fn render(parts: &[Part], values: &[(&str, &str)], page: &mut String) {
    let value = |name: &str| values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| *value);
    for part in parts {
        match part {
            Part::Text(text) => page.push_str(text),
            Part::Value(name) => escape(value(name), page),
            Part::If(name, then, otherwise) => {
                render(if value(name).is_empty() { otherwise } else { then }, values, page);
            }
        }
    }
}

fn escape(text: &str, page: &mut String) {
    for c in text.chars() {
        match c {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&#34;"),
            '\'' => page.push_str("&#39;"),
            other => page.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["ClientIP", "TraceID"];

    fn rendered(text: &str, values: &[(&str, &str)]) -> String {
        let page = Template::parse("/a.html", text.as_bytes(), NAMES).unwrap().render(values);
        String::from_utf8(page.to_vec()).unwrap()
    }

    #[test]
    fn values_are_inserted_and_escaped() {
        let text =
            "a {{ .ClientIP }}{{.TraceID}}{{/* note */}} }}{{- if .TraceID }} t {{ else }} n {{ end -}} z";
        let values = [("ClientIP", "::1"), ("TraceID", "<\"'&>")];
        assert_eq!(rendered(text, &values), "a ::1&lt;&#34;&#39;&amp;&gt; }} t z");
        assert_eq!(rendered(text, &values[..1]), "a ::1 }} n z");
        assert_eq!(
            rendered("{{if .ClientIP}}{{if .TraceID}}1{{else}}2{{end}}3{{end}}", &[("ClientIP", "x")]),
            "23"
        );
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| Template::parse("a", text.as_bytes(), NAMES).unwrap_err().to_string();
        assert_eq!(error("{{ .Nope }}"), "`.Nope` is unknown: expected one of .ClientIP, .TraceID");
        assert_eq!(
            error("{{ range . }}"),
            "`{{ range . }}` is not supported: expected `.Name`, `if .Name`, `else` or `end`"
        );
        assert_eq!(error("{{ x"), "`{{` without `}}`");
        for text in
            ["{{ end }}", "{{ if .ClientIP }}", "{{ else }}", "{{if .TraceID}}{{else}}{{else}}{{end}}"]
        {
            assert_eq!(error(text), "`if` without `end`, or the reverse", "{text}");
        }
        assert_eq!(Template::parse("a", b"\xff", NAMES).unwrap_err(), TemplateError::Encoding);
    }

    #[test]
    fn the_type_follows_from_the_extension() {
        for (path, expected) in [
            ("/ban.html", "text/html; charset=utf-8"),
            ("/a.b.JSON", "application/json"),
            ("x", "text/html; charset=utf-8"),
        ] {
            assert_eq!(Template::parse(path, b"", NAMES).unwrap().content_type, expected);
        }
    }
}
