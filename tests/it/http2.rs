//! HTTP/2 in cleartext, by prior knowledge: a client that behaves, and frames by hand for one that does not.

use std::{
    future::Future,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::{
    http::{Answer, Request},
    sidecar::PATIENCE,
};

/// One connection. It moves only while something is waited for.
pub struct Http2 {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// A request under way.
pub struct Stream {
    response: ResponseFuture,
    body: SendStream<Bytes>,
}

/// An answer whose head has come.
pub struct Answering {
    pub head: Answer,
    body: RecvStream,
}

impl Http2 {
    pub fn connect(address: SocketAddr) -> Self {
        Self::with(address, &client::Builder::new())
    }

    pub fn with(address: SocketAddr, builder: &client::Builder) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sender, driver) = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = builder.handshake(stream).await.unwrap();
            (sender, tokio::spawn(connection))
        });
        Self { runtime, sender, driver }
    }

    fn wait<F: Future>(&self, work: F) -> F::Output {
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("nothing comes") })
    }

    /// Sends the head. `Host` becomes the authority.
    pub fn open(&mut self, request: &Request, ends: bool) -> Stream {
        self.open_at(&format!("http://{}{}", request.headers[0].1, request.target), request, ends)
    }

    /// The same with a target of one's own.
    pub fn open_at(&mut self, uri: &str, request: &Request, ends: bool) -> Stream {
        let mut head = http::Request::builder().method(request.method.as_str()).uri(uri).body(()).unwrap();
        for (name, value) in &request.headers[1..] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            head.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let sender = self.sender.clone();
        let mut sender = self.wait(sender.ready()).unwrap();
        let (response, body) = sender.send_request(head, ends).unwrap();
        Stream { response, body }
    }

    /// A whole exchange.
    pub fn send(&mut self, request: &Request) -> Answer {
        let mut stream = self.open(request, request.body.is_empty());
        if !request.body.is_empty() {
            self.write(&mut stream, &request.body, true);
        }
        self.answer(stream)
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }

    /// As much of `bytes` as the other side lets us, all of it in the end.
    pub fn write(&self, stream: &mut Stream, bytes: &[u8], ends: bool) {
        assert!(self.try_write(stream, bytes, ends, PATIENCE), "the body is not read");
    }

    /// Whether the other side took all of it in time.
    pub fn try_write(&self, stream: &mut Stream, bytes: &[u8], ends: bool, limit: Duration) -> bool {
        let body = &mut stream.body;
        let writing = async move {
            let mut left = Bytes::copy_from_slice(bytes);
            loop {
                body.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
                let Some(Ok(room)) = room else { return };
                let piece = left.split_to(room.min(left.len()));
                let last = left.is_empty();
                if body.send_data(piece, last && ends).is_err() || last {
                    return;
                }
            }
        };
        self.runtime.block_on(async { tokio::time::timeout(limit, writing).await.is_ok() })
    }

    pub fn finish(&self, stream: &mut Stream, trailers: &[(&str, &str)]) {
        self.turn();
        let mut map = HeaderMap::new();
        for (name, value) in trailers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        stream.body.send_trailers(map).unwrap();
    }

    /// Gives the request up.
    pub fn reset(&self, mut stream: Stream) {
        stream.body.send_reset(Reason::CANCEL);
        drop(stream);
        self.turn();
    }

    /// Lets what was queued go out, and what has come in be seen.
    pub fn turn(&self) {
        self.runtime.block_on(async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Keeps the connection alive for so long, as a client with nothing to ask does.
    pub fn stay_for(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    pub fn head(&self, stream: Stream) -> Answering {
        self.try_head(stream).unwrap()
    }

    /// The head, or why there will be none.
    pub fn try_head(&self, stream: Stream) -> Result<Answering, h2::Error> {
        let (head, body) = self.wait(stream.response)?.into_parts();
        assert_eq!(head.version, http::Version::HTTP_2);
        let headers = listed(&head.headers);
        Ok(Answering { head: Answer { status: head.status.as_u16(), headers, ..Answer::default() }, body })
    }

    pub fn answer(&self, stream: Stream) -> Answer {
        let answering = self.head(stream);
        self.rest(answering)
    }

    /// Some bytes of the body; none at the end.
    pub fn read_some(&self, answering: &mut Answering) -> Result<Bytes, h2::Error> {
        let body = &mut answering.body;
        self.wait(async {
            let Some(piece) = body.data().await else { return Ok(Bytes::new()) };
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            Ok(piece)
        })
    }

    pub fn rest(&self, mut answering: Answering) -> Answer {
        loop {
            match self.read_some(&mut answering) {
                Ok(piece) if piece.is_empty() && answering.body.is_end_stream() => break,
                Ok(piece) if piece.is_empty() => {
                    if let Some(trailers) = self.wait(answering.body.trailers()).unwrap() {
                        answering.head.trailers = listed(&trailers);
                    }
                    break;
                }
                Ok(piece) => answering.head.body.extend_from_slice(&piece),
                Err(_) => {
                    answering.head.cut = true;
                    break;
                }
            }
        }
        answering.head
    }

    /// Waits until the other side has closed the connection. What it said, if it did not end well.
    pub fn closed(self) -> Result<(), h2::Error> {
        let Self { runtime, sender, driver } = self;
        runtime.block_on(async {
            let ended = tokio::time::timeout(PATIENCE, driver).await.expect("still open").unwrap();
            drop(sender);
            ended
        })
    }

    /// Sends a PING and waits for its answer; whether there was one.
    pub fn ping(address: SocketAddr) -> (Self, h2::PingPong) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sender, driver, pings) = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (sender, mut connection) = client::handshake(stream).await.unwrap();
            let pings = connection.ping_pong().unwrap();
            (sender, tokio::spawn(connection), pings)
        });
        (Self { runtime, sender, driver }, pings)
    }

    pub fn pong(&self, pings: &mut h2::PingPong) -> bool {
        self.wait(pings.ping(h2::Ping::opaque())).is_ok()
    }
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

/// Kinds of frames (RFC 9113, 6).
pub const BODY: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of fields: literals without indexing, so that nobody needs a table.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |block: &mut Vec<u8>, text: &str| {
        // RFC 7541, 5.1: a prefix of seven bits.
        let length = text.len();
        if length < 127 {
            block.push(u8::try_from(length).unwrap());
        } else {
            block.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).unwrap() | 0x80);
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap());
        }
        block.extend(text.bytes());
    };
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// The fields of a GET from localhost, and more.
pub fn get_fields<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut all = vec![(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
    all.extend(more);
    fields(&all)
}

/// Frames by hand.
pub struct Raw(pub TcpStream);

/// What came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Raw {
    /// With the preface, empty settings, and room for all that may be answered.
    pub fn connect(address: SocketAddr) -> Self {
        let mut raw = Self::silent(address);
        let room = frame(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes());
        raw.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &room].concat());
        raw
    }

    /// Nothing said yet.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Writes until the other side ends the connection: what it said of it is still to be read, and at the end of reading
    /// the end is seen.
    pub fn write(&mut self, bytes: &[u8]) {
        match self.0.write_all(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("writing frames: {error}");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Writes the same again and again until the other side ends it or takes no more for `limit`. The bytes it took.
    pub fn flood(&mut self, bytes: &[u8], limit: Duration, most: usize) -> usize {
        self.0.set_write_timeout(Some(limit)).unwrap();
        let mut written = 0;
        while written < most {
            // Where the kernel took a part, the rest of it follows.
            match self.0.write(&bytes[written % bytes.len()..]) {
                Ok(some) => written += some,
                Err(_) => break,
            }
        }
        written
    }

    /// The next frame; `None` at the end.
    pub fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.fill(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.fill(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.0.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
            Err(error) => panic!("reading frames: {error}"),
        }
    }

    /// The next frame of that kind; those before it are dropped. `None` when the connection ends first.
    pub fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// The next frame on that stream.
    pub fn on(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.stream == stream && frame.kind != WINDOW_UPDATE {
                return Some(frame);
            }
        }
    }

    /// Reads until the other side closes; the error code of its last GOAWAY.
    pub fn last_words(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }
}
