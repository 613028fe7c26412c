//! Connects to one origin: resolves its name, opens TCP, passes an egress proxy if there is one, and does TLS.
//!
//! Guarantees: a connection is verified and ready for HTTP, or a [`ConnectError`] says which step failed; nothing here knows a
//! token. The name is resolved for each connection, so new connections follow a server that moves.

mod advice;
mod diagnosis;
mod egress;
mod lookup;
mod race;

use std::{
    fmt,
    io::{self, ErrorKind},
    mem::discriminant,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls::{CertificateError, HandshakeKind, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;

use crate::{
    clock,
    config::{Egress, EgressProxy, Origin, Scheme},
    tls::{ClientTls, H2},
    upstream_io::{CountingTcp, UpstreamIo},
};

use lookup::Lookups;

pub use crate::tls::Offer;
pub use advice::CLOCK_ADVICE;
pub use diagnosis::Diagnosis;
pub use egress::EgressError;

/// What the fuzz targets call, and the test that replays what they found. Not an interface: the program calls nothing here.
#[doc(hidden)]
pub mod internal {
    pub use crate::connect::egress::ask_egress_proxy;
}

/// The step that failed. It holds no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The name has no address, or the resolver failed.
    #[error("the upstream's name could not be resolved")]
    DnsFailed,
    /// The resolver did not answer in time.
    #[error("resolving the upstream's name took too long")]
    DnsTimeout,
    /// Nothing listens at the address.
    #[error("the upstream refused the connection")]
    Refused,
    /// There is no route to the address.
    #[error("the upstream could not be reached")]
    Unreachable,
    /// This process, or the machine, has no file descriptor left.
    #[error("no file descriptor is left for a connection")]
    NoDescriptor,
    /// TCP or TLS did not finish in time.
    #[error("connecting to the upstream took too long")]
    Timeout,
    /// The TLS handshake failed.
    #[error("the TLS handshake with the upstream failed: {0}")]
    TlsFailed(TlsFault),
    /// The peer's certificate is not trusted.
    #[error("the upstream's certificate was not accepted: {0}")]
    CertificateRejected(CertificateFault),
    /// The egress proxy does not connect us.
    #[error("the egress proxy is no way to the upstream: {0}")]
    Egress(EgressError),
}

impl ConnectError {
    /// Whether both say the same, whatever the clocks say.
    #[must_use]
    pub fn is_like(self, other: Self) -> bool {
        let [this, other] = [self, other].map(|error| match error {
            Self::CertificateRejected(fault) | Self::Egress(EgressError::CertificateRejected(fault)) => {
                (matches!(error, Self::Egress(_)), Err(discriminant(&fault)))
            }
            other => (matches!(error, Self::Egress(_)), Ok(other)),
        });
        this == other
    }
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// It has expired.
    #[error("it has expired")]
    Expired,
    /// It is not valid yet, or our clock is slow.
    #[error("it is not valid yet")]
    NotYetValid,
    /// It has expired, by these clocks.
    #[error("it has expired: it is not valid after {}, and this machine says {}", .0.limit(), .0.now())]
    ExpiredAt(Clocks),
    /// It is not valid yet, by these clocks.
    #[error("it is not valid yet: it is not valid before {}, and this machine says {}", .0.limit(), .0.now())]
    ValidFrom(Clocks),
    /// It is for another name.
    #[error("it is for another name")]
    WrongName,
    /// It names no host where hosts are looked for.
    #[error("it names no host")]
    NoName,
    /// No root that we trust has signed it.
    #[error("its issuer is not trusted")]
    UnknownIssuer,
    /// Its issuer has the name of a root that we trust, and another key.
    #[error("its issuer is not trusted: it has the name of a trusted one and another key")]
    WrongSignature,
    /// It is the certificate of an authority, which no server may show.
    #[error("it is an authority's own certificate, which no server may show (`openssl req -x509` makes one)")]
    OfAnAuthority,
    /// It was not made for servers.
    #[error("it is not for servers")]
    WrongPurpose,
    /// It is of X.509 version 1 or 2.
    #[error("it is of an X.509 version before 3")]
    OldVersion,
    /// Its signature is of a kind that is not accepted.
    #[error("its signature is of a kind that is not accepted")]
    WeakSignature,
    /// A certificate above it does not allow it.
    #[error("its chain does not allow it")]
    BadChain,
    /// It can't be verified for another reason.
    #[error("it can't be verified")]
    Unverifiable,
}

/// A limit of a certificate, and our clock when it was compared with that.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    limit: u64,
    now: u64,
}

impl Clocks {
    fn limit(self) -> impl fmt::Display {
        in_words(self.limit)
    }

    fn now(self) -> impl fmt::Display {
        in_words(self.now)
    }
}

/// The same fault a second later is the same fault.
impl PartialEq for Clocks {
    fn eq(&self, other: &Self) -> bool {
        self.limit == other.limit
    }
}

impl Eq for Clocks {}

/// Seconds since 1970 as a date, which ends with the year 9999.
fn in_words(seconds: u64) -> impl fmt::Display {
    const LAST: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TlsFault {
    /// The peer's first bytes are not TLS.
    #[error("it does not speak TLS at that port")]
    NotTls,
    /// The peer supports no version that is new enough.
    #[error("it speaks no TLS version that `tls_min` allows")]
    Version,
    /// The peer wants a client certificate, or another one.
    #[error("it wants a client certificate that it trusts (`tls_cert_file`, `tls_key_file`)")]
    ClientCertificate,
    /// The peer sent another alert. TLS 1.2 has no alert for a missing certificate (RFC 5246, 7.4.6).
    #[error("it refused: either the two sides have nothing in common, or it wants a client certificate (`tls_cert_file`)")]
    Refused,
    /// The peer hung up.
    #[error("it closed the connection")]
    Closed,
    /// The peer resumed a session that was made under a certificate which is no longer valid.
    #[error("its session has outlived its certificate")]
    SessionOver,
    /// The handshake failed for another reason.
    #[error("the two sides do not agree")]
    Other,
}

/// A connection that is ready for HTTP.
pub struct Connection {
    /// The byte stream.
    pub stream: UpstreamIo,
    /// Bytes given to the kernel so far, with those of the handshake. It tells whether a failed request was sent at all.
    pub written: Arc<AtomicU64>,
    /// The protocol that both sides agreed on.
    pub protocol: Protocol,
}

/// The version of HTTP that was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, also when nothing was negotiated, as over plain TCP.
    Http1,
    /// HTTP/2, which the peer chose from our offer.
    Http2,
}

/// Makes connections to one origin. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    origin: Arc<Origin>,
    /// `None` for plain HTTP to loopback.
    tls: Option<(ClientTls, ServerName<'static>)>,
    /// The egress proxy, and its name for TLS if it speaks TLS.
    proxy: Option<(Arc<EgressProxy>, Option<ServerName<'static>>)>,
    timeout: Duration,
    lookups: Arc<Lookups>,
}

impl Connector {
    /// Makes a connector. `timeout` bounds a whole connection: name, TCP, proxy and TLS. Returns `None` when the host, or that
    /// of its egress proxy, is a name that no certificate can have.
    #[must_use]
    pub fn new(origin: &Origin, tls: &ClientTls, egress: &Egress, timeout: Duration) -> Option<Self> {
        let name = |origin: &Origin| match origin.scheme {
            Scheme::Http => Some(None),
            Scheme::Https => ServerName::try_from(origin.host.clone()).ok().map(Some),
        };
        let proxy = match egress.on_the_way_to(origin) {
            // Plain HTTP is for loopback only, and must not go to a proxy.
            Some(_) if origin.scheme == Scheme::Http => return None,
            Some(proxy) => Some((Arc::clone(proxy), name(&proxy.origin)?)),
            None => None,
        };
        let tls = name(origin)?.map(|name| (tls.clone(), name));
        Some(Self { origin: Arc::new(origin.clone()), tls, proxy, timeout, lookups: Arc::default() })
    }

    /// The egress proxy, if there is one.
    #[must_use]
    pub fn proxy(&self) -> Option<&Origin> {
        self.proxy.as_ref().map(|(proxy, _)| &proxy.origin)
    }

    /// The origin that it connects to.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// How long a connection may take.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects, and agrees on one of the protocols offered. Dropping the future closes what was opened.
    pub async fn connect(&self, offer: Offer) -> Result<Connection, ConnectError> {
        let deadline = clock::instant() + self.timeout;
        let resolved = timeout_at(deadline, self.resolve());
        let addresses = resolved.await.map_err(|_| self.to_peer(ConnectError::DnsTimeout))??;
        // The future is boxed because it is large, and most requests use a connection of the pool.
        match Box::pin(self.reach(&addresses, deadline, offer)).await {
            // The handshake has dropped all sessions, so the server now has to show its current certificate.
            Err(
                ConnectError::TlsFailed(TlsFault::SessionOver)
                | ConnectError::Egress(EgressError::TlsFailed(TlsFault::SessionOver)),
            ) => Box::pin(self.reach(&addresses, deadline, offer)).await,
            outcome => outcome,
        }
    }

    /// Resolves the host, or its egress proxy, which resolves the host itself. The addresses are in the resolver's order.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let origin = self.proxy().unwrap_or(&self.origin);
        let Origin { host, port, .. } = origin;
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, *port)]);
        }
        let addresses = self.lookups.resolve(origin.name_for_dns(), *port).await;
        if addresses.is_empty() { Err(self.to_peer(ConnectError::DnsFailed)) } else { Ok(addresses) }
    }

    async fn reach(&self, addresses: &[SocketAddr], deadline: Instant, offer: Offer) -> Result<Connection, ConnectError> {
        let written = Arc::new(AtomicU64::new(0));
        let opened = timeout_at(deadline, self.open(addresses, &written)).await;
        let transport = opened.map_err(|_| self.to_peer(ConnectError::Timeout))??;
        let (stream, protocol) = self.secure(transport, deadline, offer).await?;
        Ok(Connection { stream, written, protocol })
    }

    /// Does TLS with the upstream, unless it is plain HTTP.
    async fn secure(
        &self,
        transport: Transport,
        deadline: Instant,
        offer: Offer,
    ) -> Result<(UpstreamIo, Protocol), ConnectError> {
        let late = |_| ConnectError::Timeout;
        match (transport, &self.tls) {
            (Transport::Tcp(tcp), None) => Ok((UpstreamIo::Plain(tcp), Protocol::Http1)),
            (Transport::Tcp(tcp), Some((tls, name))) => {
                let (session, protocol) = timeout_at(deadline, handshake(tls, offer, name, tcp)).await.map_err(late)??;
                Ok((session.into(), protocol))
            }
            (Transport::Tls(outer), Some((tls, name))) => {
                let (session, protocol) = timeout_at(deadline, handshake(tls, offer, name, *outer)).await.map_err(late)??;
                Ok((UpstreamIo::Nested(Box::new(session)), protocol))
            }
            // Plain HTTP is for loopback only, and never goes to a proxy: `new` refuses it.
            (Transport::Tls(_), None) => Err(ConnectError::TlsFailed(TlsFault::Other)),
        }
    }

    /// Opens TCP to the upstream; or TCP to the egress proxy, perhaps TLS to it, and CONNECT.
    async fn open(&self, addresses: &[SocketAddr], written: &Arc<AtomicU64>) -> Result<Transport, ConnectError> {
        let tcp = race::connect(addresses).await.map_err(|error| self.to_peer(error))?;
        let mut tcp = CountingTcp::new(tcp, Arc::clone(written));
        let (Some((proxy, name)), Some((tls, _))) = (&self.proxy, &self.tls) else { return Ok(Transport::Tcp(tcp)) };
        let Some(name) = name else {
            egress::connect(&mut tcp, proxy, &self.origin).await.map_err(ConnectError::Egress)?;
            return Ok(Transport::Tcp(tcp));
        };
        let (mut outer, _) = handshake(tls, Offer::Http1, name, tcp).await.map_err(|error| self.to_peer(error))?;
        egress::connect(&mut outer, proxy, &self.origin).await.map_err(ConnectError::Egress)?;
        Ok(Transport::Tls(Box::new(outer)))
    }

    /// Makes an error about the peer one about the egress proxy if we connect to that.
    fn to_peer(&self, error: ConnectError) -> ConnectError {
        if self.proxy.is_some() { EgressError::on_the_way(error) } else { error }
    }
}

impl Connector {
    /// How long `connection`, which this connector made, may be used: for `limit`, but no longer than its certificates are
    /// valid.
    #[must_use]
    pub fn trusted_for(&self, limit: Duration, connection: &Connection) -> Duration {
        let Some((tls, name)) = &self.tls else { return limit };
        let Some(session) = session(&connection.stream) else { return limit };
        tls.trusted_for(limit, session.peer_certificates().unwrap_or_default(), name)
    }
}

/// The TLS session with the upstream. `None`: plain HTTP.
fn session(stream: &UpstreamIo) -> Option<&rustls::ClientConnection> {
    match stream {
        UpstreamIo::Plain(_) => None,
        UpstreamIo::Tls(stream) => Some(stream.session()),
        UpstreamIo::Nested(session) => Some(session.get_ref().1),
    }
}

/// What the upstream's own TLS runs over.
enum Transport {
    /// TCP, perhaps through a proxy.
    Tcp(CountingTcp),
    /// TLS to a proxy.
    Tls(Box<TlsStream<CountingTcp>>),
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &ClientTls,
    offer: Offer,
    name: &ServerName<'static>,
    stream: S,
) -> Result<(TlsStream<S>, Protocol), ConnectError> {
    let session = tls.connector(offer).await.connect(name.clone(), stream).await.map_err(|error| classify_tls(&error))?;
    let state = session.get_ref().1;
    if state.handshake_kind() == Some(HandshakeKind::Resumed) {
        let verified = tls.verify_again(state.peer_certificates().unwrap_or_default(), name);
        if verified.is_err() {
            tls.forget_sessions();
            return Err(ConnectError::TlsFailed(TlsFault::SessionOver));
        }
    }
    // rustls ends the handshake if the server chooses a protocol that was not offered.
    let protocol = if state.alpn_protocol() == Some(H2) { Protocol::Http2 } else { Protocol::Http1 };
    Ok((session, protocol))
}

/// The current count of bytes given to the kernel.
#[must_use]
pub fn bytes_written(written: &AtomicU64) -> u64 {
    written.load(Ordering::Relaxed)
}

fn classify_tls(error: &io::Error) -> ConnectError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(error)) => ConnectError::CertificateRejected(classify_certificate(error)),
        Some(rustls::Error::NoCertificatesPresented) => ConnectError::CertificateRejected(CertificateFault::Unverifiable),
        Some(error) => ConnectError::TlsFailed(classify_handshake(error)),
        // The peer hung up during the handshake.
        None if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            ConnectError::TlsFailed(TlsFault::Closed)
        }
        None => ConnectError::Unreachable,
    }
}

/// Whether `error`, of a request, is the server's alert that refuses our client certificate.
///
/// In TLS 1.3 our side finishes the handshake before the server has checked the certificate (RFC 8446, 4.4.2.4), so its alert
/// comes in place of a response.
#[must_use]
pub fn refused_afterwards(error: &(dyn std::error::Error + 'static)) -> Option<ConnectError> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut io = causes.filter_map(|error| error.downcast_ref::<io::Error>());
    let alert = io.find_map(|error| error.get_ref()?.downcast_ref::<rustls::Error>())?;
    let fault = classify_handshake(alert);
    (fault == TlsFault::ClientCertificate).then_some(ConnectError::TlsFailed(fault))
}

fn classify_handshake(error: &rustls::Error) -> TlsFault {
    use rustls::{AlertDescription as Alert, Error, PeerIncompatible as Incompatible};
    match error {
        Error::InvalidMessage(_) => TlsFault::NotTls,
        Error::AlertReceived(Alert::ProtocolVersion)
        | Error::PeerIncompatible(
            Incompatible::ServerDoesNotSupportTls12Or13 | Incompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => TlsFault::Version,
        Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::NoCertificate
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            // The server can't verify a signature: ours, or that of an authority with a known name and another key.
            | Alert::DecryptError,
        ) => TlsFault::ClientCertificate,
        Error::AlertReceived(_) => TlsFault::Refused,
        _ => TlsFault::Other,
    }
}

fn classify_certificate(error: &CertificateError) -> CertificateFault {
    match error {
        CertificateError::Expired => CertificateFault::Expired,
        CertificateError::ExpiredContext { time, not_after } => {
            CertificateFault::ExpiredAt(Clocks { limit: not_after.as_secs(), now: time.as_secs() })
        }
        CertificateError::NotValidYet => CertificateFault::NotYetValid,
        CertificateError::NotValidYetContext { time, not_before } => {
            CertificateFault::ValidFrom(Clocks { limit: not_before.as_secs(), now: time.as_secs() })
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => CertificateFault::NoName,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => CertificateFault::WrongName,
        CertificateError::UnknownIssuer => CertificateFault::UnknownIssuer,
        CertificateError::BadSignature => CertificateFault::WrongSignature,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => CertificateFault::WrongPurpose,
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => CertificateFault::WeakSignature,
        CertificateError::Other(other) => other.0.downcast_ref().map_or(CertificateFault::Unverifiable, classify_path),
        _ => CertificateFault::Unverifiable,
    }
}

/// Sorts what rustls passes on as it came.
fn classify_path(error: &webpki::Error) -> CertificateFault {
    use webpki::Error;
    match error {
        Error::CaUsedAsEndEntity => CertificateFault::OfAnAuthority,
        Error::UnsupportedCertVersion => CertificateFault::OldVersion,
        Error::EndEntityUsedAsCa
        | Error::PathLenConstraintViolated
        | Error::NameConstraintViolation
        | Error::MaximumPathDepthExceeded => CertificateFault::BadChain,
        _ => CertificateFault::Unverifiable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_told_with_both_times() {
        let time = |seconds| rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let early = CertificateError::NotValidYetContext { time: time(0), not_before: time(1_800_000_000) };
        let words =
            "it is not valid yet: it is not valid before 2027-01-15T08:00:00Z, and this machine says 1970-01-01T00:00:00Z";
        assert_eq!(classify_certificate(&early).to_string(), words);
        let late = |now| CertificateError::ExpiredContext { time: time(now), not_after: time(1_800_000_000) };
        let words = "it has expired: it is not valid after 2027-01-15T08:00:00Z, and this machine says 2027-01-15T08:00:01Z";
        assert_eq!(classify_certificate(&late(1_800_000_001)).to_string(), words);
        assert_eq!(
            classify_certificate(&late(1_800_000_001)),
            classify_certificate(&late(1_900_000_000)),
            "one fault, told once"
        );
    }

    #[test]
    fn each_step_has_its_own_error() {
        let other = |error: webpki::Error| CertificateError::Other(rustls::OtherError(Arc::new(error)));
        let certificate = |error| classify_tls(&io::Error::other(rustls::Error::InvalidCertificate(error)));
        for (error, fault) in [
            (CertificateError::Expired, CertificateFault::Expired),
            (CertificateError::NotValidYet, CertificateFault::NotYetValid),
            (CertificateError::NotValidForName, CertificateFault::WrongName),
            (CertificateError::UnknownIssuer, CertificateFault::UnknownIssuer),
            (CertificateError::BadSignature, CertificateFault::WrongSignature),
            (CertificateError::InvalidPurpose, CertificateFault::WrongPurpose),
            (other(webpki::Error::CaUsedAsEndEntity), CertificateFault::OfAnAuthority),
            (other(webpki::Error::UnsupportedCertVersion), CertificateFault::OldVersion),
            (other(webpki::Error::NameConstraintViolation), CertificateFault::BadChain),
            (other(webpki::Error::BadDer), CertificateFault::Unverifiable),
            (CertificateError::BadEncoding, CertificateFault::Unverifiable),
        ] {
            assert_eq!(certificate(error), ConnectError::CertificateRejected(fault));
        }
        let handshake = |error| classify_tls(&io::Error::other(error));
        for (error, fault) in [
            (rustls::Error::DecryptError, TlsFault::Other),
            (rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure), TlsFault::Refused),
            (rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA), TlsFault::ClientCertificate),
            (rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion), TlsFault::Version),
            (rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), TlsFault::NotTls),
        ] {
            assert_eq!(handshake(error), ConnectError::TlsFailed(fault));
        }
        for kind in [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe] {
            assert_eq!(classify_tls(&kind.into()), ConnectError::TlsFailed(TlsFault::Closed));
        }
    }
}
