//! Connects to the one of a host's addresses that answers first (RFC 8305, "Happy Eyeballs").
//!
//! Guarantees: an address that does not answer delays the next one by [`HEAD_START`]; an address that refuses delays it not at
//! all; the other attempts are closed when one succeeds.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use rustix::io::Errno;
use tokio::{net::TcpStream, time::sleep};

use super::ConnectError;
use crate::clock;

/// The delay between two attempts (RFC 8305, 5: "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to one of `addresses`, which are in the resolver's order. The caller sets a time limit; dropping the future closes
/// all attempts. When all attempts fail, the error is that of the highest precedence.
pub(super) async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut waiting = interleaved(addresses).into_iter();
    let mut attempts: Vec<Pin<Box<_>>> = Vec::new();
    let mut failed = None;
    let mut head_start = pin!(sleep(Duration::ZERO));
    std::future::poll_fn(|cx| {
        loop {
            if head_start.as_mut().poll(cx).is_ready() || attempts.is_empty() {
                match waiting.next() {
                    Some(address) => {
                        attempts.push(Box::pin(dial(address)));
                        head_start.as_mut().reset(clock::instant() + HEAD_START);
                        continue;
                    }
                    None if attempts.is_empty() => return Poll::Ready(Err(failed.unwrap_or(ConnectError::Unreachable))),
                    None => {}
                }
            }
            let Some((index, outcome)) =
                attempts.iter_mut().enumerate().find_map(|(index, attempt)| match attempt.as_mut().poll(cx) {
                    Poll::Ready(outcome) => Some((index, outcome)),
                    Poll::Pending => None,
                })
            else {
                return Poll::Pending;
            };
            match outcome {
                Ok(tcp) => return Poll::Ready(Ok(tcp)),
                Err(error) => {
                    drop(attempts.swap_remove(index));
                    failed = Some(of_higher_precedence(failed, classify(&error)));
                    // The next attempt need not wait for one that has failed.
                    head_start.as_mut().reset(clock::instant());
                }
            }
        }
    })
    .await
}

/// Opens TCP to one address.
async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    #[cfg(test)]
    if let Some(network) = crate::simulated::network() {
        return network.connect(address).await;
    }
    TcpStream::connect(address).await
}

/// Orders addresses so that families take turns, beginning with the first address's family; each family keeps its order
/// (RFC 8305, 4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_ipv4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut same, mut other): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address: &SocketAddr| address.is_ipv4() == first_is_ipv4);
    same.reverse();
    other.reverse();
    let mut all = Vec::with_capacity(addresses.len());
    while !(same.is_empty() && other.is_empty()) {
        all.extend(same.pop());
        all.extend(other.pop());
    }
    all
}

/// Error precedence: ours, then refused, then timed out, then unreachable.
fn of_higher_precedence(before: Option<ConnectError>, now: ConnectError) -> ConnectError {
    let rank = |error| match error {
        ConnectError::NoDescriptor => 3,
        ConnectError::Refused => 2,
        ConnectError::Timeout => 1,
        _ => 0,
    };
    before.filter(|before| rank(*before) >= rank(now)).unwrap_or(now)
}

fn classify(error: &io::Error) -> ConnectError {
    match error.kind() {
        _ if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) => ConnectError::NoDescriptor,
        io::ErrorKind::ConnectionRefused => ConnectError::Refused,
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        _ => ConnectError::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// A listener that accepts nobody, and whose queue is full: a client that connects gets no answer.
    struct BlackHole {
        address: SocketAddr,
        socket: Socket,
        _queued: Vec<Socket>,
    }

    impl BlackHole {
        fn dig() -> Self {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
            socket.listen(0).unwrap();
            let address = socket.local_addr().unwrap();
            let queue = || {
                let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                client.set_nonblocking(true).unwrap();
                // It may fail, or never finish.
                let _ = client.connect(&address);
                client
            };
            let queued = (0..4).map(|_| queue()).collect();
            Self { address: address.as_socket().unwrap(), socket, _queued: queued }
        }

        fn listening(&self) -> TcpListener {
            self.socket.set_nonblocking(true).unwrap();
            self.socket.try_clone().unwrap().into()
        }
    }

    /// An address that is bound, but where nothing listens.
    fn refusing() -> (SocketAddr, Socket) {
        refusing_at(Ipv4Addr::LOCALHOST.into()).unwrap()
    }

    fn refusing_at(ip: IpAddr) -> io::Result<(SocketAddr, Socket)> {
        let address = SocketAddr::new(ip, 0);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&address.into())?;
        Ok((socket.local_addr()?.as_socket().unwrap(), socket))
    }

    fn listening() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_delays_the_next_by_its_head_start() {
        let (hole, (live, _listener)) = (BlackHole::dig(), listening());
        let started = clock::instant();
        let tcp = connect(&[hole.address, live]).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), live);
        assert!(started.elapsed() >= HEAD_START);
    }

    #[tokio::test]
    async fn an_address_that_refuses_delays_nobody() {
        let ((dead, _held), (live, _listener)) = (refusing(), listening());
        let hole = BlackHole::dig();
        let started = clock::instant();
        // The last one is tried only if no other has answered by then.
        let tcp = connect(&[dead, live, hole.address]).await.unwrap();
        assert_eq!(tcp.peer_addr().unwrap(), live);
        assert!(started.elapsed() < HEAD_START);
    }

    #[tokio::test]
    async fn an_attempt_goes_on_after_the_next_one_has_begun_and_failed() {
        let (hole, (dead, _held)) = (BlackHole::dig(), refusing());
        let addresses = [hole.address, dead];
        let listener = tokio::net::TcpListener::from_std(hole.listening()).unwrap();
        // It answers late: its queue is emptied only after the second attempt has failed.
        let emptied = async {
            sleep(HEAD_START * 2).await;
            loop {
                drop(listener.accept().await.unwrap());
            }
        };
        let tcp = tokio::select! {
            reached = connect(&addresses) => reached.unwrap(),
            () = emptied => unreachable!("it accepts for ever"),
        };
        assert_eq!(tcp.peer_addr().unwrap(), hole.address);
    }

    #[tokio::test]
    async fn a_refusal_in_one_family_leads_to_the_other() {
        let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        for (dead, live) in [(six, four), (four, six)] {
            // A machine may lack a family.
            let (Ok((refusing, _held)), Ok(listener)) = (refusing_at(dead), TcpListener::bind((live, 0))) else { return };
            let live = listener.local_addr().unwrap();
            assert_eq!(connect(&[refusing, live]).await.unwrap().peer_addr().unwrap(), live);
        }
    }

    #[tokio::test]
    async fn a_refusal_takes_precedence_over_a_time_out() {
        let (dead, _held) = refusing();
        assert_eq!(connect(&[dead]).await.unwrap_err(), ConnectError::Refused);
        assert_eq!(of_higher_precedence(Some(ConnectError::Unreachable), ConnectError::Refused), ConnectError::Refused);
        for errno in [Errno::MFILE, Errno::NFILE] {
            let ours = classify(&errno.into());
            assert_eq!(of_higher_precedence(Some(ConnectError::Refused), ours), ConnectError::NoDescriptor);
        }
        assert_eq!(of_higher_precedence(Some(ConnectError::Refused), ConnectError::Timeout), ConnectError::Refused);
        assert_eq!(of_higher_precedence(Some(ConnectError::Unreachable), ConnectError::Timeout), ConnectError::Timeout);
        assert_eq!(connect(&[]).await.unwrap_err(), ConnectError::Unreachable);
    }

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let four = |last| SocketAddr::from(([192, 0, 2, last], 1));
        let six = |last| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 1));
        let order = interleaved(&[six(1), six(2), six(3), four(1), four(2)]);
        assert_eq!(order, [six(1), four(1), six(2), four(2), six(3)]);
        assert_eq!(interleaved(&[four(1), six(1)]), [four(1), six(1)]);
        assert_eq!(interleaved(&[four(1), four(2)]), [four(1), four(2)]);
    }
}
