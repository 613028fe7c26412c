//! Reads certificates and private keys from PEM files (RFC 7468). Pure.
//!
//! The library's reader is not used: it does not know a block behind a byte order mark, its buffers are not wiped, and its decoding,
//! which keeps secret what it decodes, took most of a start where the system's roots are hundreds.
//!
//! Guarantee: the text and the bytes of a key are wiped.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

use super::KeyFault;
use crate::secret::{BYTE_ORDER_MARK, Pages};

/// How a block's first line begins, and its last one.
const FIRST: &[u8] = b"-----BEGIN ";
const LAST: &[u8] = b"-----END ";

/// A block that is not what its first line says, or has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenBlock;

/// The lines behind `-----BEGIN label-----`, until one that ends the block or begins another.
struct Block<'a> {
    label: &'a [u8],
    lines: Vec<&'a [u8]>,
    is_whole: bool,
}

/// The lines of a file. Where files were joined that do not end with a line's end, a block begins in the middle of a line: it begins
/// one here. A byte order mark may stand before any line then.
fn lines(pem: &[u8]) -> impl Iterator<Item = &[u8]> {
    let parts = |line| {
        let mut rest = Some(line);
        std::iter::from_fn(move || {
            let line: &[u8] = rest.take()?;
            // Most lines have no hyphen.
            let next = line.contains(&b'-').then(|| line.windows(FIRST.len()).skip(1).position(|some| some == FIRST)).flatten();
            rest = next.map(|at| &line[at + 1..]);
            Some(next.map_or(line, |at| &line[..=at]))
        })
    };
    let unmarked = |line| <[u8]>::strip_prefix(line, BYTE_ORDER_MARK).unwrap_or(line).trim_ascii();
    pem.split(|byte| matches!(byte, b'\n' | b'\r')).flat_map(parts).map(unmarked)
}

/// The blocks of a file. What stands between them is no matter.
fn blocks(pem: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let mut lines = lines(pem);
    let mut begun = None;
    std::iter::from_fn(move || {
        let mut block = Block { label: begun.take().or_else(|| lines.find_map(label_of))?, lines: Vec::new(), is_whole: false };
        for line in lines.by_ref() {
            block.is_whole = line.starts_with(LAST);
            begun = label_of(line);
            if block.is_whole || begun.is_some() {
                break;
            }
            block.lines.push(line);
        }
        Some(block)
    })
}

/// The label, where a line begins a block; empty where the line is cut.
fn label_of(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(FIRST).map(|label| label.strip_suffix(b"-----").unwrap_or_default())
}

/// The certificates of a file, in their order. The longer label is an old one, which OpenSSL reads, too.
pub(super) fn certificates(pem: &[u8]) -> impl Iterator<Item = Result<CertificateDer<'static>, BrokenBlock>> {
    // Of a block whose first line is cut nobody knows what it was.
    blocks(pem).filter(|block| matches!(block.label, b"CERTIFICATE" | b"X509 CERTIFICATE" | b"")).map(|block| {
        let encoded = block.lines.concat();
        let without_blanks = || encoded.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect::<Vec<_>>();
        let decoded = STANDARD.decode(&encoded).or_else(|_| STANDARD.decode(without_blanks()));
        decoded.ok().filter(|_| block.is_whole && !block.label.is_empty()).map(CertificateDer::from).ok_or(BrokenBlock)
    })
}

/// The first private key of a file.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, KeyFault> {
    let known: [&[u8]; 4] = [b"PRIVATE KEY", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"];
    let block = blocks(pem).find(|block| block.is_whole && known.contains(&block.label)).ok_or(KeyFault::Missing)?;
    // This header begins a key in OpenSSL's own encryption (RFC 1421, 4.6.1.1).
    let is_encrypted = |line: &&[u8]| line.starts_with(b"Proc-Type:");
    if block.label == b"ENCRYPTED PRIVATE KEY" || block.lines.iter().any(is_encrypted) {
        return Err(KeyFault::Encrypted);
    }
    let mut encoded = Pages::with_capacity(pem.len());
    block.lines.iter().for_each(|line| encoded.extend(line));
    let mut der = Zeroizing::new(vec![0; encoded.len() / 4 * 3 + 3]);
    let length = STANDARD.decode_slice(&*encoded, &mut der).map_err(|_| KeyFault::Unsupported)?;
    // The bytes are moved and not copied; the caller wipes them.
    let mut der = std::mem::take(&mut *der);
    der.truncate(length);
    Ok(match block.label {
        b"PRIVATE KEY" => PrivatePkcs8KeyDer::from(der).into(),
        b"RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der).into(),
        _ => PrivateSec1KeyDer::from(der).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAEC\nAwQF\n-----END CERTIFICATE-----\n";

    fn read(text: &[u8]) -> Vec<Result<Vec<u8>, BrokenBlock>> {
        certificates(text).map(|found| found.map(|found| found.as_ref().to_vec())).collect()
    }

    #[test]
    fn every_certificate_is_read_whatever_stands_around_it() {
        let whole = [Ok(vec![0, 1, 2, 3, 4, 5])];
        let many =
            format!("# One\n{CERTIFICATE}\nIssuer: A\n-----BEGIN X509 CRL-----\nAA==\n-----END X509 CRL-----\n  {CERTIFICATE}");
        assert_eq!(read(many.as_bytes()), [whole.clone(), whole.clone()].concat());
        for ends in ["\r\n", "\r", " \n", "\n\n"] {
            assert_eq!(read(CERTIFICATE.replace('\n', ends).as_bytes()), whole, "{ends:?}");
        }
        assert_eq!(read(&[BYTE_ORDER_MARK, b"\xff\n", CERTIFICATE.as_bytes()].concat()), whole);
        assert_eq!(read([BYTE_ORDER_MARK, CERTIFICATE.as_bytes()].concat().as_slice()), whole);
        assert_eq!(read(CERTIFICATE.replace("AAEC", "AA EC").as_bytes()), whole);
        assert_eq!(read(CERTIFICATE.replace("CERTIFICATE", "X509 CERTIFICATE").as_bytes()), whole);
        let joined = [CERTIFICATE.as_bytes(), BYTE_ORDER_MARK, CERTIFICATE.as_bytes()].concat();
        assert_eq!(read(&joined), [whole.clone(), whole.clone()].concat());
        let without_line_end = CERTIFICATE.trim_end().to_owned() + CERTIFICATE;
        assert_eq!(read(without_line_end.as_bytes()), [whole.clone(), whole.clone()].concat());
        assert_eq!(read(format!("subject=A {CERTIFICATE}").as_bytes()), whole);
        for cut in [CERTIFICATE.replace("-----END CERTIFICATE-----", ""), CERTIFICATE[..34].into(), CERTIFICATE[..20].into()] {
            let followed = cut + CERTIFICATE;
            assert_eq!(read(followed.as_bytes()), [vec![Err(BrokenBlock)], whole.to_vec()].concat(), "{followed}");
        }
    }

    #[test]
    fn what_is_no_whole_block_is_no_certificate() {
        for (what, by) in
            [("AAEC", "A*EC"), ("-----END CERTIFICATE-----", ""), ("CERTIFICATE-----\nA", "CERT"), ("E-----\nA", "\nA")]
        {
            assert_eq!(read(CERTIFICATE.replace(what, by).as_bytes()), [Err(BrokenBlock)], "{what}");
        }
        for text in ["", "AAEC", &CERTIFICATE.replace("BEGIN", "BEGIN TRUSTED")] {
            assert_eq!(read(text.as_bytes()), [], "{text}");
        }
    }
}
