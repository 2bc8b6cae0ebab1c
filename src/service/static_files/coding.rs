//! The choice of a compressed sibling by `Accept-Encoding`.

use http::header::{ACCEPT_ENCODING, HeaderMap};
use tidegate_config::static_files::Precompression;

/// Returns the name of a coding and the suffix of its files.
pub(super) fn names(coding: Precompression) -> (&'static str, &'static str) {
    match coding {
        Precompression::Brotli => ("br", ".br"),
        Precompression::Zstd => ("zstd", ".zst"),
        Precompression::Gzip => ("gzip", ".gz"),
    }
}

/// Returns the codings that the client prefers to none (RFC 9110 section 12.5.3), the most wanted first; equally
/// wanted ones in the order of `offered`.
pub(super) fn wanted(headers: &HeaderMap, offered: &[Precompression]) -> Vec<Precompression> {
    if offered.is_empty() || !headers.contains_key(ACCEPT_ENCODING) {
        return Vec::new();
    }
    // Without a mention, no coding is acceptable, and least wanted.
    let plain = weight(headers, "identity").unwrap_or(1);
    let weighted = offered.iter().filter_map(|coding| {
        let name = names(*coding).0;
        let alias = || if name == "gzip" { weight(headers, "x-gzip") } else { None };
        let weight = weight(headers, name).or_else(alias).or_else(|| weight(headers, "*"))?;
        (weight > 0 && weight >= plain).then_some((*coding, weight))
    });
    let mut weighted: Vec<_> = weighted.collect();
    weighted.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    weighted.into_iter().map(|(coding, _)| coding).collect()
}

/// Returns the weight of a coding in thousandths; `None` if it is not mentioned.
fn weight(headers: &HeaderMap, wanted: &str) -> Option<u16> {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
        is_it.then(|| parts.find_map(parse_weight).unwrap_or(1000))
    })
}

/// Parses `q=0.5`. A malformed weight is 0: what the client means is unknown.
fn parse_weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value: f32 = value.trim().parse().ok().filter(|value| (0.0..=1.0).contains(value)).unwrap_or(0.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is from 0 to 1000.
    Some((value * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn codings_are_chosen_by_weight_and_then_by_order() {
        use Precompression::{Brotli, Gzip, Zstd};
        let all = [Brotli, Zstd, Gzip];
        for (value, expected) in [
            ("gzip, br", vec![Brotli, Gzip]),
            ("gzip;q=1.0, br;q=0.5", vec![Gzip, Brotli]),
            ("GZIP ; Q=0.8", vec![Gzip]),
            ("x-gzip", vec![Gzip]),
            ("*", vec![Brotli, Zstd, Gzip]),
            ("*;q=0.5, br;q=0", vec![Zstd, Gzip]),
            ("br;q=0", vec![]),
            ("br;q=x", vec![]),
            ("br;q=NaN", vec![]),
            ("br;q=-1", vec![]),
            ("identity, gzip;q=0.5", vec![]),
            ("identity;q=0.5, gzip;q=0.5", vec![Gzip]),
            ("identity;q=0, gzip;q=0.001", vec![Gzip]),
            ("deflate", vec![]),
            ("", vec![]),
            (";;;,,,=", vec![]),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(wanted(&headers, &all), expected, "{value}");
        }
        assert_eq!(wanted(&HeaderMap::new(), &all), []);
    }
}
