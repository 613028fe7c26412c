use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::{config::Tls, tls::ClientTls};

struct Files {
    directory: TempDir,
    files: ClientCertificate,
}

fn files(certificates: &str, key: &str) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let files = ClientCertificate { certificates: dir.path().join("tls.crt"), key: dir.path().join("tls.key") };
    fs::write(&files.certificates, certificates).unwrap();
    fs::write(&files.key, key).unwrap();
    Files { directory: dir, files }
}

fn pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["client.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn a_pair_is_read_from_two_files_or_one_with_any_line_ends() {
    let (certificate, key) = pair();
    let both = format!("Subject: whoever\n{certificate}{key}");
    let dos = |text: &str| text.lines().collect::<Vec<_>>().join("\r\n") + "\r\n";
    for (certificates, key) in
        [(&certificate, &key), (&both, &both), (&dos(&certificate), &dos(&key)), (&format!("{certificate}{certificate}"), &key)]
    {
        let read = read(&files(certificates, key).files).unwrap();
        assert_eq!(read.cert.len(), certificates.matches("BEGIN CERTIFICATE").count());
    }
}

#[test]
fn a_key_in_each_of_its_forms_is_read() {
    use aws_lc_rs::{
        encoding::{AsDer as _, EcPrivateKeyRfc5915Der},
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
    };
    let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let der: EcPrivateKeyRfc5915Der<'_> = made.private_key().as_der().unwrap();
    let block = |label: &str, der: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
    // What `openssl ecparam -genkey` writes.
    let sec1 = block("EC PARAMETERS", b"a curve") + &block("EC PRIVATE KEY", der.as_ref());
    assert!(any_supported_type(&pem::private_key(sec1.as_bytes()).unwrap()).is_ok());
    let pkcs1 = pem::private_key(block("RSA PRIVATE KEY", b"some bytes").as_bytes()).unwrap();
    assert!(matches!(&pkcs1, PrivateKeyDer::Pkcs1(key) if key.secret_pkcs1_der() == b"some bytes"));
    let pkcs8 = pem::private_key(block("PRIVATE KEY", b"some bytes").as_bytes()).unwrap();
    assert!(matches!(&pkcs8, PrivateKeyDer::Pkcs8(key) if key.secret_pkcs8_der() == b"some bytes"));
}

#[test]
fn a_byte_order_mark_before_a_pair_does_no_harm() {
    let (certificate, key) = pair();
    let (certificate, key) = (format!("\u{feff}{certificate}"), format!("\u{feff}{key}"));
    let made = files(&certificate, &key);
    assert_eq!(read(&made.files).unwrap().cert.len(), 1);
    let roots = Tls { ca_only_file: Some(made.files.certificates.clone()), ..Tls::default() };
    assert_eq!(ClientTls::new(&roots).unwrap().0.roots.len(), 1);
}

#[test]
fn each_fault_names_its_setting() {
    let ((certificate, key), (_, other)) = (pair(), pair());
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let traditional = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let (no_key, unended) = ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &key[..key.len() / 2]);
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (certificates, key, said) in [
        (certificate.as_str(), other.as_str(), "tls_key_file: the key does not belong"),
        (&certificate, "not PEM", "tls_key_file: it must hold a"),
        (&certificate, &certificate, "tls_key_file: it must hold a"),
        (&certificate, "", "tls_key_file: it must hold a"),
        (&certificate, unended, "tls_key_file: it must hold a"),
        (&certificate, encrypted, "tls_key_file: it is encrypted"),
        (&certificate, traditional, "tls_key_file: it is encrypted"),
        (&certificate, no_key, "tls_key_file: it must be an RSA, ECDSA or Ed25519 key"),
        ("not PEM", &key, "tls_cert_file: no usable certificate"),
        (&key, &key, "tls_cert_file: no usable certificate"),
        (no_certificate, &key, "tls_cert_file: no usable certificate"),
    ] {
        let error = read(&files(certificates, key).files).unwrap_err().to_string();
        assert!(error.starts_with(said), "{said}: {error}");
        assert!(!error.contains("AAAA") && !key.lines().skip(1).any(|line| error.contains(line) && !line.is_empty()), "{error}");
    }
    for absent in [CERTIFICATE, KEY] {
        let Files { directory: _directory, files } = files(&certificate, &key);
        fs::remove_file(if absent == KEY { &files.key } else { &files.certificates }).unwrap();
        let error = read(&files).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{absent}: cannot read")), "{error}");
    }
    let long = "\n".repeat(KEY_FILE_MAX + 1);
    assert!(read(&files(&certificate, &long).files).unwrap_err().to_string().starts_with("tls_key_file: cannot read"));
}

#[test]
fn the_faults_of_both_files_are_told_at_once() {
    let ((certificate, key), (_, other)) = (pair(), pair());
    let told = |files: &ClientCertificate| faults(files).iter().map(|fault| fault.setting().unwrap()).collect::<Vec<_>>();
    for (certificates, key, expected) in [
        (certificate.as_str(), key.as_str(), &[][..]),
        ("not PEM", "not PEM", &[CERTIFICATE, KEY]),
        ("not PEM", &key, &[CERTIFICATE]),
        (&certificate, "not PEM", &[KEY]),
        (&certificate, &other, &[KEY]),
    ] {
        assert_eq!(told(&files(certificates, key).files), expected);
    }
    let gone = ClientCertificate { certificates: "/nonexistent/c".into(), key: "/nonexistent/k".into() };
    assert_eq!(told(&gone), [CERTIFICATE, KEY]);
    let tls = Tls { ca_file: Some("/nonexistent/r".into()), client_certificate: Some(gone), ..Tls::default() };
    assert_eq!(
        ClientTls::faults(&tls).iter().filter_map(TlsSetupError::setting).collect::<Vec<_>>(),
        ["ca_file", CERTIFICATE, KEY]
    );
}

#[test]
fn a_stamp_changes_when_a_file_is_written_replaced_or_removed() {
    let Files { directory: dir, files } = files("a", "b");
    let mut before = Stamp::of(&files);
    assert_eq!(before, Stamp::of(&files));
    let replacement = dir.path().join("new");
    let steps: [&dyn Fn(); 4] = [
        &|| fs::write(&files.key, "longer").unwrap(),
        &|| {
            fs::write(&replacement, "a").unwrap();
            fs::rename(&replacement, &files.certificates).unwrap();
        },
        &|| fs::remove_file(&files.key).unwrap(),
        &|| fs::write(&files.key, "b").unwrap(),
    ];
    for (number, step) in steps.into_iter().enumerate() {
        step();
        let after = Stamp::of(&files);
        assert_ne!(before, after, "{number}");
        before = after;
    }
}

#[test]
fn a_renewed_pair_is_used_though_it_could_not_be_read_for_a_moment() {
    let ((old, old_key), (new, new_key)) = (pair(), pair());
    let made = files(&old, &old_key);
    let roots = made.directory.path().join("roots.pem");
    fs::write(&roots, &old).unwrap();
    let tls = Tls { ca_only_file: Some(roots), client_certificate: Some(made.files.clone()), ..Tls::default() };
    let tls = ClientTls::new(&tls).unwrap().0;
    let shown = || tls.connectors.load().chain().unwrap()[0].clone();
    let before = shown();
    fs::write(&made.files.certificates, &new).unwrap();
    fs::write(&made.files.key, &new_key).unwrap();
    let no_descriptor = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
    tls.renew_by(|files| Err(TlsSetupError::unreadable(CERTIFICATE, &files.certificates, &no_descriptor)));
    assert_eq!(shown(), before);
    tls.renew();
    assert_ne!(shown(), before);
}
