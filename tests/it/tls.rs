//! Whom the sidecar speaks with: versions and certificates that it refuses, and that those it refuses learn nothing.

use careportals_simulator::{Options, Simulator};
use rustls::version::TLS12;

use crate::{
    sidecar::Setup,
    tls_peer::{Authority, Peer, params, server_of},
};

#[test]
fn tls_1_2_is_spoken_unless_tls_min_is_1_3() {
    let authority = Authority::new("The tests' authority");
    let peer = Peer::tls(server_of(&authority.sign(&params("localhost")), &[&TLS12], None));
    let sidecar = Setup::without_login(&peer.base_url(), &authority.pem).start();
    assert_eq!(sidecar.get("/a").text(), "served");
    assert!(peer.heard_of(1).words.starts_with(b"GET /a "));

    let mut setup = Setup::without_login(&peer.base_url(), &authority.pem);
    setup.global("tls_min", "1.3");
    let answer = setup.start().get("/b");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "tls_failed"), "{answer:?}");
    assert!(!String::from_utf8_lossy(&peer.heard_of(2).words).contains("/b"));

    let simulator = Simulator::start(Options::default()).unwrap();
    let mut setup = Setup::new(&simulator);
    setup.global("tls_min", "1.3");
    drop(setup.start().ready());
}
