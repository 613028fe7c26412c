//! Gives the tests a small client: one connection, HTTP/1.1 or HTTP/2, that trusts only the simulator's CA.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use careportals_simulator::Simulator;
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::{http1, http2},
    header::HeaderMap,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub(crate) type Body = BoxBody<Bytes, io::Error>;

pub(crate) const USER: &str = "service@demo.example.test";
pub(crate) const PASSWORD: &str = "demo-password-1";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

pub(crate) const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// One connection, and the token and organization that its requests carry.
pub(crate) struct Client {
    sender: Sender,
    pub(crate) token: Option<String>,
    pub(crate) organization: Option<String>,
    base: String,
}

pub(crate) struct ReadResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl ReadResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

pub(crate) fn text(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

pub(crate) fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// Connects to the simulator by TLS, and trusts only its CA.
pub(crate) async fn tls(address: SocketAddr, ca_pem: &str, alpn: &[u8]) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("a certificate")).expect("a CA");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

impl Client {
    /// Connects; requests carry the organization `demo` and no bearer.
    pub(crate) async fn connect(simulator: &Simulator, version: Version) -> Self {
        Self::try_connect(simulator, version).await.expect("connected")
    }

    pub(crate) async fn try_connect(simulator: &Simulator, version: Version) -> io::Result<Self> {
        let alpn: &[u8] = if version == Version::Http2 { b"h2" } else { b"http/1.1" };
        let stream = tls(simulator.address(), simulator.ca_pem(), alpn).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        let io = TokioIo::new(stream);
        let sender = if version == Version::Http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(1024 * 1024)
                .handshake(io)
                .await
                .map_err(io::Error::other)?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            tokio::spawn(connection.with_upgrades());
            Sender::Http1(sender)
        };
        let base = simulator.base_url();
        Ok(Self { sender, token: None, organization: Some("demo".to_owned()), base })
    }

    /// Connects and logs in.
    pub(crate) async fn logged_in(simulator: &Simulator, version: Version) -> Self {
        let mut client = Self::connect(simulator, version).await;
        let answer = client.log_in().await;
        assert_eq!(answer.status, StatusCode::CREATED);
        client.token = Some(answer.json()["token"].as_str().expect("a token").to_owned());
        client
    }

    pub(crate) async fn log_in(&mut self) -> ReadResponse {
        self.log_in_as(USER, PASSWORD).await
    }

    pub(crate) async fn log_in_as(&mut self, username: &str, password: &str) -> ReadResponse {
        let body = json!({ "username": username, "password": password }).to_string();
        self.call(Method::POST, "/patient/auth", text(body)).await
    }

    pub(crate) async fn get(&mut self, target: &str) -> ReadResponse {
        self.call(Method::GET, target, nothing()).await
    }

    pub(crate) async fn call(&mut self, method: Method, target: &str, body: Body) -> ReadResponse {
        self.try_call(method, target, body).await.expect("an answer")
    }

    pub(crate) async fn try_call(&mut self, method: Method, target: &str, body: Body) -> hyper::Result<ReadResponse> {
        let request = self.request(method, target).body(body).expect("a request");
        read(self.send(request).await?).await
    }

    /// A request with the organization and the token of this client.
    pub(crate) fn request(&self, method: Method, target: &str) -> hyper::http::request::Builder {
        let mut request = Request::builder().method(method);
        request = match &self.sender {
            Sender::Http1(_) => request.uri(target).header("host", "localhost"),
            Sender::Http2(_) => request.uri(format!("{}{target}", self.base)),
        };
        if let Some(organization) = &self.organization {
            request = request.header("organization", organization);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request
    }

    pub(crate) async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Reads a response to its end.
pub(crate) async fn read(response: Response<Incoming>) -> hyper::Result<ReadResponse> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    Ok(ReadResponse { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
}

pub(crate) fn simulator() -> Simulator {
    Simulator::start(careportals_simulator::Options::default()).expect("started")
}
