//! Chooses the encoding for a client from its `Accept-Encoding` (RFC 9110 section 12.5.3).

use http::HeaderValue;

use super::stream::Encoding;

/// What to do with a response that depends on `Accept-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Compress it if it is eligible.
    Encode(Encoding),
    /// Leave it as it is, but add `Vary`.
    Plain,
}

/// Chooses by weight, then by the order of `offered`. Returns `None` when the client accepts none of them, or
/// prefers `identity`.
pub(super) fn choose(
    lines: &mut dyn Iterator<Item = &HeaderValue>,
    offered: &[Encoding],
    default: Option<Encoding>,
) -> Option<Choice> {
    let mut best: Option<(f64, isize, Wish)> = None;
    for line in lines {
        let Ok(line) = line.to_str() else { continue };
        for item in line.split(',') {
            let Some((kind, rank, weight)) = read(item, offered) else { continue };
            if best.as_ref().is_none_or(|(w, r, _)| weight > *w || (weight == *w && rank < *r)) {
                best = Some((weight, rank, kind));
            }
        }
    }
    match best?.2 {
        Wish::Named(encoding) => Some(Choice::Encode(encoding)),
        Wish::Identity => None,
        // For `*`, Traefik's gzip looks for its own name in the header, and then does not compress.
        Wish::Any => match default.or(offered.first().copied())? {
            Encoding::Gzip => Some(Choice::Plain),
            encoding => Some(Choice::Encode(encoding)),
        },
    }
}

enum Wish {
    Named(Encoding),
    Identity,
    Any,
}

fn read(item: &str, offered: &[Encoding]) -> Option<(Wish, isize, f64)> {
    let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
    let name = name.trim();
    let (kind, rank) = match name {
        "*" => (Wish::Any, -1),
        "identity" => (Wish::Identity, isize::MAX),
        _ => {
            let rank = offered.iter().position(|encoding| encoding.name() == name)?;
            (Wish::Named(offered[rank]), isize::try_from(rank).ok()?)
        }
    };
    let weight = match parameters.trim().strip_prefix("q=") {
        Some(text) => text.trim().parse::<f64>().unwrap_or(0.0),
        None => 1.0,
    };
    (weight > 0.0).then_some((kind, rank, weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Encoding::{Brotli, Gzip, Zstd};

    fn choice(header: &str) -> Option<Choice> {
        choose(&mut [HeaderValue::from_str(header).unwrap()].iter(), &[Gzip, Brotli, Zstd], None)
    }

    #[test]
    fn weight_comes_first_then_the_configured_order() {
        for (header, expected) in [
            ("gzip", Some(Gzip)),
            ("br, gzip", Some(Gzip)),
            ("zstd, br", Some(Brotli)),
            ("gzip;q=0.5, br;q=0.9", Some(Brotli)),
            ("gzip; q=0.5 , zstd", Some(Zstd)),
            ("br;q=0, gzip;q=0.1", Some(Gzip)),
            ("identity", None),
            ("identity;q=0.5, br;q=0.4", None),
            ("identity, br", Some(Brotli)),
            ("deflate", None),
            ("br;q=0", None),
            ("br;q=x", None),
            ("gzip;q=NaN", None),
        ] {
            assert_eq!(choice(header), expected.map(Choice::Encode), "{header}");
        }
    }

    #[test]
    fn a_star_means_the_first_or_the_default() {
        let any = [HeaderValue::from_static("*")];
        assert_eq!(choose(&mut any.iter(), &[Brotli, Gzip], None), Some(Choice::Encode(Brotli)));
        assert_eq!(choose(&mut any.iter(), &[Gzip, Zstd], Some(Zstd)), Some(Choice::Encode(Zstd)));
        assert_eq!(choice("*"), Some(Choice::Plain), "as in Traefik");
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read(header in "[ -~]{0,60}|((gzip|br|zstd|identity|[*])(;q=[0-9.]{0,4})?, ?){0,5}") {
            if let Some(Choice::Encode(encoding)) = choice(&header) {
                proptest::prop_assert!(header.contains(encoding.name()));
            }
        }
    }
}
