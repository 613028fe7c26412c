//! An upstream that has learned what to say to each target, and remembers which of its connections a request came on.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use serde::Deserialize;

use super::plain_server::{Accepted, PlainServer};

/// What it says to one target, and what it does then.
#[derive(Clone)]
pub struct Line {
    pub says: Vec<u8>,
    /// It says it when it has read the head.
    pub early: bool,
    pub end: End,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// It waits for another request.
    #[default]
    Stays,
    Closes,
    Resets,
}

/// An upstream on plain TCP. What it has not learned it answers with `ok`, and closes. It ends when dropped.
pub struct ScriptedUpstream {
    server: PlainServer,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    lines: HashMap<String, Line>,
    /// Targets, and the numbers of the connections that they came on.
    asked: Vec<(String, usize)>,
}

impl ScriptedUpstream {
    pub fn start() -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let server = PlainServer::start({
            let known = Arc::clone(&known);
            move |accepted| serve(&known, accepted)
        });
        Self { server, known }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn learn(&self, target: &str, line: Line) {
        self.known.lock().unwrap().lines.insert(target.to_owned(), line);
    }

    /// The connections on which it was asked for `target`, in order.
    pub fn connections_of(&self, target: &str) -> Vec<usize> {
        let known = self.known.lock().unwrap();
        known.asked.iter().filter(|(asked, _)| asked == target).map(|(_, number)| *number).collect()
    }
}

fn serve(known: &Mutex<Known>, mut accepted: Accepted) {
    let (mut ahead, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    let mut more = |ahead: &mut Vec<u8>, stream: &mut TcpStream| match stream.read(&mut buffer) {
        Ok(read) if read > 0 => {
            ahead.extend_from_slice(&buffer[..read]);
            true
        }
        _ => false,
    };
    loop {
        let end = loop {
            if let Some(end) = ahead.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if !more(&mut ahead, &mut accepted.stream) {
                return;
            }
        };
        let head = String::from_utf8_lossy(&ahead[..end]).into_owned();
        ahead.drain(..end);
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let line = learned(known, accepted.number, target);
        let length: usize =
            head.split("\r\n").find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |length| length.parse().unwrap());
        if !line.early {
            while ahead.len() < length {
                if !more(&mut ahead, &mut accepted.stream) {
                    return;
                }
            }
            ahead.drain(..length);
        }
        let _ = accepted.stream.write_all(&line.says);
        match line.end {
            End::Stays => {}
            End::Closes => return drop(accepted.stream.shutdown(Shutdown::Both)),
            End::Resets => return accepted.reset(),
        }
        if line.early {
            while ahead.len() < length {
                if !more(&mut ahead, &mut accepted.stream) {
                    return;
                }
            }
            ahead.drain(..length);
        }
    }
}

fn learned(known: &Mutex<Known>, number: usize, target: String) -> Line {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let mut known = known.lock().unwrap();
    let line = known.lines.get(&target).cloned();
    known.asked.push((target, number));
    line.unwrap_or_else(|| Line { says: OK.to_vec(), early: false, end: End::Closes })
}
