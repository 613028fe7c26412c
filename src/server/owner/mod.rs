//! Finds the user who owns the client's socket of a local TCP connection, by the kernel's socket diagnostics
//! (`sock_diag(7)`). Linux only.
//!
//! Guarantees: an answer counts only if it is about exactly the connection that was asked about, and about a socket that a
//! process still holds. The kernel answers within the call that asks, so nothing here blocks.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SOCK_DIAG, recv, send, socket_with};

/// `SOCK_DIAG_BY_FAMILY`: the type of request and response.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`; without `NLM_F_DUMP` it asks about one socket.
const REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
/// `AF_INET` and `AF_INET6`; the kernel's ABI fixes both numbers.
const FAMILIES: [u8; 2] = [2, 10];

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of a request: `struct nlmsghdr` and `struct inet_diag_req_v2`.
const QUESTION: u32 = 16 + 56;
/// Bytes of `struct inet_diag_msg`.
const ANSWER: usize = 72;

/// The user who owns the socket at `from` that is connected to `ours`. `None` when it belongs to another machine or network
/// namespace, when it is closed already, or when the kernel does not tell.
pub(super) fn owner(from: SocketAddr, ours: SocketAddr) -> Option<u32> {
    match holder(from, ours)? {
        Holder::User(uid) => Some(uid),
        Holder::Nobody => None,
    }
}

/// Whether the client's socket was closed by its last process. False when the kernel does not tell.
pub(super) fn is_abandoned(from: SocketAddr, ours: SocketAddr) -> bool {
    holder(from, ours) == Some(Holder::Nobody)
}

/// Whether the kernel answers that no process here holds the client's socket: it was closed, or is not there any more. That is so
/// for each client of another machine.
pub(super) fn is_held_by_nobody(from: SocketAddr, ours: SocketAddr) -> bool {
    let mut answer = [0; 1024];
    let Some(question) = question(from, ours) else { return false };
    let Some(answer) = ask(&question, &mut answer).ok().and_then(|length| answer.get(..length)) else { return false };
    !matches!(holder_in(answer, from, ours), Some(Holder::User(_)))
}

/// Who holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// A process that runs, or ran when it made the socket, as this user.
    User(u32),
    /// No process; the kernel finishes the connection.
    Nobody,
}

fn holder(from: SocketAddr, ours: SocketAddr) -> Option<Holder> {
    let mut answer = [0; 1024];
    let length = ask(&question(from, ours)?, &mut answer).ok()?;
    holder_in(answer.get(..length)?, from, ours)
}

/// Sends one request on a netlink socket of its own: no other response can arrive there, and only root and the kernel can write
/// to it.
fn ask(question: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG))?;
    send(&socket, question, SendFlags::empty())?;
    let (length, _) = recv(&socket, answer, RecvFlags::DONTWAIT)?;
    Ok(length)
}

/// The request for the client's socket, whose own end is `from`.
fn question(from: SocketAddr, ours: SocketAddr) -> Option<Vec<u8>> {
    let (own, other) = (from.ip().to_canonical(), ours.ip().to_canonical());
    let family = match (own, other) {
        (IpAddr::V4(_), IpAddr::V4(_)) => FAMILIES[0],
        (IpAddr::V6(_), IpAddr::V6(_)) => FAMILIES[1],
        _ => return None,
    };
    let interface = if let SocketAddr::V6(from) = from { from.scope_id() } else { 0 };
    let fields: [&[u8]; 12] = [
        &QUESTION.to_ne_bytes(),
        &BY_FAMILY.to_ne_bytes(),
        &REQUEST.to_ne_bytes(),
        // `nlmsg_seq` and `nlmsg_pid`, which tell several requests apart.
        &[0; 8],
        // Family and protocol, then no extensions, then one byte of padding.
        &[family, IPPROTO_TCP, 0, 0],
        // All states of a socket.
        &u32::MAX.to_ne_bytes(),
        &from.port().to_be_bytes(),
        &ours.port().to_be_bytes(),
        &octets(own),
        &octets(other),
        &interface.to_ne_bytes(),
        // `INET_DIAG_NOCOOKIE`: any socket with these addresses.
        &[0xff; 8],
    ];
    Some(fields.concat())
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut padded = [0; 16];
            padded[..4].copy_from_slice(&address.octets());
            padded
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// The holder in a response, if it is about this connection. Without such a connection, the kernel describes the socket that
/// listens at the port. For a socket that no process holds any more (closed, or in `TIME_WAIT`) it gives root and no inode.
fn holder_in(answer: &[u8], from: SocketAddr, ours: SocketAddr) -> Option<Holder> {
    if answer.get(4..6)? != BY_FAMILY.to_ne_bytes() {
        return None;
    }
    let socket: &[u8; ANSWER] = answer.get(HEADER..HEADER + ANSWER)?.try_into().ok()?;
    // Byte 0 is `idiag_family`; `id` begins at byte 4.
    let end = |port: usize, address: usize| Some((u16::from_be_bytes(field(socket, port)), end_address(socket, address)?));
    let is = |address: SocketAddr| Some((address.port(), address.ip().to_canonical()));
    if end(4, 8) != is(from) || end(6, 24) != is(ours) {
        return None;
    }
    let (uid, inode) = (u32::from_ne_bytes(field(socket, 64)), u32::from_ne_bytes(field(socket, 68)));
    Some(if inode == 0 { Holder::Nobody } else { Holder::User(uid) })
}

/// Reads an address. For a socket of both families, such as Java's, the kernel gives an IPv4 address as a mapped IPv6 one.
fn end_address(socket: &[u8; ANSWER], at: usize) -> Option<IpAddr> {
    match socket[0] {
        family if family == FAMILIES[0] => Some(IpAddr::V4(Ipv4Addr::from(field::<4>(socket, at)))),
        family if family == FAMILIES[1] => Some(IpAddr::V6(Ipv6Addr::from(field::<16>(socket, at))).to_canonical()),
        _ => None,
    }
}

/// Reads the bytes at `at`, one of the offsets above, which all lie within a response.
fn field<const BYTES: usize>(socket: &[u8; ANSWER], at: usize) -> [u8; BYTES] {
    std::array::from_fn(|byte| socket[at + byte])
}

#[cfg(test)]
mod tests;
