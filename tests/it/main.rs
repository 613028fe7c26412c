//! The program end to end: the real binary, real sockets, a simulated CarePortals over real TLS.
//!
//! One module for each behaviour, below as a table of contents; `harness` is what all of them stand on. Tests run in
//! parallel on random ports, wait for what they expect instead of sleeping, and leave nothing behind.

#![allow(unreachable_pub, reason = "one crate; nothing leaves it")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]
#![allow(clippy::format_collect, clippy::format_push_string, reason = "short beats fast here")]

mod harness;

// Start and settings.
mod check;
mod cli;
mod interruptions;
mod late_ends;
mod lifecycle;
mod listeners;
mod reload;

// Log-in and token.
mod accounts;
mod clock;
mod credentials;
mod login;
mod login_exchange;
mod logout;
mod refresh;
mod terms;
mod unauthorized;

// Forwarding: what a request and its answer are on the other side.
mod answers;
mod expect;
mod forward;
mod framing;
mod h2c;
mod half_closed;
mod headers_down;
mod headers_up;
mod http10;
mod request_id;
mod stream;
mod target;
mod trailers;
mod websocket;

// Connections to the upstream.
mod client_certificate;
mod connecting;
mod connection_age;
mod connections;
mod costs;
mod egress;
mod goaway;
mod http2_upstream;
mod retry;
mod tls;

// Limits and time-outs.
mod descriptors;
mod idle_clients;
mod limits;
mod memory_bounds;
mod places;
mod timeouts;

// Refusals and hostile input.
mod browsers;
mod callers;
mod client_errors;
mod corpus;
mod floods;
mod hostile_http1;
mod hostile_http2;
mod observe;
mod problems;
mod refuse;
mod require_header;
mod rules;

// Operating: commands, health, metrics, logs, the service manager, what is kept secret.
mod api_states;
mod commands;
mod control;
mod demo;
mod exec;
mod exec_children;
mod exec_terminal;
mod hardening;
mod health;
mod healthcheck;
mod leaks;
mod logs;
mod memory;
mod metrics;
mod systemd;

// Documents.
mod agents;
mod guides;
