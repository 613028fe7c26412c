//! Makes the TLS configurations of the server, with a certificate that the authority signs.
//!
//! It uses the authority. The key exists in memory only.

use std::{io, sync::Arc};

use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer};

use crate::authority::Authority;

/// The TLS configurations of a server, and the authority that its clients must trust.
pub(crate) struct TlsConfigs {
    /// The certificate of the authority, in PEM.
    pub(crate) ca_pem: String,
    /// The configuration that offers `h2` and `http/1.1`.
    pub(crate) with_http2: Arc<ServerConfig>,
    /// The configuration that offers only `http/1.1`.
    pub(crate) http1_only: Arc<ServerConfig>,
}

impl TlsConfigs {
    /// Makes a certificate for `names` (DNS names or IP addresses).
    ///
    /// # Errors
    ///
    /// A name that no certificate can hold, or a system without randomness.
    pub(crate) fn for_names(names: Vec<String>, authority: &Authority) -> io::Result<Self> {
        let (leaf, key) = authority.certificate_for(names)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut with_http2 = config.clone();
        with_http2.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Self { ca_pem: authority.pem().to_owned(), with_http2: Arc::new(with_http2), http1_only: Arc::new(config) })
    }
}
