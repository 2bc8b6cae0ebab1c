//! Which of several media types a client prefers (RFC 9110 section 12.5.1).

use http::header::VARY;
use http::{HeaderMap, HeaderValue};

/// Returns the index of the offered type that `Accept` prefers; the first one if it prefers none or accepts none, as an
/// error in an unwanted form says more than one without content. Types have the form `type/subtype`.
pub(super) fn choose(accept: &[HeaderValue], offered: &[&str]) -> usize {
    let ranges: Vec<(&str, u16)> = accept
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(range)
        .collect();
    let quality = |offer: &str| {
        let matching = ranges.iter().filter_map(|(range, q)| Some((specificity(range, offer)?, *q)));
        matching.max_by_key(|(specificity, _)| *specificity).map_or(0, |(_, q)| q)
    };
    let mut best = (0, 0);
    for (index, offer) in offered.iter().enumerate() {
        let q = quality(offer);
        if q > best.1 {
            best = (index, q);
        }
    }
    best.0
}

/// Returns true if the response already says that it depends on `Accept`.
pub(super) fn varies(headers: &HeaderMap) -> bool {
    let names = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    names.flat_map(|value| value.split(',')).any(|name| matches!(name.trim(), "*" | "Accept" | "accept"))
}

/// Parses a media range and its quality in thousandths. Other parameters are ignored.
fn range(text: &str) -> Option<(&str, u16)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.contains('/'))?;
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let quality = match quality {
        None => 1.0,
        Some(text) => text.trim().parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q))?,
    };
    Some((range, (quality * 1000.0).round() as u16))
}

/// Returns how closely a range matches a type; `None` if it does not.
fn specificity(range: &str, offer: &str) -> Option<u8> {
    if range.eq_ignore_ascii_case(offer) {
        return Some(2);
    }
    if range == "*/*" {
        return Some(0);
    }
    let (kind, _) = offer.split_once('/')?;
    let (own, rest) = range.split_once('/')?;
    (rest == "*" && own.eq_ignore_ascii_case(kind)).then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_type_is_chosen() {
        let offered = ["text/plain", "text/html", "application/problem+json", "application/json"];
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for (accept, expected) in [
            ("", 0),
            ("*/*", 0),
            (browser, 1),
            ("application/json", 3),
            ("Application/JSON, text/plain;q=0.5", 3),
            ("application/problem+json, application/json", 2),
            ("application/*", 2),
            ("text/*;q=0.4, text/html;q=0.2, application/json;q=0.3", 0),
            ("text/plain;q=0, */*", 1),
            ("image/png", 0),
            ("text/html;q=2, application/json;q=x", 0),
            ("text/html;level=1;q=0.7, text/plain;q=0.6", 1),
            ("nonsense, ;;, /, text/html", 1),
        ] {
            let accept = [HeaderValue::from_str(accept).expect("a header value")];
            assert_eq!(choose(&accept, &offered), expected, "{accept:?}");
        }
        assert_eq!(choose(&[], &offered), 0);
        let lines = ["text/plain;q=0.1", "text/html"].map(HeaderValue::from_static);
        assert_eq!(choose(&lines, &offered), 1);
    }
}
