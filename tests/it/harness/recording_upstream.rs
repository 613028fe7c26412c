//! An upstream that keeps every byte it is sent, for what an HTTP library would smooth over.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex},
};

use careportals_simulator::Simulator;

use super::plain_server::PlainServer;
use crate::harness::Setup;

/// An upstream on plain TCP that answers every request alike. It ends when dropped.
pub struct RecordingUpstream {
    server: PlainServer,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    requests: Vec<String>,
    /// All bytes that came, those of unfinished requests included.
    bytes: usize,
}

/// A short answer.
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

impl RecordingUpstream {
    /// Answers every request with the bytes of `answer`. One that says `Connection: close` is the last on its connection.
    pub fn start(answer: impl Into<Vec<u8>>) -> Self {
        let (heard, answer) = (Arc::new(Mutex::new(Heard::default())), answer.into());
        let server = PlainServer::start({
            let heard = Arc::clone(&heard);
            move |accepted| serve(&heard, accepted.stream, &answer)
        });
        Self { server, heard }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.server.address())
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
