//! The client side of TLS: the roots that we trust, our own certificate, and sessions.
//!
//! Guarantees: a server's certificate is always verified, and no setting turns that off; sessions are resumed whichever
//! protocols a connection offers, but not after the server's certificate has expired, nor after our own has changed.

mod identity;
mod pem;
mod system_roots;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, TryLockError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use crate::{
    config::{ClientCertificate, Tls, TlsVersion},
    files,
    resources::blocking,
};
pub use identity::KeyFault;
use identity::Stamp;
pub use system_roots::root_directories;

/// The name of HTTP/2 in ALPN (RFC 9113, 3.2).
pub const H2: &[u8] = b"h2";

/// How long a new connection waits for a look at the files of our own certificate. The look goes on by itself, and the pair
/// that it finds is for later connections.
const RENEWAL_WAIT: Duration = Duration::from_millis(250);

/// Why TLS could not be set up.
#[derive(Debug)]
pub enum TlsSetupError {
    /// A file can't be read.
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        why: String,
        /// It gave no answer in time, and would not if it were read again.
        hangs: bool,
    },
    /// A file holds no usable certificate.
    NoCertificate {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The key of our own certificate is not usable.
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: KeyFault,
    },
    /// The system has no roots, and no setting names any.
    NoRoots {
        /// What can't be read, if that is why.
        unreadable: Option<PathBuf>,
    },
    /// The cryptography library rejects its own defaults.
    Provider,
}

impl TlsSetupError {
    fn unreadable(setting: &'static str, path: &Path, error: &io::Error) -> Self {
        let hangs = error.kind() == io::ErrorKind::TimedOut;
        Self::Unreadable { setting, path: path.to_owned(), why: files::why(path, error), hangs }
    }

    /// Whether it took as long as a file may take to find this out.
    #[must_use]
    pub fn took_long(&self) -> bool {
        matches!(self, Self::Unreadable { hangs: true, .. })
    }

    /// The setting whose value is not usable; `None` when no setting is at fault.
    #[must_use]
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable { setting, .. } | Self::NoCertificate { setting, .. } => Some(setting),
            Self::Key { .. } => Some(identity::KEY),
            Self::NoRoots { .. } | Self::Provider => None,
        }
    }

    /// What is wrong, without the setting's name.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Unreadable { path, why, .. } => format!("cannot read {}: {why}", path.display()),
            Self::NoCertificate { path, .. } => format!("no usable certificate in {}", path.display()),
            Self::Key { path, reason } => format!("{reason} ({})", path.display()),
            Self::NoRoots { unreadable: Some(path) } => {
                format!("the system has no trusted root certificates: {} can't be read", path.display())
            }
            Self::NoRoots { unreadable: None } => "the system has no trusted root certificates".to_owned(),
            Self::Provider => "TLS could not be set up with this build's cryptography".to_owned(),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable { .. } => Some("it must be a PEM file readable by this user"),
            Self::NoCertificate { .. } => Some("it must hold one or more `-----BEGIN CERTIFICATE-----` blocks"),
            Self::NoRoots { .. } => Some(
                "install ca-certificates, correct SSL_CERT_FILE and SSL_CERT_DIR if they are set, or set ca_file or ca_only_file",
            ),
            Self::Key { .. } | Self::Provider => None,
        }
    }
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(setting) = self.setting() {
            write!(f, "{setting}: ")?;
        }
        f.write_str(&self.message())?;
        if let Some(hint) = self.hint() {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for TlsSetupError {}

/// The HTTP versions that a connection offers to the server (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// `http/1.1` alone.
    Http1,
    /// `h2` and `http/1.1`; the server chooses.
    Http1And2,
}

/// The client side of TLS, shared by every connection to upstream. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls(Arc<TlsState>);

struct TlsState {
    roots: Arc<RootCertStore>,
    min_version: TlsVersion,
    /// `None` without roots: no server is trusted then.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    connectors: ArcSwap<Connectors>,
    renewal: Option<Renewal>,
    private: PrivateRoots,
}

/// The roots that the settings name, to tell which root vouches for a server.
enum PrivateRoots {
    /// There are none: the system's are trusted.
    None,
    /// `ca_only_file` names all that are trusted.
    Only,
    /// `ca_file` names these, and the system's are trusted too.
    Besides(Option<Arc<WebPkiServerVerifier>>),
}

/// The files of our own certificate, to notice a renewed one.
struct Renewal {
    files: ClientCertificate,
    seen: Mutex<FilesSeen>,
}

/// The state of the files when they were last read.
struct FilesSeen {
    stamp: Stamp,
    /// Why they were not usable, if they were not; logged once.
    fault: Option<String>,
}

/// A connector for each offer. Both share one verifier and one store of sessions: rustls resumes a session only with the
/// verifier that it was made with, and finds it by the server's name, independent of the offer.
struct Connectors {
    http1: TlsConnector,
    http1_and_2: TlsConnector,
    /// The certificate for servers that ask for one.
    identity: Option<Arc<CertifiedKey>>,
}

impl ClientTls {
    /// Reads the files that the settings name. It blocks, so it belongs to start-up and reloads.
    pub fn new(tls: &Tls) -> Result<Self, TlsSetupError> {
        // The stamp is taken before the files are read, so a change in between is noticed at the next connection.
        let stamped = tls.client_certificate.as_ref().map(|files| (files.clone(), Stamp::of(files)));
        let identity = tls.client_certificate.as_ref().map(identity::read).transpose()?;
        let renewal = stamped.map(|(files, stamp)| Renewal { files, seen: Mutex::new(FilesSeen { stamp, fault: None }) });
        let (roots, private) = roots(tls)?;
        Self::of_roots(roots, tls.min_version, identity, renewal, private)
    }

    /// Every fault of the files that [`ClientTls::new`] reads.
    #[must_use]
    pub fn faults(tls: &Tls) -> Vec<TlsSetupError> {
        let of_pair = tls.client_certificate.iter().flat_map(identity::faults);
        roots(tls).err().into_iter().chain(of_pair).collect()
    }

    /// Trusts only `roots`, with defaults for everything else.
    pub fn with_roots(roots: RootCertStore) -> Result<Self, TlsSetupError> {
        Self::of_roots(roots, TlsVersion::default(), None, None, PrivateRoots::None)
    }

    fn of_roots(
        roots: RootCertStore,
        min_version: TlsVersion,
        identity: Option<Arc<CertifiedKey>>,
        renewal: Option<Renewal>,
        private: PrivateRoots,
    ) -> Result<Self, TlsSetupError> {
        let roots = Arc::new(roots);
        let connectors = Connectors::new(&roots, min_version, identity)?;
        let verifier = verifier(Arc::clone(&roots));
        let connectors = ArcSwap::from_pointee(connectors);
        Ok(Self(Arc::new(TlsState { roots, min_version, verifier, connectors, renewal, private })))
    }

    /// Whether both trust the same roots, allow the same versions, and show the same certificate.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let (one, other) = (&self.0, &other.0);
        let files = |state: &TlsState| state.renewal.as_ref().map(|renewal| renewal.files.clone());
        one.roots.roots == other.roots.roots
            && one.min_version == other.min_version
            && files(one) == files(other)
            // The key need not be compared: a chain has one key.
            && one.connectors.load().chain() == other.connectors.load().chain()
    }

    /// Whether both are clones of one, with the same trust and the same sessions.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Verifies a server's chain at the current time, as a full handshake does. A resumed handshake does not, and a session may
    /// outlive the certificate.
    pub fn verify_again(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> Result<(), rustls::Error> {
        self.verify_at(UnixTime::now(), chain, name)
    }

    /// For how long from now on, at most `limit`, a server's chain stays valid, to the second. A certificate may expire while a
    /// connection is open.
    #[must_use]
    pub fn trusted_for(&self, limit: Duration, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> Duration {
        let now = UnixTime::now().as_secs();
        let is_good = |after: u64| {
            let then = UnixTime::since_unix_epoch(Duration::from_secs(now.saturating_add(after)));
            self.verify_at(then, chain, name).is_ok()
        };
        if is_good(limit.as_secs().saturating_add(1)) {
            return limit;
        }
        // This is a binary search: a chain is valid until its first certificate expires, and never again.
        let (mut good, mut bad) = (0, limit.as_secs().saturating_add(1));
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if is_good(middle) { good = middle } else { bad = middle }
        }
        limit.min(Duration::from_secs(good))
    }

    fn verify_at(&self, time: UnixTime, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> Result<(), rustls::Error> {
        verify(self.0.verifier.as_ref(), time, chain, name)
    }

    /// The setting that names the root which vouches for a chain, in words.
    #[must_use]
    pub fn vouched_by(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> &'static str {
        match &self.0.private {
            PrivateRoots::Only => "`ca_only_file`",
            PrivateRoots::Besides(own) if verify(own.as_ref(), UnixTime::now(), chain, name).is_ok() => "`ca_file`",
            PrivateRoots::Besides(_) | PrivateRoots::None => "the system",
        }
    }

    /// Drops all sessions, so that every new connection begins with a full handshake.
    pub fn forget_sessions(&self) {
        let TlsState { roots, min_version, connectors, .. } = &*self.0;
        connectors.rcu(|present| {
            let renewed = Connectors::new(roots, *min_version, present.identity.clone());
            // It does not fail, since the same parts have made the present ones.
            renewed.map_or_else(|_| Arc::clone(present), Arc::new)
        });
    }

    /// The connector for this offer, with our own certificate as it now is in its files. The files are checked on a thread for
    /// blocking work, since a file system may be slow; without a certificate of our own nothing waits.
    pub async fn connector(&self, offer: Offer) -> TlsConnector {
        if self.0.renewal.is_some() {
            let state = Arc::clone(&self.0);
            // While it takes longer, or there is no thread, the certificate stays as it was.
            let _ = timeout(RENEWAL_WAIT, blocking(move || state.renew())).await;
        }
        let connectors = self.0.connectors.load();
        match offer {
            Offer::Http1 => connectors.http1.clone(),
            Offer::Http1And2 => connectors.http1_and_2.clone(),
        }
    }
}

impl TlsState {
    /// Reads our own certificate again when its files have changed.
    fn renew(&self) {
        self.renew_by(identity::read);
    }

    fn renew_by(&self, read: impl FnOnce(&ClientCertificate) -> Result<Arc<CertifiedKey>, TlsSetupError>) {
        let Some(Renewal { files, seen }) = &self.renewal else { return };
        let mut seen = match seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(seen)) => seen.into_inner(),
            // Another connection's check is under way; it may hang.
            Err(TryLockError::WouldBlock) => return,
        };
        let stamp = Stamp::of(files);
        if seen.stamp == stamp {
            return;
        }
        let read = read(files);
        // What kept the files from being read may pass without a trace in them: the next connection tries again.
        if !matches!(read, Err(TlsSetupError::Unreadable { .. })) {
            seen.stamp = stamp;
        }
        match read.and_then(|identity| Connectors::new(&self.roots, self.min_version, Some(identity))) {
            Ok(renewed) => {
                let was_of_no_use = seen.fault.take().is_some();
                if self.connectors.load().chain() != renewed.chain() {
                    self.connectors.store(Arc::new(renewed));
                    info!("the client certificate was renewed; new connections show the new one");
                } else if was_of_no_use {
                    info!("the client certificate's files are of use again");
                }
            }
            Err(error) => {
                let fault = Some(error.to_string());
                if seen.fault != fault {
                    warn!(reason = %error, "the client certificate's files have changed and are of no use: the one before stays");
                    seen.fault = fault;
                }
            }
        }
    }
}

impl Connectors {
    fn new(
        roots: &Arc<RootCertStore>,
        min_version: TlsVersion,
        identity: Option<Arc<CertifiedKey>>,
    ) -> Result<Self, TlsSetupError> {
        let versions = [&TLS13, &TLS12];
        let versions = if min_version == TlsVersion::Tls13 { &versions[..1] } else { &versions };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|_| TlsSetupError::Provider)?
            .with_root_certificates(Arc::clone(roots));
        let config = match &identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(identity)))),
            None => builder.with_no_client_auth(),
        };
        // Clones of a configuration share the verifier and the sessions.
        let offering = |protocols: &[&[u8]]| {
            let alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            let mut config = config.clone();
            config.alpn_protocols = alpn_protocols;
            TlsConnector::from(Arc::new(config))
        };
        let (http1, http1_and_2) = (offering(&[b"http/1.1"]), offering(&[H2, b"http/1.1"]));
        Ok(Self { http1, http1_and_2, identity })
    }

    fn chain(&self) -> Option<&[CertificateDer<'static>]> {
        self.identity.as_ref().map(|identity| identity.cert.as_slice())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(tls: &Tls) -> Result<(RootCertStore, PrivateRoots), TlsSetupError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &tls.ca_only_file {
        trust_file(&mut store, "ca_only_file", path)?;
        return Ok((store, PrivateRoots::Only));
    }
    // An unreadable file is no reason to fail: if its root is needed, the server's certificate will not be trusted.
    let found = system_roots::load(tls.named_roots.clone());
    store.add_parsable_certificates(found.certificates);
    let mut private = PrivateRoots::None;
    if let Some(path) = &tls.ca_file {
        let mut own = RootCertStore::empty();
        trust_file(&mut own, "ca_file", path)?;
        store.extend(own.roots.iter().cloned());
        private = PrivateRoots::Besides(verifier(Arc::new(own)));
    }
    if store.is_empty() {
        return Err(TlsSetupError::NoRoots { unreadable: found.unreadable });
    }
    if let Some(path) = found.unreadable {
        warn!(path = %path.display(), "a file of the system's roots of trust can't be read: its roots are not trusted");
    }
    if let Some(path) = found.broken {
        warn!(path = %path.display(), "a certificate among the system's roots of trust is broken: it is not trusted");
    }
    Ok((store, private))
}

/// `None` without roots: no server is trusted then.
fn verifier(roots: Arc<RootCertStore>) -> Option<Arc<WebPkiServerVerifier>> {
    WebPkiServerVerifier::builder_with_provider(roots, provider()).build().ok()
}

fn verify(
    verifier: Option<&Arc<WebPkiServerVerifier>>,
    time: UnixTime,
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
) -> Result<(), rustls::Error> {
    let none = rustls::Error::NoCertificatesPresented;
    let (Some(verifier), Some((server, intermediates))) = (verifier, chain.split_first()) else { return Err(none) };
    verifier.verify_server_cert(server, intermediates, name, &[], time).map(drop)
}

/// Adds the certificates of a file, and returns how many are broken.
fn add_file(store: &mut RootCertStore, setting: &'static str, path: &Path) -> Result<usize, TlsSetupError> {
    let text = files::read(path).map_err(|error| TlsSetupError::unreadable(setting, path, &error))?;
    let found: Vec<_> = pem::certificates(&text).collect();
    let certificates = found.len();
    let (added, _) = store.add_parsable_certificates(found.into_iter().flatten());
    if added == 0 { Err(TlsSetupError::NoCertificate { setting, path: path.to_owned() }) } else { Ok(certificates - added) }
}

/// Adds the certificates of a file, and logs how many are broken.
fn trust_file(store: &mut RootCertStore, setting: &'static str, path: &Path) -> Result<(), TlsSetupError> {
    let unusable = add_file(store, setting, path)?;
    if unusable > 0 {
        warn!(setting, path = %path.display(), unusable, "certificates of a file are broken: they are not trusted");
    }
    Ok(())
}

/// What may be wrong with files of roots that can be used: for each, the setting, the words and a hint.
#[must_use]
pub fn warnings(tls: &Tls) -> Vec<(String, String, &'static str)> {
    let files = [("ca_only_file", &tls.ca_only_file), ("ca_file", &tls.ca_file)];
    let broken = |(setting, path): (&'static str, &Option<PathBuf>)| {
        let path = path.as_ref()?;
        let unusable = add_file(&mut RootCertStore::empty(), setting, path).ok().filter(|unusable| *unusable > 0)?;
        let message = format!("{unusable} of the certificates in {} are broken: they are not trusted", path.display());
        Some((setting.to_owned(), message, "write each whole, from its `-----BEGIN` line to its `-----END` line, or take it out"))
    };
    files.into_iter().filter_map(broken).collect()
}

#[cfg(test)]
mod tests {
    use careportals_simulator::{Options, Simulator};
    use rustls::pki_types::ServerName;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::clock::{Clock as _, SystemClock};

    async fn connect(tls: &ClientTls, port: u16, offer: Offer) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tls.connector(offer).await.connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }

    /// Sends a request and reads a response: the ticket for resumption comes after the handshake (RFC 8446, 4.6.1).
    async fn talk(mut stream: TlsStream<TcpStream>) {
        let greeting: &[u8] = match stream.get_ref().1.alpn_protocol() {
            Some(H2) => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            _ => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        };
        stream.write_all(greeting).await.unwrap();
        stream.flush().await.unwrap();
        stream.read_u8().await.unwrap();
    }

    /// Makes a certificate that is valid for `seconds` from now on, and trusts it.
    fn lasting(seconds: u64) -> (ClientTls, CertificateDer<'static>) {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = (SystemClock.now().wall + Duration::from_secs(seconds)).into();
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.der().clone()).unwrap();
        (ClientTls::with_roots(roots).unwrap(), made.der().clone())
    }

    #[test]
    fn a_chain_is_trusted_until_its_certificate_expires() {
        let name = ServerName::try_from("localhost").unwrap();
        let limit = Duration::from_secs(300);
        let (tls, certificate) = lasting(100);
        let trusted = tls.trusted_for(limit, std::slice::from_ref(&certificate), &name).as_secs();
        assert!((97..=101).contains(&trusted), "{trusted}");
        assert_eq!(tls.trusted_for(Duration::from_millis(1500), &[certificate], &name), Duration::from_millis(1500));
        let (tls, certificate) = lasting(3600);
        assert_eq!(tls.trusted_for(limit, &[certificate], &name), limit);
        assert_eq!(tls.trusted_for(limit, &[], &name), Duration::ZERO, "without a chain there is no trust");
    }

    #[test]
    fn each_fault_names_its_setting_its_file_and_what_to_do() {
        let path = || PathBuf::from("/a.pem");
        let unreadable =
            TlsSetupError::Unreadable { setting: "ca_file", path: path(), why: "it is a directory".to_owned(), hangs: false };
        let none = TlsSetupError::NoCertificate { setting: "ca_only_file", path: path() };
        for (error, expected) in [
            (unreadable, "ca_file: cannot read /a.pem: it is a directory\n  hint: it must be a PEM file readable by this user"),
            (
                none,
                "ca_only_file: no usable certificate in /a.pem\n  hint: it must hold one or more `-----BEGIN CERTIFICATE-----` blocks",
            ),
            (
                TlsSetupError::NoRoots { unreadable: Some(path()) },
                "the system has no trusted root certificates: /a.pem can't be read\n  hint: install ca-certificates, correct SSL_CERT_FILE and SSL_CERT_DIR if they are set, or set ca_file or ca_only_file",
            ),
            (TlsSetupError::Provider, "TLS could not be set up with this build's cryptography"),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn trust_is_alike_only_with_the_same_roots_and_versions() {
        let ((one, _), (other, _)) = (lasting(100), lasting(100));
        let with = |tls: &ClientTls, min_version| {
            ClientTls::of_roots(RootCertStore::clone(&tls.0.roots), min_version, None, None, PrivateRoots::None).unwrap()
        };
        let again = with(&one, TlsVersion::default());
        assert!(one.is_like(&again) && !one.is_same(&again));
        assert!(one.is_same(&one.clone()));
        assert!(!one.is_like(&other));
        assert!(!with(&one, TlsVersion::Tls13).is_like(&with(&one, TlsVersion::Tls12)));
    }

    #[test]
    fn a_chain_is_verified_by_the_roots_and_vouched_for_by_the_setting_that_names_them() {
        let name = ServerName::try_from("localhost").unwrap();
        let ((tls, certificate), (stranger, _)) = (lasting(3600), lasting(3600));
        let chain = [certificate];
        assert!(tls.verify_again(&chain, &name).is_ok());
        assert!(tls.verify_again(&chain, &ServerName::try_from("elsewhere").unwrap()).is_err());
        assert!(stranger.verify_again(&chain, &name).is_err());
        let vouched = |private| {
            let tls = ClientTls::of_roots(RootCertStore::clone(&tls.0.roots), TlsVersion::default(), None, None, private);
            tls.unwrap().vouched_by(&chain, &name)
        };
        assert_eq!(vouched(PrivateRoots::None), "the system");
        assert_eq!(vouched(PrivateRoots::Only), "`ca_only_file`");
        assert_eq!(vouched(PrivateRoots::Besides(verifier(Arc::clone(&tls.0.roots)))), "`ca_file`");
        assert_eq!(vouched(PrivateRoots::Besides(verifier(Arc::clone(&stranger.0.roots)))), "the system");
    }

    #[tokio::test]
    async fn sessions_are_resumed_for_either_offer_and_across_them() {
        use Offer::{Http1, Http1And2};
        for offers in [[Http1, Http1, Http1], [Http1And2, Http1And2, Http1And2], [Http1, Http1And2, Http1]] {
            let simulator = Simulator::start(Options::default()).unwrap();
            let mut store = RootCertStore::empty();
            store.add(pem::certificates(simulator.ca_pem().as_bytes()).next().unwrap().unwrap()).unwrap();
            let tls = ClientTls::with_roots(store).unwrap();
            for offer in offers {
                talk(connect(&tls, simulator.address().port(), offer).await.unwrap()).await;
            }
            let counts = simulator.control().counts();
            assert_eq!((counts.handshakes_full, counts.handshakes_resumed), (1, 2), "{offers:?}");
        }
    }

    /// The error of a handshake with a server whose only message, a hello of TLS 1.2, chooses `h2`; and what we sent last.
    async fn insisting_on_http2(offer: Offer) -> (io::Error, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut header = [0; 5];
            tcp.read_exact(&mut header).await.unwrap();
            let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
            tcp.read_exact(&mut hello).await.unwrap();
            tcp.write_all(&server_hello()).await.unwrap();
            tcp.shutdown().await.unwrap();
            let mut heard = Vec::new();
            tcp.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let tls = ClientTls::with_roots(RootCertStore::empty()).unwrap();
        let (outcome, heard) = tokio::join!(connect(&tls, port, offer), serve);
        (outcome.unwrap_err(), heard)
    }

    fn server_hello() -> Vec<u8> {
        // The extensions are the extended master secret (RFC 7627) and the chosen protocol (RFC 7301).
        let extensions = [&[0x00, 0x17, 0, 0][..], &[0x00, 0x10, 0, 5, 0, 3, 2, b'h', b'2']].concat();
        // It chooses no session, ECDHE_RSA_WITH_AES_128_GCM_SHA256 and no compression.
        let choices = [0, 0xc0, 0x2f, 0, 0, u8::try_from(extensions.len()).unwrap()];
        let body = [&[3, 3][..], &[7; 32], &choices, &extensions].concat();
        let length = u8::try_from(body.len()).unwrap();
        [&[22, 3, 3, 0, length + 4, 2, 0, 0, length][..], &body].concat()
    }

    #[tokio::test]
    async fn a_protocol_that_was_not_offered_ends_the_handshake() {
        let objects = |error: &io::Error| {
            matches!(
                error.get_ref().and_then(|inner| inner.downcast_ref()),
                Some(rustls::Error::PeerMisbehaved(rustls::PeerMisbehaved::SelectedUnofferedApplicationProtocol))
            )
        };
        let (error, heard) = insisting_on_http2(Offer::Http1).await;
        assert!(objects(&error), "{error:?}");
        // The last bytes are a fatal alert: illegal parameter.
        assert!(heard.ends_with(&[2, 47]), "{heard:?}");
        let (error, _) = insisting_on_http2(Offer::Http1And2).await;
        assert!(!objects(&error), "the server hung up: {error:?}");
    }
}
