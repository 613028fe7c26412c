//! An upstream that keeps every byte it is sent, for what an HTTP library would smooth over.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use careportals_simulator::Simulator;

use crate::harness::Setup;

/// An upstream on plain TCP that answers every request alike. It ends when dropped.
pub struct RecordingUpstream {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    requests: Vec<String>,
    /// All bytes that came, those of unfinished requests included.
    bytes: usize,
    connections: Vec<TcpStream>,
    over: bool,
}

/// A short answer.
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

impl RecordingUpstream {
    /// Answers every request with the bytes of `answer`. One that says `Connection: close` is the last on its connection.
    pub fn start(answer: impl Into<Vec<u8>>) -> Self {
        let (listener, answer) = (TcpListener::bind("127.0.0.1:0").unwrap(), answer.into());
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let accepting = std::thread::spawn({
            let heard = Arc::clone(&heard);
            move || {
                let mut serving = Vec::new();
                while let Ok((stream, _)) = listener.accept() {
                    let mut now = heard.lock().unwrap();
                    if now.over {
                        break;
                    }
                    now.connections.push(stream.try_clone().unwrap());
                    let (heard, answer) = (Arc::clone(&heard), answer.clone());
                    serving.push(std::thread::spawn(move || serve(&heard, stream, &answer)));
                }
                for thread in serving {
                    thread.join().unwrap();
                }
            }
        });
        Self { address, heard, accepting: Some(accepting) }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A sidecar in front of it that logs in at `simulator`.
    pub fn setup(&self, simulator: &Simulator) -> Setup {
        let mut setup = Setup::new(simulator);
        setup
            .upstream(&self.base_url(), simulator)
            // With one worker, requests arrive in the order in which they were written.
            .variable("CAREPORTALS_WORKERS", "1")
            .api("allow_insecure_upstream", "true");
        setup
    }

    /// Every whole request so far, as it came.
    pub fn requests(&self) -> Vec<String> {
        self.heard.lock().unwrap().requests.clone()
    }

    /// How many bytes of unfinished requests have come.
    pub fn unfinished(&self) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.bytes - heard.requests.iter().map(|request| request.chars().count()).sum::<usize>()
    }

    /// The request lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(|request| request.split("\r\n").next().unwrap().to_owned()).collect()
    }
}

fn serve(heard: &Mutex<Heard>, mut stream: TcpStream, answer: &[u8]) {
    let last = String::from_utf8_lossy(answer).contains("Connection: close");
    let (mut ahead, mut buffer) = (String::new(), vec![0; 64 * 1024]);
    loop {
        while let Some(end) = end_of_request(&ahead) {
            let rest = ahead.split_off(end);
            heard.lock().unwrap().requests.push(std::mem::replace(&mut ahead, rest));
            if stream.write_all(answer).is_err() {
                return;
            }
            if last {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(read) if read > 0 => {
                heard.lock().unwrap().bytes += read;
                ahead.extend(buffer[..read].iter().map(|&byte| char::from(byte)));
            }
            _ => return,
        }
    }
}

/// Finds the end of the first request in `text`, whose characters are bytes.
fn end_of_request(text: &str) -> Option<usize> {
    let head = text.find("\r\n\r\n")? + 4;
    let (lines, rest) = (text[..head].split("\r\n"), &text[head..]);
    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(": ")).collect();
    let field = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    if field("transfer-encoding").is_some() {
        let last = if rest.starts_with("0\r\n\r\n") { Some(0) } else { rest.find("\r\n0\r\n\r\n").map(|at| at + 2) };
        return last.map(|at| head + at + 5);
    }
    let length: usize = field("content-length").map_or(0, |length| length.parse().unwrap());
    if length == 0 {
        return Some(head);
    }
    rest.char_indices().nth(length - 1).map(|(at, last)| head + at + last.len_utf8())
}

impl Drop for RecordingUpstream {
    fn drop(&mut self) {
        let mut heard = self.heard.lock().unwrap();
        heard.over = true;
        for connection in heard.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(heard);
        // A connection wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}
