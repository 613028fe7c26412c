//! A TLS server that a test plays itself, where the simulator is too trustworthy: it has any certificate, any version, any
//! first words. It keeps every byte that it is sent, so that a test can show that it was sent nothing.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use crate::harness::{PATIENCE, until_some};

/// The token that it gives to each client that logs in.
pub const TOKEN: &str = "token-of-the-peer";

/// An authority that a test makes up.
pub struct Authority {
    pub pem: String,
    pub der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
    key: Vec<u8>,
}

impl Identity {
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: key.serialize_der(),
        }
    }

    /// A certificate that only vouches for itself.
    pub fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self::new(&params(name).self_signed(&key).unwrap(), &key)
    }
}

/// The parameters of a certificate for `name`, which is valid for thousands of years.
pub fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    pub fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity::new(&params.signed_by(&key, &self.issuer).unwrap(), &key)
    }
}

/// The settings of a server that speaks TLS 1.2 and 1.3.
pub fn server(identity: &Identity) -> ServerConfig {
    server_of(identity, &[&TLS12, &TLS13], None)
}

pub fn server_of(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(vec![identity.certificate.clone()], identity.key()).unwrap();
    // No session is resumed, so that each connection is judged by itself.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// How it treats a connection.
enum Manner {
    Tls(Mutex<Arc<ServerConfig>>),
    /// It answers the first bytes, whatever they are, with these, and ends the connection.
    Words(Vec<u8>),
}

/// What clients have sent.
#[derive(Clone, Default)]
pub struct Heard {
    /// Connections that have ended or got as far as a request.
    pub connections: usize,
    /// Everything that came decrypted, over all connections; where it speaks no TLS, everything that came.
    pub words: Vec<u8>,
    /// The client's certificate at each request.
    pub shown: Vec<Option<CertificateDer<'static>>>,
    /// Handshakes that went on with a session from before.
    pub resumed: usize,
}

#[derive(Default)]
struct State {
    heard: Heard,
    open: Vec<TcpStream>,
    over: bool,
}

type Shared = Mutex<State>;

/// Listens on loopback until dropped. A request to `/auth` is answered with [`TOKEN`], any other with `200`; each is the
/// last on its connection, but for those to [`KEPT`].
pub struct TlsPeer {
    address: SocketAddr,
    manner: Arc<Manner>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl TlsPeer {
    pub fn tls(config: ServerConfig) -> Self {
        Self::start(Manner::Tls(Mutex::new(Arc::new(config))))
    }

    pub fn words(words: &[u8]) -> Self {
        Self::start(Manner::Words(words.to_vec()))
    }

    fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, manner) = (Arc::new(Shared::default()), Arc::new(manner));
        let accepting = std::thread::spawn({
            let (shared, manner) = (Arc::clone(&shared), Arc::clone(&manner));
            move || {
                let mut serving = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    let mut state = shared.lock().unwrap();
                    if state.over {
                        break;
                    }
                    state.open.push(stream.try_clone().unwrap());
                    let (shared, manner) = (Arc::clone(&shared), Arc::clone(&manner));
                    serving.push(std::thread::spawn(move || {
                        stream.set_read_timeout(Some(PATIENCE)).unwrap();
                        match &*manner {
                            Manner::Tls(config) => {
                                let config = Arc::clone(&config.lock().unwrap());
                                serve(&shared, &config, stream);
                            }
                            Manner::Words(words) => speak(&shared, words, stream),
                        }
                        change(&shared, |heard| heard.connections += 1);
                    }));
                }
                for thread in serving {
                    thread.join().unwrap();
                }
            }
        });
        Self { address, manner, shared, accepting: Some(accepting) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its base URL, by the name that the certificates of these tests are for.
    pub fn base_url(&self) -> String {
        format!("https://localhost:{}", self.port())
    }

    /// Waits until that many connections have come to their end, and returns what they sent.
    pub fn heard_of(&self, connections: usize) -> Heard {
        until_some(&format!("{connections} connections have come to their end"), || {
            let heard = &self.shared.lock().unwrap().heard;
            (heard.connections >= connections).then(|| heard.clone())
        })
    }
}

impl TlsPeer {
    /// Changes its settings from the next connection on.
    pub fn change(&self, config: ServerConfig) {
        match &*self.manner {
            Manner::Tls(present) => *present.lock().unwrap() = Arc::new(config),
            Manner::Words(_) => panic!("it speaks no TLS"),
        }
    }

    /// How many handshakes went on with a session from before.
    pub fn resumed(&self) -> usize {
        self.shared.lock().unwrap().heard.resumed
    }
}

impl Drop for TlsPeer {
    fn drop(&mut self) {
        let Ok(mut state) = self.shared.lock() else { return };
        state.over = true;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        // A connection wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

fn change(shared: &Shared, change: impl FnOnce(&mut Heard)) {
    change(&mut shared.lock().unwrap().heard);
}

fn speak(shared: &Shared, words: &[u8], mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    let Ok(mut read) = stream.read(&mut buffer) else { return };
    let _ = stream.write_all(words).and_then(|()| stream.shutdown(Shutdown::Write));
    while read > 0 {
        change(shared, |heard| heard.words.extend(&buffer[..read]));
        read = stream.read(&mut buffer).unwrap_or(0);
    }
}

/// The path whose answer leaves the connection open for another request.
pub const KEPT: &str = "/kept";

/// Serves a connection until its client has its last answer, or will have none.
fn serve(shared: &Shared, config: &Arc<ServerConfig>, mut stream: TcpStream) {
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    while serve_one(shared, &mut tls, &mut stream) {}
    linger(&stream);
}

/// Serves one request. Returns whether another may follow.
fn serve_one(shared: &Shared, tls: &mut ServerConnection, stream: &mut TcpStream) -> bool {
    let (mut request, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    while !is_whole(&request) {
        // An alert goes out with what is written, also when this fails.
        let outcome = tls.complete_io(stream);
        while let Ok(read @ 1..) = tls.reader().read(&mut buffer) {
            change(shared, |heard| heard.words.extend(&buffer[..read]));
            request.extend(&buffer[..read]);
        }
        match outcome {
            Ok((0, 0)) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    let shown = tls.peer_certificates().and_then(<[_]>::first).map(|shown| shown.clone().into_owned());
    change(shared, |heard| {
        heard.shown.push(shown);
        heard.resumed += usize::from(tls.handshake_kind() == Some(HandshakeKind::Resumed));
    });
    let body = if request.starts_with(b"POST /auth ") { format!("{{\"token\":\"{TOKEN}\"}}") } else { "served".to_owned() };
    let kept = request.starts_with(format!("GET {KEPT} ").as_bytes());
    let goes_on = if kept { "" } else { "Connection: close\r\n" };
    let answer = format!("HTTP/1.1 200 OK\r\n{goes_on}Content-Length: {}\r\n\r\n{body}", body.len());
    tls.writer().write_all(answer.as_bytes()).unwrap();
    if !kept {
        tls.send_close_notify();
    }
    while tls.wants_write() && tls.write_tls(stream).is_ok() {}
    kept
}

/// Closes the connection in a way that lets the last bytes arrive: a reset would overtake them.
fn linger(mut stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut rest = [0; 1024];
    while stream.read(&mut rest).is_ok_and(|read| read > 0) {}
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let lengths = head.split("\r\n").filter_map(|line| line.split_once(": "));
    let length = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value);
    body.len() >= length.last().map_or(0, |length| length.parse().unwrap())
}
