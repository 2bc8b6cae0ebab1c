//! Ranges of status codes: `404`, `500-599`.

use std::fmt;

use tidegate_core::{BuildError, BuildErrors};

/// Validated ranges of status codes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StatusRanges(Vec<(u16, u16)>);

impl StatusRanges {
    /// Parses single codes (`404`) and inclusive ranges (`500-599`).
    pub(crate) fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self, BuildError> {
        BuildErrors::collect(texts.iter().map(|text| range(text.as_ref()))).map(Self)
    }

    /// Returns true when the code is in one of the ranges.
    pub(crate) fn contains(&self, code: http::StatusCode) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&code.as_u16()))
    }

    /// Returns the number of codes in the ranges.
    pub(crate) fn width(&self) -> u32 {
        self.0.iter().map(|(low, high)| u32::from(high - low) + 1).sum()
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (low, high)) in self.0.iter().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            match low == high {
                true => write!(f, "{comma}{low}")?,
                false => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

fn range(text: &str) -> Result<(u16, u16), BuildError> {
    let bad = || {
        BuildError::new(format!(
            "invalid status code or range `{text}`: expected a form like `404` or `500-599`"
        ))
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let low = low.trim().parse().map_err(|_| bad())?;
    let high = high.trim().parse().map_err(|_| bad())?;
    if low > high { Err(bad()) } else { Ok((low, high)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_ranges_are_read() {
        let ranges = StatusRanges::parse(&["404", "500-503"]).unwrap();
        let hits: Vec<u16> =
            (400..600).filter(|code| ranges.contains(http::StatusCode::from_u16(*code).unwrap())).collect();
        assert_eq!(hits, [404, 500, 501, 502, 503]);
    }

    #[test]
    fn others_are_refused() {
        for text in ["", "x", "500-", "-500", "599-500", "5xx"] {
            assert!(StatusRanges::parse(&[text]).is_err(), "{text}");
        }
    }
}
