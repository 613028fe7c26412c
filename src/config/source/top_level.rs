//! The file's top level: its settings as they are written, and what they mean.
//!
//! Pure. CONTRIBUTING.md says how to add a setting.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{
    environment::Environment,
    kinds::{AddressOrOff, Between, Count, Filter, Id, List, OnOff, Optional, Path, SocketOrOff, Switch, words},
    measures::HOUR,
    reader::{SettingsReader, built, table},
    setting::{Key, Kind, Section, Setting, Unset},
};
table! {
    /// The top level as it is written.
    TopLevel of TopLevel;

    /// Number of worker threads.
    workers: Optional<Count<1, 256>>, Shown("usable cores (cgroup quota honoured), at most 4");
    /// Log filter in tracing's syntax, for the sidecar's own targets; dependencies stay at `warn`.
    log: Filter = "info";
    /// `auto` writes text on a terminal and in systemd's journal, and JSON elsewhere.
    log_format: LogFormat = "auto";
    /// Whether each request gets a log line.
    access_log: OnOff = "on";
    /// Address of health and metrics, read-only; any address, or `off`.
    telemetry_listen: AddressOrOff = "127.0.0.1:2274";
    /// Lets `POST /quitquitquit` on the telemetry listener, from this machine, shut the daemon down.
    quitquitquit: Switch = false;
    /// Unix socket for `status` and the other commands that talk to the daemon, or `off`.
    control_socket: SocketOrOff, Shown("the first default place that fits");
    /// User ids, besides the daemon's own and root, that may use the control socket.
    control_allow_uids: List<Id> = [];
    /// Time for which new requests are still served after a drain began.
    drain_delay: Between<0, HOUR> = "0s";
    /// Time that requests in flight have to finish.
    drain_timeout: Between<0, HOUR> = "25s";
    /// What the process gives up at start; with `required`, the start fails when a step is missing.
    hardening: Hardening = "auto";
    /// PEM file with roots to trust besides the system's.
    ca_file: Optional<Path>;
    /// PEM file with roots to trust instead of the system's.
    ca_only_file: Optional<Path>;
    /// The lowest TLS version accepted.
    tls_min: TlsVersion = "1.2";
    /// PEM file with a client certificate and its chain, shown to servers that ask; read again when it changes.
    tls_cert_file: Optional<Path>;
    /// PEM file with the key of the client certificate, without a passphrase.
    tls_key_file: Optional<Path>;
}

words! {
    /// The form of log lines.
    LogFormat {
        /// Text on a terminal and in systemd's journal, else JSON.
        Auto = "auto",
        /// Text for people.
        Text = "text",
        /// One JSON object a line, for programs.
        Json = "json",
    }

    /// What the process gives up at its start.
    Hardening {
        /// The process gives up what the kernel lets it.
        Auto = "auto",
        /// The process gives up all of it, or does not start.
        Required = "required",
        /// The process gives up nothing.
        Off = "off",
    }

    /// The lowest version of TLS towards upstream.
    #[derive(Default)]
    TlsVersion {
        /// TLS 1.2 (RFC 5246) and later versions.
        #[default]
        Tls12 = "1.2",
        /// TLS 1.3 (RFC 8446) alone.
        Tls13 = "1.3",
    }
}

built! { named
    /// Settings that are in effect from the daemon's start to its end. A reload that changes one of them is refused.
    #[derive(Clone, Debug, PartialEq, Eq)]
    RestartOnly of (top: &TopLevel) {
        /// The number of worker threads; `None`: as many as usable cores, at most 4.
        workers: Option<NonZeroUsize> = top.workers.get().map(|count| count.and_then(NonZeroUsize::new)),
        log_format: LogFormat = top.log_format.get(),
        /// Health and metrics are served here; `None`: nowhere.
        telemetry_listen: Option<SocketAddr> = top.telemetry_listen.get(),
        quitquitquit: bool = top.quitquitquit.get(),
        control_socket: ControlSocket = top.control_socket.get(),
        control_allow_uids: Vec<u32> = top.control_allow_uids.get(),
        hardening: Hardening = top.hardening.get(),
    }
}

built! {
    /// Settings of the daemon that a reload changes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    Reloadable of (top: &TopLevel) {
        log: Log = Log::of(top),
        drain_delay: Duration = top.drain_delay.get(),
        drain_timeout: Duration = top.drain_timeout.get(),
    }
}

built! {
    /// The settings of the log.
    #[derive(Clone, Debug, PartialEq, Eq)]
    Log of (top: &TopLevel) {
        /// tracing's filter syntax, for our own targets.
        filter: String = top.log.get(),
        /// The form of its lines.
        format: LogFormat = top.log_format.get(),
        /// Whether each request gets a line.
        access: bool = top.access_log.get(),
    }
}

built! {
    /// Trust and versions towards upstream.
    #[derive(Clone, Debug, PartialEq, Eq, Default)]
    Tls of (top: &TopLevel, environment: &Environment) {
        /// Where the system's roots are; `None`: in the usual places.
        named_roots: Option<NamedRoots> = Some(NamedRoots::of(environment)),
        /// A PEM file whose roots are trusted besides the system's.
        ca_file: Option<PathBuf> = top.ca_file.get(),
        /// A PEM file whose roots are trusted instead of the system's.
        ca_only_file: Option<PathBuf> = top.ca_only_file.get(),
        min_version: TlsVersion = top.tls_min.get(),
        client_certificate: Option<ClientCertificate> = Some(ClientCertificate::of(top)),
    }
}

/// Where the system's roots are, by the variables by which OpenSSL and most programs find them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRoots {
    /// `SSL_CERT_FILE`, a PEM file.
    pub file: Option<PathBuf>,
    /// `SSL_CERT_DIR`, whose files are PEM.
    pub directories: Vec<PathBuf>,
}

impl NamedRoots {
    /// `None`: no variable names any.
    pub(super) fn of(environment: &Environment) -> Option<Self> {
        // An empty variable counts as not set.
        let file = environment.get("SSL_CERT_FILE").filter(|file| !file.is_empty()).map(PathBuf::from);
        let directories = environment.get("SSL_CERT_DIR").into_iter().flat_map(std::env::split_paths);
        let directories: Vec<_> = directories.filter(|directory| !directory.as_os_str().is_empty()).collect();
        (file.is_some() || !directories.is_empty()).then_some(Self { file, directories })
    }
}

built! {
    /// The files of a client certificate, which servers may ask for.
    #[derive(Clone, Debug, PartialEq, Eq)]
    ClientCertificate of (top: &TopLevel) {
        /// A PEM file with the certificate and its chain.
        certificates: PathBuf = top.tls_cert_file.get().flatten(),
        /// A PEM file with the key, without a passphrase.
        key: PathBuf = top.tls_key_file.get().flatten(),
    }
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlSocket {
    /// The first default place that fits; these directories may be among them.
    Default(RuntimeDirectories),
    /// There is no control socket.
    Off,
    /// The socket is at this path.
    Path(PathBuf),
}

/// Directories for sockets, from the environment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RuntimeDirectories {
    /// The first of `$RUNTIME_DIRECTORY`: the service manager made it for this daemon.
    pub service: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`, which belongs to the user.
    pub user: Option<PathBuf>,
}
