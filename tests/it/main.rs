//! The program end to end: the real binary, real sockets, a simulated CarePortals over real TLS.
//!
//! One module for each behaviour. Tests run in parallel on random ports, wait for what they expect instead of sleeping,
//! and leave nothing behind.

#![allow(unreachable_pub, reason = "one crate; nothing leaves it")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]
#![allow(clippy::format_collect, clippy::format_push_string, reason = "short beats fast here")]

mod accounts;
mod callers;
mod cli;
mod client_certificate;
mod clock;
mod commands;
mod connect_proxy;
mod connection_age;
mod connections;
mod control;
mod credentials;
mod crowd;
mod demo;
mod egress;
mod exec;
mod exec_terminal;
mod expect;
mod floods;
mod forward;
mod framing;
mod goaway;
mod guides;
mod h2c;
mod hardening;
mod header_tricks;
mod headers;
mod health;
mod healthcheck;
mod hostile_http1;
mod hostile_http2;
mod http;
mod http10;
mod http2;
mod http2_upstream;
mod idle_clients;
mod interruptions;
mod leaks;
mod lifecycle;
mod limits;
mod listeners;
mod login;
mod login_exchange;
mod logout;
mod logs;
mod memory;
mod metrics;
mod pattern;
mod problems;
mod raw_h2;
mod raw_upstream;
mod refresh;
mod refuse;
mod reload;
mod require_header;
mod response_headers;
mod retry;
mod rules;
mod sidecar;
mod stalled;
mod stream;
mod systemd;
mod target;
mod timeouts;
mod tls;
mod tls_peer;
mod trailers;
mod unauthorized;
mod upstream;
mod websocket;
