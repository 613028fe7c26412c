//! Finds the process that holds an address, for the message that it is in use.
//!
//! It reads `/proc`, which Linux alone has, and which shows other users' processes to root alone: otherwise the user is named.

use std::{fs, net::SocketAddr, path::Path};

use socket2::{Domain, SockAddr, Socket, Type};

/// The process that listens on the address, or its user, in words. `None`: the system does not tell.
pub(super) fn of(address: SocketAddr) -> Option<String> {
    // A socket for every IPv6 address may take IPv4's, too.
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let (uid, inode) = tables.iter().find_map(|table| table.lines().find_map(|line| listener(line, address)))?;
    Some(process_with(&format!("socket:[{inode}]")).unwrap_or_else(|| format!("a process of uid {uid}")))
}

/// The process that listens on the Unix socket, in words. It is asked for by a connection, since the kernel's table has the name
/// under which the socket was bound, and ours are renamed then.
pub(super) fn of_socket(path: &Path) -> Option<String> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).ok()?;
    // A process that is too busy to accept could block this for ever.
    socket.set_nonblocking(true).ok()?;
    socket.connect(&SockAddr::unix(path).ok()?).ok()?;
    named(&peer_pid(&socket)?.to_string())
}

#[cfg(target_os = "linux")]
fn peer_pid(socket: &Socket) -> Option<i32> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    // A process in another PID namespace has the number 0.
    getsockopt(socket, PeerCredentials).ok().map(|peer| peer.pid()).filter(|pid| *pid > 0)
}

#[cfg(not(target_os = "linux"))]
fn peer_pid(_: &Socket) -> Option<i32> {
    None
}

/// User and inode of the line's socket, if it listens where `address` can't be bound because of it (`proc_net_tcp(5)`).
fn listener(line: &str, address: SocketAddr) -> Option<(&str, &str)> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, _, LISTEN, _, _, _, uid, _, inode, ..] = fields[..] else { return None };
    let (host, port) = local.rsplit_once(':')?;
    let is_port = u16::from_str_radix(port, 16) == Ok(address.port());
    let is_host = address.ip().is_unspecified() || host == in_hexadecimal(address) || host.bytes().all(|digit| digit == b'0');
    (is_port && is_host).then_some((uid, inode))
}

/// The address as the kernel prints it: words of 32 bits in the machine's own order.
fn in_hexadecimal(address: SocketAddr) -> String {
    let octets = match address {
        SocketAddr::V4(address) => address.ip().octets().to_vec(),
        SocketAddr::V6(address) => address.ip().octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    words.fold(String::new(), |shown, word| format!("{shown}{word:08X}"))
}

/// A process that holds the descriptor, among those whose descriptors we may see.
fn process_with(descriptor: &str) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let holds = |process: &fs::DirEntry| {
        let mut descriptors = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        descriptors.any(|open| fs::read_link(open.path()).is_ok_and(|target| target.as_os_str() == descriptor))
    };
    let is_process = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
    let mut holding = processes.filter(|entry| is_process(entry) && holds(entry));
    named(&holding.next()?.file_name().to_string_lossy())
}

/// The name and number of a process. A name may hold anything, so what a terminal might obey is left out.
fn named(pid: &str) -> Option<String> {
    // The kernel cuts the second one off after 15 bytes, and shows it of everybody's processes.
    let program =
        fs::read_link(format!("/proc/{pid}/exe")).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let name = program.map_or_else(|| fs::read_to_string(format!("/proc/{pid}/comm")), Ok).ok()?;
    let name: String = name.chars().filter(|letter| !letter.is_control()).collect();
    Some(format!("{name} (pid {pid})"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_owner_of_an_address_is_named() {
        let pid = std::process::id();
        for bound in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(bound).unwrap();
            let port = listener.local_addr().unwrap().port();
            for wanted in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")] {
                let owner = of(wanted.parse().unwrap()).unwrap();
                assert!(owner.ends_with(&format!("(pid {pid})")), "{owner}");
            }
        }
        assert_eq!(of("127.0.0.1:0".parse().unwrap()), None);
    }

    #[test]
    fn the_owner_of_a_socket_is_named_while_it_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let owner = of_socket(&path).unwrap();
        assert!(owner.ends_with(&format!("(pid {})", std::process::id())), "{owner}");
        drop(listener);
        assert_eq!(of_socket(&path), None);
    }

    #[test]
    fn only_a_listener_that_is_in_the_way_is_the_owner() {
        let line = |local: &str, state: &str| {
            format!("  3: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000 0 77 1")
        };
        let address = |text: &str| text.parse().unwrap();
        for (local, state, wanted, is_owner) in [
            ("0100007F:1F90", "0A", "127.0.0.1:8080", true),
            ("00000000:1F90", "0A", "127.0.0.1:8080", true),
            ("0100007F:1F90", "0A", "0.0.0.0:8080", true),
            ("0200007F:1F90", "0A", "127.0.0.1:8080", false),
            ("0100007F:1F91", "0A", "127.0.0.1:8080", false),
            ("00000000:1F91", "0A", "0.0.0.0:8080", false),
            ("0100007F:1F90", "01", "127.0.0.1:8080", false),
            ("0100007F", "0A", "127.0.0.1:8080", false),
        ] {
            let line = line(local, state);
            assert_eq!(listener(&line, address(wanted)), is_owner.then_some(("1000", "77")), "{line} {wanted}");
        }
        assert_eq!(listener("  sl  local_address rem_address", address("0.0.0.0:0")), None);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_prints_them() {
        assert_eq!(in_hexadecimal("127.0.0.1:80".parse().unwrap()), "0100007F");
        assert_eq!(in_hexadecimal("[::1]:80".parse().unwrap()), "00000000000000000000000001000000");
    }
}
