//! The sidecar's own certificate, for servers that require one.

use std::{fs, path::PathBuf, sync::Arc};

use rustix::process::Signal;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    server::{ServerSessionMemoryCache, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};

use crate::harness::{
    ORGANIZATION, PASSWORD, Setup, TlsPeer, USERNAME,
    tls_peer::{Authority, Identity, TOKEN, params, server_of},
};

const PAST: &str = "are of no use";

/// The authorities that servers and clients of these tests trust.
struct World {
    servers: Authority,
    clients: Authority,
}

impl World {
    fn new() -> Self {
        Self { servers: Authority::new("The servers' authority"), clients: Authority::new("The clients' authority") }
    }

    fn client(&self) -> Identity {
        self.clients.sign(&params("sidecar.test"))
    }

    /// A server that requires a certificate, and resumes sessions of clients that have shown one.
    fn server(&self, version: &'static rustls::SupportedProtocolVersion) -> ServerConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.clients.der.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
        let identity = self.servers.sign(&params("localhost"));
        let mut config = server_of(&identity, &[version], Some(verifier.build().unwrap()));
        config.session_storage = ServerSessionMemoryCache::new(32);
        config.send_tls13_tickets = 2;
        config
    }

    /// A sidecar without log-in, which shows this certificate.
    fn setup(&self, peer: &TlsPeer, client: &Identity) -> Setup {
        let mut setup = Setup::without_login(&peer.base_url(), &self.servers.pem);
        let files = write(&setup, client);
        show(&mut setup, &files);
        setup
    }
}

fn write(setup: &Setup, client: &Identity) -> [PathBuf; 2] {
    [setup.file("tls.crt", &client.certificate_pem), setup.file("tls.key", &client.key_pem)]
}

fn show(setup: &mut Setup, [certificate, key]: &[PathBuf; 2]) {
    setup.global("tls_cert_file", certificate.to_str().unwrap()).global("tls_key_file", key.to_str().unwrap());
}

/// A sidecar that logs in at `peer`.
fn with_login(peer: &TlsPeer, world: &World) -> Setup {
    let mut setup = Setup::without_login(&peer.base_url(), &world.servers.pem);
    setup
        .without("CAREPORTALS_LOGIN_URL")
        .variable("CAREPORTALS_LOGIN_URL", "/auth")
        .variable("CAREPORTALS_USERNAME", USERNAME)
        .variable("CAREPORTALS_PASSWORD", PASSWORD);
    setup
}

#[test]
fn log_in_server_and_upstream_are_shown_the_certificate_that_they_ask_for() {
    for version in [&TLS12, &TLS13] {
        let (world, client) = (World::new(), World::new());
        let (client, stranger) = (world.client(), client.client());
        let peer = TlsPeer::tls(world.server(version));
        let mut setup = with_login(&peer, &world);
        let files = write(&setup, &client);
        show(&mut setup, &files);
        let sidecar = setup.start();
        assert_eq!(sidecar.get("/a").text(), "served", "{}", sidecar.logs());
        let heard = peer.heard_of(2);
        assert_eq!(heard.shown, [Some(client.certificate.clone()), Some(client.certificate.clone())]);
        let words = String::from_utf8(heard.words).unwrap();
        assert!(words.contains(PASSWORD) && words.contains(TOKEN) && words.contains(ORGANIZATION), "{words}");
        assert!(!sidecar.logs().contains("PRIVATE KEY") && !sidecar.logs().contains(client.key_pem.lines().nth(1).unwrap()));

        // A client that the server does not know, or that shows no certificate, is refused.
        for other in [None, Some(&stranger)] {
            let peer = TlsPeer::tls(world.server(version));
            let mut setup = Setup::without_login(&peer.base_url(), &world.servers.pem);
            if let Some(other) = other {
                let files = write(&setup, other);
                show(&mut setup, &files);
            }
            let checked = setup.output_of(&["check", "--online"]);
            assert_eq!(checked.code, Some(1), "{checked:?}");
            assert!(checked.stdout.contains("wants a client certificate"), "{checked:?}");
            let sidecar = setup.start();
            let answer = sidecar.get("/a");
            assert_eq!((answer.status, answer.problem().as_str()), (502, "tls_failed"), "{answer:?}");
            assert!(sidecar.wait_for_log("the upstream can't be reached").contains("wants a client certificate"));
            assert_eq!(peer.heard_of(2).words, b"");
        }
    }
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    for version in [&TLS12, &TLS13] {
        let world = World::new();
        let [first, second, third] = [world.client(), world.client(), world.client()];
        let peer = TlsPeer::tls(world.server(version));
        let sidecar = world.setup(&peer, &first).start();
        let shown = |requests: usize| {
            assert_eq!(sidecar.get("/a").text(), "served", "{}", sidecar.logs());
            peer.heard_of(requests).shown.pop().unwrap().unwrap()
        };
        assert_eq!(shown(1), first.certificate);
        write(&sidecar.setup, &second);
        // A session that was made under the certificate before is not taken up again.
        assert_eq!(shown(2), second.certificate);
        sidecar.wait_for_log("the client certificate was renewed");

        // Half a renewal, then none at all: told once each.
        let [_, key] = write(&sidecar.setup, &second);
        fs::write(&key, &third.key_pem).unwrap();
        assert_eq!([shown(3), shown(4)], [second.certificate.clone(), second.certificate.clone()]);
        assert!(sidecar.wait_for_log(PAST).contains("tls_key_file: the key does not belong"), "{}", sidecar.logs());
        // It has been replaced by another that is no better: that is not logged again.
        fs::write(&key, &world.client().key_pem).unwrap();
        assert_eq!(shown(5), second.certificate);
        fs::remove_file(&key).unwrap();
        assert_eq!([shown(6), shown(7)], [second.certificate.clone(), second.certificate.clone()]);
        sidecar.wait_for_log("tls_key_file: cannot read");
        assert_eq!(sidecar.logs().matches(PAST).count(), 2, "{}", sidecar.logs());

        write(&sidecar.setup, &third);
        assert_eq!(shown(8), third.certificate);
        fs::remove_file(&key).unwrap();
        assert_eq!(shown(9), third.certificate);
        write(&sidecar.setup, &third);
        assert_eq!(shown(10), third.certificate);
        sidecar.wait_for_log("the client certificate's files are of use again");
    }
}

#[test]
fn a_reload_takes_over_another_pair_of_files_and_refuses_one_that_can_not_be_used() {
    let world = World::new();
    let [first, second] = [world.client(), world.client()];
    let peer = TlsPeer::tls(world.server(&TLS13));
    let mut setup = Setup::without_login(&peer.base_url(), &world.servers.pem);
    write(&setup, &first);
    setup.file("other.crt", &second.certificate_pem);
    setup.file("other.key", "not yet written");
    setup.settings("tls_cert_file = \"tls.crt\"\ntls_key_file = \"tls.key\"\n");
    let sidecar = setup.start();
    assert_eq!(sidecar.get("/a").text(), "served", "{}", sidecar.logs());
    sidecar.setup.file("config.toml", "tls_cert_file = \"other.crt\"\ntls_key_file = \"other.key\"\n");
    sidecar.signal(Signal::HUP);
    let refused = sidecar.wait_for_log("not reloaded");
    assert!(refused.contains("tls_key_file: it must hold a"), "{refused}");
    assert_eq!(sidecar.get("/a").text(), "served");
    sidecar.setup.file("other.key", &second.key_pem);
    sidecar.signal(Signal::HUP);
    sidecar.wait_for_log("\"reloaded\"");
    assert_eq!(sidecar.get("/a").text(), "served");
    let shown = peer.heard_of(3).shown;
    assert_eq!(shown, [&first, &first, &second].map(|client| Some(client.certificate.clone())));
}

#[test]
fn a_certificate_that_cannot_be_used_is_a_fault_at_start_that_names_its_setting() {
    let world = World::new();
    let (client, other) = (world.client(), world.client());
    let server = TlsPeer::tls(world.server(&TLS13));
    let (certificate, key) = ("CAREPORTALS__TLS_CERT_FILE", "CAREPORTALS__TLS_KEY_FILE");
    for (name, text, said) in [
        ("tls.crt", None, format!("{certificate}: cannot read")),
        ("tls.key", None, format!("{key}: cannot read")),
        ("tls.crt", Some("no PEM"), format!("{certificate}: no usable certificate")),
        ("tls.key", Some("no PEM"), format!("{key}: it must hold a")),
        ("tls.key", Some(other.key_pem.as_str()), format!("{key}: the key does not belong")),
    ] {
        let setup = world.setup(&server, &client);
        let path = setup.dir.path().join(name);
        match text {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let output = setup.output("run");
        assert_eq!(output.code, Some(78), "{output:?}");
        assert!(output.all().contains(&said), "{said}: {output:?}");
        assert!(!output.all().contains(other.key_pem.lines().nth(1).unwrap()), "{output:?}");
    }
}
