//! A connection to upstream that stops being HTTP: asked for by `Upgrade: websocket`, used for nothing else.

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use http_body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::{BODY_BUFFER, Cause, ResponseBody, SendError, Sent, Upstream, h1};
use crate::{allocator::Wiped, connect::Offer};

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Sends a request for a WebSocket on a connection of its own, which is never kept. A 101 that agrees to it has
    /// hyper's `OnUpgrade` among its extensions; any other answer is an ordinary one. Dropping the future closes the
    /// connection.
    pub async fn open_tunnel(&self, request: Request<B>) -> Result<Response<ResponseBody<B>>, SendError> {
        let unsent = |cause| SendError { cause, sent: Sent::Nothing };
        let connection = self.connector.connect(Offer::Http1).await.map_err(|error| unsent(error.into()))?;
        let presence = self.meter.connected();
        let (mut sender, driver) = http1::Builder::new()
            .max_buf_size(self.head.bytes.max(BODY_BUFFER))
            .max_header_size(self.head.bytes)
            .max_headers(self.head.lines)
            .handshake(TokioIo::new(connection.stream))
            .await
            .map_err(|_| unsent(Cause::Closed))?;
        // It ends with its connection: when sender and answer are dropped, or when the connection becomes a tunnel.
        let driver = tokio::spawn(Wiped::throughout(async move { drop(driver.with_upgrades().await) }));
        let in_flight = Abort(Some(driver.abort_handle()));
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| SendError { cause: h1::classify(&error), sent: Sent::Something })?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS && !agrees(&response) {
            return Err(SendError { cause: Cause::Upgrade, sent: Sent::Something });
        }
        in_flight.answered();
        Ok(response.map(|incoming| ResponseBody::alone(incoming, presence)))
    }
}

/// Whether the upstream switches to the protocol that it was asked for (RFC 6455, 4.1). `Sec-WebSocket-Accept` is for the
/// client to check, who has made the key.
fn agrees<B>(response: &Response<B>) -> bool {
    let mut protocols = response.headers().get_all(UPGRADE).iter();
    let (Some(only), None) = (protocols.next(), protocols.next()) else { return false };
    let options = response.headers().get_all(CONNECTION);
    let mut options = options.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    only.as_bytes().eq_ignore_ascii_case(b"websocket")
        && options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Given up before the answer, it takes the connection along.
struct Abort(Option<tokio::task::AbortHandle>);

impl Abort {
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some(driver) = self.0.take() {
            driver.abort();
        }
    }
}
