//! The bytes of large bodies: any stretch of them can be made and checked without keeping a body.
//!
//! The pattern repeats after a prime number of bytes, so a block that went missing, was doubled or
//! swapped shows, whatever buffer sizes are in play.

use bytes::Bytes;

/// A prime near 64 KiB.
const PERIOD: usize = 65_521;
/// The longest stretch handed out at once.
const LONGEST: usize = 256 * 1024;

/// The byte at `offset` of every patterned body.
#[must_use]
pub fn pattern_byte(offset: u64) -> u8 {
    let place = offset % PERIOD as u64;
    // Multiplicative hashing; the top byte of the low 32 bits depends on every bit of `place`.
    (place.wrapping_mul(0x9E37_79B1) >> 24).to_le_bytes()[0]
}

/// The pattern, laid out once so that stretches of it are shared and never copied.
#[derive(Clone)]
pub struct Pattern {
    laid_out: Bytes,
}

impl Pattern {
    /// Lays the pattern out (about 320 KiB).
    #[must_use]
    pub fn new() -> Self {
        let period: Vec<u8> = (0..PERIOD as u64).map(pattern_byte).collect();
        let laid_out: Vec<u8> = period.iter().copied().cycle().take(PERIOD + LONGEST).collect();
        Self { laid_out: Bytes::from(laid_out) }
    }

    /// The bytes from `offset` on: at most `bytes` of them, and at most 256 KiB.
    #[must_use]
    pub fn stretch(&self, offset: u64, bytes: u64) -> Bytes {
        let start = place(offset);
        let length = usize::try_from(bytes).unwrap_or(LONGEST).min(LONGEST);
        self.laid_out.slice(start..start + length)
    }

    /// Whether `piece` is what the pattern holds from `offset` on.
    #[must_use]
    pub fn matches(&self, offset: u64, piece: &[u8]) -> bool {
        let mut at = place(offset);
        piece.chunks(LONGEST).all(|chunk| {
            let same = self.laid_out[at..at + chunk.len()] == *chunk;
            at = (at + chunk.len()) % PERIOD;
            same
        })
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

/// Where `offset` falls within the period.
fn place(offset: u64) -> usize {
    usize::try_from(offset % PERIOD as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_the_pattern_byte_by_byte() {
        let pattern = Pattern::new();
        for offset in [0, 1, 65_520, 65_521, 1 << 30, u64::from(u32::MAX) + 7] {
            let stretch = pattern.stretch(offset, 1000);
            let expected: Vec<u8> = (offset..offset + 1000).map(pattern_byte).collect();
            assert_eq!(stretch, expected, "from {offset}");
        }
        assert_eq!(pattern.stretch(5, u64::MAX).len(), LONGEST);
    }

    #[test]
    fn a_wrong_byte_or_a_shift_does_not_match() {
        let pattern = Pattern::new();
        let long: Vec<u8> = (7..1_000_007).map(pattern_byte).collect();
        assert!(pattern.matches(7, &long));
        assert!(!pattern.matches(8, &long));
        let mut wrong = long;
        wrong[999_999] ^= 1;
        assert!(!pattern.matches(7, &wrong));
    }
}
