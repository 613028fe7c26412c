//! Sockets that clients connect to.

use std::{
    fmt, fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::Listen;

/// Connections the kernel may queue; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why a listen address can't be used.
#[derive(Debug)]
pub struct BindError {
    listen: String,
    kind: BindErrorKind,
}

#[derive(Debug)]
enum BindErrorKind {
    Io(io::Error),
    Answered,
    NotASocket,
    Unsupported,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.listen)?;
        match &self.kind {
            BindErrorKind::Io(error) if error.kind() == io::ErrorKind::AddrInUse => f.write_str(
                "the address is in use\n  hint: another sidecar may be running; choose another with CAREPORTALS_LISTEN",
            ),
            BindErrorKind::Io(error) => write!(f, "{error}"),
            BindErrorKind::Answered => f.write_str("another process answers on that socket"),
            BindErrorKind::NotASocket => f.write_str("a file that is not a socket is in the way"),
            BindErrorKind::Unsupported => f.write_str("sockets from the service manager are not supported yet"),
        }
    }
}

impl std::error::Error for BindError {}

/// A bound socket and what to call it.
pub struct Bound {
    /// `127.0.0.1:2273` with the port that was really taken, or `unix:/path`.
    pub name: String,
    /// The socket, not blocking.
    pub socket: ListenSocket,
    /// Removes a Unix socket's file at the end.
    _file: Option<SocketFile>,
}

impl Bound {
    /// Another descriptor of the same socket, for another worker. It does not remove a file.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { name: self.name.clone(), socket: self.socket.try_clone()?, _file: None })
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

/// Binds one address. `Ok(None)`: a default address whose family this machine lacks.
pub fn bind(listen: &Listen, socket_mode: u32) -> Result<Option<Bound>, BindError> {
    let failed = |kind| BindError { listen: listen.to_string(), kind };
    match listen {
        Listen::Tcp { address, required } => match tcp(*address) {
            Ok(listener) => {
                let name = listener.local_addr().map_err(|error| failed(BindErrorKind::Io(error)))?.to_string();
                Ok(Some(Bound { name, socket: ListenSocket::Tcp(listener), _file: None }))
            }
            Err(error) if !required && family_is_missing(&error) => Ok(None),
            Err(error) => Err(failed(BindErrorKind::Io(error))),
        },
        Listen::Unix(path) => {
            let listener = unix(path, socket_mode).map_err(failed)?;
            let file = Some(SocketFile(path.clone()));
            Ok(Some(Bound { name: listen.to_string(), socket: ListenSocket::Unix(listener), _file: file }))
        }
        Listen::Systemd => Err(failed(BindErrorKind::Unsupported)),
    }
}

fn family_is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former process that wait out their time must not keep us from starting. It does not let two
    // listeners share the address.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn unix(path: &Path, mode: u32) -> Result<UnixListener, BindErrorKind> {
    remove_stale(path)?;
    // Nobody may connect before the mode is set, so the file is made closed and then opened. The mask belongs to the
    // whole process: this runs at start, before there are other threads.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound.map_err(BindErrorKind::Io)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(BindErrorKind::Io)?;
    listener.set_nonblocking(true).map_err(BindErrorKind::Io)?;
    Ok(listener)
}

/// A socket file outlives a process that was killed. It goes only when nobody answers on it.
fn remove_stale(path: &Path) -> Result<(), BindErrorKind> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(BindErrorKind::NotASocket);
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindErrorKind::Answered),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(BindErrorKind::Io),
        Err(error) => Err(BindErrorKind::Io(error)),
    }
}

/// Removes the file it names when dropped.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already; there is nobody left to tell.
        drop(fs::remove_file(&self.0));
    }
}
