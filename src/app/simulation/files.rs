//! The daemon's files: its settings, and the credentials that they name.

use std::path::PathBuf;

use super::{
    fields,
    servers::{ACCOUNTS, RELIES_ON_KEYS, SECOND_ADDRESS, TLS_ADDRESS, address, log_in_address},
    terms::{Limits, Terms},
    world::World,
};

impl World {
    /// Replaces a file in one step, as well-behaved writers do.
    pub(super) fn put(&self, name: &str, content: &str) {
        let staged = self.directory.join("staged");
        // The directory is the simulation's own.
        std::fs::write(&staged, content).unwrap();
        std::fs::rename(&staged, self.directory.join(name)).unwrap();
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) {
        drop(std::fs::remove_file(self.directory.join(name)));
    }

    /// Writes the settings that name `server` for the first account.
    pub(super) fn put_settings(&self, server: usize, limits: Limits) {
        let directory = self.directory.display();
        let Terms { workers, replay_buffer, pool_idle, .. } = self.terms();
        let (pool_idle, places) = (pool_idle.as_secs(), self.places());
        let (floor, drain_delay) = (self.terms().floor.as_secs(), self.terms().drain_delay.as_secs());
        let [response_timeout, body_idle, max_age, drain_timeout] =
            [limits.response_timeout, limits.body_idle, limits.max_age, limits.drain_timeout].map(|time| time.as_secs());
        let requests = limits.requests;
        let (more_addresses, third) = self.third(|third, _| third.settings(&self.directory, places, self.has_room()));
        let api = |account: usize, server: usize| {
            let name = ACCOUNTS[account];
            let (more, further) = if account == 1 { (fields::SECOND_API, more_addresses.as_str()) } else { ("", "") };
            let relies_on_keys = account == RELIES_ON_KEYS;
            let upstream = match account {
                0 => format!("http://{}", address(server)),
                _ if self.terms().tls => format!("https://{TLS_ADDRESS}{}\"\nhttp2 = \"auto", fields::BASE_PATH),
                _ => format!("http://{SECOND_ADDRESS}{}", fields::BASE_PATH),
            };
            format!(
                r#"
[apis.{name}]
account = "{name}"
upstream = "{upstream}"
listen = ["unix:{directory}/{name}.sock"{further}]
allow_insecure_upstream = true
max_connections = {places}
max_requests = {requests}
response_timeout = "{response_timeout}s"
connection_max_age = "{max_age}s"
pool_idle = "{pool_idle}s"
{more}
connect_timeout = "4s"
body_idle = "{body_idle}s"
head_timeout = "4s"
client_idle = "20s"
stream_idle = "25s"
replay_buffer = "{replay_buffer}KiB"
retry_idempotency_key = {relies_on_keys}
"#
            )
        };
        let (first, second, address, other) = (api(0, server), api(1, 1), log_in_address(server), log_in_address(1));
        self.put(
            "config.toml",
            &format!(
                r#"
drain_timeout = "{drain_timeout}s"
drain_delay = "{drain_delay}s"
ca_only_file = "{directory}/roots.pem"
workers = {workers}
telemetry_listen = "off"
control_socket = "off"
hardening = "off"
[accounts.default]
organization = {{ file = "{directory}/organization" }}
username = "service"
password = {{ file = "{directory}/password" }}
login_url = "http://{address}/auth"
relogin_floor = "{floor}s"
[accounts.other]
organization = "other"
username = "service"
password = "other-word"
login_url = "http://{other}/auth"
relogin_floor = "{floor}s"
{first}{second}{third}
"#
            ),
        );
    }

    pub(super) fn settings(&self) -> PathBuf {
        self.directory.join("config.toml")
    }
}
