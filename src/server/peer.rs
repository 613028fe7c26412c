//! Identifies the client of a connection, as far as the kernel knows it: user, groups, process.
//!
//! Over a Unix socket the kernel tells it when the connection is accepted. Over TCP it is asked when a rule needs the answer, and
//! no more once it has answered. Guarantees: an unknown client is no user and in no group; no call here blocks.

use std::{
    fmt, fs,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use tokio::net::unix::UCred;

use crate::origin::is_loopback;

/// The id that the kernel gives for every user and group without a number in our user namespace.
const OVERFLOW: u32 = 65_534;

/// The client of a connection. Clones share what was found out.
#[derive(Clone)]
pub struct Peer(Arc<PeerIdentity>);

enum PeerIdentity {
    /// The client's address, the address that it connected to, and the user who owns the client's socket, once known.
    Tcp { from: SocketAddr, ours: SocketAddr, owner: OnceLock<u32> },
    /// The client's ids when it connected, and its supplementary groups, once known.
    Unix { client: Option<UCred>, groups: OnceLock<Vec<u32>> },
}

impl Peer {
    /// Describes a TCP client. `from`: the client's address, `ours`: the address that it connected to.
    #[must_use]
    pub fn tcp(from: SocketAddr, ours: SocketAddr) -> Self {
        Self(Arc::new(PeerIdentity::Tcp { from, ours, owner: OnceLock::new() }))
    }

    /// Describes the client of a Unix socket. `client`: the result of `SO_PEERCRED`.
    #[must_use]
    pub fn unix(client: Option<UCred>) -> Self {
        Self(Arc::new(PeerIdentity::Unix { client, groups: OnceLock::new() }))
    }

    /// The user id. It is known on Unix sockets, and over TCP once [`Self::is_user`] has found it out.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        match &*self.0 {
            PeerIdentity::Tcp { owner, .. } => owner.get().copied(),
            PeerIdentity::Unix { client, .. } => client.map(|client| client.uid()),
        }
    }

    /// The process id. It is known on Unix sockets only.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match &*self.0 {
            PeerIdentity::Tcp { .. } => None,
            PeerIdentity::Unix { client, .. } => client.and_then(|client| client.pid()),
        }
    }

    /// Whether the client is on this machine: it came over loopback, or on a Unix socket.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &*self.0 {
            PeerIdentity::Tcp { from, .. } => is_loopback(from.ip()),
            PeerIdentity::Unix { .. } => true,
        }
    }

    /// Whether a client on this machine is known to have gone, so that nobody will know who it was.
    #[must_use]
    pub fn has_gone(&self) -> bool {
        match &*self.0 {
            PeerIdentity::Tcp { from, ours, .. } => self.is_local() && is_held_by_nobody(*from, *ours),
            PeerIdentity::Unix { .. } => false,
        }
    }

    /// Whether the client is known to be one of these users. Over TCP, that is the owner of the client's socket; the first call
    /// asks the kernel, with a few system calls that do not block.
    #[must_use]
    pub fn is_user(&self, uids: &[u32]) -> bool {
        let uid = match &*self.0 {
            // A failure is not kept, since descriptors can run out for a moment.
            PeerIdentity::Tcp { from, ours, owner } => owner.get().copied().or_else(|| {
                let uid = owner_of(*from, *ours)?;
                Some(*owner.get_or_init(|| uid))
            }),
            PeerIdentity::Unix { client, .. } => client.map(|client| client.uid()),
        };
        uid.is_some_and(|uid| uids.contains(&uid) && is_one_user(uid))
    }

    /// Whether the client is known to be in one of these groups. Always false over TCP: a socket has an owner, and no groups.
    #[must_use]
    pub fn is_in(&self, gids: &[u32]) -> bool {
        let PeerIdentity::Unix { client: Some(client), groups } = &*self.0 else { return false };
        let is_listed = |gid: u32| gids.contains(&gid) && is_one_id(gid, "gid");
        if is_listed(client.gid()) {
            return true;
        }
        if groups.get().is_none()
            && let Some(read) = further_groups(client)
        {
            drop(groups.set(read));
        }
        groups.get().is_some_and(|groups| groups.iter().copied().any(is_listed))
    }
}

impl fmt::Debug for Peer {
    /// Leaves out the addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("uid", &self.uid()).field("pid", &self.pid()).finish_non_exhaustive()
    }
}

/// Whether no process holds the client's socket any more: it was closed. Only a client on this machine is found out about.
#[cfg(target_os = "linux")]
pub(super) fn is_abandoned(from: SocketAddr, ours: SocketAddr) -> bool {
    super::owner::is_abandoned(from, ours)
}

/// Other systems do not tell who owns a socket.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_abandoned(_: SocketAddr, _: SocketAddr) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn is_held_by_nobody(from: SocketAddr, ours: SocketAddr) -> bool {
    super::owner::is_held_by_nobody(from, ours)
}

/// Other systems do not tell who owns a socket.
#[cfg(not(target_os = "linux"))]
fn is_held_by_nobody(_: SocketAddr, _: SocketAddr) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn owner_of(from: SocketAddr, ours: SocketAddr) -> Option<u32> {
    super::owner::owner(from, ours)
}

/// Other systems do not tell who owns a socket.
#[cfg(not(target_os = "linux"))]
fn owner_of(_: SocketAddr, _: SocketAddr) -> Option<u32> {
    None
}

/// Whether the user id stands for one user. In a user namespace 65534 may be anybody: the kernel shows it for every user without a
/// number there, and for one who has that number.
#[must_use]
pub fn is_one_user(uid: u32) -> bool {
    is_one_id(uid, "uid")
}

/// Whether the id stands for one user or group. [`OVERFLOW`] does so only outside a user namespace.
fn is_one_id(id: u32, kind: &str) -> bool {
    id != OVERFLOW || fs::read_to_string(format!("/proc/self/{kind}_map")).is_ok_and(|map| is_initial_map(&map))
}

/// Whether an id map (`user_namespaces(7)`) is that of the initial namespace.
fn is_initial_map(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Reads the client's supplementary groups from `/proc`, where there is one.
///
/// By now another process may have the client's number, or the client may have changed its ids. The groups count only if all
/// ids of the process are those that connected: a caller with these ids may trace the process, and so has its groups anyway.
fn further_groups(client: &UCred) -> Option<Vec<u32>> {
    // The file is not always UTF-8, since it contains the process's name.
    let status = fs::read(format!("/proc/{}/status", client.pid()?)).ok()?;
    groups_in(&String::from_utf8_lossy(&status), client.uid(), client.gid())
}

fn groups_in(status: &str, uid: u32, gid: u32) -> Option<Vec<u32>> {
    let numbers = |name: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().map(|number| number.parse().ok()).collect()
    };
    let is_wholly = |name: &str, id: u32| numbers(name).is_some_and(|ids| ids.len() == 4 && ids.iter().all(|of| *of == id));
    if is_wholly("Uid:", uid) && is_wholly("Gid:", gid) { numbers("Groups:") } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tapp\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\nGroups:\t7 100 4711 \nNgid:\t0\n";

    #[test]
    fn the_groups_of_a_process_count_if_all_its_ids_are_those_that_connected() {
        assert_eq!(groups_in(STATUS, 1000, 100), Some(vec![7, 100, 4711]));
        assert_eq!(groups_in(&STATUS.replace("7 100 4711", ""), 1000, 100), Some(Vec::new()));
        assert_eq!(groups_in(STATUS, 1001, 100), None, "another user's");
        assert_eq!(groups_in(STATUS, 1000, 101), None, "another group's");
        for changed in ["Uid:\t1000\t0\t1000\t1000", "Uid:\t1000\t1000\t0\t1000", "Uid:\t1000", "Uid:", "Uid:\tx x x x"] {
            let status = STATUS.replace("Uid:\t1000\t1000\t1000\t1000", changed);
            assert_eq!(groups_in(&status, 1000, 100), None, "{changed}");
        }
        assert_eq!(groups_in(&STATUS.replace("100\t100\nGroups", "100\t0\nGroups"), 1000, 100), None);
        assert_eq!(groups_in("", 1000, 100), None);
    }

    #[test]
    fn the_overflow_id_is_one_user_only_in_the_initial_user_namespace() {
        assert!(is_initial_map("         0          0 4294967295\n"));
        for map in ["", "0 1000 1\n", "0 0 65536\n", "0 100000 65536\n", "0 0 1000\n1000 0 4294966295\n"] {
            assert!(!is_initial_map(map), "{map}");
        }
        assert!(is_one_id(OVERFLOW - 1, "uid") && !is_one_id(OVERFLOW, "no such"));
    }

    #[tokio::test]
    async fn the_client_of_a_unix_socket_is_its_user_and_in_its_groups() {
        let (ours, _theirs) = tokio::net::UnixStream::pair().unwrap();
        let credentials = ours.peer_cred().unwrap();
        let peer = Peer::unix(Some(credentials));
        assert!(peer.is_user(&[1, credentials.uid()]) && peer.is_in(&[1, credentials.gid()]));
        assert!(!peer.is_user(&[credentials.uid() + 1]) && !peer.is_in(&[4_000_000_000]));
        for group in rustix::process::getgroups().unwrap() {
            assert!(peer.is_in(&[group.as_raw()]), "{group:?}");
        }
    }

    #[test]
    fn a_client_over_loopback_is_on_this_machine_also_at_a_socket_for_both_families() {
        for (ip, is_local) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]", true),
            ("192.0.2.1", false),
            ("[::ffff:192.0.2.1]", false),
        ] {
            let [from, ours] = [4000, 2273].map(|port| format!("{ip}:{port}").parse().unwrap());
            assert_eq!(Peer::tcp(from, ours).is_local(), is_local, "{ip}");
        }
    }

    #[test]
    fn an_unknown_client_is_no_user_and_in_no_group() {
        let peer = Peer::unix(None);
        assert!(!peer.is_user(&[0]) && !peer.is_in(&[0]) && peer.uid().is_none());
        let peer = Peer::tcp("192.0.2.1:4000".parse().unwrap(), "192.0.2.2:2273".parse().unwrap());
        assert!(!peer.is_user(&[0]) && !peer.is_in(&[0]) && !peer.is_local());
        assert!(!format!("{peer:?}").contains("192.0.2"));
    }
}
