//! Makes the throw-away certificate authority, or reads one, and makes the server's certificate and the TLS configurations.
//!
//! It uses the clock. The keys that each start makes exist in memory only.

use std::{fmt, io, sync::Arc, time::Duration};

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
    /// Makes a certificate for `names` (DNS names or IP addresses).
    ///
    /// # Errors
    ///
    /// A name that no certificate can hold, or a system without randomness.
    pub(crate) fn for_names(names: Vec<String>, authority: &Authority) -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let leaf = leaf_params(names)?.signed_by(&key, &authority.issuer).map_err(io::Error::other)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut with_http2 = config.clone();
        with_http2.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Self { ca_pem: authority.pem.clone(), with_http2: Arc::new(with_http2), http1_only: Arc::new(config) })
    }
}

/// A certificate authority: it signs the server's certificate.
#[derive(Clone)]
pub struct Authority {
    /// Its certificate.
    pem: String,
    issuer: Arc<Issuer<'static, KeyPair>>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority that exists as long as the simulator.
    ///
    /// # Errors
    ///
    /// A system without randomness.
    pub(crate) fn throw_away() -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let params = authority_params()?;
        let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
        Ok(Self { pem, issuer: Arc::new(Issuer::new(params, key)) })
    }

    /// Reads an authority: one certificate and its key, both in PEM.
    ///
    /// # Errors
    ///
    /// What is missing or wrong, and what to do. Whatever clients would refuse later is refused here.
    #[cfg(feature = "import")]
    pub fn from_pem(pem: &str) -> io::Result<Self> {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let refuse = |why: String| io::Error::other(format!("certificate authority: {why}"));
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| refuse("there is no certificate in PEM (BEGIN CERTIFICATE)".to_owned()))?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| refuse("there is no private key in PEM; put it behind the certificate, not encrypted".to_owned()))?;
        let key = KeyPair::try_from(&key).map_err(|fault| refuse(format!("its key can't be used: {fault}")))?;
        check_authority(&certificate, &key).map_err(refuse)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|fault| refuse(format!("its certificate can't be used: {fault}")))?;
        // Nothing of the file but its certificate is shown to clients.
        let only_certificate = pem.split_inclusive('\n').skip_while(|line| !line.starts_with("-----BEGIN CERTIFICATE"));
        let mut shown = String::new();
        for line in only_certificate {
            shown.push_str(line);
            if line.starts_with("-----END CERTIFICATE") {
                break;
            }
        }
        Ok(Self { pem: shown, issuer: Arc::new(issuer) })
    }
}

/// Whether clients would accept what this certificate and this key sign.
#[cfg(feature = "import")]
fn check_authority(certificate: &[u8], key: &KeyPair) -> Result<(), String> {
    use rcgen::PublicKeyData;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| "the certificate can't be read".to_owned())?;
    if !parsed.is_ca() {
        return Err("the certificate is not one of an authority; make it with basicConstraints=critical,CA:TRUE".to_owned());
    }
    if parsed.key_usage().is_ok_and(|usage| usage.is_some_and(|usage| !usage.value.key_cert_sign())) {
        return Err("the certificate may not sign others; make it with keyUsage=critical,keyCertSign".to_owned());
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err("the key is not that of the certificate".to_owned());
    }
    let now = clock::time_of_day().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now > validity.not_after.timestamp() {
        return Err(format!("the certificate has expired on {}; make a new one", validity.not_after));
    }
    if now < validity.not_before.timestamp() {
        return Err(format!("the certificate is not valid before {}", validity.not_before));
    }
    Ok(())
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
