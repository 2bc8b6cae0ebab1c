//! Chooses the encoding for a client from its `Accept-Encoding` (RFC 9110 section 12.5.3).

use http::HeaderValue;

use super::stream::Encoding;

/// What to do with a response that depends on `Accept-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Compress it if it is eligible.
    Encode(Encoding),
    /// Leave it as it is, but add `Vary`, as Traefik's gzip does.
    Plain,
    /// Leave it as it is: the client does not accept anything else. Add `Vary` if others would get it compressed.
    Decline,
}

/// Chooses by weight, then by the order of `offered`.
pub(super) fn choose(
    lines: &mut dyn Iterator<Item = &HeaderValue>,
    offered: &[Encoding],
    default: Option<Encoding>,
) -> Choice {
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
    match best {
        Some((_, _, Wish::Named(encoding))) => Choice::Encode(encoding),
        None | Some((_, _, Wish::Identity)) => Choice::Decline,
        // For `*`, Traefik's gzip looks for its own name in the header, and then does not compress.
        Some((_, _, Wish::Any)) => match default.or(offered.first().copied()) {
            None => Choice::Decline,
            Some(Encoding::Gzip) => Choice::Plain,
            Some(encoding) => Choice::Encode(encoding),
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

    fn choice(header: &str) -> Choice {
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
            let expected = expected.map_or(Choice::Decline, Choice::Encode);
            assert_eq!(choice(header), expected, "{header}");
        }
    }

    #[test]
    fn a_star_means_the_first_or_the_default() {
        let any = [HeaderValue::from_static("*")];
        assert_eq!(choose(&mut any.iter(), &[Brotli, Gzip], None), Choice::Encode(Brotli));
        assert_eq!(choose(&mut any.iter(), &[Gzip, Zstd], Some(Zstd)), Choice::Encode(Zstd));
        assert_eq!(choice("*"), Choice::Plain, "as in Traefik");
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read(header in "[ -~]{0,60}|((gzip|br|zstd|identity|[*])(;q=[0-9.]{0,4})?, ?){0,5}") {
            if let Choice::Encode(encoding) = choice(&header) {
                proptest::prop_assert!(header.contains(encoding.name()));
            }
        }
    }
}
