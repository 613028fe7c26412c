use std::net::{TcpListener, TcpStream};

use rustix::process::getuid;
use socket2::{Domain, Socket, Type};

use super::*;

fn listening(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn the_owner_of_a_local_connection_is_known() {
    for address in ["127.0.0.1:0", "127.0.0.7:0", "[::1]:0"] {
        let (listener, ours) = listening(address);
        let client = TcpStream::connect(ours).unwrap();
        let from = listener.accept().unwrap().1;
        assert_eq!(owner(from, ours), Some(getuid().as_raw()), "{address}");
        drop(client);
    }
}

#[test]
fn the_owner_of_a_socket_for_both_families_is_known() {
    let (listener, ours) = listening("127.0.0.1:0");
    let client = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", ours.port()).parse().unwrap();
    client.connect(&mapped.into()).unwrap();
    let from = listener.accept().unwrap().1;
    assert_eq!(owner(from, ours), Some(getuid().as_raw()));
}

#[test]
fn a_connection_that_the_client_has_closed_has_no_owner() {
    let (listener, ours) = listening("127.0.0.1:0");
    drop(TcpStream::connect(ours).unwrap());
    let (stream, from) = listener.accept().unwrap();
    assert_eq!(owner(from, ours), None, "both ends are half closed");
    drop(stream);
    assert_eq!(owner(from, ours), None, "it is in TIME_WAIT");
}

#[test]
fn a_client_that_has_only_sent_fin_has_not_abandoned_its_socket() {
    let (listener, ours) = listening("127.0.0.1:0");
    let client = TcpStream::connect(ours).unwrap();
    let (_stream, from) = listener.accept().unwrap();
    assert!(!is_abandoned(from, ours));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(!is_abandoned(from, ours));
    drop(client);
    assert!(is_abandoned(from, ours));
    assert!(!is_abandoned("192.0.2.1:9".parse().unwrap(), ours), "another machine's");
}

#[test]
fn a_listener_at_the_clients_address_is_not_the_owner() {
    let (_listener, from) = listening("0.0.0.0:0");
    let from = SocketAddr::from(([127, 0, 0, 1], from.port()));
    assert_eq!(owner(from, "127.0.0.1:9".parse().unwrap()), None);
    assert_eq!(owner("192.0.2.1:9".parse().unwrap(), "127.0.0.1:9".parse().unwrap()), None, "another machine's");
    assert_eq!(owner("[::1]:9".parse().unwrap(), "127.0.0.1:9".parse().unwrap()), None, "no connection has two families");
}

#[test]
fn a_response_about_another_socket_is_ignored() {
    let (from, ours): (SocketAddr, SocketAddr) = ("127.0.0.1:4000".parse().unwrap(), "127.0.0.1:2273".parse().unwrap());
    let mut answer = [0_u8; HEADER + ANSWER];
    answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    answer[HEADER] = FAMILIES[0];
    for (at, address) in [(4, from), (6, ours)] {
        answer[HEADER + at..HEADER + at + 2].copy_from_slice(&address.port().to_be_bytes());
    }
    for (at, address) in [(8, from), (24, ours)] {
        answer[HEADER + at..HEADER + at + 16].copy_from_slice(&octets(address.ip()));
    }
    answer[HEADER + 64..HEADER + 68].copy_from_slice(&1000_u32.to_ne_bytes());
    answer[HEADER + 68] = 1;
    assert_eq!(holder_in(&answer, from, ours), Some(Holder::User(1000)));
    for length in 0..answer.len() {
        assert_eq!(holder_in(&answer[..length], from, ours), None, "cut after {length}");
    }
    // Type, family, ports, addresses.
    for at in [4, HEADER, HEADER + 4, HEADER + 7, HEADER + 8, HEADER + 27] {
        let mut other = answer;
        other[at] ^= 1;
        assert_eq!(holder_in(&other, from, ours), None, "byte {at}");
    }
    answer[HEADER + 68] = 0;
    assert_eq!(holder_in(&answer, from, ours), Some(Holder::Nobody), "no inode");
}
