//! The servers' certificate, and their side of TLS.

use std::sync::{Arc, LazyLock};

use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// The servers' certificate, for every simulation.
static CERTIFICATE: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
    LazyLock::new(|| rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap());

/// The certificate that the daemon trusts. The system's own would take longer to read than all the rest.
pub(super) fn roots() -> String {
    CERTIFICATE.cert.pem()
}

/// The servers' side of TLS. Each simulation has its own, so that sessions of another one are not resumed.
pub(super) fn tls() -> TlsAcceptor {
    let key = PrivatePkcs8KeyDer::from(CERTIFICATE.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = versions.with_no_client_auth().with_single_cert(vec![CERTIFICATE.cert.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
