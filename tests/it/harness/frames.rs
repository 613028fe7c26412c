//! HTTP/2 frame by frame: their kinds, flags and error codes, and a client that writes them by hand.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::harness::PATIENCE;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames (RFC 9113, 6). `BODY` is the RFC's DATA.
pub const BODY: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const PRIORITY: u8 = 0x2;
pub const RST_STREAM: u8 = 0x3;
pub const SETTINGS: u8 = 0x4;
pub const PUSH_PROMISE: u8 = 0x5;
pub const PING: u8 = 0x6;
pub const GOAWAY: u8 = 0x7;
pub const WINDOW_UPDATE: u8 = 0x8;
pub const CONTINUATION: u8 = 0x9;

/// Flags of frames (RFC 9113, 6). `WHOLE` is both ends at once.
pub const END_STREAM: u8 = 0x1;
pub const ACK: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;
pub const WHOLE: u8 = END_STREAM | END_HEADERS;
pub const PADDED: u8 = 0x8;
pub const WITH_PRIORITY: u8 = 0x20;

/// Error codes (RFC 9113, 7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;
pub const HTTP_1_1_REQUIRED: u32 = 13;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Encodes fields as literals without indexing (RFC 7541, 6.2.2), so that neither side needs a table.
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

/// Encodes the fields of a GET from localhost, and `more` of them.
pub fn get_fields<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut all = vec![(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
    all.extend(more);
    fields(&all)
}

/// A client that writes frames by hand.
pub struct FrameClient(pub TcpStream);

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        self.flags & END_STREAM != 0
    }

    /// The error code of a `RST_STREAM` or `GOAWAY` frame.
    pub fn error_code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

impl FrameClient {
    /// Connects and writes the preface, empty settings, and a window with room for every answer.
    pub fn connect(address: SocketAddr) -> Self {
        let mut client = Self::silent(address);
        let room = frame(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes());
        client.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &room].concat());
        client
    }

    /// Connects and writes nothing.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Writes the bytes. That the other side has ended the connection is no error here: reading tells it, after the frames
    /// that came before the end.
    pub fn write(&mut self, bytes: &[u8]) {
        match self.0.write_all(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("writing frames: {error}");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Repeats `bytes` until the other side ends the connection, takes no more for `limit`, or has taken `most` bytes. Returns
    /// how many it took.
    pub fn flood(&mut self, bytes: &[u8], limit: Duration, most: usize) -> usize {
        self.0.set_write_timeout(Some(limit)).unwrap();
        let mut written = 0;
        while written < most {
            // The kernel may take a part of a piece; the next write sends the rest of it.
            match self.0.write(&bytes[written % bytes.len()..]) {
                Ok(some) => written += some,
                Err(_) => break,
            }
        }
        written
    }

    /// Reads the next frame. `None` means that the connection has ended.
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

    /// Reads the next frame of that kind and drops those before it. `None` when the connection ends first.
    pub fn next(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads the next frame of that stream and drops those before it.
    pub fn on(&mut self, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.stream == stream && frame.kind != WINDOW_UPDATE {
                return Some(frame);
            }
        }
    }

    /// Reads until the other side closes. Returns the error code of its last GOAWAY.
    pub fn last_words(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.read() {
            if frame.kind == GOAWAY {
                code = Some(frame.error_code());
            }
        }
        code
    }
}
