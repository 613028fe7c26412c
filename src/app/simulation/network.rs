//! The simulated network: servers by address, and what may go wrong on the way to them.
//!
//! A connection is a pair of sockets inside the process. The daemon has one end, as if it were TCP; the server has the other.

use std::{
    io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    time::sleep,
};

use super::{
    careportals, http2,
    servers::{Reception, TLS_ADDRESS, server_at},
    third, third_account,
    upstreams::{CONNECT_TIMEOUT, Link, Role, role_of},
    wire::{End, Fate, Wire},
    world::World,
};
use crate::{clock, simulated};

/// How the daemon sees the network.
pub(super) struct Network(pub(super) Weak<World>);

impl simulated::Network for Network {
    fn connect(&self, address: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>> {
        let world = self.0.upgrade();
        Box::pin(async move {
            let Some(world) = world else { return Err(io::ErrorKind::NetworkUnreachable.into()) };
            let _waiting = Waiting { world: Arc::clone(&world), role: role_of(address), since: clock::instant() };
            match receive(&world, address) {
                Reception::Taken(after) => {
                    sleep(after).await;
                    let (theirs, ours) = StdUnixStream::pair()?;
                    for end in [&theirs, &ours] {
                        end.set_nonblocking(true)?;
                    }
                    serve(&world, address, UnixStream::from_std(ours)?);
                    TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(theirs)))
                }
                Reception::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
                Reception::Unreachable => Err(io::ErrorKind::NetworkUnreachable.into()),
                Reception::Silence => std::future::pending().await,
            }
        })
    }
}

/// An attempt to connect, which ends when it is dropped.
struct Waiting {
    world: Arc<World>,
    role: Role,
    since: tokio::time::Instant,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        if matches!(self.role, Role::Calls(_)) && waited > CONNECT_TIMEOUT + Duration::from_millis(200) {
            self.world.break_promise(format!("the daemon has waited for a connection for {waited:?}"));
        }
    }
}

/// Draws what becomes of an attempt to connect, and judges it.
fn receive(world: &World, address: SocketAddr) -> Reception {
    if third_account::is_its(address) {
        return Reception::Taken(world.milliseconds(0..=40));
    }
    let server = server_at(address);
    let reception = world.state(|state| state.receptions[server]);
    let reception = reception.unwrap_or_else(|| Reception::Taken(world.milliseconds(0..=40)));
    let role = role_of(address);
    world.note(&format!("server {server}: a connection for {role:?}, {reception:?}"));
    if let Some(fault) = world.upstreams().attempt(role) {
        world.break_promise(fault);
    }
    if !matches!(reception, Reception::Taken(after) if after < Duration::from_secs(1)) {
        world.upstreams().trouble(role);
        world.ledger(|ledger, at| ledger.trouble_at(at, server));
    }
    reception
}

/// Has the server of that address serve a new connection.
fn serve(world: &Arc<World>, address: SocketAddr, stream: UnixStream) {
    let world = Arc::clone(world);
    if third_account::is_its(address) {
        tokio::spawn(third::serve(world, stream));
        return;
    }
    let (frailty, lag) = world.state(|state| (state.frailty, state.lag));
    let end = world.chance(frailty).then(|| {
        let how = if world.chance(0.3) { End::Silence } else { End::Close };
        // Often within the first head, or the first answer's.
        let bytes = || if world.chance(0.5) { world.draw(1..=600) } else { world.draw(1..=300_000) };
        (bytes(), bytes(), how)
    });
    let fate = Fate { end, lag };
    let number = world.upstreams().opened(role_of(address), world.oldest_of_new(), fate.end.is_some());
    let link = Link { server: server_at(address), address, number };
    world.begin_serving();
    tokio::spawn(async move {
        if address == TLS_ADDRESS {
            http2::serve(Arc::clone(&world), link, stream, fate).await;
        } else {
            let wire = Wire::of_server(Box::new(stream), fate, Arc::clone(&world), link);
            careportals::serve(Arc::clone(&world), link, wire).await;
        }
        world.end_serving();
    });
}
