//! Finds a byte that is usually near.

/// The number of bytes that are looked at here, word by word. A vectorised search of so few would spend more on its
/// start.
const NEAR: usize = 48;
const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);

/// Returns the place of the first such byte.
#[inline(always)]
pub(super) fn find(needle: u8, bytes: &[u8]) -> Option<usize> {
    let pattern = u64::from(needle) * ONES;
    let (mut rest, mut at) = (bytes, 0);
    while let Some((word, after)) = rest.split_first_chunk::<8>()
        && at < NEAR
    {
        // The lowest high bit that is set belongs to the first byte that is zero.
        let differences = u64::from_le_bytes(*word) ^ pattern;
        let zeros = differences.wrapping_sub(ONES) & !differences & HIGHS;
        if zeros != 0 {
            return Some(at + zeros.trailing_zeros() as usize / 8);
        }
        (rest, at) = (after, at + 8);
    }
    memchr::memchr(needle, rest).map(|place| at + place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_found_at_every_place() {
        for length in 0..=70 {
            for place in 0..=length {
                for (needle, others) in [(b'\n', 0x0b), (b':', b';'), (0x80, 0), (0, 1), (0x01, 0x80)] {
                    let mut bytes = vec![others; length];
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = needle;
                    }
                    let expected = bytes.iter().position(|byte| *byte == needle);
                    assert_eq!(find(needle, &bytes), expected, "{needle} in {bytes:?}");
                }
            }
        }
    }
}
