//! careportals-sidecar: a local authenticating proxy for CarePortals.
//!
//! This library exists for the program and its tests and is not a published interface. `ARCHITECTURE.md` explains the
//! code; this is its map. A module uses only modules that are listed above it; `tests/tidy` reads the table and checks.
//!
//! | layer | module | what it is |
//! | --- | --- | --- |
//! | 0 basics | `allocator` | wipes memory when it is freed, and gives it back to the system |
//! | 0 basics | `secret` | secrets: never printed, wiped on drop; the only maker of an `Authorization` value |
//! | 0 basics | `clock` | the clocks and the random numbers that decisions are made by |
//! | 0 basics | `files` | reads a file within a time limit, whatever its file system does |
//! | 0 basics | `resources` | threads, runtimes and descriptors, where the system may refuse them |
//! | 0 basics | `descriptors` | how many descriptors the process may have, and how they are shared out |
//! | 0 basics | `children` | the processes that are started here, and orphans, which it reaps |
//! | 0 basics | `careportals` | facts about the CarePortals API: hosts, log-in paths, field names, words of routes |
//! | 0 basics | `path` | request paths: canonical form, rules, log-in paths, masking; pure |
//! | 0 basics | `origin` | servers: origins, URLs under them, and how they are reached; pure |
//! | 1 settings and output | `config` | what users write, and what it means once it is known to be right |
//! | 1 settings and output | `logging` | logs: their filter, their formats, and the thread that writes them |
//! | 1 settings and output | `metrics` | metrics and their Prometheus encoding |
//! | 2 wire | `local_http` | an HTTP client for the program's own commands: one request to a daemon on this machine |
//! | 2 wire | `deadline` | a worker's deadlines, checked together |
//! | 2 wire | `overhead` | limits what an HTTP/1.x peer sends that is neither head nor body |
//! | 2 wire | `upstream_io` | a byte stream to upstream that counts the bytes that the kernel took |
//! | 2 wire | `tls` | the client side of TLS: trusted roots, our own certificate, sessions |
//! | 2 wire | `connect` | one connection: name, TCP, egress proxy, TLS |
//! | 2 wire | `upstream` | connections to one origin, kept and used again; one request, sent once |
//! | 2 wire | `server` | binds, accepts within the connection limit, serves HTTP/1.x and h2c, drains |
//! | 3 account | `sources` | what the sources of secrets give, and when their files change |
//! | 3 account | `account` | credentials and organization, the session that makes a token of them, the bearer |
//! | 4 proxy | `proxy` | the life of one request: admitted, given a bearer, sent, perhaps sent again, answered |
//! | 5 admin | `status` | builds the status document, and decides whether the daemon is ready |
//! | 5 admin | `liveness` | checks that every worker's event loop runs |
//! | 5 admin | `systemd` | sends the state to systemd, and feeds its watchdog |
//! | 5 admin | `telemetry` | serves health and metrics over HTTP; read-only but for `POST /quitquitquit` |
//! | 5 admin | `control` | serves the control socket for administrators, and holds the client that the commands use |
//! | 5 admin | `hardening` | takes away what the process does not need while it serves: core dumps, debuggers, most of the file system |
//! | 6 app | `app` | builds the daemon, runs it on worker threads, reloads it and drains it |
//! | 7 edge | `process` | catches signals, and reports panics without their messages |
//! | 7 edge | `check` | does what `check` does beyond the settings: tries log-ins, explains a request, looks at the modes of files |
//! | 7 edge | `exec` | runs the daemon around one program: sets its environment, forwards signals, ends with it |
//! | 7 edge | `demo` | runs the sidecar against a simulated CarePortals and explains each call |
//! | 7 edge | `healthcheck` | sends the request of a probe to the telemetry listener |
//! | 7 edge | `cli` | parses the command line, runs the commands, turns errors into exit codes |

pub mod account;
pub mod allocator;
pub mod app;
pub mod careportals;
pub mod check;
pub mod children;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connect;
pub mod control;
pub mod deadline;
#[cfg(feature = "demo")]
pub mod demo;
pub mod descriptors;
pub mod exec;
pub mod files;
pub mod hardening;
pub mod healthcheck;
pub mod liveness;
pub mod local_http;
pub mod logging;
pub mod metrics;
pub mod origin;
pub mod overhead;
pub mod path;
pub mod process;
pub mod proxy;
pub mod resources;
pub mod secret;
pub mod server;
#[cfg(test)]
mod simulated;
pub mod sources;
pub mod status;
pub mod systemd;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod upstream_io;
