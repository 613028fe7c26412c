//! Whom the sidecar speaks with: versions and certificates that it refuses, and that those it refuses learn nothing.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use careportals_simulator::Simulator;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa};
use rustls::{
    ServerConfig,
    server::ServerSessionMemoryCache,
    version::{TLS12, TLS13},
};

use crate::harness::{
    ORGANIZATION, PASSWORD, Setup, TlsPeer, USERNAME, let_time_pass, now, simulator,
    tls_peer::{Authority, Heard, Identity, KEPT, TOKEN, params, server, server_of},
    until_some, wall_clock,
};

const DAY: Duration = Duration::from_secs(86_400);

/// A sidecar that logs in at the simulator and forwards to the peer.
fn forwarding(simulator: &Simulator, peer: &TlsPeer, trusted: &Authority) -> Setup {
    let mut setup = Setup::new(simulator);
    setup.file("ca.pem", &format!("{}{}", simulator.ca_pem(), trusted.pem));
    setup.upstream(&peer.base_url(), simulator);
    setup
}

/// A sidecar that logs in at the peer, whose requests don't wait for that.
fn logging_in(peer: &TlsPeer, trusted: &Authority) -> Setup {
    let mut setup = Setup::without_login(&peer.base_url(), &trusted.pem);
    setup
        .variable("CAREPORTALS_LOGIN_URL", "/auth")
        .variable("CAREPORTALS_USERNAME", USERNAME)
        .variable("CAREPORTALS_PASSWORD", PASSWORD)
        .with_telemetry();
    setup
}

/// Asserts that neither a request nor a log-in reaches `server`, that the reason is told, and that the server hears nothing.
fn is_refused(server: impl Fn() -> TlsPeer, trusted: &Authority, code: &str, reason: &str) {
    let (simulator, peer) = (simulator(), server());
    let sidecar = forwarding(&simulator, &peer, trusted).start();
    let answer = sidecar.get("/wards");
    assert_eq!((answer.status, answer.problem().as_str()), (502, code), "{answer:?}");
    let line = sidecar.wait_for_log("the upstream can't be reached");
    assert!(line.contains(reason) && line.contains("WARN") && line.contains(code), "{reason}: {line}");
    let token = simulator.control().last_token().unwrap();
    // A handshake that fails is worth one more try, and what a certificate says stays the same.
    let connections = if code == "tls_failed" { 2 } else { 1 };
    learned_nothing(&peer.heard_of(connections), &[&token, ORGANIZATION, "wards"]);
    drop(sidecar);

    let peer = server();
    let mut setup = logging_in(&peer, trusted);
    setup.account("token_wait", "0s");
    let sidecar = setup.start();
    let line = sidecar.wait_for_log("log-in failed");
    assert!(line.contains(reason) && line.contains("WARN") && line.contains("login_unreachable"), "{reason}: {line}");
    let answer = sidecar.get("/wards");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(["login_failing", "token_pending"].contains(&answer.problem().as_str()), "{answer:?}");
    let readiness = sidecar.telemetry("/readyz");
    let told = &readiness.json()["reasons"][0];
    assert_eq!((readiness.status, &told["code"]), (503, &"login_failing".into()), "{told}");
    assert!(told["detail"].as_str().unwrap().contains(reason), "{told}");
    learned_nothing(&peer.heard_of(1), &[PASSWORD, USERNAME, ORGANIZATION, "wards"]);
}

/// Where the peer spoke TLS, it has decrypted nothing. Where it did not, it was sent no record with anything of ours in it:
/// handshakes, alerts (RFC 8446, 5.1) and no application data.
fn learned_nothing(heard: &Heard, secrets: &[&str]) {
    assert!(heard.shown.is_empty());
    let mut rest = heard.words.as_slice();
    while let [kind, _, _, high, low, ..] = rest {
        assert!((20..=22).contains(kind), "a record of type {kind}");
        rest = &rest[5 + usize::from(u16::from_be_bytes([*high, *low]))..];
    }
    assert_eq!(rest, b"");
    let words = String::from_utf8_lossy(&heard.words);
    assert!(!secrets.iter().any(|secret| words.contains(secret)), "{words}");
}

fn certificate_is_refused(trusted: &Authority, identity: &Identity, reason: &str) {
    for version in [&TLS12, &TLS13] {
        is_refused(|| TlsPeer::tls(server_of(identity, &[version], None)), trusted, "certificate_rejected", reason);
    }
}

fn authority() -> Authority {
    Authority::new("The tests' authority")
}

/// The parameters of a certificate with these limits, counted from now.
fn valid(from: impl Fn(SystemTime) -> SystemTime, to: impl Fn(SystemTime) -> SystemTime) -> CertificateParams {
    let (now, mut params) = (wall_clock(), params("localhost"));
    params.not_before = from(now).into();
    params.not_after = to(now).into();
    params
}

#[test]
fn a_trusted_server_is_told_token_and_password() {
    let (authority, simulator) = (authority(), simulator());
    let peer = TlsPeer::tls(server(&authority.sign(&params("localhost"))));
    let sidecar = forwarding(&simulator, &peer, &authority).start();
    assert_eq!(sidecar.get("/wards").text(), "served", "{}", sidecar.logs());
    let token = simulator.control().last_token().unwrap();
    assert!(String::from_utf8_lossy(&peer.heard_of(1).words).contains(&token));
    drop(sidecar);

    let sidecar = logging_in(&peer, &authority).start();
    assert_eq!(sidecar.get("/wards").text(), "served", "{}", sidecar.logs());
    let words = String::from_utf8(peer.heard_of(3).words).unwrap();
    assert!(words.contains(PASSWORD) && words.contains(TOKEN) && words.contains("wards"), "{words}");
}

#[test]
fn an_expired_certificate_is_refused() {
    let authority = authority();
    let identity = authority.sign(&valid(|now| now - 2 * DAY, |now| now - DAY));
    certificate_is_refused(&authority, &identity, "it has expired: it is not valid after ");
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_refused() {
    let authority = authority();
    let identity = authority.sign(&valid(|now| now + DAY, |now| now + 2 * DAY));
    certificate_is_refused(&authority, &identity, "it is not valid yet: it is not valid before ");
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let authority = authority();
    for name in ["elsewhere.test", "*.localhost", "localhost.elsewhere.test", "127.0.0.1"] {
        certificate_is_refused(&authority, &authority.sign(&params(name)), "it is for another name");
    }
}

#[test]
fn a_certificate_that_no_server_may_show_is_told_from_one_that_is_not_trusted() {
    let authority = authority();
    let made = |change: fn(&mut CertificateParams)| {
        let mut params = params("localhost");
        change(&mut params);
        authority.sign(&params)
    };
    let of_an_authority = made(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    certificate_is_refused(&authority, &of_an_authority, "it is an authority's own certificate, which no server may show");
    let of_a_client = made(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    certificate_is_refused(&authority, &of_a_client, "it is not for servers");
    let without_a_name = made(|params| params.subject_alt_names.clear());
    certificate_is_refused(&authority, &without_a_name, "it names no host");
}

#[test]
fn log_status_and_check_give_the_same_advice() {
    let authority = authority();
    let mut params = params("localhost");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let peer = TlsPeer::tls(server(&authority.sign(&params)));
    let mut setup = logging_in(&peer, &authority);
    setup.account("token_wait", "0s");
    let sidecar = setup.start();
    let advice = "CA:FALSE -addext subjectAltName=DNS:HOST";
    assert!(sidecar.wait_for_log("log-in failed").contains(advice));
    sidecar.get("/wards");
    assert!(sidecar.telemetry("/status").text().contains(advice));
    let checked = sidecar.setup.output_of(&["check", "--online"]);
    assert_eq!((checked.code, checked.stdout.matches(advice).count()), (Some(1), 2), "{checked:?}");
}

#[test]
fn a_self_signed_certificate_is_refused() {
    certificate_is_refused(&authority(), &Identity::self_signed("localhost"), "its issuer is not trusted");
}

#[test]
fn a_certificate_of_an_unknown_issuer_is_refused_whatever_it_calls_itself() {
    let trusted = authority();
    for stranger in [Authority::new("Somebody else"), authority()] {
        certificate_is_refused(&trusted, &stranger.sign(&params("localhost")), "its issuer is not trusted");
    }
}

#[test]
fn a_plaintext_answer_ends_the_connection() {
    for words in [&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], b"220 mail.test ESMTP ready\r\n"] {
        is_refused(|| TlsPeer::words(words), &authority(), "tls_failed", "it does not speak TLS at that port");
    }
}

/// What a server says first that knows nothing newer than `version`, and nothing of the extension that newer ones are
/// negotiated with: `ServerHello` with no session, `TLS_RSA_WITH_AES_128_CBC_SHA` and no compression (RFC 2246, RFC 4346).
fn old_hello(version: [u8; 2]) -> Vec<u8> {
    let body = [&version[..], &[7; 32], &[0, 0, 0x2f, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22][..], &version, &[0, length + 4, 2, 0, 0, length], &body].concat()
}

#[test]
fn tls_1_0_and_1_1_are_not_spoken() {
    // Servers either go ahead with their version, or object to ours: a fatal alert, protocol version.
    let (tls_1_0, tls_1_1, objection) = (old_hello([3, 1]), old_hello([3, 2]), vec![21, 3, 1, 0, 2, 2, 70]);
    for words in [tls_1_0, tls_1_1, objection] {
        is_refused(|| TlsPeer::words(&words), &authority(), "tls_failed", "no TLS version that `tls_min` allows");
    }
}

#[test]
fn a_server_that_hangs_up_in_the_handshake_hears_nothing() {
    is_refused(|| TlsPeer::words(b""), &authority(), "tls_failed", "it closed the connection");
}

#[test]
fn tls_1_2_is_spoken_unless_tls_min_is_1_3() {
    let authority = authority();
    let peer = TlsPeer::tls(server_of(&authority.sign(&params("localhost")), &[&TLS12], None));
    let sidecar = logging_in(&peer, &authority).start();
    assert_eq!(sidecar.get("/a").text(), "served", "{}", sidecar.logs());
    assert!(String::from_utf8_lossy(&peer.heard_of(2).words).contains(PASSWORD));

    let only_1_2 = || TlsPeer::tls(server_of(&authority.sign(&params("localhost")), &[&TLS12], None));
    let (simulator, peer) = (simulator(), only_1_2());
    let mut setup = forwarding(&simulator, &peer, &authority);
    setup.global("tls_min", "1.3");
    let sidecar = setup.start();
    let answer = sidecar.get("/b");
    assert_eq!((answer.status, answer.problem().as_str()), (502, "tls_failed"), "{answer:?}");
    assert!(sidecar.wait_for_log("the upstream can't be reached").contains("no TLS version that `tls_min` allows"));
    learned_nothing(&peer.heard_of(2), &[]);

    let peer = only_1_2();
    let mut setup = logging_in(&peer, &authority);
    setup.global("tls_min", "1.3");
    let sidecar = setup.start();
    assert!(sidecar.wait_for_log("log-in failed").contains("no TLS version that `tls_min` allows"));
    learned_nothing(&peer.heard_of(1), &[]);
}

/// The settings of a server that resumes sessions.
fn resuming(identity: &Identity, version: &'static rustls::SupportedProtocolVersion) -> ServerConfig {
    let mut config = server_of(identity, &[version], None);
    config.session_storage = ServerSessionMemoryCache::new(32);
    config.send_tls13_tickets = 2;
    config
}

#[test]
fn a_session_is_not_resumed_beyond_the_certificate_that_it_was_made_under() {
    let authority = authority();
    let identity = authority.sign(&valid(|now| now - DAY, |now| now + Duration::from_millis(2500)));
    let begin = |version| {
        let config = resuming(&identity, version);
        let sessions = Arc::clone(&config.session_storage);
        let peer = TlsPeer::tls(config);
        let sidecar = Setup::without_login(&peer.base_url(), &authority.pem).start();
        for _ in 0..2 {
            assert_eq!(sidecar.get("/a").text(), "served", "{}", sidecar.logs());
        }
        assert!(peer.resumed() > 0);
        (peer, sidecar, sessions)
    };
    let [old, renewed] = [(); 2].map(|()| [&TLS12, &TLS13].map(begin));
    for ((peer, _, sessions), version) in renewed.iter().zip([&TLS12, &TLS13]) {
        let mut config = resuming(&authority.sign(&params("localhost")), version);
        config.session_storage = Arc::clone(sessions);
        peer.change(config);
    }
    for (_, sidecar, _) in &old {
        let refused = until_some("the certificate has expired", || Some(sidecar.get("/a")).filter(|answer| answer.status != 200));
        assert_eq!((refused.status, refused.problem().as_str()), (502, "certificate_rejected"), "{refused:?}");
        assert!(sidecar.wait_for_log("the upstream can't be reached").contains("it has expired"));
    }
    // Nor does it stand in the way of the certificate that came after.
    for (_, sidecar, _) in &renewed {
        assert_eq!(sidecar.get("/a").text(), "served", "{}", sidecar.logs());
    }
}

#[test]
fn a_kept_connection_is_not_used_beyond_its_servers_certificate() {
    let authority = authority();
    let ends = now() + Duration::from_millis(2500);
    let peer = TlsPeer::tls(server(&authority.sign(&valid(|now| now - DAY, |now| now + Duration::from_millis(2500)))));
    let mut setup = Setup::without_login(&peer.base_url(), &authority.pem);
    setup.variable("CAREPORTALS_WORKERS", "1");
    let sidecar = setup.start();
    let mut served = 0;
    let refused = loop {
        let answer = sidecar.get(KEPT);
        if answer.status != 200 {
            break answer;
        }
        served += 1;
        assert!(now() < ends + Duration::from_secs(5), "a connection outlives its certificate");
        let_time_pass("the certificate expires while the connection is used now and then", Duration::from_millis(50));
    };
    assert_eq!((refused.status, refused.problem().as_str()), (502, "certificate_rejected"), "{refused:?}");
    assert!(sidecar.wait_for_log("the upstream can't be reached").contains("it has expired"));
    let heard = peer.heard_of(2);
    assert_eq!((served > 2, heard.shown.len()), (true, served), "one connection, and no request after its end");
}

#[test]
fn ca_only_file_leaves_the_systems_roots_out_and_ca_file_does_not() {
    let [of_the_system, of_the_file] = [Authority::new("The system's"), Authority::new("The file's")];
    let [system, file] =
        [&of_the_system, &of_the_file].map(|authority| TlsPeer::tls(server(&authority.sign(&params("localhost")))));
    for (only, peer, served) in [(true, &system, false), (true, &file, true), (false, &system, true), (false, &file, true)] {
        let mut setup = Setup::without_login(&peer.base_url(), &of_the_file.pem);
        let roots = setup.file("system.pem", &of_the_system.pem);
        setup.variable("SSL_CERT_FILE", roots.to_str().unwrap());
        if !only {
            let file = setup.dir.path().join("ca.pem");
            setup.without("CAREPORTALS_CA_ONLY_FILE").variable("CAREPORTALS_CA_FILE", file.to_str().unwrap());
        }
        let answer = setup.start().get("/a");
        assert_eq!(answer.status, if served { 200 } else { 502 }, "{only}: {answer:?}");
        if !served {
            assert_eq!(answer.problem(), "certificate_rejected");
        }
    }
}

#[test]
fn a_broken_certificate_beside_a_good_one_is_told() {
    let authority = Authority::new("Ours");
    let peer = TlsPeer::tls(server(&authority.sign(&params("localhost"))));
    let cut = authority.pem.replace("-----END CERTIFICATE-----", "");
    let mut setup = Setup::without_login(&peer.base_url(), &format!("{cut}{}", authority.pem));
    setup.variable("CAREPORTALS_LOG", "info");
    let checked = setup.output("check");
    assert!(checked.stdout.contains("1 of the certificates in ") && checked.code == Some(0), "{checked:?}");
    let sidecar = setup.start();
    assert_eq!(sidecar.get("/a").status, 200);
    let line = sidecar.wait_for_log("certificates of a file are broken: they are not trusted");
    assert!(line.contains("ca.pem") && line.contains(r#""unusable":1"#), "{line}");
}

/// A pipe would be waited for, and a device may have no end.
#[test]
fn a_file_of_roots_that_is_no_file_is_named_at_once() {
    let mut setup = Setup::without_login("https://localhost:1", "");
    setup.without("CAREPORTALS_CA_ONLY_FILE");
    let pipe = setup.dir.path().join("pipe.pem");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    for path in [pipe.to_str().unwrap(), "/dev/zero"] {
        let output = setup.variable("SSL_CERT_FILE", path).output("check");
        assert_eq!(output.code, Some(78), "{output:?}");
        assert!(output.stdout.contains(&format!("{path} can't be read")), "{output:?}");
        let output = setup.variable("CAREPORTALS_CA_FILE", "/dev/zero").output("check");
        assert!(output.stdout.contains("CAREPORTALS_CA_FILE: cannot read /dev/zero: it is too large"), "{output:?}");
        setup.without("CAREPORTALS_CA_FILE");
    }
}
