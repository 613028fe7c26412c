//! Whose socket is at the other end of a TCP connection on this machine, by the kernel's socket diagnostics (`sock_diag(7)`).
//!
//! Depends on nothing. Linux only. Guarantees: the answer is about exactly the connection that was asked about, and about a
//! socket that some process still holds; whatever else comes back is nobody. The kernel answers while it is asked, so that
//! nothing is waited for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SOCK_DIAG, recv, send, socket_with};

/// `SOCK_DIAG_BY_FAMILY`: the type of question and answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`, without `NLM_F_DUMP`: about one socket.
const REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
/// `AF_INET` and `AF_INET6`, which the ABI keeps for good.
const FAMILIES: [u8; 2] = [2, 10];

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// `struct inet_diag_msg`.
const ANSWER: usize = 72;

/// The user whose socket `from` is, connected to `ours`. `None`: another machine's, another network namespace's, one that
/// is closed already, or the kernel doesn't tell.
pub(super) fn owner(from: SocketAddr, ours: SocketAddr) -> Option<u32> {
    let mut answer = [0; 1024];
    let length = ask(&question(from, ours)?, &mut answer).ok()?;
    owner_in(answer.get(..length)?, from, ours)
}

/// A socket for one question alone: there is no other answer that could come, and only root can write to it but the kernel.
fn ask(question: &[u8], answer: &mut [u8]) -> io::Result<usize> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG))?;
    send(&socket, question, SendFlags::empty())?;
    let (length, _) = recv(&socket, answer, RecvFlags::DONTWAIT)?;
    Ok(length)
}

/// The connection as the other side sees it: its own end first.
fn question(from: SocketAddr, ours: SocketAddr) -> Option<[u8; HEADER + QUESTION]> {
    let (own, other) = (from.ip().to_canonical(), ours.ip().to_canonical());
    let family = match (own, other) {
        (IpAddr::V4(_), IpAddr::V4(_)) => FAMILIES[0],
        (IpAddr::V6(_), IpAddr::V6(_)) => FAMILIES[1],
        _ => return None,
    };
    let interface = if let SocketAddr::V6(from) = from { from.scope_id() } else { 0 };
    let mut message = [0; HEADER + QUESTION];
    let mut rest = message.as_mut_slice();
    let length = u32::try_from(HEADER + QUESTION).ok()?;
    let mut put = |bytes: &[u8]| {
        if let Some((place, after)) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
            place.copy_from_slice(bytes);
            rest = after;
        }
    };
    put(&length.to_ne_bytes());
    put(&BY_FAMILY.to_ne_bytes());
    put(&REQUEST.to_ne_bytes());
    // The number and the sender of the question, for whoever asks several.
    put(&[0; 8]);
    // No extensions; one byte of padding.
    put(&[family, IPPROTO_TCP, 0, 0]);
    // In whatever state.
    put(&u32::MAX.to_ne_bytes());
    put(&from.port().to_be_bytes());
    put(&ours.port().to_be_bytes());
    put(&octets(own));
    put(&octets(other));
    put(&interface.to_ne_bytes());
    // `INET_DIAG_NOCOOKIE`: whichever socket it is.
    put(&[0xff; 8]);
    Some(message)
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

/// What an answer says, if it is about that connection. Without a connection the kernel tells of who listens at the port;
/// of a socket that nobody holds any more (closed, or waiting out its time) it says that root owns it, without an inode.
fn owner_in(answer: &[u8], from: SocketAddr, ours: SocketAddr) -> Option<u32> {
    if answer.get(4..6)? != BY_FAMILY.to_ne_bytes() {
        return None;
    }
    let socket: &[u8; ANSWER] = answer.get(HEADER..HEADER + ANSWER)?.try_into().ok()?;
    // `idiag_family`; `id` begins at the fourth byte.
    let end = |port: usize, address: usize| Some((u16::from_be_bytes(field(socket, port)), end_address(socket, address)?));
    let is = |address: SocketAddr| Some((address.port(), address.ip().to_canonical()));
    if end(4, 8) != is(from) || end(6, 24) != is(ours) {
        return None;
    }
    let (uid, inode) = (u32::from_ne_bytes(field(socket, 64)), u32::from_ne_bytes(field(socket, 68)));
    (inode != 0).then_some(uid)
}

/// Of a socket for both families (Java's) the kernel gives IPv4 addresses as mapped ones.
fn end_address(socket: &[u8; ANSWER], at: usize) -> Option<IpAddr> {
    match socket[0] {
        family if family == FAMILIES[0] => Some(IpAddr::V4(Ipv4Addr::from(field::<4>(socket, at)))),
        family if family == FAMILIES[1] => Some(IpAddr::V6(Ipv6Addr::from(field::<16>(socket, at))).to_canonical()),
        _ => None,
    }
}

/// `at` is one of the places above, all within an answer.
fn field<const BYTES: usize>(socket: &[u8; ANSWER], at: usize) -> [u8; BYTES] {
    std::array::from_fn(|byte| socket[at + byte])
}

#[cfg(test)]
mod tests;
