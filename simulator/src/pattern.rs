//! Makes and checks the bytes of large bodies without holding a body in memory.
//!
//! It uses no other module. The pattern repeats after a prime number of bytes, so a missing, repeated or swapped block is
//! noticed whatever the sizes of the buffers are.

use bytes::Bytes;

/// The pattern repeats after this many bytes: a prime near 64 KiB.
const PERIOD: usize = 65_521;
/// The limit for one stretch, in bytes.
const MAX_STRETCH: usize = 256 * 1024;

/// The byte at `offset` of every body that follows the pattern.
#[must_use]
pub fn pattern_byte(offset: u64) -> u8 {
    let position = offset % PERIOD as u64;
    // This is multiplicative hashing: the top byte of the low 32 bits depends on every bit of `position`.
    (position.wrapping_mul(0x9E37_79B1) >> 24).to_le_bytes()[0]
}

/// The pattern in memory; stretches share its bytes instead of copying them.
#[derive(Clone)]
pub struct Pattern {
    bytes: Bytes,
}

impl Pattern {
    /// Allocates the pattern, about 320 KiB.
    #[must_use]
    pub fn new() -> Self {
        let period: Vec<u8> = (0..PERIOD as u64).map(pattern_byte).collect();
        let bytes: Vec<u8> = period.iter().copied().cycle().take(PERIOD + MAX_STRETCH).collect();
        Self { bytes: Bytes::from(bytes) }
    }

    /// The bytes from `offset` on: at most `length` of them, and at most 256 KiB.
    #[must_use]
    pub fn stretch(&self, offset: u64, length: u64) -> Bytes {
        let start = position(offset);
        let length = usize::try_from(length).unwrap_or(MAX_STRETCH).min(MAX_STRETCH);
        self.bytes.slice(start..start + length)
    }

    /// Whether `piece` equals the pattern from `offset` on.
    #[must_use]
    pub fn matches(&self, offset: u64, piece: &[u8]) -> bool {
        let mut at = position(offset);
        piece.chunks(MAX_STRETCH).all(|chunk| {
            let same = self.bytes[at..at + chunk.len()] == *chunk;
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

/// The position of `offset` within the period.
fn position(offset: u64) -> usize {
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
        assert_eq!(pattern.stretch(5, u64::MAX).len(), MAX_STRETCH);
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
