//! Plays cases to one sidecar in front of one upstream, one after the other, and judges both sides of each.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use careportals_simulator::Simulator;

use super::{
    record::{Recorder, Seen},
    strict::{Credentials, Fault},
};
use crate::harness::{ORGANIZATION, Setup, Sidecar, simulator};

/// What must become of a case, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// One request arrives, and the connection goes on.
    Passes,
    /// One request arrives, and the connection ends after its answer.
    Last,
    /// Nothing arrives, the client is told that status, and the connection goes on.
    Refused(u16),
    /// Nothing arrives, the client is told that status, and the connection ends.
    Closed(u16),
    /// Its body is broken: the beginning of one request may arrive, and its end never does. The client is told 400 or
    /// nothing, and the connection ends.
    Broken,
    /// This many requests arrive, and the connection goes on.
    Each(usize),
    /// This many requests arrive; then one is refused with that status, which ends the connection.
    EachThenClosed(usize, u16),
}

impl Fate {
    /// Requests that arrive, what the client is told after their answers, and whether the connection goes on.
    fn expected(self) -> (usize, Option<u16>, bool) {
        match self {
            Self::Passes => (1, None, true),
            Self::Last => (1, None, false),
            Self::Refused(status) => (0, Some(status), true),
            Self::Closed(status) => (0, Some(status), false),
            Self::Broken => (0, None, false),
            Self::Each(count) => (count, None, true),
            Self::EachThenClosed(count, status) => (count, Some(status), false),
        }
    }
}

/// What a client writes, a character for each byte, and what must become of it. `CASE` stands for the case's own name, which
/// is in every request that may arrive. A request whose target holds `smuggled` must not arrive.
pub type Case = (Fate, String);

/// How a client writes its case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// It writes all of it, and at once one more request, which shows whether both sides still agree on where requests begin.
    InOnePiece,
    /// It does so byte by byte, so that every boundary of the sidecar's reader is met.
    ByteByByte,
    /// It writes all of it, and then shuts its side down.
    Ending,
}

/// Plays the cases with everything at its default.
pub fn play(cases: impl IntoIterator<Item = Case>) {
    Stage::new(|_| ()).play(Client::InOnePiece, cases);
}

/// Plays the cases byte by byte.
pub fn play_slowly(cases: impl IntoIterator<Item = Case>) {
    Stage::new(|_| ()).play(Client::ByteByByte, cases);
}

/// A sidecar with one worker, its simulator and its upstream.
pub struct Stage {
    simulator: Simulator,
    upstream: Recorder,
    sidecar: Sidecar,
}

impl Stage {
    pub fn new(adjust: impl FnOnce(&mut Setup)) -> Self {
        let (simulator, upstream) = (simulator(), Recorder::start());
        let mut setup = Setup::new(&simulator);
        setup
            .upstream(&format!("http://{}", upstream.address()), &simulator)
            .variable("CAREPORTALS_WORKERS", "1")
            .api("allow_insecure_upstream", "true");
        adjust(&mut setup);
        let sidecar = setup.start();
        assert_eq!(sidecar.get("/case-none").status, 200);
        Self { simulator, upstream, sidecar }
    }

    /// Plays every case, asserts that the sidecar still serves and ends in good order, and only then looks at what the
    /// upstream got, because all of it is there by then. Fails with every fault and its bytes.
    pub fn play(mut self, client: Client, cases: impl IntoIterator<Item = Case>) {
        let (mut played, address) = (Vec::new(), self.sidecar.address());
        for (number, (fate, text)) in cases.into_iter().enumerate() {
            let name = format!("case-{number:03}");
            let text = text.replace("CASE", &name);
            let bytes: Vec<u8> = text.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect();
            let told = told(address, client, &name, &bytes);
            played.push(Played { name, fate, bytes, told });
        }
        assert_eq!(self.sidecar.get("/case-none").status, 200, "it still serves");
        assert!(self.sidecar.stop().success());
        let token = self.simulator.control().last_token().unwrap();
        let credentials = Credentials {
            authorization: format!("Bearer {token}"),
            organization: ORGANIZATION.to_owned(),
            host: self.upstream.address().to_string(),
        };
        let seen = self.upstream.finish();
        let mut faults: Vec<String> = Vec::new();
        for case in &played {
            let arrived: Vec<&Seen> = seen.iter().filter(|seen| contains(&seen.bytes, case.name.as_bytes())).collect();
            let mut found = case.faults_of_answers(&token, client);
            found.extend(case.faults_of_arrivals(&arrived, &credentials));
            if !found.is_empty() {
                let shown = |bytes: &[u8]| bytes.escape_ascii().to_string().chars().take(1000).collect::<String>();
                let arrived: String = arrived.iter().map(|seen| format!("\n    arrived: {}", shown(&seen.bytes))).collect();
                let told = case.told.as_ref().map_or_else(Clone::clone, |told| shown(told));
                let sent = shown(&case.bytes);
                faults.push(format!(
                    "{} {:?}: {}\n    sent: {sent}\n    told: {told}{arrived}",
                    case.name,
                    case.fate,
                    found.join("; ")
                ));
            }
        }
        let strangers = seen.iter().filter(|seen| {
            let ours = played.iter().any(|case| contains(&seen.bytes, case.name.as_bytes()));
            !ours && !contains(&seen.bytes, b"GET /case-none HTTP/1.1\r\n")
        });
        faults.extend(strangers.map(|seen| format!("of no case: {}", seen.bytes.escape_ascii())));
        assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), played.len(), faults.join("\n"));
    }
}

struct Played {
    name: String,
    fate: Fate,
    bytes: Vec<u8>,
    told: Result<Vec<u8>, String>,
}

impl Played {
    fn faults_of_answers(&self, token: &str, client: Client) -> Vec<String> {
        let Ok(told) = &self.told else { return vec!["the connection does not end".to_owned()] };
        let mut faults = Vec::new();
        if contains(told, token.as_bytes()) {
            faults.push("the client was told the token".to_owned());
        }
        match statuses(told) {
            Err(why) => faults.push(why),
            Ok(statuses) => {
                let (arriving, refusal, goes_on) = self.fate.expected();
                let probe = (goes_on && client != Client::Ending).then_some(200);
                let expected: Vec<u16> = std::iter::repeat_n(200, arriving).chain(refusal).chain(probe).collect();
                let passes = statuses == expected || (self.fate == Fate::Broken && statuses == [400]);
                if !passes {
                    faults.push(format!("statuses {statuses:?} instead of {expected:?}"));
                }
            }
        }
        faults
    }

    fn faults_of_arrivals(&self, arrived: &[&Seen], credentials: &Credentials) -> Vec<String> {
        let mut faults = Vec::new();
        let mut whole = 0;
        for seen in arrived {
            match &seen.read {
                Err(Fault::Unfinished) if self.fate == Fate::Broken => {}
                Err(fault) => faults.push(format!("{fault:?} arrived")),
                Ok(request) if request.target.ends_with("/probe") => faults.extend(request.fault(credentials)),
                Ok(request) => {
                    whole += 1;
                    faults.extend(request.fault(credentials));
                    let smuggled = request.target.contains("smuggled") || request.method.contains("SMUGGLED");
                    faults.extend(smuggled.then(|| "a smuggled request arrived".to_owned()));
                }
            }
        }
        let (arriving, ..) = self.fate.expected();
        if whole != arriving {
            faults.push(format!("{whole} requests arrived instead of {arriving}"));
        }
        if arrived.len() > whole + 1 {
            faults.push("more arrived than one beginning".to_owned());
        }
        faults
    }
}

/// Plays one case as a client, and returns everything that it reads.
pub fn told(sidecar: SocketAddr, client: Client, name: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(sidecar).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_nodelay(true).unwrap();
    let probe = format!("GET /{name}/probe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let with_probe = [bytes, probe.as_bytes()].concat();
    // A client that is refused in the middle may be cut off while it writes.
    let _ = match client {
        Client::InOnePiece => stream.write_all(&with_probe),
        Client::ByteByByte => with_probe.chunks(1).try_for_each(|byte| stream.write_all(byte)),
        Client::Ending => stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write)),
    };
    let (mut told, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(told),
            Ok(read) => told.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(told),
            Err(error) => return Err(format!("{error} after {}", told.escape_ascii())),
        }
    }
}

/// Reads the status of each answer, one after the other. Interim answers (1xx) are left out.
fn statuses(mut told: &[u8]) -> Result<Vec<u16>, String> {
    let mut statuses = Vec::new();
    while !told.is_empty() {
        let Some(end) = told.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Err("half an answer".to_owned());
        };
        let head = String::from_utf8_lossy(&told[..end]).to_ascii_lowercase();
        let Some(status) = head.strip_prefix("http/1.").and_then(|rest| rest.get(2..5)?.parse().ok()) else {
            return Err(format!("an answer that begins {head:?}"));
        };
        let lengths: Vec<usize> =
            head.split("\r\n").filter_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).collect();
        let length = match lengths[..] {
            [] if matches!(status, 100 | 204 | 304 | 400..=499) => 0,
            [length] => length,
            _ => return Err(format!("an answer of which no one knows the end: {head:?}")),
        };
        if status >= 200 {
            statuses.push(status);
        }
        told = told.get(end + 4 + length..).ok_or("half a body")?;
    }
    Ok(statuses)
}

pub fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
