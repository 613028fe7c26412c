//! Makes the throw-away certificate authority, the server's certificate and the TLS configurations.
//!
//! It uses the clock. Each start makes new keys, which exist in memory only.

use std::{io, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer};

use crate::clock;

const DAY: Duration = Duration::from_secs(86_400);
/// How long the certificates are valid; some platforms refuse more than 398 days, one of which is before now.
const VALID_DAYS: u32 = 396;

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
    /// Makes an authority and a certificate for `names` (DNS names or IP addresses).
    ///
    /// # Errors
    ///
    /// A name that no certificate can hold, or a system without randomness.
    pub(crate) fn for_names(names: Vec<String>) -> io::Result<Self> {
        let authority_key = KeyPair::generate().map_err(io::Error::other)?;
        let authority_params = authority_params()?;
        let authority = authority_params.self_signed(&authority_key).map_err(io::Error::other)?;
        let issuer = Issuer::new(authority_params, authority_key);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let leaf = leaf_params(names)?.signed_by(&key, &issuer).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut with_http2 = config.clone();
        with_http2.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Self { ca_pem: authority.pem(), with_http2: Arc::new(with_http2), http1_only: Arc::new(config) })
    }
}

fn authority_params() -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "CarePortals simulator throw-away CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params);
    Ok(params)
}

fn leaf_params(names: Vec<String>) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, "CarePortals simulator");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params);
    Ok(params)
}

/// Sets when a certificate is valid: from yesterday on, for clients whose clock is behind.
fn validity(params: &mut CertificateParams) {
    let now = clock::time_of_day();
    params.not_before = (now - DAY).into();
    params.not_after = (now + VALID_DAYS * DAY).into();
}
