//! One connection to one origin: name, TCP, perhaps a proxy, TLS.
//!
//! Depends on `config`, `tls` and `stream`. Guarantees: it is either verified and ready for HTTP, or a [`ConnectError`] says
//! which step failed; nothing here knows a token. A name is resolved anew for each connection, so that a server that moves
//! is followed as connections are renewed.

mod egress;
mod race;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::{CertificateError, HandshakeKind, pki_types::ServerName};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::lookup_host,
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;

use crate::{
    clock,
    config::{Egress, EgressProxy, Origin, Scheme},
    tls::{ClientTls, H2},
    upstream_io::{CountingTcp, UpstreamIo},
};

pub use crate::tls::Offer;
pub use egress::EgressError;

/// The step that failed. Holds nothing of the request, and no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The name has no address, or the resolver failed.
    #[error("the upstream's name could not be resolved")]
    DnsFailed,
    /// The resolver did not answer in time.
    #[error("resolving the upstream's name took too long")]
    DnsTimeout,
    /// Nobody listens there.
    #[error("the upstream refused the connection")]
    Refused,
    /// No way there, or reset on the way.
    #[error("the upstream could not be reached")]
    Unreachable,
    /// TCP or TLS did not finish in time.
    #[error("connecting to the upstream took too long")]
    Timeout,
    /// The peer does not speak TLS as we need it.
    #[error("the TLS handshake with the upstream failed: {0}")]
    TlsFailed(TlsFault),
    /// The peer's certificate is not one to trust.
    #[error("the upstream's certificate was not accepted: {0}")]
    CertificateRejected(CertificateFault),
    /// The way out leads through a proxy, and ends there.
    #[error("the egress proxy is no way to the upstream: {0}")]
    Egress(EgressError),
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come; or our clock is behind.
    #[error("it is not valid yet")]
    NotYetValid,
    /// It is somebody else's.
    #[error("it is for another name")]
    WrongName,
    /// Nobody we trust has signed it.
    #[error("its issuer is not trusted")]
    UnknownIssuer,
    /// Anything else.
    #[error("it can't be verified")]
    Unverifiable,
}

/// What ended a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TlsFault {
    /// Its first words are no TLS.
    #[error("it does not speak TLS at that port")]
    NotTls,
    /// All its versions are too old.
    #[error("it speaks no TLS version that `tls_min` allows")]
    Version,
    /// It lets nobody in without a certificate, or not with this one.
    #[error("it wants a client certificate that it trusts (`tls_cert_file`, `tls_key_file`)")]
    ClientCertificate,
    /// It objects to something. TLS 1.2 has no alert for a certificate that is missing (RFC 5246, 7.4.6).
    #[error("it refused: either the two sides have nothing in common, or it wants a client certificate (`tls_cert_file`)")]
    Refused,
    /// It hung up.
    #[error("it closed the connection")]
    Closed,
    /// A session from before was made under a certificate that is no longer good.
    #[error("its session has outlived its certificate")]
    SessionOver,
    /// Anything else.
    #[error("the two sides do not agree")]
    Other,
}

/// A connection, ready for HTTP.
pub struct Connection {
    /// The bytes.
    pub stream: UpstreamIo,
    /// Bytes given to the kernel so far, handshake included: tells whether a failed request left at all.
    pub written: Arc<AtomicU64>,
    /// What both sides speak over it.
    pub protocol: Protocol,
}

/// The version of HTTP that was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1; also when nothing was said about it, as over plain TCP.
    Http1,
    /// HTTP/2, which the peer chose out of what it was offered.
    Http2,
}

/// Makes connections to one origin. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    origin: Arc<Origin>,
    /// `None` for plain HTTP to loopback.
    tls: Option<(ClientTls, ServerName<'static>)>,
    /// The proxy on the way, and its name where it speaks TLS.
    proxy: Option<(Arc<EgressProxy>, Option<ServerName<'static>>)>,
    timeout: Duration,
}

impl Connector {
    /// `timeout` bounds a whole connection: name, TCP, proxy and TLS. `None` when the host, or the proxy's on the way to
    /// it, can't stand in a certificate.
    #[must_use]
    pub fn new(origin: &Origin, tls: &ClientTls, egress: &Egress, timeout: Duration) -> Option<Self> {
        let name = |origin: &Origin| match origin.scheme {
            Scheme::Http => Some(None),
            Scheme::Https => ServerName::try_from(origin.host.clone()).ok().map(Some),
        };
        let proxy = match egress.on_the_way_to(origin) {
            // Plain HTTP is loopback's. Nothing of it is shown to a proxy, whatever happens.
            Some(_) if origin.scheme == Scheme::Http => return None,
            Some(proxy) => Some((Arc::clone(proxy), name(&proxy.origin)?)),
            None => None,
        };
        let tls = name(origin)?.map(|name| (tls.clone(), name));
        Some(Self { origin: Arc::new(origin.clone()), tls, proxy, timeout })
    }

    /// The proxy on the way, if there is one.
    #[must_use]
    pub fn proxy(&self) -> Option<&Origin> {
        self.proxy.as_ref().map(|(proxy, _)| &proxy.origin)
    }

    /// Whom it connects to.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Connects, and agrees on one of the protocols offered. Dropping the future closes what was opened.
    pub async fn connect(&self, offer: Offer) -> Result<Connection, ConnectError> {
        let deadline = clock::instant() + self.timeout;
        let resolved = timeout_at(deadline, self.resolve());
        let addresses = resolved.await.map_err(|_| self.to_peer(ConnectError::DnsTimeout))??;
        // Boxed: it is large, and most requests find a connection that is there.
        match Box::pin(self.reach(&addresses, deadline, offer)).await {
            // By now all sessions are forgotten: the server shows the certificate that it has today.
            Err(
                ConnectError::TlsFailed(TlsFault::SessionOver)
                | ConnectError::Egress(EgressError::TlsFailed(TlsFault::SessionOver)),
            ) => Box::pin(self.reach(&addresses, deadline, offer)).await,
            outcome => outcome,
        }
    }

    /// The addresses of whom it connects to, in the resolver's order: the host, or the proxy, which resolves the host itself.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let Origin { host, port, .. } = self.proxy().unwrap_or(&self.origin);
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, *port)]);
        }
        let found = lookup_host((host.as_str(), *port)).await;
        let addresses: Vec<SocketAddr> = found.map(Iterator::collect).unwrap_or_default();
        if addresses.is_empty() { Err(self.to_peer(ConnectError::DnsFailed)) } else { Ok(addresses) }
    }

    async fn reach(&self, addresses: &[SocketAddr], deadline: Instant, offer: Offer) -> Result<Connection, ConnectError> {
        let late = |_| ConnectError::Timeout;
        let written = Arc::new(AtomicU64::new(0));
        let opened = timeout_at(deadline, self.open(addresses, &written)).await;
        let way = opened.map_err(|error| self.to_peer(late(error)))??;
        let (stream, protocol) = match (way, &self.tls) {
            (Way::Tcp(tcp), None) => (UpstreamIo::Plain(tcp), Protocol::Http1),
            (Way::Tcp(tcp), Some((tls, name))) => {
                let (session, protocol) = timeout_at(deadline, handshake(tls, offer, name, tcp)).await.map_err(late)??;
                (UpstreamIo::Tls(Box::new(session)), protocol)
            }
            (Way::Tls(outer), Some((tls, name))) => {
                let (session, protocol) = timeout_at(deadline, handshake(tls, offer, name, *outer)).await.map_err(late)??;
                (UpstreamIo::Nested(Box::new(session)), protocol)
            }
            // Plain HTTP is loopback's, where no proxy leads.
            (Way::Tls(_), None) => return Err(ConnectError::TlsFailed(TlsFault::Other)),
        };
        Ok(Connection { stream, written, protocol })
    }

    /// TCP to the upstream, or to the proxy; then the proxy's part, until bytes go through it.
    async fn open(&self, addresses: &[SocketAddr], written: &Arc<AtomicU64>) -> Result<Way, ConnectError> {
        let tcp = race::connect(addresses).await.map_err(|error| self.to_peer(error))?;
        let mut tcp = CountingTcp::new(tcp, Arc::clone(written)).map_err(|_| self.to_peer(ConnectError::Unreachable))?;
        let (Some((proxy, name)), Some((tls, _))) = (&self.proxy, &self.tls) else { return Ok(Way::Tcp(tcp)) };
        let Some(name) = name else {
            egress::connect(&mut tcp, proxy, &self.origin).await.map_err(ConnectError::Egress)?;
            return Ok(Way::Tcp(tcp));
        };
        let (mut outer, _) = handshake(tls, Offer::Http1, name, tcp).await.map_err(|error| self.to_peer(error))?;
        egress::connect(&mut outer, proxy, &self.origin).await.map_err(ConnectError::Egress)?;
        Ok(Way::Tls(Box::new(outer)))
    }

    /// What went wrong with whom we connect to, who may be the proxy.
    fn to_peer(&self, error: ConnectError) -> ConnectError {
        if self.proxy.is_some() { EgressError::on_the_way(error) } else { error }
    }
}

impl Connector {
    /// How long `connection`, which this made, may be used: `limit`, or as long as the certificates last that it was made
    /// under.
    #[must_use]
    pub fn trusted_for(&self, limit: Duration, connection: &Connection) -> Duration {
        let Some((tls, name)) = &self.tls else { return limit };
        let chain = match &connection.stream {
            UpstreamIo::Plain(_) => return limit,
            UpstreamIo::Tls(session) => session.get_ref().1.peer_certificates(),
            UpstreamIo::Nested(session) => session.get_ref().1.peer_certificates(),
        };
        tls.trusted_for(limit, chain.unwrap_or_default(), name)
    }
}

/// What leads to the upstream, and carries its own TLS.
enum Way {
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
        let judged = tls.judge_again(state.peer_certificates().unwrap_or_default(), name);
        if judged.is_err() {
            tls.forget_sessions();
            return Err(ConnectError::TlsFailed(TlsFault::SessionOver));
        }
    }
    // An answer that was not offered never comes this far: rustls ends the handshake.
    let protocol = if state.alpn_protocol() == Some(H2) { Protocol::Http2 } else { Protocol::Http1 };
    Ok((session, protocol))
}

/// The count as it stands now.
#[must_use]
pub fn bytes_written(written: &AtomicU64) -> u64 {
    written.load(Ordering::Relaxed)
}

fn classify_tls(error: &io::Error) -> ConnectError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(error)) => ConnectError::CertificateRejected(classify_certificate(error)),
        Some(rustls::Error::NoCertificatesPresented) => ConnectError::CertificateRejected(CertificateFault::Unverifiable),
        Some(error) => ConnectError::TlsFailed(classify_handshake(error)),
        // The peer hung up in the middle of the handshake.
        None if error.kind() == io::ErrorKind::UnexpectedEof => ConnectError::TlsFailed(TlsFault::Closed),
        None => ConnectError::Unreachable,
    }
}

/// A handshake of TLS 1.3 is over for us before the server has judged our certificate (RFC 8446, 4.4.2.4): what it thinks of it
/// comes in the place of an answer. `None`: that is not what `error` is about.
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
            // A signature that the server can't verify: ours, or that of an authority with the right name and another key.
            | Alert::DecryptError,
        ) => TlsFault::ClientCertificate,
        Error::AlertReceived(_) => TlsFault::Refused,
        _ => TlsFault::Other,
    }
}

fn classify_certificate(error: &CertificateError) -> CertificateFault {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateFault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => CertificateFault::NotYetValid,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => CertificateFault::WrongName,
        // A bad signature: the issuer's name is one we trust, its key is not.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => CertificateFault::UnknownIssuer,
        _ => CertificateFault::Unverifiable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_own_error() {
        let certificate = |error| classify_tls(&io::Error::other(rustls::Error::InvalidCertificate(error)));
        for (error, fault) in [
            (CertificateError::Expired, CertificateFault::Expired),
            (CertificateError::NotValidYet, CertificateFault::NotYetValid),
            (CertificateError::NotValidForName, CertificateFault::WrongName),
            (CertificateError::UnknownIssuer, CertificateFault::UnknownIssuer),
            (CertificateError::BadSignature, CertificateFault::UnknownIssuer),
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
        let closed = classify_tls(&io::ErrorKind::UnexpectedEof.into());
        assert_eq!(closed, ConnectError::TlsFailed(TlsFault::Closed));
    }
}
