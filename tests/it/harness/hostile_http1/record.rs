//! An upstream that keeps each byte, connection by connection, and reads it as strictly as can be.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::strict::{Fault, Request};

/// An upstream that answers every request alike until [`Recorder::finish`].
pub struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    over: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

/// The bytes of one request, whole or not.
pub struct Seen {
    pub bytes: Vec<u8>,
    pub read: Result<Request, Fault>,
}

impl Recorder {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let accepting = std::thread::spawn({
            let (seen, over) = (Arc::clone(&seen), Arc::clone(&over));
            move || {
                let mut serving = Vec::new();
                loop {
                    let (stream, _) = listener.accept().unwrap();
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let seen = Arc::clone(&seen);
                    serving.push(std::thread::spawn(move || serve(stream, &seen)));
                }
                for thread in serving {
                    thread.join().unwrap();
                }
            }
        });
        Self { address, seen, over, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every connection has ended, and returns everything. The sidecar must have ended before.
    pub fn finish(self) -> Vec<Seen> {
        self.over.store(true, Ordering::SeqCst);
        // A connection wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        self.accepting.join().unwrap();
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Seen>>) {
    let (mut ahead, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    let keep = |bytes: Vec<u8>, read| seen.lock().unwrap().push(Seen { bytes, read });
    loop {
        let read = stream.read(&mut buffer).unwrap_or(0);
        ahead.extend_from_slice(&buffer[..read]);
        while !ahead.is_empty() {
            match Request::read(&ahead) {
                Ok(request) => {
                    let rest = ahead.split_off(request.end);
                    let content = if request.method == "HEAD" { "" } else { "ok" };
                    keep(std::mem::replace(&mut ahead, rest), Ok(request));
                    let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{content}").as_bytes());
                }
                Err(Fault::Unfinished) if read > 0 => break,
                Err(fault) => return keep(ahead, Err(fault)),
            }
        }
        if read == 0 {
            return;
        }
    }
}
