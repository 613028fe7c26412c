//! The accounts, the servers and their addresses, and what servers may do with connections, log-ins and calls.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

/// How many servers there are. Each logs in, and takes calls.
pub(super) const SERVERS: usize = 2;

/// The address of a server for the first API.
pub(super) fn address(server: usize) -> SocketAddr {
    // No packet goes there.
    SocketAddr::from(([127, 0, 0, 1], if server == 0 { 7001 } else { 7002 }))
}

/// Where the second server speaks TLS, and HTTP/2.
pub(super) const TLS_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7003));
/// Where it serves the second API otherwise.
pub(super) const SECOND_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7004));

/// Where a server takes log-ins.
pub(super) fn log_in_address(server: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], if server == 0 { 7011 } else { 7012 }))
}

/// The accounts, each with an API of its name. The first one's server and credentials change; the second one's never do.
pub(super) const ACCOUNTS: [&str; 2] = ["default", "other"];

/// The account whose API repeats requests that carry an `Idempotency-Key`.
pub(super) const RELIES_ON_KEYS: usize = 1;

/// The account of an organization.
pub(super) fn account_of(organization: &str) -> usize {
    usize::from(organization == ACCOUNTS[1])
}

/// The server of that address.
pub(super) fn server_at(address: SocketAddr) -> usize {
    usize::from(address != self::address(0) && address != log_in_address(0))
}

/// What becomes of one attempt to connect.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reception {
    /// It succeeds after that time.
    Taken(Duration),
    /// Nobody listens.
    Refused,
    /// There is no route.
    Unreachable,
    /// There is no answer.
    Silence,
}

/// What a server does with log-ins, or with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// It answers them.
    Well,
    /// It answers after that time.
    Slow(Duration),
    /// It answers with that status; with `Retry-After` where there is a number.
    Status(u16, Option<u32>),
    /// It reads, and never answers.
    Silent,
    /// Its answer ends early.
    Truncated,
    /// Its answer stops early, and the connection stays open.
    Stalled,
    /// Its answer is none.
    Garbage,
    /// Log-ins: it gives no token. Calls: two requests of three are 401, whatever their token.
    Odd,
    /// Log-ins: its answer is longer than is read. Calls: its answer's head is.
    Huge,
    /// Log-ins: it gives a token that has expired. Calls: it closes the connection without an answer.
    Stale,
}
