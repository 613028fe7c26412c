//! The bytes that the simulator sends and expects.

use careportals_simulator::Pattern;

/// The first `bytes` of the pattern.
pub fn pattern(bytes: u64) -> Vec<u8> {
    let (pattern, mut all) = (Pattern::new(), Vec::new());
    while (all.len() as u64) < bytes {
        let offset = all.len() as u64;
        all.extend_from_slice(&pattern.stretch(offset, bytes - offset));
    }
    all
}
