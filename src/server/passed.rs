//! Sockets that a service manager has bound for us (`sd_listen_fds(3)`).
//!
//! A connection that comes while we restart waits in such a socket, so none is refused.

use std::io;

use listenfd::ListenFd;

use super::bind::{Bound, ListenSocket};

/// One of them.
pub struct Passed {
    /// As `FileDescriptorName=` says; the unit's name by default.
    pub name: String,
    /// The socket.
    pub bound: Bound,
}

/// Takes all of them; a process can do so once. `names`: of the sockets, in their order.
///
/// Their number is in `LISTEN_FDS`, which counts only when `LISTEN_PID` is ours.
pub fn passed_sockets(names: &[String]) -> io::Result<Vec<Passed>> {
    let mut sockets = ListenFd::from_env();
    let mut all = Vec::new();
    for place in 0..sockets.len() {
        let socket = match sockets.take_tcp_listener(place) {
            Ok(listener) => listener.map(ListenSocket::Tcp),
            Err(_) => sockets.take_unix_listener(place)?.map(ListenSocket::Unix),
        };
        if let Some(socket) = socket {
            let name = names.get(place).cloned().unwrap_or_default();
            all.push(Passed { name, bound: Bound::passed(socket)? });
        }
    }
    Ok(all)
}
