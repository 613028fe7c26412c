//! Makes identifiers: fixed ones for invented people, random ones for what is created.
//!
//! It uses no other module. A fixed identifier is the same in every simulator.

use std::fmt::Write;

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

/// An identifier has 24 hexadecimal digits, as those of CarePortals have.
const OBJECT_ID_BYTES: usize = 12;
/// A random word has 144 bits, which are 24 characters of base64 without padding.
const RANDOM_BYTES: usize = 18;

/// An identifier of 24 hexadecimal digits; the same seed always gives the same one.
pub(crate) fn object_id(seed: &str) -> String {
    hex(&digest::digest(&digest::SHA256, seed.as_bytes()).as_ref()[..OBJECT_ID_BYTES])
}

/// Whether `id` has the form of an [`object_id`].
pub(crate) fn is_object_id(id: &str) -> bool {
    id.len() == 2 * OBJECT_ID_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Writes bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// 144 random bits in URL-safe base64.
pub(crate) fn random_word() -> String {
    let mut bytes = [0_u8; RANDOM_BYTES];
    rand::fill(&mut bytes).expect("the library aborts rather than run out of randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_id_depends_on_its_seed_alone_and_a_random_word_on_nothing() {
        assert_eq!(object_id("demo/account"), object_id("demo/account"));
        assert_ne!(object_id("demo/account"), object_id("other/account"));
        assert_ne!(random_word(), random_word());
    }

    #[test]
    fn object_ids_are_told_by_their_form() {
        assert!(is_object_id(&object_id("demo")));
        for wrong in ["", "925b4686443c49ffc13603", "925b4686443c49ffc136033x", "925b4686443c49ffc136033b0"] {
            assert!(!is_object_id(wrong), "{wrong:?}");
        }
    }
}
