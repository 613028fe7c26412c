//! Limits what an HTTP/1.x peer sends that is neither a head nor a body: interim answers, and the zeros, blanks and extensions of a
//! chunk's size, which hyper reads for as long as they come. Clients and upstreams have the same limit. Pure.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes may come in one go: more than the largest `max_header_bytes`, which is hyper's buffer, with interim answers before
/// it, and the longest extension of a chunk.
const AT_ONCE: usize = 4 * 1024 * 1024;
/// How many of them one byte of a body makes up for. A chunk of one byte has five bytes of its own.
const FOR_EACH_BODY_BYTE: usize = 64;

/// What has come of a message, less what its body makes up for.
#[derive(Debug, Default)]
pub struct Overhead(AtomicUsize);

impl Overhead {
    /// A head has come, or another message begins.
    pub fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Bytes were read, whatever they are.
    pub fn read(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A piece of the body was among the bytes that were read.
    pub fn body_came(&self, bytes: usize) {
        // Bytes that are read in between may be lost to the count: it bounds what is sent for minutes.
        let rest = self.0.load(Ordering::Relaxed).saturating_sub(bytes.saturating_mul(FOR_EACH_BODY_BYTE));
        self.0.store(rest, Ordering::Relaxed);
    }

    /// Whether more has come than may.
    pub fn is_too_much(&self) -> bool {
        self.0.load(Ordering::Relaxed) > AT_ONCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_all_overhead_is_too_much_and_another_begins_anew() {
        let overhead = Overhead::default();
        overhead.read(AT_ONCE);
        assert!(!overhead.is_too_much());
        overhead.read(1);
        assert!(overhead.is_too_much());
        overhead.begin();
        assert!(!overhead.is_too_much());
    }

    #[test]
    fn a_body_makes_up_for_its_own_chunks_and_not_for_megabytes_before_each_byte() {
        let overhead = Overhead::default();
        for _ in 0..2_000_000 {
            overhead.read(b"0000000000000001;part=one\r\nx\r\n".len());
            overhead.body_came(1);
        }
        assert!(!overhead.is_too_much());
        let pieces = (1..10).take_while(|_| {
            overhead.read(1024 * 1024);
            overhead.body_came(1);
            !overhead.is_too_much()
        });
        assert_eq!(pieces.count(), 4);
    }
}
