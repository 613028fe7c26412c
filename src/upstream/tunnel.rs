//! A connection to upstream that stops being HTTP: asked for by `Upgrade: websocket`, used for nothing else.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use http_body::Body;
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::{
    answer_io::{AnswerIo, AnswerProgress},
    error::{Cause, SendError},
    http1::{self, AbortOnDrop},
    options::HeadLimits,
};
use crate::{allocator::Wiped, connect::Connection};

/// A connection that was opened for one request for a WebSocket.
pub(super) struct TunnelConnection<B> {
    sender: SendRequest<B>,
    progress: Arc<AnswerProgress>,
    limits: HeadLimits,
    driver: AbortHandle,
}

/// Makes a connection ready for its only request.
pub(super) async fn open<B>(connection: Connection, limits: HeadLimits) -> Result<TunnelConnection<B>, SendError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let (stream, progress) = AnswerIo::new(connection.stream);
    let handshake = http1::builder(limits).handshake(TokioIo::new(stream)).await;
    let (sender, driver) = handshake.map_err(|_| SendError::unsent(Cause::Closed))?;
    // The task ends with its connection: when sender and answer are dropped, or when the connection becomes a tunnel.
    let driver = tokio::spawn(Wiped::throughout(async move { drop(driver.with_upgrades().await) })).abort_handle();
    Ok(TunnelConnection { sender, progress, limits, driver })
}

impl<B> TunnelConnection<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Sends a request for a WebSocket. A 101 that agrees to it has hyper's `OnUpgrade` among its extensions; any other answer
    /// is an ordinary one, of which the second value has to be told. Dropping the future closes the connection.
    pub(super) async fn send(mut self, request: Request<B>) -> Result<(Response<Incoming>, Arc<AnswerProgress>), SendError> {
        let in_flight = AbortOnDrop(&self.driver);
        self.progress.expect();
        let sent = self.sender.send_request(request).await;
        let response = sent.map_err(|error| SendError::after_sending(http1::cause(&error, &self.progress, self.limits)))?;
        self.progress.head_has_ended();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if !agrees_to_websocket(&response) {
                return Err(SendError::after_sending(Cause::Upgrade));
            }
            self.progress.becomes_tunnel();
        }
        in_flight.disarm();
        Ok((response, self.progress))
    }
}

/// Whether the upstream switches to the protocol that it was asked for (RFC 6455, 4.1). The client checks
/// `Sec-WebSocket-Accept` itself, since it made the key.
fn agrees_to_websocket<B>(response: &Response<B>) -> bool {
    let mut protocols = response.headers().get_all(UPGRADE).iter();
    let (Some(only), None) = (protocols.next(), protocols.next()) else { return false };
    let options = response.headers().get_all(CONNECTION);
    let mut options = options.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    only.as_bytes().eq_ignore_ascii_case(b"websocket")
        && options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicU64};

    use bytes::Bytes;
    use http::Request;
    use http_body_util::Empty;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        connect::Protocol,
        upstream_io::{CountingTcp, UpstreamIo},
    };

    /// What becomes of a request whose server answers with these bytes, and hangs up.
    async fn cause(answer: &'static [u8]) -> Cause {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                tcp.read_buf(&mut head).await.unwrap();
            }
            tcp.write_all(answer).await.unwrap();
        });
        let written = Arc::new(AtomicU64::new(0));
        let tcp = CountingTcp::new(TcpStream::connect(address).await.unwrap(), Arc::clone(&written));
        let connection = Connection { stream: UpstreamIo::Plain(tcp), written, protocol: Protocol::Http1 };
        let tunnel = open(connection, HeadLimits { bytes: 1024, lines: 10 }).await.unwrap();
        let request = Request::get("/").header("host", "upstream").body(Empty::<Bytes>::new()).unwrap();
        let error = tunnel.send(request).await.unwrap_err();
        server.await.unwrap();
        error.cause
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_in_the_head_of_its_answer_has_begun_to_answer() {
        assert_eq!(cause(b"").await, Cause::Closed);
        assert_eq!(cause(b"H").await, Cause::BrokenOff);
        assert_eq!(cause(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: web").await, Cause::BrokenOff);
    }

    #[test]
    fn only_a_switch_to_a_websocket_agrees_to_one() {
        for (fields, agrees) in [
            (&[("upgrade", "websocket"), ("connection", "Upgrade")][..], true),
            (&[("upgrade", "WebSocket"), ("connection", "keep-alive, upgrade")], true),
            (&[("upgrade", "websocket"), ("connection", "keep-alive"), ("connection", " UPGRADE ")], true),
            (&[("upgrade", "websocket"), ("connection", "keep-alive")], false),
            (&[("upgrade", "websocket")], false),
            (&[("connection", "upgrade")], false),
            (&[("upgrade", "h2c"), ("connection", "upgrade")], false),
            (&[("upgrade", "websocket, h2c"), ("connection", "upgrade")], false),
            (&[("upgrade", "websocket"), ("upgrade", "websocket"), ("connection", "upgrade")], false),
            (&[], false),
        ] {
            let mut response = Response::new(());
            for (name, value) in fields {
                response.headers_mut().append(*name, value.parse().unwrap());
            }
            assert_eq!(agrees_to_websocket(&response), agrees, "{fields:?}");
        }
    }
}
