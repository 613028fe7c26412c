//! Checks a certificate authority that was read, and copies what an issuer has to know of it.
//!
//! It uses the clock. Whatever a usual client would refuse later is refused here.

use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyIdMethod, KeyPair, PublicKeyData};
use x509_parser::{
    asn1_rs::Tag,
    certificate::X509Certificate,
    extensions::ParsedExtension,
    x509::{AttributeTypeAndValue, X509Name},
};

use super::Authority;
use crate::clock;

/// How to make a certificate whose name can be copied.
const SIMPLER: &str = "make it with a subject such as /O=Acme/CN=CI";

/// The parameters of an issuer with the name and the key identifier of this certificate.
pub(super) fn params(certificate: &[u8], key: &KeyPair) -> Result<CertificateParams, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| "the certificate can't be read".to_owned())?;
    check(&parsed, key)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(|fault| fault.to_string())?;
    params.distinguished_name = name(parsed.subject())?;
    let identifier = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    });
    if let Some(identifier) = identifier {
        params.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    }
    Ok(params)
}

/// Whether clients would accept what this certificate and this key sign.
fn check(certificate: &X509Certificate, key: &KeyPair) -> Result<(), String> {
    if !certificate.is_ca() {
        return Err("the certificate is not one of an authority; make it with basicConstraints=critical,CA:TRUE".to_owned());
    }
    // Some clients take a certificate that says nothing of its use; Python 3.13 and later do not (RFC 5280, 4.2.1.3).
    if !certificate.key_usage().is_ok_and(|usage| usage.is_some_and(|usage| usage.value.key_cert_sign())) {
        let how = "make it with keyUsage=critical,keyCertSign,cRLSign";
        return Err(format!("the certificate does not say that it may sign others; {how}"));
    }
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err("the key is not that of the certificate".to_owned());
    }
    let now = clock::time_of_day().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now > validity.not_after.timestamp() {
        return Err(format!("the certificate has expired on {}; make a new one", validity.not_after));
    }
    if now < validity.not_before.timestamp() {
        return Err(format!("the certificate is not valid before {}", validity.not_before));
    }
    Ok(())
}

fn name(subject: &X509Name) -> Result<DistinguishedName, String> {
    let mut copied = DistinguishedName::new();
    for attribute in subject.iter_attributes() {
        let (kind, value) = attribute_parts(attribute).ok_or_else(|| format!("its name can't be copied; {SIMPLER}"))?;
        copied.push(kind, value);
    }
    Ok(copied)
}

fn attribute_parts(attribute: &AttributeTypeAndValue) -> Option<(DnType, DnValue)> {
    let kind = DnType::CustomDnType(attribute.attr_type().iter()?.collect());
    let text = std::str::from_utf8(attribute.attr_value().data).ok()?;
    let value = match attribute.attr_value().tag() {
        Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
        Tag::PrintableString => DnValue::PrintableString(text.try_into().ok()?),
        Tag::Ia5String => DnValue::Ia5String(text.try_into().ok()?),
        _ => return None,
    };
    Some((kind, value))
}

/// Whether what the authority signs names it byte by byte; a name with the same attribute twice is not copied so.
pub(super) fn check_name(certificate: &[u8], authority: &Authority) -> Result<(), String> {
    let (probe, _) = authority.certificate_for(vec!["localhost".to_owned()]).map_err(|fault| fault.to_string())?;
    let read = |der| x509_parser::parse_x509_certificate(der).map(|(_, parsed)| parsed);
    match (read(certificate), read(probe.der())) {
        (Ok(authority), Ok(probe)) if authority.subject().as_raw() == probe.issuer().as_raw() => Ok(()),
        _ => Err(format!("its name can't be copied; {SIMPLER}")),
    }
}
