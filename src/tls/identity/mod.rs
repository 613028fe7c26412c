//! Reads our own certificate, for servers that ask for one, and notices when its files change.
//!
//! Guarantees: a chain and a key are used only together, and only if the key belongs to the chain; the key's text and bytes
//! are wiped once the library has made its own form of them.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use super::{TlsSetupError, pem};
use crate::{config::ClientCertificate, files, secret::Pages};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SigningKey},
};

/// The setting that names the chain's file.
const CERTIFICATE: &str = "tls_cert_file";
/// The setting that names the key's file.
pub(super) const KEY: &str = "tls_key_file";

/// The longest file of a key, in bytes; no key takes as much.
const KEY_FILE_MAX: usize = 64 * 1024;

/// Reads the chain and its key.
pub(super) fn read(files: &ClientCertificate) -> Result<Arc<CertifiedKey>, TlsSetupError> {
    let certified = CertifiedKey::new(chain(&files.certificates)?, signing_key(&files.key)?);
    match certified.keys_match() {
        Ok(()) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(unusable(&files.key)(KeyFault::OfAnotherCertificate)),
        Err(_) => Err(no_certificate(&files.certificates)),
    }
}

/// Every fault of the two files.
pub(super) fn faults(files: &ClientCertificate) -> Vec<TlsSetupError> {
    match (chain(&files.certificates), signing_key(&files.key)) {
        (Err(of_chain), Err(of_key)) => vec![of_chain, of_key],
        _ => read(files).err().into_iter().collect(),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let text = files::read(path).map_err(|error| TlsSetupError::unreadable(CERTIFICATE, path, &error))?;
    let chain: Result<Vec<_>, _> = pem::certificates(&text).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| no_certificate(path))
}

fn no_certificate(path: &Path) -> TlsSetupError {
    TlsSetupError::NoCertificate { setting: CERTIFICATE, path: path.to_owned() }
}

fn signing_key(path: &Path) -> Result<Arc<dyn SigningKey>, TlsSetupError> {
    let wanted = path.to_owned();
    let text = files::within(files::LIMIT, move || Pages::read(fs::File::open(&wanted)?, KEY_FILE_MAX))
        .map_err(|error| TlsSetupError::unreadable(KEY, path, &error))?;
    let key = WipedKey(pem::private_key(&text).map_err(unusable(path))?);
    any_supported_type(&key.0).map_err(|_| unusable(path)(KeyFault::Unsupported))
}

fn unusable(path: &Path) -> impl Fn(KeyFault) -> TlsSetupError {
    |reason| TlsSetupError::Key { path: path.to_owned(), reason }
}

/// Why a key can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The file holds no PEM block of a key.
    #[error("it must hold a `-----BEGIN PRIVATE KEY-----` block (or RSA, or EC)")]
    Missing,
    /// The key needs a passphrase, which the daemon can't ask for.
    #[error("it is encrypted: store it without a passphrase, readable by this user alone")]
    Encrypted,
    /// The block is not what its first line says, or a kind of key that TLS does not use.
    #[error("it must be an RSA, ECDSA or Ed25519 key")]
    Unsupported,
    /// The key belongs to another certificate.
    #[error("the key does not belong to the first certificate in `tls_cert_file`: set both files of one pair")]
    OfAnotherCertificate,
}

/// A key that is wiped on drop, which the library's type is not.
struct WipedKey(PrivateKeyDer<'static>);

impl Drop for WipedKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// The metadata of both files. It changes whenever a file is written, replaced, removed or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([Option<[i64; 6]>; 2]);

impl Stamp {
    pub(super) fn of(files: &ClientCertificate) -> Self {
        Self([&files.certificates, &files.key].map(|path| {
            let now = fs::metadata(path).ok()?;
            let [device, inode, size] = [now.dev(), now.ino(), now.size()].map(u64::cast_signed);
            // The time of change (ctime) can't be set back, unlike that of modification.
            Some([device, inode, size, now.mtime_nsec(), now.ctime(), now.ctime_nsec()])
        }))
    }
}

#[cfg(test)]
mod tests;
