//! Listening sockets: bound here, or passed in by a service manager.
//!
//! Guarantees: nobody connects to a Unix socket before its mode and group are set; a socket file is removed only by the
//! process that made it, or when no process answers on it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{
    bind_error::{BindError, nearest_above},
    unix_socket::{self, BACKLOG, BindErrorKind, SocketAccess, SocketFile, is_in_the_way},
};

/// How many bytes a client may send ahead, in the kernel's buffer of a TCP connection, which takes twice as much memory. By
/// itself the kernel lets a busy connection's buffer grow to megabytes; they stay when the upstream stops reading.
const RECEIVE_BUFFER: usize = 128 * 1024;
/// How many bytes may wait in the kernel's buffer of a TCP connection for a client that reads slowly. By itself the kernel takes
/// up to four megabytes: they count against the memory limit of a container, and with more of them it shows only after a long
/// time that a slow client still reads.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;
/// How much memory these bytes may take, half of what the kernel reckons: small writes take ten times their bytes. It is the most that
/// Linux grants by default.
const SEND_BUFFER: usize = 208 * 1024;

/// A bound socket and its name.
pub struct Bound {
    /// `127.0.0.1:2273`, with the port that the kernel chose if the settings say 0, or `unix:/path`.
    pub name: String,
    /// The socket, in non-blocking mode.
    pub socket: ListenSocket,
    /// The file of a Unix socket that this process has bound; removed on drop.
    file: Option<SocketFile>,
}

impl Bound {
    fn over_tcp(listener: TcpListener) -> io::Result<Self> {
        let name = listener.local_addr()?.to_string();
        limit_buffers(&listener);
        Ok(Self { name, socket: ListenSocket::Tcp(listener), file: None })
    }

    /// Takes a socket that a service manager has bound. Its file belongs to the service manager.
    fn passed(socket: ListenSocket) -> io::Result<Self> {
        match socket {
            ListenSocket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Self::over_tcp(listener)
            }
            ListenSocket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                let name = address.as_pathname().map_or_else(|| "unix:".to_owned(), |path| format!("unix:{}", path.display()));
                Ok(Self { name, socket: ListenSocket::Unix(listener), file: None })
            }
        }
    }

    /// The TCP address that clients connect to; `None` for a Unix socket.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListenSocket::Tcp(listener) => listener.local_addr().ok(),
            ListenSocket::Unix(_) => None,
        }
    }

    /// The Unix socket's file, if this process has bound it.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }

    /// Changes mode and group of the Unix socket's file, if this process has bound it.
    ///
    /// # Errors
    ///
    /// Another file is in its place, which is not touched; or the system refuses the change.
    pub fn set_access(&self, access: SocketAccess) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.set_access(access))
    }

    /// Makes another descriptor of the same socket, for another worker. Dropping it removes no file.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { name: self.name.clone(), socket: self.socket.try_clone()?, file: None })
    }
}

/// The two families.
pub enum ListenSocket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl ListenSocket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
        })
    }

    /// Whether clients come in over TCP.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Binds a TCP address. Returns `Ok(None)` for an address that is not `required` and whose family this machine lacks.
pub fn bind_tcp(address: SocketAddr, required: bool) -> Result<Option<Bound>, BindError> {
    let failed = |error| BindError::tcp(address, &error);
    match tcp(address) {
        Ok(listener) => Bound::over_tcp(listener).map(Some).map_err(failed),
        Err(error) if !required && family_is_missing(&error) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Looks whether a socket could be bound to the path.
///
/// # Errors
///
/// Something that is no socket is there, or something that is no directory above it.
pub fn check_path(path: &Path) -> Result<(), BindError> {
    if is_in_the_way(path) {
        Err(BindError::unix(path, &BindErrorKind::NotASocket))
    } else if nearest_above(path).is_some_and(|above| !above.is_dir()) {
        Err(BindError::unix(path, &BindErrorKind::Io(io::ErrorKind::NotADirectory.into())))
    } else {
        Ok(())
    }
}

/// Why a socket could not be bound to the path now, if its directory is missing.
#[must_use]
pub fn missing_directory(path: &Path) -> Option<BindError> {
    let is_missing = path.parent().is_some_and(|directory| !directory.exists());
    let may_be_made = nearest_above(path).is_some_and(Path::is_dir);
    (is_missing && may_be_made).then(|| BindError::unix(path, &BindErrorKind::Io(io::ErrorKind::NotFound.into())))
}

/// Binds a Unix socket. Its file is removed when the [`Bound`] is dropped.
pub fn bind_unix(path: &Path, access: SocketAccess) -> Result<Bound, BindError> {
    let name = format!("unix:{}", path.display());
    match unix_socket::listen(path, access) {
        Ok((listener, file)) => Ok(Bound { name, socket: ListenSocket::Unix(listener), file: Some(file) }),
        Err(kind) => Err(BindError::unix(path, &kind)),
    }
}

/// A socket that a service manager has bound for us (`sd_listen_fds(3)`).
///
/// A connection that comes while we restart waits in such a socket, so none is refused.
pub struct Passed {
    /// The name that `FileDescriptorName=` gives; by default the unit's name.
    pub name: String,
    /// The socket.
    pub bound: Bound,
}

/// Takes all sockets that were passed in; a process can do so once. `names`: the sockets' names, in their order.
///
/// Their number is in `LISTEN_FDS`, which counts only when `LISTEN_PID` is ours.
pub fn passed_sockets(names: &[String]) -> io::Result<Vec<Passed>> {
    let mut sockets = ListenFd::from_env();
    let mut all = Vec::new();
    for index in 0..sockets.len() {
        let socket = match sockets.take_tcp_listener(index) {
            Ok(listener) => listener.map(ListenSocket::Tcp),
            Err(_) => sockets.take_unix_listener(index)?.map(ListenSocket::Unix),
        };
        if let Some(socket) = socket {
            if !rustix::net::sockopt::socket_acceptconn(&socket)? {
                // It may be a socket of our own, where the descriptor was closed when the process began: what owns it closes it.
                std::mem::forget(socket);
                return Err(io::Error::other("one of the descriptors that LISTEN_FDS passes is no listening socket"));
            }
            let name = names.get(index).cloned().unwrap_or_default();
            all.push(Passed { name, bound: Bound::passed(socket)? });
        }
    }
    Ok(all)
}

/// Bounds the kernel's buffers of the connections that will be accepted: they inherit the limits. Where one can't be set,
/// buffers are only larger.
fn limit_buffers(listener: &TcpListener) {
    let socket = SockRef::from(listener);
    drop(socket.set_recv_buffer_size(RECEIVE_BUFFER));
    drop(socket.set_send_buffer_size(SEND_BUFFER));
    #[cfg(target_os = "linux")]
    drop(socket.set_tcp_notsent_lowat(UNSENT));
}

fn family_is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former process in TIME_WAIT must not keep us from starting. SO_REUSEADDR does not let two listeners
    // share the address.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
