//! Whom we trust, and how we speak TLS to upstream.
//!
//! Depends on `config`. Guarantees: a certificate is always verified, and there is no setting that turns it off; sessions
//! are resumed, whichever protocols a connection offers.

use std::{fmt, io, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use tokio_rustls::TlsConnector;

use crate::config::Tls;

/// Why trust could not be set up.
#[derive(Debug)]
pub enum TlsSetupError {
    /// A file of roots can't be read.
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// A file of roots holds no certificate that can be used.
    NoCertificate {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The system has no roots, and no setting names any.
    NoRoots,
    /// The cryptography library refuses its own defaults.
    Provider,
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { setting, path, kind } => {
                write!(f, "{setting}: cannot read {}: {kind}\n  hint: it must be a PEM file readable by this user", path.display())
            }
            Self::NoCertificate { setting, path } => write!(
                f,
                "{setting}: no usable certificate in {}\n  hint: it must hold one or more `-----BEGIN CERTIFICATE-----` blocks",
                path.display()
            ),
            Self::NoRoots => f.write_str(
                "the system has no trusted root certificates\n  hint: install ca-certificates, or set SSL_CERT_FILE, ca_file or ca_only_file",
            ),
            Self::Provider => f.write_str("TLS could not be set up with this build's cryptography"),
        }
    }
}

impl std::error::Error for TlsSetupError {}

/// The HTTP versions that a connection is offered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// `http/1.1` alone.
    Http1,
    /// `h2` or `http/1.1`, as the server likes.
    Http1And2,
}

/// The client side of TLS, shared by every connection to upstream. Cheap to clone.
///
/// One root store, one verifier and one store of sessions behind all of it: rustls resumes a session only for the verifier
/// that it was made with, and finds it by the server's name, whatever was offered the last time.
#[derive(Clone)]
pub struct ClientTls {
    roots: Arc<RootCertStore>,
    http1: TlsConnector,
    http1_and_2: TlsConnector,
}

impl ClientTls {
    /// Reads files, so it belongs to start-up.
    pub fn new(tls: &Tls) -> Result<Self, TlsSetupError> {
        Self::with_roots(roots(tls)?)
    }

    /// Trusts `roots` and nobody else.
    pub fn with_roots(roots: RootCertStore) -> Result<Self, TlsSetupError> {
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|_| TlsSetupError::Provider)?
            .with_root_certificates(Arc::clone(&roots))
            .with_no_client_auth();
        // Clones share the verifier and the sessions.
        let offering = |protocols: &[&[u8]]| {
            let alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            let mut config = config.clone();
            config.alpn_protocols = alpn_protocols;
            TlsConnector::from(Arc::new(config))
        };
        let (http1, http1_and_2) = (offering(&[b"http/1.1"]), offering(&[H2, b"http/1.1"]));
        Ok(Self { roots, http1, http1_and_2 })
    }

    /// Whether both trust the same.
    #[must_use]
    pub fn trusts_the_same(&self, other: &Self) -> bool {
        self.roots.roots == other.roots.roots
    }

    /// Whether a connection of the one could be one of the other: same trust, same sessions.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.roots, &other.roots)
    }

    /// What makes a connection that offers this.
    #[must_use]
    pub fn connector(&self, offer: Offer) -> &TlsConnector {
        match offer {
            Offer::Http1 => &self.http1,
            Offer::Http1And2 => &self.http1_and_2,
        }
    }
}

/// HTTP/2 over TLS in ALPN (RFC 9113, 3.2).
pub const H2: &[u8] = b"h2";

fn roots(tls: &Tls) -> Result<RootCertStore, TlsSetupError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &tls.ca_only_file {
        add_file(&mut store, "ca_only_file", path)?;
        return Ok(store);
    }
    // Honours SSL_CERT_FILE and SSL_CERT_DIR. Single unreadable files are no reason to fail: what is missing shows as a
    // certificate that isn't trusted.
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &tls.ca_file {
        add_file(&mut store, "ca_file", path)?;
    }
    if store.is_empty() { Err(TlsSetupError::NoRoots) } else { Ok(store) }
}

fn add_file(store: &mut RootCertStore, setting: &'static str, path: &PathBuf) -> Result<(), TlsSetupError> {
    let pem =
        std::fs::read(path).map_err(|error| TlsSetupError::Unreadable { setting, path: path.clone(), kind: error.kind() })?;
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(TlsSetupError::NoCertificate { setting, path: path.clone() });
    }
    Ok(())
}
