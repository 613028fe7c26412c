//! Our own certificate towards servers that ask for one, read again when its files change.
//!
//! Depends on `config` and `secret`'s ways. Guarantees: a chain and a key are taken only together, and only if they belong
//! together; the key's text and bytes are wiped once the library has made its own form of them; files that are of no use
//! any more leave in place what was read last.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use super::TlsSetupError;
use crate::{config::ClientCertificate, files, secret::Pages};

const CERTIFICATE: &str = "tls_cert_file";
pub(super) const KEY: &str = "tls_key_file";

/// Reads both files.
pub(super) fn read(files: &ClientCertificate) -> Result<Arc<CertifiedKey>, TlsSetupError> {
    let (certificates, key) = (&files.certificates, &files.key);
    let none = || TlsSetupError::NoCertificate { setting: CERTIFICATE, path: certificates.clone() };
    let pem = files::read(certificates).map_err(|error| unreadable(CERTIFICATE, certificates, &error))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| none())?;
    if chain.is_empty() {
        return Err(none());
    }
    let unusable = |reason| TlsSetupError::Key { path: key.clone(), reason };
    let path = key.clone();
    let pem = files::within(files::LIMIT, move || read_wiped(&path)).map_err(|error| unreadable(KEY, key, &error))?;
    let key = Wiped(private_key(&pem).map_err(unusable)?);
    let signing = any_supported_type(&key.0).map_err(|_| unusable(KeyFault::Unsupported))?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(unusable(KeyFault::OfAnotherCertificate)),
        Err(_) => Err(none()),
    }
}

/// Why a key can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Nothing that looks like one.
    #[error("it must hold a `-----BEGIN PRIVATE KEY-----` block (or RSA, or EC)")]
    Missing,
    /// There is nobody to ask for the passphrase.
    #[error("it is encrypted: store it without a passphrase, readable by this user alone")]
    Encrypted,
    /// Not what its first line says, or of a kind that TLS does not know.
    #[error("it must be an RSA, ECDSA or Ed25519 key")]
    Unsupported,
    /// Not the one of the certificate.
    #[error("the key does not belong to the first certificate in `tls_cert_file`: set both files of one pair")]
    OfAnotherCertificate,
}

/// Wiped when dropped, which its own type is not.
struct Wiped(PrivateKeyDer<'static>);

impl Drop for Wiped {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

fn unreadable(setting: &'static str, path: &Path, error: &io::Error) -> TlsSetupError {
    TlsSetupError::Unreadable { setting, path: path.to_owned(), kind: error.kind() }
}

/// More than any key takes.
const KEY_FILE_MAX: usize = 64 * 1024;
/// Read at a time; most keys are shorter.
const PIECE: usize = 4096;

fn read_wiped(path: &Path) -> io::Result<Pages> {
    let mut file = fs::File::open(path)?;
    let mut text = Pages::default();
    while text.len() <= KEY_FILE_MAX {
        match io::Read::read(&mut file, text.room(PIECE)) {
            Ok(0) => return Ok(text),
            Ok(read) => text.filled(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::FileTooLarge.into())
}

/// The first private key in a PEM file (RFC 7468). Not the library's reader: its buffers are not wiped.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, KeyFault> {
    let text = std::str::from_utf8(pem).map_err(|_| KeyFault::Missing)?;
    let mut lines = text.lines().map(str::trim);
    let label = loop {
        let line = lines.next().ok_or(KeyFault::Missing)?;
        match line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            Some("ENCRYPTED PRIVATE KEY") => return Err(KeyFault::Encrypted),
            Some(label @ ("PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY")) => break label,
            _ => {}
        }
    };
    let mut encoded = Pages::with_capacity(pem.len());
    loop {
        let line = lines.next().ok_or(KeyFault::Missing)?;
        if line.starts_with("-----END ") {
            break;
        }
        // The header of a key in OpenSSL's own encryption (RFC 1421, 4.6.1.1).
        if line.starts_with("Proc-Type:") {
            return Err(KeyFault::Encrypted);
        }
        encoded.extend(line.as_bytes());
    }
    let mut der = Zeroizing::new(vec![0; encoded.len() / 4 * 3 + 3]);
    let length = STANDARD.decode_slice(&*encoded, &mut der).map_err(|_| KeyFault::Unsupported)?;
    // Moved and not copied; who takes it wipes it.
    let mut der = std::mem::take(&mut *der);
    der.truncate(length);
    Ok(match label {
        "PRIVATE KEY" => PrivatePkcs8KeyDer::from(der).into(),
        "RSA PRIVATE KEY" => PrivatePkcs1KeyDer::from(der).into(),
        _ => PrivateSec1KeyDer::from(der).into(),
    })
}

/// What both files are like without reading them; changes whenever one is written, replaced, removed or appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([Option<[i64; 6]>; 2]);

impl Stamp {
    pub(super) fn of(files: &ClientCertificate) -> Self {
        Self([&files.certificates, &files.key].map(|path| {
            let now = fs::metadata(path).ok()?;
            let [device, inode, size] = [now.dev(), now.ino(), now.size()].map(u64::cast_signed);
            // A time of change can't be set back, unlike that of modification.
            Some([device, inode, size, now.mtime_nsec(), now.ctime(), now.ctime_nsec()])
        }))
    }
}

#[cfg(test)]
mod tests;
