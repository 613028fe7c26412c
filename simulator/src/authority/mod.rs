//! Makes the throw-away certificate authority, or reads one, and signs the server's certificate with it.
//!
//! It uses the clock. The keys that each start makes exist in memory only.

#[cfg(feature = "import")]
mod imported;

use std::{fmt, io, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::clock;

const DAY: Duration = Duration::from_secs(86_400);
/// How long the certificates are valid; some platforms refuse more than 398 days, one of which is before now.
const VALID_DAYS: u32 = 396;

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
        let issuer = Issuer::new(imported::params(&certificate, &key).map_err(refuse)?, key);
        // Nothing of the file but its certificate is shown to clients.
        let only_certificate = pem.split_inclusive('\n').skip_while(|line| !line.starts_with("-----BEGIN CERTIFICATE"));
        let mut shown = String::new();
        for line in only_certificate {
            shown.push_str(line);
            if line.starts_with("-----END CERTIFICATE") {
                break;
            }
        }
        let authority = Self { pem: shown, issuer: Arc::new(issuer) };
        imported::check_name(&certificate, &authority).map_err(refuse)?;
        Ok(authority)
    }

    /// Its certificate, in PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Makes a certificate for `names` (DNS names or IP addresses), and its key.
    ///
    /// # Errors
    ///
    /// A name that no certificate can hold, or a system without randomness.
    pub(crate) fn certificate_for(&self, names: Vec<String>) -> io::Result<(Certificate, KeyPair)> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = leaf_params(names)?.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok((certificate, key))
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

#[cfg(feature = "import")]
#[cfg(test)]
mod tests {
    use super::*;

    /// An authority that is valid from `from` to `to` days from now, with its key.
    fn pem(from: i64, to: i64) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = authority_params().unwrap();
        let day = |days: i64| {
            let distance = DAY * u32::try_from(days.abs()).unwrap();
            if days < 0 { clock::time_of_day() - distance } else { clock::time_of_day() + distance }
        };
        (params.not_before, params.not_after) = (day(from).into(), day(to).into());
        format!("A comment.\n{}{}", params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn an_authority_is_read_while_it_is_valid() {
        let good = Authority::from_pem(&pem(-1, 1)).unwrap();
        assert!(good.pem().starts_with("-----BEGIN CERTIFICATE") && !good.pem().contains("PRIVATE"));
        let refused = |pem: &str| Authority::from_pem(pem).unwrap_err().to_string();
        assert!(refused(&pem(-2, -1)).contains("the certificate has expired on"));
        assert!(refused(&pem(1, 2)).contains("the certificate is not valid before"));
        assert!(!format!("{good:?}").contains("key"));
    }
}
