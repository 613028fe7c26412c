//! Declares the command line: commands, flags and their help, from which `docs/commands.md` and the man pages are made.
//!
//! It only parses; `cli` and `control` run the commands.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use super::reference;
use crate::{
    config::source::{self, Input, Loaded},
    healthcheck::Probe,
};

/// A local authenticating proxy for CarePortals.
///
/// Logs in with the credentials it is given, holds the token in memory only, renews it before it expires, and forwards
/// what comes in on localhost with `Authorization` and `organization` added. Point your app's base URL at
/// <http://localhost:2273> and never handle a token.
#[derive(Debug, Parser)]
#[command(name = "careportals-sidecar", version, disable_help_subcommand = true, after_long_help = reference::after_help())]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Subcommands>,
    #[command(flatten)]
    pub(super) run: DaemonFlags,
}

/// Settings that are handy on a command line; they win over environment and file. Each command takes those that it uses.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct DaemonFlags {
    #[command(flatten)]
    settings: SettingsFlags,
    #[command(flatten)]
    control: ControlFlag,
    /// Log filter, as `info` or `careportals_sidecar=debug`
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// `auto`, `text` or `json`
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Worker threads
    #[arg(long, value_name = "N")]
    workers: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct SettingsFlags {
    #[command(flatten)]
    file: FileFlag,
    /// Addresses of the API `default`, separated by commas, as `127.0.0.1:2273` or `unix:/run/x.sock`
    #[arg(long, value_name = "ADDRESSES")]
    listen: Option<String>,
    /// Base URL of the API `default` at CarePortals
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct ClientFlags {
    #[command(flatten)]
    file: FileFlag,
    #[command(flatten)]
    control: ControlFlag,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(super) struct FileFlag {
    /// Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Settings")]
struct ControlFlag {
    /// Unix socket by which `status` and its siblings reach the daemon, or `off`
    #[arg(long, value_name = "PATH")]
    control_socket: Option<String>,
}

impl DaemonFlags {
    /// Turns the flags into the input of the settings' reader. `defaults` replace the daemon's defaults.
    pub(super) fn input(self, defaults: &'static [(&'static str, &'static str)]) -> Input {
        let mut input = self.settings.input();
        input.flags.extend(self.control.flag());
        input.flags.extend(flag("log", self.log));
        input.flags.extend(flag("log_format", self.log_format));
        input.flags.extend(flag("workers", self.workers));
        Input { defaults, ..input }
    }
}

impl SettingsFlags {
    pub(super) fn input(self) -> Input {
        let mut input = self.file.input();
        input.flags.extend(flag("apis.default.listen", self.listen));
        input.flags.extend(flag("apis.default.upstream", self.upstream));
        input
    }

    /// Reads the settings with the daemon's defaults.
    pub(super) fn load(self) -> Loaded {
        source::load(self.input())
    }
}

impl ClientFlags {
    pub(super) fn input(self) -> Input {
        let mut input = self.file.input();
        input.flags.extend(self.control.flag());
        input
    }

    /// Whether the user named the daemon's control socket, and so the daemon.
    pub(super) fn name_a_daemon(&self) -> bool {
        self.control.control_socket.is_some()
    }
}

impl FileFlag {
    pub(super) fn input(self) -> Input {
        Input::of_process(self.config)
    }
}

impl ControlFlag {
    fn flag(self) -> Option<(String, String)> {
        flag("control_socket", self.control_socket)
    }
}

fn flag(key: &str, value: Option<String>) -> Option<(String, String)> {
    value.map(|value| (key.to_owned(), value))
}

/// Moves settings that stand before the command behind it: there clap knows whether the command takes them.
pub(super) fn command_first(mut words: Vec<OsString>) -> Vec<OsString> {
    let program = Cli::command();
    let mut place = 1;
    while let Some(word) = words.get(place).and_then(|word| word.to_str()) {
        let Some(flag) = word.strip_prefix("--") else { break };
        let name = flag.split('=').next().unwrap_or_default();
        if !program.get_arguments().any(|known| known.get_long() == Some(name) && known.get_action().takes_values()) {
            return words;
        }
        place += if flag.contains('=') { 1 } else { 2 };
    }
    if words.get(place).and_then(|word| word.to_str()).is_some_and(|word| program.find_subcommand(word).is_some()) {
        words[1..=place].rotate_right(1);
    }
    words
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum Subcommands {
    /// Run the daemon (the default)
    ///
    /// SIGTERM or SIGINT drains and exits 0; a second one exits 1 at once. SIGHUP reads the settings again, SIGUSR1 logs out.
    Run {
        #[command(flatten)]
        flags: DaemonFlags,
    },
    /// Run a program with the sidecar around it
    ///
    /// Listens on a free loopback port (unless `listen` is set), waits for a token, and starts CMD with
    /// `CAREPORTALS_BASE_URL=http://127.0.0.1:PORT`, and `CAREPORTALS_<API>_BASE_URL` for each API, but without any variable
    /// that holds a secret. Signals are passed on to CMD. Serves until CMD has ended, and exits with its code, or with 128+n
    /// when signal n ended it.
    Exec {
        /// How long a token may take; 0s starts CMD at once
        #[arg(long, value_name = "D", default_value = "30s", value_parser = source::parse_duration)]
        wait: Duration,
        /// The program and its arguments
        #[arg(last = true, required = true, num_args = 1.., value_name = "CMD")]
        command: Vec<OsString>,
        #[command(flatten)]
        flags: DaemonFlags,
    },
    /// Validate the configuration and print every fault and warning; binds nothing
    ///
    /// Exits 78 when there is a fault. Warnings are counted, and change nothing of the exit code without `--strict`.
    Check {
        /// Also resolve, connect, verify TLS, log in and compare clocks
        #[arg(long)]
        online: bool,
        /// Exit 1 when there are warnings
        #[arg(long)]
        strict: bool,
        /// Say which API and which rule decide about a request, and what upstream would receive
        ///
        /// The target is as a client sends it, with the prefix. Exits 0 when the request passes at every address, 1 when it is
        /// refused.
        #[arg(long, value_name = "METHOD /TARGET", conflicts_with_all = ["online", "strict"])]
        explain: Option<String>,
        /// List the requests that the rules let through and those of this settings file did not (`+`), and the reverse (`-`)
        ///
        /// As rules, API by API. `*` in a path is a segment that no rule and no other line names, `OTHER` a method that no rule
        /// names. The old file is read with the same environment and flags.
        #[arg(long, value_name = "OLD.toml", conflicts_with_all = ["online", "strict", "explain"])]
        diff: Option<PathBuf>,
        /// With --explain: only at the addresses of this API
        #[arg(long, value_name = "NAME", requires = "explain")]
        api: Option<String>,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Show the effective configuration, secrets redacted, and where each value comes from
    Config {
        /// Print the JSON Schema of the settings file instead
        #[arg(long)]
        json_schema: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Show the state of every account and API of the running daemon
    ///
    /// When each token expires and is renewed, when the last log-in was, what failed last and what to do about it, and how
    /// many requests each API has had. Asks the daemon by its control socket, or by its telemetry listener where the socket
    /// can't be used. Exits 0 whenever the daemon answers, whatever it says; `healthcheck` judges.
    Status {
        /// Print the daemon's document as it is, for programs (docs/control.md)
        #[arg(long)]
        json: bool,
        /// Show it again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        flags: ClientFlags,
    },
    /// Print the `allow` list for what the running daemon has seen
    ///
    /// As TOML, to be pasted into the API's table. The API must have `observe = true`; the list lets through what it has seen
    /// since the start and `deny` does not refuse. A segment that is no word of CarePortals' routes, of rules or of `path_words`
    /// becomes `*`, so the list names no person and no record. Read it before you use it: it allows whatever was called.
    Rules {
        /// The API that is observed (the only one that is)
        #[arg(value_name = "API")]
        api: Option<String>,
        #[command(flatten)]
        flags: ClientFlags,
    },
    /// Have the running daemon log in, and wait for the outcome
    ///
    /// The way back from a log-out, and the quickest one after rejected credentials were corrected. While it goes on, a token
    /// that is still valid is used. Exits 1 when a log-in failed, and says why.
    Login {
        /// Only this account (all that log in)
        #[arg(value_name = "ACCOUNT")]
        account: Option<String>,
        #[command(flatten)]
        flags: ClientFlags,
    },
    /// Have the running daemon forget its tokens
    ///
    /// They are wiped from its memory, and idle connections to CarePortals are closed. Requests then get 503 until `login`, or
    /// until the daemon is restarted.
    Logout {
        /// Only this account (all that log in)
        #[arg(value_name = "ACCOUNT")]
        account: Option<String>,
        #[command(flatten)]
        flags: ClientFlags,
    },
    /// Have the running daemon read its settings again, and wait for the outcome
    ///
    /// They are taken over whole or not at all, and no request fails for it. Exits 1 when they were not taken over, and names
    /// every fault. The environment and the flags are as they were when the daemon started.
    Reload {
        #[command(flatten)]
        flags: ClientFlags,
    },
    /// Have the running daemon finish what is in flight and end
    ///
    /// As SIGTERM does, within `drain_timeout`. Exits 0 as soon as the daemon has begun.
    Shutdown {
        #[command(flatten)]
        flags: ClientFlags,
    },
    /// Exit 0 when the daemon is healthy, 1 when it is not
    ///
    /// Asks the configured telemetry listener (an address such as 0.0.0.0 by loopback). Needs no credentials and no shell:
    /// for probes, and for HEALTHCHECK in an image. When `telemetry_listen` is off it fails and says so.
    #[command(group = ArgGroup::new("probe").multiple(false))]
    Healthcheck {
        /// Do the event loops turn? Never depends on CarePortals (the default)
        #[arg(long, group = "probe")]
        live: bool,
        /// Is the configuration valid, and are all listeners bound?
        #[arg(long, group = "probe")]
        started: bool,
        /// Does every account hold a valid token?
        #[arg(long, group = "probe")]
        ready: bool,
        /// Ask again for as long as this, until the answer is yes
        #[arg(long, value_name = "D", default_value = "0s", hide_default_value = true, value_parser = source::parse_duration)]
        wait: Duration,
        #[command(flatten)]
        flags: FileFlag,
    },
    /// Print the completions of a shell, to be read by it
    ///
    /// As in `careportals-sidecar completions bash > /etc/bash_completion.d/careportals-sidecar`.
    Completions {
        /// Whose
        shell: Shell,
    },
    /// Show the main job at work against a simulated CarePortals; needs no file, no network, no root
    #[cfg(feature = "demo")]
    Demo {
        /// Make the calls and exit
        #[arg(long)]
        once: bool,
    },
    /// Print this help, or that of a command
    Help {
        /// Whose
        #[arg(value_name = "COMMAND")]
        command: Option<String>,
    },
    /// Print the version, the commit and the target that it was built from and for, and the profile
    Version,
}

/// Finds the probe that the flags of `healthcheck` ask for; without a flag it is `live`.
pub(super) fn probe(started: bool, ready: bool) -> Probe {
    match (started, ready) {
        (true, _) => Probe::Started,
        (_, true) => Probe::Ready,
        _ => Probe::Live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_before_a_command_move_behind_it_and_nothing_else_moves() {
        for (line, expected) in [
            ("x status", "x status"),
            ("x --config a.toml status", "x status --config a.toml"),
            ("x --config=a.toml status --json", "x status --config=a.toml --json"),
            ("x --config a.toml --log=debug run", "x run --config a.toml --log=debug"),
            ("x --config status", "x --config status"),
            ("x --config a.toml", "x --config a.toml"),
            ("x --config a.toml nosuch", "x --config a.toml nosuch"),
            ("x --nosuch a.toml status", "x --nosuch a.toml status"),
            ("x --version status", "x --version status"),
            ("x -- status", "x -- status"),
            ("x", "x"),
        ] {
            let words = line.split(' ').map(OsString::from).collect();
            let moved: Vec<String> = command_first(words).into_iter().map(|word| word.into_string().unwrap()).collect();
            assert_eq!(moved.join(" "), expected);
        }
    }

    #[test]
    fn each_flag_sets_its_key() {
        let parsed = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap();
        let line = "x run --config a.toml --listen 1 --upstream 2 --control-socket 3 --log 4 --log-format 5 --workers 6";
        let Some(Subcommands::Run { flags }) = parsed(line).command else { panic!("it is `run`") };
        let input = flags.input(&[("log", "\"warn\"")]);
        let keys = ["apis.default.listen", "apis.default.upstream", "control_socket", "log", "log_format", "workers"];
        let expected: Vec<(String, String)> =
            keys.iter().zip(1..).map(|(key, value): (_, u32)| ((*key).to_owned(), value.to_string())).collect();
        assert_eq!(input.flags, expected);
        assert_eq!((input.config_flag, input.defaults), (Some("a.toml".into()), &[("log", "\"warn\"")][..]));
        for (line, names) in [("x status", false), ("x status --control-socket /a", true)] {
            let Some(Subcommands::Status { flags, .. }) = parsed(line).command else { panic!("it is `status`") };
            assert_eq!((flags.name_a_daemon(), flags.input().flags.len()), (names, usize::from(names)), "{line}");
        }
    }

    #[test]
    fn healthcheck_asks_whether_the_daemon_lives_unless_a_flag_says_otherwise() {
        assert_eq!([probe(false, false), probe(true, false), probe(false, true)], [Probe::Live, Probe::Started, Probe::Ready]);
    }
}
