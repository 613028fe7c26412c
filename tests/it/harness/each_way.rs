//! A client of each protocol in front of an upstream of each protocol, and tables whose failing rows name themselves.

use std::fmt::{self, Debug, Display};

use careportals_simulator::Simulator;

use crate::harness::{Answer, Connection, Http2, OFF_AND_AUTO, Request, Setup, Sidecar, simulator};

/// A client of either protocol.
pub enum Client {
    Http1(Connection),
    Http2(Http2),
}

impl Client {
    pub fn send(&mut self, request: &Request) -> Answer {
        match self {
            Self::Http1(client) => client.send(request),
            Self::Http2(client) => client.send(request),
        }
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }

    pub fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }
}

/// A client of each protocol.
pub fn clients(sidecar: &Sidecar) -> [Client; 2] {
    [Client::Http1(sidecar.connect()), Client::Http2(Http2::connect(sidecar.address()))]
}

/// One of the four ways from a client to the upstream.
pub struct Way<'a> {
    pub simulator: &'a Simulator,
    pub client: Client,
    pub upstream_is_http2: bool,
}

impl Display for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |is_http2| if is_http2 { "HTTP/2" } else { "HTTP/1.1" };
        write!(f, "from {} to {}", version(self.client.is_http2()), version(self.upstream_is_http2))
    }
}

/// Runs `check` on each of the four ways, one after the other.
pub fn each_way(set: impl Fn(&Simulator, &mut Setup), mut check: impl FnMut(&mut Way<'_>)) {
    let simulator = &simulator();
    for http2 in OFF_AND_AUTO {
        let mut setup = Setup::new(simulator);
        setup.api("http2", http2);
        set(simulator, &mut setup);
        let sidecar = setup.start();
        // Each connects when its turn comes: a connection without a request is closed after `head_timeout`.
        let connect: [fn(&Sidecar) -> Client; 2] =
            [|sidecar| Client::Http1(sidecar.connect()), |sidecar| Client::Http2(Http2::connect(sidecar.address()))];
        for connect in connect {
            check(&mut Way { simulator, client: connect(&sidecar), upstream_is_http2: http2 == "auto" });
        }
        let spoken = simulator.control().counts().requests_http2 > 0;
        assert_eq!(spoken, http2 == "auto", "the upstream was spoken to as meant");
        assert_eq!(simulator.control().counts().malformed, 0);
    }
}

/// The rows of a table that did not come out as they say.
#[derive(Default)]
pub struct Faults(Vec<String>);

impl Faults {
    /// Notes the row, by its name, unless it came out as expected.
    pub fn compare<T: PartialEq + Debug>(&mut self, row: impl Display, found: &T, expected: &T) {
        if found != expected {
            self.0.push(format!("{row}\n    found:    {found:?}\n    expected: {expected:?}"));
        }
    }

    /// Fails with every row that was noted.
    #[track_caller]
    pub fn assert_none(self) {
        assert!(self.0.is_empty(), "{} rows:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// Names and values as a table has them.
pub fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
