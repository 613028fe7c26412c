//! What every chapter needs: the program, what stands on both sides of it, and how a test waits.
//!
//! | part | what it is for |
//! | --- | --- |
//! | `setup` | a daemon about to be started: environment, settings file, command line |
//! | `sidecar`, `logs` | a daemon that runs: addresses, log, signals, end |
//! | `waiting` | the only ways to wait, each with a reason |
//! | `simulator` | CarePortals as a well-behaved server over real TLS, and what is often done to it |
//! | `http1` | a client of HTTP/1.1 that hides nothing |
//! | `http2`, `frames` | a client of HTTP/2 that behaves, and one that writes each frame by hand |
//! | `each_way` | a client of each protocol in front of an upstream of each, and rows that name themselves |
//! | `websocket` | the client's side of a tunnel |
//! | `crowd` | many clients at once |
//! | `files` | modes of files, and secrets as Kubernetes mounts them |
//! | `pattern` | bodies that both ends can check |
//! | `plain_server` | the part of a scripted server that is always the same |
//! | `recording_upstream` | an upstream that answers always alike, and keeps every byte that it is sent |
//! | `manual_upstream` | an upstream that a test plays itself, over plain HTTP/1.1 |
//! | `manual_http2` | the same over HTTP/2, frame by frame |
//! | `held_upstream` | the simulator behind a relay that holds TLS handshakes |
//! | `tls_peer` | a server with any certificate and any TLS version |
//! | `connect_proxy` | an egress proxy |
//! | `stalled`, `traced` | a worker that is held, and one whose system calls are counted |
//! | `scripted_upstream` | an upstream that has learned what to say to each target |
//! | `corpus` | players of the rows in `tests/corpus` |
//! | `hostile_http1`, `hostile_http2` | stages on which tables of hostile input are played, and both sides judged |

pub mod corpus;
pub mod each_way;
pub mod frames;
pub mod hostile_http1;
pub mod hostile_http2;
pub mod scripted_upstream;
pub mod tls_peer;
pub mod websocket;

mod connect_proxy;
mod crowd;
mod files;
mod held_upstream;
mod http1;
mod http2;
mod logs;
mod manual_http2;
mod manual_upstream;
mod pattern;
mod plain_server;
mod recording_upstream;
mod setup;
mod sidecar;
mod simulator;
mod stalled;
mod traced;
mod waiting;

pub use connect_proxy::{ConnectProxy, Manner};
pub use crowd::{Crowd, SetAtEnd};
pub use files::{mode, mount_secret, renew_secret};
pub use held_upstream::HeldUpstream;
pub use http1::{Answer, Connection, Request};
pub use http2::Http2;
pub use logs::Logs;
pub use manual_http2::{Http2Peer, ManualHttp2};
pub use manual_upstream::ManualUpstream;
pub use pattern::pattern;
pub use plain_server::PlainServer;
pub use recording_upstream::{OK, RecordingUpstream};
pub use setup::{
    OFF_AND_AUTO, ORGANIZATION, Output, PASSWORD, Setup, USERNAME, interrupts_are_ignored, program_file, with_signals_blocked,
};
pub use sidecar::{LOGGED_IN, Sidecar};
pub use simulator::{held, outgrow_the_floor, revoke, seen, simulator, until_seen};
pub use stalled::{LETS_DEBUGGERS_IN, Stalled};
pub use tls_peer::TlsPeer;
pub use traced::system_calls;
pub use waiting::{PATIENCE, let_time_pass, never, now, until, until_some, until_still, until_within, wall_clock, within};
