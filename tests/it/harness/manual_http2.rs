//! An HTTP/2 server that a test plays itself, frame by frame, where the simulator is too well behaved. Over TLS, on loopback.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivatePkcs8KeyDer};

use crate::harness::{
    PATIENCE, Setup,
    frames::{
        ACK, BODY, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, NO_ERROR, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
        frame,
    },
    manual_upstream::accept,
};

/// A listener that does nothing by itself.
pub struct ManualHttp2 {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    certificate: String,
}

impl ManualHttp2 {
    pub fn listen() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let mut tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, tls: Arc::new(tls), certificate: made.cert.pem() }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// A sidecar that forwards to it, with one worker.
    pub fn setup(&self) -> Setup {
        let mut setup = Setup::without_login(&format!("https://{}", self.address()), &self.certificate);
        setup.api("http2", "auto").variable("CAREPORTALS_WORKERS", "1");
        setup
    }

    /// Waits for the next connection, and tells its client that it may open `streams` at once.
    pub fn accept(&self, streams: u32) -> Http2Peer {
        let mut peer = self.accept_silently();
        peer.send(SETTINGS, 0, 0, &[&[0, 3], &streams.to_be_bytes()[..]].concat());
        peer
    }

    /// Waits for the next connection, before TLS.
    pub fn accept_tcp(&self) -> TcpStream {
        accept(&self.listener)
    }

    /// Waits for the next connection, and for the client's preface, and says nothing.
    pub fn accept_silently(&self) -> Http2Peer {
        let tcp = self.accept_tcp();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let tls = StreamOwned::new(ServerConnection::new(Arc::clone(&self.tls)).unwrap(), tcp);
        let mut peer = Http2Peer { tls };
        let mut preface = [0; 24];
        peer.tls.read_exact(&mut preface).unwrap();
        assert_eq!(preface, PREFACE);
        peer
    }

    /// Waits for the next connection, on which the client must speak HTTP/1.1 with a head alone or a short body, and answers its
    /// request. Returns the request.
    pub fn answer_http1(&self, answer: &str) -> String {
        let (request, mut tls) = self.say_over_http1(answer);
        tls.conn.send_close_notify();
        tls.flush().unwrap();
        request
    }

    /// As [`ManualHttp2::answer_http1`], and ends the connection without TLS's closure alert, as somebody in between would.
    pub fn answer_http1_without_an_alert(&self, answer: &str) -> String {
        self.say_over_http1(answer).0
    }

    /// As [`ManualHttp2::answer_http1`], and waits for the client to end the connection. Returns whether it did so by TLS's
    /// closure alert.
    pub fn answer_http1_until_the_alert(&self, answer: &str) -> bool {
        let (_, mut tls) = self.say_over_http1(answer);
        matches!(tls.read(&mut [0; 16]), Ok(0))
    }

    fn say_over_http1(&self, answer: &str) -> (String, StreamOwned<ServerConnection, TcpStream>) {
        let tcp = self.accept_tcp();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&self.tls)).unwrap(), tcp);
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            let read = tls.read(&mut buffer).unwrap();
            assert!(read > 0, "closed in a head");
            request.extend_from_slice(&buffer[..read]);
        }
        tls.write_all(answer.as_bytes()).and_then(|()| tls.flush()).unwrap();
        (String::from_utf8(request).unwrap(), tls)
    }

    /// Accepts a connection, if there is one, and drops it. Returns whether there was.
    pub fn has_more(&self) -> bool {
        self.listener.accept().is_ok()
    }
}

/// One connection, seen from the server.
pub struct Http2Peer {
    tls: StreamOwned<ServerConnection, TcpStream>,
}

impl Http2Peer {
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.write(&frame(kind, flags, stream, payload));
    }

    /// Writes the bytes. That the other side has ended the connection is no error here: reading tells it.
    fn write(&mut self, bytes: &[u8]) {
        match self.tls.write_all(bytes).and_then(|()| self.tls.flush()) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("writing frames: {error}");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Repeats `bytes` until `most` bytes were taken, or the other side takes no more.
    pub fn pour(&mut self, bytes: &[u8], most: usize) {
        self.tls.sock.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut written = 0;
        while written < most {
            if self.tls.write_all(bytes).and_then(|()| self.tls.flush()).is_err() {
                return;
            }
            written += bytes.len();
        }
    }

    /// Reads the next frame that is about an exchange or its end. `None` means that the connection has ended.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any_frame()?;
            match (frame.kind, frame.flags & ACK) {
                (SETTINGS, 0) => self.send(SETTINGS, ACK, 0, &[]),
                (PING, 0) => self.send(PING, ACK, 0, &frame.payload),
                (SETTINGS | PING | WINDOW_UPDATE, _) => {}
                _ => return Some(frame),
            }
        }
    }

    fn any_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.tls.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("reading from the sidecar: {error}"),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.tls.read_exact(&mut payload).unwrap();
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads `count` whole requests, in the order in which they end: their streams and bodies.
    pub fn requests(&mut self, count: usize) -> Vec<(u32, String)> {
        let (mut begun, mut ended) = (std::collections::HashMap::<u32, Vec<u8>>::new(), Vec::new());
        while ended.len() < count {
            let frame = self.frame().expect("the rest of a request");
            assert!(matches!(frame.kind, HEADERS | BODY), "{frame:?}");
            let last = frame.ends_stream();
            let body = begun.entry(frame.stream).or_default();
            if frame.kind == BODY {
                body.extend(frame.payload);
            }
            if last {
                ended.push((frame.stream, String::from_utf8(body.clone()).unwrap()));
            }
        }
        ended
    }

    /// Reads the next request: its stream and its body.
    pub fn request(&mut self) -> (u32, Vec<u8>) {
        // Frames about other streams may come before it.
        let head = std::iter::from_fn(|| self.frame()).find(|frame| frame.kind == HEADERS).expect("a request");
        let (stream, mut ended, mut body) = (head.stream, head.ends_stream(), Vec::new());
        while !ended {
            let data = self.frame().expect("the rest of a request");
            assert_eq!((data.kind, data.stream), (BODY, stream), "{data:?}");
            ended = data.ends_stream();
            body.extend(data.payload);
        }
        (stream, body)
    }

    /// Sends the head of a `200 OK`, and nothing else yet.
    pub fn head(&mut self, stream: u32) {
        // `:status: 200` has a number of its own (RFC 7541, Appendix A).
        self.send(HEADERS, END_HEADERS, stream, &[0x88]);
    }

    /// Sends a `200 OK` with this body.
    pub fn answer(&mut self, stream: u32, body: &[u8]) {
        self.head(stream);
        self.send(BODY, END_STREAM, stream, body);
    }

    /// Sends a `200 OK` with this body, and that the rest of the request is not needed (RFC 9113, 8.1). It is one write, so
    /// that a client that reads the answer reads that, too.
    pub fn answer_early(&mut self, stream: u32, body: &[u8]) {
        let head = frame(HEADERS, END_HEADERS, stream, &[0x88]);
        let reset = frame(RST_STREAM, 0, stream, &NO_ERROR.to_be_bytes());
        self.write(&[head, frame(BODY, END_STREAM, stream, body), reset].concat());
    }

    /// Writes the bytes and the end of the connection, as one.
    pub fn write_and_end(mut self, bytes: &[u8]) {
        self.tls.conn.writer().write_all(bytes).unwrap();
        self.tls.conn.send_close_notify();
        let mut records = Vec::new();
        while self.tls.conn.wants_write() {
            self.tls.conn.write_tls(&mut records).unwrap();
        }
        self.tls.sock.write_all(&records).unwrap();
        self.tls.sock.shutdown(Shutdown::Write).unwrap();
    }

    pub fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes());
    }

    /// Ends the connection in order: a client that reads the GOAWAY sends nothing more on it.
    pub fn leave(mut self) {
        self.go_away(u32::MAX >> 1, NO_ERROR);
        while self.frame().is_some() {}
    }

    /// Says that no stream above `last` was or will be processed.
    pub fn go_away(&mut self, last: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    }
}
