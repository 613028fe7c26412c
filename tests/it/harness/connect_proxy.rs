//! An egress proxy that a test plays itself: it takes CONNECT, plain or over TLS, and connects every client to one address.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

/// What it does with a CONNECT.
#[derive(Clone)]
pub enum Manner {
    /// It connects to this address, whatever name the client asked for.
    Lead(SocketAddr),
    /// It answers with this text.
    Say(&'static str),
    /// It never answers.
    Silent,
}

/// The proxy. It ends when dropped.
pub struct ConnectProxy {
    pub address: SocketAddr,
    /// Its certificate in PEM, when it speaks TLS.
    pub certificate: Option<String>,
    heads: Arc<Mutex<Vec<String>>>,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl ConnectProxy {
    pub fn plain(manner: Manner) -> Self {
        Self::start(manner, None, None)
    }

    pub fn over_tls(manner: Manner) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self::start(manner, Some(TlsAcceptor::from(Arc::new(config))), Some(made.cert.pem()))
    }

    fn start(manner: Manner, tls: Option<TlsAcceptor>, certificate: Option<String>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (stop, stopped) = oneshot::channel();
        let seen = Arc::clone(&heads);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let accepting = async {
                    while let Ok((client, _)) = listener.accept().await {
                        let (manner, tls, seen) = (manner.clone(), tls.clone(), Arc::clone(&seen));
                        tokio::spawn(async move {
                            match tls {
                                None => serve(client, manner, &seen).await,
                                Some(tls) => match tls.accept(client).await {
                                    Ok(client) => serve(client, manner, &seen).await,
                                    Err(_) => None,
                                },
                            }
                        });
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, certificate, heads, thread: Some((stop, thread)) }
    }

    /// The head of each CONNECT so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

async fn serve(mut client: impl AsyncRead + AsyncWrite + Unpin, manner: Manner, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    seen.lock().unwrap().push(String::from_utf8(head).unwrap());
    match manner {
        Manner::Lead(address) => {
            let mut server = TcpStream::connect(address).await.ok()?;
            client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n").await.ok()?;
            client.flush().await.ok()?;
            copy_bidirectional(&mut client, &mut server).await.ok()?;
        }
        Manner::Say(text) => {
            client.write_all(text.as_bytes()).await.ok()?;
            client.shutdown().await.ok()?;
        }
        Manner::Silent => {
            client.read_u8().await.ok()?;
        }
    }
    Some(())
}
