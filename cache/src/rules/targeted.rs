//! Targeted `Cache-Control` fields (RFC 9213).

use http::{HeaderMap, HeaderName};

use super::directives::{Argument, ResponseDirectives};
use super::structured::{self, Value};

/// The directives that count for this cache: those of the first field of `targets` that is valid and not empty
/// (RFC 9213 §2.2). `None` if none is: `Cache-Control` and `Expires` count then, otherwise they must be ignored.
pub(super) fn directives(headers: &HeaderMap, targets: &[HeaderName]) -> Option<ResponseDirectives> {
    targets.iter().find_map(|name| {
        let mut lines = headers.get_all(name).iter();
        let first = lines.next()?.as_bytes().to_vec();
        let text = lines.fold(first, |mut text, line| {
            text.extend_from_slice(b", ");
            text.extend_from_slice(line.as_bytes());
            text
        });
        let mut directives = ResponseDirectives { present: true, ..ResponseDirectives::default() };
        for (name, value) in structured::dictionary(&text)? {
            apply(&mut directives, &name, value);
        }
        Some(directives)
    })
}

fn apply(directives: &mut ResponseDirectives, name: &str, value: Value) {
    let argument = match value {
        // The dictionary's way to say that a directive is not there.
        Value::Boolean(false) => return,
        Value::Boolean(true) => Argument::Absent,
        // A lifetime is an integer (RFC 9213 §2.1), so a string of digits is none.
        Value::Integer(value) if value >= 0 => Argument::Text(value.to_string().into_bytes()),
        Value::Text(text) if matches!(name, "no-cache" | "private") => Argument::Text(text),
        Value::Integer(_) | Value::Text(_) | Value::Other => Argument::Invalid,
    };
    directives.apply(name, &argument);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TARGETS: [HeaderName; 2] =
        [HeaderName::from_static("tidegate-cache-control"), HeaderName::from_static("cdn-cache-control")];

    fn read(lines: &[(&'static str, &'static str)]) -> Option<ResponseDirectives> {
        let lines = lines.iter().map(|(name, value)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        directives(&lines.collect(), &TARGETS)
    }

    #[test]
    fn the_first_valid_field_counts() {
        let max_age = |lines| read(lines).map(|directives| directives.max_age);
        assert_eq!(max_age(&[("cdn-cache-control", "max-age=5")]), Some(Some(5)));
        assert_eq!(
            max_age(&[("cdn-cache-control", "max-age=5"), ("tidegate-cache-control", "max-age=6")]),
            Some(Some(6))
        );
        assert_eq!(
            max_age(&[("cdn-cache-control", "max-age=5"), ("tidegate-cache-control", "max-age=6,")]),
            Some(Some(5)),
            "a field with an error is ignored"
        );
        assert_eq!(max_age(&[("cdn-cache-control", "")]), None);
        assert_eq!(max_age(&[("cache-control", "max-age=5")]), None);
        assert_eq!(
            max_age(&[
                ("cdn-cache-control", "max-age=5"),
                ("cdn-cache-control", "max-age=7, must-revalidate")
            ]),
            Some(Some(7)),
            "lines are joined, and the last member counts"
        );
    }

    #[test]
    fn values_of_another_type_are_stale_or_forbid() {
        for text in ["max-age=\"60\"", "max-age=1.5", "max-age=-1", "max-age", "max-age=sixty"] {
            assert_eq!(read(&[("cdn-cache-control", text)]).unwrap().max_age, Some(0), "{text}");
        }
        assert!(read(&[("cdn-cache-control", "no-store=5")]).unwrap().no_store);
        assert!(!read(&[("cdn-cache-control", "no-store=?0, max-age=1")]).unwrap().no_store);
        let fields = read(&[("cdn-cache-control", "private=\"a, b\"")]).unwrap().private;
        assert!(matches!(fields, Some(crate::rules::Scope::Fields(names)) if names.len() == 2));
    }
}
