//! A well-behaved HTTP/2 client in cleartext, by prior knowledge. `frames` has one that misbehaves.

use std::{future::Future, net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{self, ResponseFuture, SendRequest},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::harness::{Answer, PATIENCE, Request, waiting::assert_short};

/// One connection. It makes progress only while one of its methods waits.
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

    /// Sends the head with this URI.
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

    /// Sends the request, and reads the answer to its end.
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

    /// Writes all of `bytes`, as the other side's window permits.
    pub fn write(&self, stream: &mut Stream, bytes: &[u8], ends: bool) {
        assert!(self.try_write(stream, bytes, ends, PATIENCE), "the body is not read");
    }

    /// Writes, and returns whether the other side took all of `bytes` within `limit`.
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

    /// Cancels the request.
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

    /// As [`let_time_pass`](crate::harness::let_time_pass), while the connection is served: its pings are answered.
    pub fn stay_for(&self, why: &str, time: Duration) {
        assert_short(why, time);
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    pub fn head(&self, stream: Stream) -> Answering {
        self.try_head(stream).unwrap()
    }

    /// Reads the head. An error says why there will be none.
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

    /// Reads some bytes of the body: none at the end.
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

    /// Waits until the other side has closed the connection. An error is what it said, if it did not end well.
    pub fn closed(self) -> Result<(), h2::Error> {
        let Self { runtime, sender, driver } = self;
        runtime.block_on(async {
            let ended = tokio::time::timeout(PATIENCE, driver).await.expect("still open").unwrap();
            drop(sender);
            ended
        })
    }

    /// Connects, with a handle for pings.
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
