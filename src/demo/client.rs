//! The client that stands for an app: it knows no token, no organization and no TLS.

use std::{fmt, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{
    Method, Request, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    runtime::Runtime,
    time::{error::Elapsed, sleep, timeout},
};

/// The limit for one call. It is longer than the sidecar lets a request wait for a token.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes one call after the other, each on a connection of its own.
pub(super) struct AppClient {
    runtime: Runtime,
    address: SocketAddr,
}

/// The answer to a call, read to its end.
pub(super) struct CallResponse {
    pub(super) status: StatusCode,
    /// The media type without parameters; empty when the answer has none.
    pub(super) content_type: String,
    pub(super) body: Bytes,
}

/// Why a call got no answer.
#[derive(Debug)]
pub(super) enum CallError {
    Connect(io::Error),
    Http(hyper::Error),
    TimedOut,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect to the sidecar: {error}"),
            Self::Http(error) => write!(f, "no proper answer from the sidecar: {error}"),
            Self::TimedOut => write!(f, "no answer from the sidecar within {} s", CALL_TIMEOUT.as_secs()),
        }
    }
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Connect(error)
    }
}

impl From<hyper::Error> for CallError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

impl From<Elapsed> for CallError {
    fn from(_: Elapsed) -> Self {
        Self::TimedOut
    }
}

impl AppClient {
    /// Creates a client of the sidecar at `address`.
    ///
    /// # Errors
    ///
    /// The system refused what a runtime needs.
    pub(super) fn new(address: SocketAddr) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, address })
    }

    /// Makes one call without a body. It blocks until the whole answer is there, or [`CALL_TIMEOUT`] has passed.
    ///
    /// # Errors
    ///
    /// There was no whole answer.
    pub(super) fn call(&self, method: Method, target: &str) -> Result<CallResponse, CallError> {
        self.runtime.block_on(async { timeout(CALL_TIMEOUT, self.exchange(method, target)).await? })
    }

    /// Lets `pause` pass without a call.
    pub(super) fn pause(&self, pause: Duration) {
        self.runtime.block_on(async { sleep(pause).await });
    }

    async fn exchange(&self, method: Method, target: &str) -> Result<CallResponse, CallError> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let headers = request.headers_mut();
        let host = format!("localhost:{}", self.address.port());
        headers.insert(HOST, host.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?);
        headers.insert(ACCEPT, http::HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, http::HeaderValue::from_static("your-app/1.0"));
        let answer = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let content_type = content_type.split(';').next().unwrap_or_default().to_owned();
            Ok(CallResponse { status: head.status, content_type, body: body.collect().await?.to_bytes() })
        };
        // The future drops its sender when it has the answer, and then the connection ends too.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }
}
