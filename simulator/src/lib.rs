//! A stand-in for the CarePortals API: run it in your tests instead of the real API.
//!
//! It speaks TLS (HTTP/1.1 and HTTP/2) with a throw-away certificate authority. It has a log-in, signed tokens, tenants that
//! are told apart by the `organization` header, and the known calls with invented people. Tests can make everything fail while
//! it runs, and can check what arrived.
//!
//! ```
//! use careportals_simulator::{LoginFault, Options, Simulator};
//!
//! # fn main() -> std::io::Result<()> {
//! let simulator = Simulator::start(Options::default())?;
//! // Point your program at `simulator.base_url()`, and let it trust `simulator.ca_pem()`.
//! simulator.control().fail_next_logins(2, LoginFault::Status(503));
//! assert_eq!(simulator.control().counts().logins, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//!
//! A module uses only modules that are listed above it; `tests/tidy` of the repository reads this table and checks it. The
//! program, `main.rs`, stands below all of them and uses only what is public.
//!
//! | layer | module | what it does |
//! | --- | --- | --- |
//! | 0 basics | `clock` | reads the clocks |
//! | 0 basics | `duration` | parses durations as people write them |
//! | 0 basics | `fault` | lists the faults of a log-in |
//! | 0 basics | `ids` | makes identifiers |
//! | 0 basics | `pattern` | makes and checks the bytes of large bodies |
//! | 0 basics | `request` | reads query parameters and single headers |
//! | 0 basics | `response` | builds responses |
//! | 0 basics | `sync` | takes locks and waits for changes |
//! | 0 basics | `authority` | makes or reads the certificate authority |
//! | 0 basics | `tls` | makes the TLS configurations |
//! | 1 parts of the state | `tokens` | issues, remembers and checks tokens |
//! | 1 parts of the state | `record` | records counts, requests and log-ins |
//! | 1 parts of the state | `connection` | aborts, drains and freezes open connections |
//! | 1 parts of the state | `store` | keeps what calls have created |
//! | 1 parts of the state | `route_table` | holds a team's own routes and finds the one for a request |
//! | 1 parts of the state | `openapi` | makes routes from an OpenAPI document |
//! | 2 state | `state` | holds settings, tokens, records, connections and the store of one simulator |
//! | 3 endpoints | `body` | records bodies while they pass |
//! | 3 endpoints | `call` | admits calls by organization and bearer |
//! | 3 endpoints | `failure` | carries out the faults that take the place of an answer |
//! | 3 endpoints | `login` | answers log-ins and refreshes |
//! | 3 endpoints | `portal` | answers the known calls of CarePortals |
//! | 3 endpoints | `awkward` | answers everything under `/_sim/` |
//! | 3 endpoints | `own_routes` | answers a team's own routes |
//! | 4 listeners | `router` | routes and counts requests |
//! | 4 listeners | `server` | accepts and serves TLS connections |
//! | 4 listeners | `control` | changes settings and reads records from any thread |
//! | 4 listeners | `admin` | serves `control` over plain HTTP |
//! | 5 simulator | `simulator` | starts and stops everything |

mod admin;
mod authority;
mod awkward;
mod body;
mod call;
mod clock;
mod connection;
mod control;
mod duration;
mod failure;
mod fault;
mod ids;
mod login;
#[cfg(feature = "import")]
mod openapi;
#[cfg(feature = "import")]
mod own_routes;
mod pattern;
mod portal;
mod record;
mod request;
mod response;
#[cfg(feature = "import")]
mod route_table;
mod router;
mod server;
mod simulator;
mod state;
mod store;
mod sync;
mod tls;
mod tokens;

#[cfg(feature = "import")]
pub use admin::RouteImport;
pub use authority::Authority;
pub use control::Control;
pub use fault::{LoginFault, UnknownFault};
pub use pattern::{Pattern, pattern_byte};
pub use record::{Counts, RecordedLogin, RecordedRequest, RequestLine, RequestListener};
pub use simulator::{Options, Preparation, Simulator};

/// Parses a duration as the flags and the admin port take it: `500ms`, `30s`, `1h30m`, `30d`.
///
/// # Errors
///
/// A message that says what is expected.
pub fn parse_duration(written: &str) -> Result<std::time::Duration, String> {
    duration::parse(written)
}
