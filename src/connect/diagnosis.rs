//! Connects once and tells each step, for `check --online`.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    time::{timeout, timeout_at},
};

use super::{ConnectError, Connector, Offer, Protocol, refused_afterwards, session};
use crate::clock;

/// For how long at least, and at most, the server's alert is awaited.
const ALERT_WITHIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What one connection took, and what both sides agreed on.
#[derive(Debug)]
pub struct Diagnosis {
    /// The count of addresses that the name has.
    pub addresses: usize,
    /// Resolving the name took this long.
    pub name: Duration,
    /// TCP took this long, the egress proxy's TLS and CONNECT included.
    pub open: Duration,
    /// TLS took this long.
    pub handshake: Duration,
    /// The version of TLS, and the setting whose root vouches for the server. `None`: plain HTTP.
    pub tls: Option<(&'static str, &'static str)>,
    /// The version of HTTP.
    pub protocol: Protocol,
}

impl Connector {
    /// Connects as [`connect`](Self::connect) does, and closes the connection.
    ///
    /// # Errors
    ///
    /// The step that failed.
    pub async fn diagnose(&self, offer: Offer) -> Result<Diagnosis, ConnectError> {
        let begun = clock::instant();
        let deadline = begun + self.timeout;
        let resolved = timeout_at(deadline, self.resolve()).await;
        let addresses = resolved.map_err(|_| self.to_peer(ConnectError::DnsTimeout))??;
        let named = clock::instant();
        let opened = timeout_at(deadline, self.open(&addresses, &Arc::new(AtomicU64::new(0)))).await;
        let transport = opened.map_err(|_| self.to_peer(ConnectError::Timeout))??;
        let open = clock::instant();
        let (mut stream, protocol) = self.secure(transport, deadline, offer).await?;
        let tls = session(&stream).zip(self.tls.as_ref()).map(|(session, (tls, name))| {
            let version = match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
                _ => "TLS 1.2",
            };
            (version, tls.vouched_by(session.peer_certificates().unwrap_or_default(), name))
        });
        let (name, handshake) = (named - begun, clock::instant() - open);
        // In TLS 1.3 the server judges our certificate behind our last message: its alert takes a round trip more.
        let alert = timeout((2 * handshake).clamp(ALERT_WITHIN.0, ALERT_WITHIN.1), stream.read_u8());
        if tls.is_some()
            && let Ok(Err(error)) = alert.await
            && let Some(refused) = refused_afterwards(&error)
        {
            return Err(refused);
        }
        Ok(Diagnosis { addresses: addresses.len(), name, open: open - named, handshake, tls, protocol })
    }
}
