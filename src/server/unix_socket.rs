//! Takes the address of a Unix socket in one step, so that of two daemons that start at the same moment one has it.
//!
//! The socket is bound under another name, listens there, and then takes the place of what was at its path: of nothing, or
//! of the socket that a process left behind which was killed. Guarantees: at its path a socket of ours always listens; a
//! socket on which a process answers is never replaced; a file is removed only by the process that made it; mode and group
//! are given to the socket's own file, never to another one that took its place, nor to what a link there leads to.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group};
use rustix::fs::{AtFlags, CWD, FileType, Mode, RawMode, RenameFlags, Stat, renameat_with};
use socket2::{Domain, SockAddr, Socket, Type};

/// How many connections the kernel may queue; it reduces this to `net.core.somaxconn`.
pub(super) const BACKLOG: i32 = 4096;
/// The mode of the file until its own mode and group are set.
const OWNER_ONLY: u32 = 0o600;

/// How often another name is tried. A name is taken when a process was killed while it started.
const NAMES: usize = 16;

/// Device and inode: which file it is, whatever its name.
type FileId = (u64, u64);

/// Why an address can't be used.
#[derive(Debug)]
pub(super) enum BindErrorKind {
    Io(io::Error),
    Answered,
    NotASocket,
}

/// The mode and the group of a Unix socket's file, which decide who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAccess {
    mode: u32,
    group: Option<Gid>,
}

impl SocketAccess {
    /// Resolves `group`, a name or a number; `None` stands for the process's own group.
    pub fn new(mode: u32, group: Option<&str>) -> Result<Self, NoSuchGroup> {
        Ok(Self { mode, group: group.map(group_id).transpose()? })
    }
}

/// The system knows no group of that name.
#[derive(Debug, thiserror::Error)]
#[error("there is no group {0:?}")]
pub struct NoSuchGroup(String);

impl NoSuchGroup {
    /// What to do about it.
    pub const HINT: &str = "correct `socket_group`, or create the group";
}

fn group_id(group: &str) -> Result<Gid, NoSuchGroup> {
    if let Ok(number) = group.parse() {
        return Ok(Gid::from_raw(number));
    }
    let found = Group::from_name(group).ok().flatten();
    found.map(|found| found.gid).ok_or_else(|| NoSuchGroup(group.to_owned()))
}

/// Who, beside the owner and the group of a socket's directory, can put another socket in its place and answer its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryAccess {
    /// Nobody.
    Closed,
    /// A process that comes before the daemon can take the path: everybody may write there, and remove their own files (the
    /// sticky bit).
    Sticky,
    /// Everybody, at any time.
    Open,
}

impl DirectoryAccess {
    /// As [`of`](Self::of), for a socket that serves the sidecar's own container: a directory that is a volume of its own, as an
    /// `emptyDir` of Kubernetes, which has mode 0777, counts as closed.
    pub fn of_own(path: &Path) -> io::Result<Self> {
        let directory = path.parent().unwrap_or(path);
        let is_volume = || Some(fs::metadata(directory).ok()?.dev() != fs::metadata(directory.parent()?).ok()?.dev());
        match Self::of(path) {
            Ok(Self::Open) if is_volume() == Some(true) => Ok(Self::Closed),
            access => access,
        }
    }

    /// Looks at the directory in which the socket `path` is, or will be.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mode = fs::metadata(path.parent().unwrap_or(path))?.mode();
        let (sticky, others_write) = (mode & 0o1000 != 0, mode & 0o002 != 0);
        Ok(match (others_write, sticky) {
            (false, _) => Self::Closed,
            (true, true) => Self::Sticky,
            (true, false) => Self::Open,
        })
    }
}

/// Listens at `path`. The file goes when the outcome's second part is dropped.
pub(super) fn listen(path: &Path, access: SocketAccess) -> Result<(UnixListener, SocketFile), BindErrorKind> {
    let prepared = PreparedSocket::prepare(path, access)?;
    match prepared.look()? {
        Occupant::Nobody => prepared.take_free(),
        Occupant::Stale(id) => prepared.replace(id),
    }
}

/// A socket that listens under another name.
struct PreparedSocket<'a> {
    path: &'a Path,
    socket: Socket,
    file: SocketFile,
}

/// What is at the path of a socket, if it may be replaced.
#[derive(Clone, Copy)]
enum Occupant {
    Nobody,
    /// A socket on which no process listens.
    Stale(FileId),
}

/// Whether something at the path would keep a socket from it.
pub(super) fn is_in_the_way(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket())
}

impl<'a> PreparedSocket<'a> {
    fn prepare(path: &'a Path, access: SocketAccess) -> Result<Self, BindErrorKind> {
        let prepare = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // The path must fit, too.
            SockAddr::unix(path)?;
            let name = bind_to_a_free_name(&socket, path)?;
            let file = SocketFile::at(&name)?;
            file.set_access(access)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(Self { path, socket, file })
        };
        prepare().map_err(BindErrorKind::Io)
    }

    /// Looks what is at the path.
    fn look(&self) -> Result<Occupant, BindErrorKind> {
        let found = match fs::symlink_metadata(self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::Nobody),
            Err(error) => return Err(BindErrorKind::Io(error)),
        };
        if !found.file_type().is_socket() {
            return Err(BindErrorKind::NotASocket);
        }
        let probe = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // A process that is too busy to accept could block this for ever.
            socket.set_nonblocking(true)?;
            socket.connect(&SockAddr::unix(self.path)?)
        };
        match probe() {
            Ok(()) => Err(BindErrorKind::Answered),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindErrorKind::Answered),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Occupant::Stale((found.dev(), found.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Occupant::Nobody),
            Err(error) => Err(BindErrorKind::Io(error)),
        }
    }

    /// Takes a path at which nothing was. Something that has come since is not replaced.
    fn take_free(self) -> Result<(UnixListener, SocketFile), BindErrorKind> {
        match renameat_with(CWD, &self.file.path, CWD, self.path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(self.taken()),
            Err(rustix::io::Errno::EXIST) => Err(BindErrorKind::Answered),
            Err(error) if is_unsupported(error) => self.rename(),
            Err(error) => Err(BindErrorKind::Io(error.into())),
        }
    }

    /// Takes the path of the stale socket `stale`. If another daemon has replaced that meanwhile, its socket is put back.
    fn replace(self, stale: FileId) -> Result<(UnixListener, SocketFile), BindErrorKind> {
        let exchange = || renameat_with(CWD, &self.file.path, CWD, self.path, RenameFlags::EXCHANGE);
        match exchange() {
            Ok(()) => {}
            // Another daemon has found it stale, too, and removed it; or it has ended since.
            Err(rustix::io::Errno::NOENT) => return self.take_free(),
            Err(error) if is_unsupported(error) => return self.rename(),
            Err(error) => return Err(BindErrorKind::Io(error.into())),
        }
        let replaced = file_id(&self.file.path).map_err(BindErrorKind::Io)?;
        if replaced != stale {
            exchange().map_err(|error| BindErrorKind::Io(error.into()))?;
            return Err(BindErrorKind::Answered);
        }
        // It stays when it can't be removed, under a name that nobody knows.
        drop(fs::remove_file(&self.file.path));
        Ok(self.taken())
    }

    /// Takes the path where the file system knows no other way: between the last look and this, another daemon might come.
    fn rename(self) -> Result<(UnixListener, SocketFile), BindErrorKind> {
        fs::rename(&self.file.path, self.path).map_err(BindErrorKind::Io)?;
        Ok(self.taken())
    }

    fn taken(mut self) -> (UnixListener, SocketFile) {
        self.path.clone_into(&mut self.file.path);
        (self.socket.into(), self.file)
    }
}

/// A socket's file. On drop it is removed, unless another file has taken its place.
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    id: FileId,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: file_id(path)? })
    }

    /// Gives the file this mode and group.
    ///
    /// # Errors
    ///
    /// Another file is at its path, which is not touched; or the system refuses the change.
    pub(super) fn set_access(&self, access: SocketAccess) -> io::Result<()> {
        let opened = OpenedFile::open(&self.path)?;
        let found = opened.stat()?;
        // While the socket is open, the system gives its inode to no other file.
        if id_of(&found) != self.id || FileType::from_raw_mode(found.st_mode) != FileType::Socket {
            return Err(io::Error::other("another file is in the socket's place"));
        }
        // The group comes first: for a moment the new group has the old mode, which is narrower than the new mode for the old
        // group.
        if let Some(group) = access.group {
            opened.set_group(group)?;
        }
        let mode = Mode::from_raw_mode(access.mode as RawMode);
        if Mode::from_raw_mode(found.st_mode) == mode { Ok(()) } else { opened.set_mode(mode) }
    }
}

/// A file that is held fast, so that what was found out about it stays true whatever happens at its path. The socket's own
/// descriptor does not serve: `fchmod` changes the mode of that, and not the file's.
#[cfg(target_os = "linux")]
struct OpenedFile(std::os::fd::OwnedFd);

#[cfg(target_os = "linux")]
impl OpenedFile {
    /// Opens what is at `path`, be it a link.
    fn open(path: &Path) -> io::Result<Self> {
        use rustix::fs::OFlags;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    fn set_group(&self, group: Gid) -> io::Result<()> {
        let group = rustix::fs::Gid::from_raw(group.as_raw());
        Ok(rustix::fs::chownat(&self.0, "", None, Some(group), AtFlags::EMPTY_PATH)?)
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        // Before Linux 6.6 no call takes a descriptor that was opened with O_PATH; its name in /proc leads to the very file.
        let name = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        Ok(rustix::fs::chmod(name, mode)?)
    }
}

/// A file by its path. Elsewhere than on Linux a socket's file can't be opened. No link is followed; but a file that takes the
/// place between a look and a change is changed.
#[cfg(not(target_os = "linux"))]
struct OpenedFile(PathBuf);

#[cfg(not(target_os = "linux"))]
impl OpenedFile {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(path.to_owned()))
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::lstat(&self.0)?)
    }

    fn set_group(&self, group: Gid) -> io::Result<()> {
        let group = rustix::fs::Gid::from_raw(group.as_raw());
        Ok(rustix::fs::chownat(CWD, &self.0, None, Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn set_mode(&self, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::chmodat(CWD, &self.0, mode, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|id| id == self.id) {
            // An error can't be reported any more.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Binds `socket` to a hidden name beside `path`, which is no longer than most: the kernel limits paths of sockets.
fn bind_to_a_free_name(socket: &Socket, path: &Path) -> io::Result<PathBuf> {
    let mut outcome = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..NAMES {
        let name = path.with_file_name(format!(".{:05x}", fastrand::u32(..1 << 20)));
        outcome = bind_closed(socket, &SockAddr::unix(&name)?).map(|()| name);
        if !matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    outcome
}

/// Binds with a file that only the owner may open, so that nobody else connects before mode and group are set. On Linux the
/// file takes the mode of the socket.
#[cfg(target_os = "linux")]
fn bind_closed(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    rustix::fs::fchmod(socket, rustix::fs::Mode::from_raw_mode(OWNER_ONLY))?;
    socket.bind(address)
}

/// Binds with a file that only the owner may open. Elsewhere than on Linux only the process's umask can do that; other files
/// that the process makes at this moment get the same mode.
#[cfg(not(target_os = "linux"))]
fn bind_closed(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode((!OWNER_ONLY & 0o777) as RawMode));
    let bound = socket.bind(address);
    rustix::process::umask(mask);
    bound
}

/// Whether the file system, or the kernel, knows no such way to rename.
fn is_unsupported(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP].contains(&error)
}

fn file_id(path: &Path) -> io::Result<FileId> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg_attr(target_os = "linux", expect(clippy::unnecessary_cast, reason = "the types differ between systems"))]
fn id_of(found: &Stat) -> FileId {
    (found.st_dev as u64, found.st_ino as u64)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::{fs::PermissionsExt, net::UnixStream},
    };

    use super::*;

    #[test]
    fn a_directory_is_open_where_others_may_write_and_sticky_where_they_can_not_remove_what_is_not_theirs() {
        use DirectoryAccess::{Closed, Open, Sticky};
        let directory = tempfile::tempdir().unwrap();
        for (mode, expected) in
            [(0o700, Closed), (0o775, Closed), (0o1775, Closed), (0o1777, Sticky), (0o1702, Sticky), (0o777, Open), (0o702, Open)]
        {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            let socket = directory.path().join("socket");
            let found = [DirectoryAccess::of(&socket), DirectoryAccess::of_own(&socket)].map(Result::unwrap);
            assert_eq!(found, [expected; 2], "{mode:o}");
        }
    }

    fn access() -> SocketAccess {
        SocketAccess::new(0o600, None).unwrap()
    }

    fn prepare(path: &Path) -> PreparedSocket<'_> {
        PreparedSocket::prepare(path, access()).unwrap()
    }

    /// Leaves the file of a process that was killed.
    fn leave_stale(path: &Path) {
        drop(UnixListener::bind(path).unwrap());
    }

    /// Whether this very listener gets what comes in at the path.
    fn serves(listener: &UnixListener, path: &Path) -> bool {
        let _client = UnixStream::connect(path).unwrap();
        listener.accept().is_ok()
    }

    fn take(prepared: PreparedSocket<'_>, occupant: Occupant) -> Result<(UnixListener, SocketFile), BindErrorKind> {
        match occupant {
            Occupant::Nobody => prepared.take_free(),
            Occupant::Stale(id) => prepared.replace(id),
        }
    }

    #[test]
    fn of_two_starts_that_both_found_the_path_free_or_stale_the_first_has_it() {
        for stale in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("api.sock");
            if stale {
                leave_stale(&path);
            }
            let (first, second) = (prepare(&path), prepare(&path));
            let (first_found, second_found) = (first.look().unwrap(), second.look().unwrap());
            let (listener, file) = take(first, first_found).unwrap();
            assert!(matches!(take(second, second_found), Err(BindErrorKind::Answered)), "stale: {stale}");
            assert!(serves(&listener, &path), "stale: {stale}");
            drop(file);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
        }
    }

    #[test]
    fn a_start_that_is_held_after_its_look_does_not_replace_a_daemon_that_has_come_and_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        leave_stale(&path);
        let held = prepare(&path);
        let found = held.look().unwrap();
        drop(listen(&path, access()).unwrap());
        let (listener, _file) = take(held, found).unwrap();
        assert!(serves(&listener, &path));
    }

    #[test]
    fn a_second_start_finds_the_first_answering_from_the_moment_its_file_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let (listener, _file) = listen(&path, access()).unwrap();
        assert!(matches!(listen(&path, access()), Err(BindErrorKind::Answered)));
        assert!(serves(&listener, &path) || serves(&listener, &path), "the probe's connection comes first");
    }

    #[test]
    fn mode_and_group_are_given_to_the_sockets_own_file_and_to_no_other() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("api.sock"), directory.path().join("password"));
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
        let open_to_all = SocketAccess::new(0o666, Some(&rustix::process::getgid().as_raw().to_string())).unwrap();
        let (_listener, file) = listen(&path, access()).unwrap();
        file.set_access(open_to_all).unwrap();
        assert_eq!(mode(&path), 0o666);
        fs::write(&target, "secret").unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o400)).unwrap();
        let replace_by: [&dyn Fn(); 3] =
            [&|| symlink(&target, &path).unwrap(), &|| fs::hard_link(&target, &path).unwrap(), &|| {
                drop(UnixListener::bind(&path).unwrap());
            }];
        for replace in replace_by {
            fs::remove_file(&path).unwrap();
            replace();
            let before = mode(&path);
            assert!(file.set_access(SocketAccess::new(0o646, None).unwrap()).is_err());
            assert_eq!((mode(&path), mode(&target)), (before, 0o400));
        }
        fs::remove_file(&path).unwrap();
        assert!(file.set_access(access()).is_err());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(listen(&path, access()), Err(BindErrorKind::NotASocket)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
