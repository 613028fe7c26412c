//! Every setting, declared once.
//!
//! Pure. This table drives what is recognized, the defaults, `config`, the JSON Schema and `docs/settings.md`; a key that
//! is not here does not exist. Whether a key already has its effect is said here too, one word each.

use std::time::Duration;

use crate::careportals::{ORGANIZATION_HEADER, Preset};

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// At the file's top level.
    Global,
    /// Under `[accounts.NAME]`.
    Account,
    /// Under `[apis.NAME]`.
    Api,
}

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// Any text but the empty one.
    Text,
    /// A file's path.
    Path,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Count { min: u64, max: u64 },
    /// Bytes.
    Size { min: u64, max: u64 },
    /// A duration.
    Duration { min: Duration, max: Duration },
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A secret, or where it is to be had.
    Source,
    /// A base URL.
    Upstream,
    /// A URL or a path, or `off`.
    LoginUrl,
    /// A URL or a path.
    Endpoint,
    /// Places where clients come in.
    Listen,
    /// One TCP address, or `off`.
    AddressOrOff,
    /// A path, or `off`.
    SocketOrOff,
    /// Names to values; `reserved`: names that the sidecar owns.
    Headers { reserved: &'static [&'static str] },
    /// A header's name.
    HeaderName,
    /// Anything that JSON can hold, by name.
    Json,
    /// RFC 6901.
    Pointer,
    /// HTTP statuses of errors.
    Statuses,
    /// User or group ids.
    Ids,
    /// `METHOD /path`.
    Rules,
    /// `/whole/segments`.
    Prefix,
    /// Serialized origins.
    Origins,
    /// Host names, or `*`.
    Hosts,
    /// Path segments.
    Words,
    /// A file mode in octal.
    Mode,
    /// An account's name.
    Account,
    /// tracing's filter syntax.
    Filter,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// Dotted when it stands in a table of its own.
    pub(super) name: &'static str,
    pub(super) section: Section,
    pub(super) kind: Kind,
    /// In TOML syntax; `None`: no value, or one that depends on others.
    pub(super) default: Option<&'static str>,
    /// The default in words, when it is none or depends on others.
    pub(super) otherwise: &'static str,
    pub(super) doc: &'static str,
    /// Its value is never shown.
    pub(super) redacted: bool,
}

impl Key {
    const fn otherwise(mut self, words: &'static str) -> Self {
        self.otherwise = words;
        self
    }

    const fn redacted(mut self) -> Self {
        self.redacted = true;
        self
    }

    /// Whether a value given without quotes means text, whatever it looks like.
    pub(super) const fn is_text(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Switch
                | Kind::Count { .. }
                | Kind::Size { .. }
                | Kind::Source
                | Kind::Listen
                | Kind::Headers { .. }
                | Kind::Json
                | Kind::Statuses
                | Kind::Ids
                | Kind::Rules
                | Kind::Origins
                | Kind::Hosts
                | Kind::Words
        )
    }
}

const fn key(section: Section, name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { name, section, kind, default, otherwise: "none", doc, redacted: false }
}

const fn global(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    key(Section::Global, name, kind, default, doc)
}

const fn account(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    key(Section::Account, name, kind, default, doc)
}

const fn api(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    key(Section::Api, name, kind, default, doc)
}

const fn between_ms(min: u64, max_seconds: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min), max: Duration::from_secs(max_seconds) }
}

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1024;

const PRESETS: [&str; Preset::ALL.len()] = {
    let mut names = [""; Preset::ALL.len()];
    let mut place = 0;
    while place < names.len() {
        names[place] = Preset::ALL[place].name();
        place += 1;
    }
    names
};

/// Framing and hop-by-hop fields, which belong to a connection and not to a message.
const CONNECTION_HEADERS: [&str; 14] = [
    "host",
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Names that `headers` may not set.
const REQUEST_HEADERS: [&str; 17] = with(CONNECTION_HEADERS, ["authorization", ORGANIZATION_HEADER, "cookie"]);
/// Names that `login_headers` may not set.
const LOGIN_HEADERS: [&str; 17] = with(CONNECTION_HEADERS, [ORGANIZATION_HEADER, "content-type", "cookie"]);

const fn with(most: [&'static str; 14], more: [&'static str; 3]) -> [&'static str; 17] {
    let mut all = [""; 17];
    let mut place = 0;
    while place < 14 {
        all[place] = most[place];
        place += 1;
    }
    while place < 17 {
        all[place] = more[place - 14];
        place += 1;
    }
    all
}

/// Names that `require_header` can't use.
pub(super) const UNREQUIRABLE: &[&str] = &CONNECTION_HEADERS;

/// All of them, in the order of the documentation.
pub(super) const KEYS: &[Key] = &[
    global("workers", Kind::Count { min: 1, max: 256 }, None, "Worker threads.")
        .otherwise("usable cores (cgroup quota honoured), at most 4"),
    global(
        "log",
        Kind::Filter,
        Some("\"info\""),
        "Filter, in tracing's syntax, for the sidecar's own targets; dependencies stay at `warn`.",
    ),
    global(
        "log_format",
        Kind::OneOf(&["auto", "text", "json"]),
        Some("\"auto\""),
        "`auto` is text on a terminal and in systemd's journal, else JSON.",
    ),
    global("access_log", Kind::OneOf(&["on", "off"]), Some("\"on\""), "One line for each request."),
    global(
        "telemetry_listen",
        Kind::AddressOrOff,
        Some("\"127.0.0.1:2274\""),
        "Health and metrics, read-only; any address, or `off`.",
    ),
    global(
        "quitquitquit",
        Kind::Switch,
        Some("false"),
        "`POST /quitquitquit` on the telemetry listener, from this machine, shuts down.",
    ),
    global("control_socket", Kind::SocketOrOff, None, "Unix socket for `status`, `login` and the like, or `off`.")
        .otherwise("the first default place that fits"),
    global("control_allow_uids", Kind::Ids, Some("[]"), "User ids, besides our own and root, that may use the control socket."),
    global("drain_delay", between_ms(0, HOUR), Some("\"0s\""), "How long new requests are still served once a drain began."),
    global("drain_timeout", between_ms(0, HOUR), Some("\"25s\""), "How long requests in flight may take to finish."),
    global(
        "hardening",
        Kind::OneOf(&["auto", "required", "off"]),
        Some("\"auto\""),
        "What the process gives up at start; `required` fails when a step is missing.",
    ),
    global("ca_file", Kind::Path, None, "PEM roots to trust besides the system's."),
    global("ca_only_file", Kind::Path, None, "PEM roots to trust instead of the system's."),
    global("tls_min", Kind::OneOf(&["1.2", "1.3"]), Some("\"1.2\""), "The lowest TLS version accepted."),
    global(
        "tls_cert_file",
        Kind::Path,
        None,
        "PEM chain of a client certificate, shown to servers that ask; read again when it changes.",
    ),
    global("tls_key_file", Kind::Path, None, "PEM key of the client certificate, without a passphrase."),
    account("organization", Kind::Source, None, "Organization id: text or a source.").otherwise("required"),
    account("username", Kind::Source, None, "User name: text or a source.").otherwise("required, unless log-in is off"),
    account("password", Kind::Source, None, "Password: a source; a literal is allowed and warned about.")
        .otherwise("required, unless log-in is off"),
    account(
        "login_url",
        Kind::LoginUrl,
        None,
        "Absolute, or a path under the upstream of the account's only API; `off` for none.",
    )
    .otherwise("from the preset"),
    account(
        "refresh_url",
        Kind::Endpoint,
        None,
        "Where a refresh token becomes a token; absolute, or a path as for `login_url`.",
    ),
    account("login_timeout", between_ms(10, 300), Some("\"10s\""), "For one log-in, connection included."),
    account("login_fields.username", Kind::Text, Some("\"username\""), "Body member for the user name."),
    account("login_fields.password", Kind::Text, Some("\"password\""), "Body member for the password."),
    account("login_extra", Kind::Json, Some("{}"), "Further members of the log-in's JSON body.").redacted(),
    account("login_headers", Kind::Headers { reserved: &LOGIN_HEADERS }, Some("{}"), "Further headers of the log-in request.")
        .redacted(),
    account("token_pointer", Kind::Pointer, None, "JSON pointer to the token in the log-in's answer.")
        .otherwise("the known field names"),
    account("token_wait", between_ms(0, 300), Some("\"10s\""), "How long a request waits for a token."),
    account(
        "relogin_floor",
        between_ms(100, HOUR),
        Some("\"30s\""),
        "A token younger than this is not replaced because of a 401; doubles while log-ins do not cure it.",
    ),
    account(
        "relogin_on",
        Kind::Statuses,
        Some("[401]"),
        "Upstream statuses that make a token suspect; a request that gets one may be sent again, whatever its method.",
    ),
    account("assumed_life", between_ms(1000, 3650 * DAY), Some("\"1h\""), "Life of a token that does not say when it expires."),
    api(
        "preset",
        Kind::OneOf(&PRESETS),
        Some("\"careportals\""),
        "Which API this is: sets `upstream` and the account's `login_url`.",
    ),
    api("account", Kind::Account, Some("\"default\""), "Whose token it sends."),
    api("upstream", Kind::Upstream, None, "Base URL; may carry a path prefix.").otherwise("from the preset"),
    api(
        "listen",
        Kind::Listen,
        Some("[\"127.0.0.1:2273\", \"[::1]:2273\"]"),
        "TCP addresses, `unix:/path` or `systemd`; port 0 binds a free port.",
    ),
    api("allow_non_loopback", Kind::Switch, Some("false"), "Allows other than loopback addresses in `listen`."),
    api("prefix", Kind::Prefix, None, "Path under which this API shares its addresses with others; stripped before forwarding."),
    api(
        "allow",
        Kind::Rules,
        None,
        "The only requests that pass: `METHOD /a/*/b/**`, by the path that the upstream gets, its base path included.",
    )
    .otherwise("everything but log-in paths"),
    api("deny", Kind::Rules, Some("[]"), "Requests that never pass; wins over `allow`."),
    api("headers", Kind::Headers { reserved: &REQUEST_HEADERS }, Some("{}"), "Fixed extra request headers.").redacted(),
    api("cookies", Kind::OneOf(&["strip", "pass"]), Some("\"strip\""), "Whether cookies pass, both ways."),
    api(
        "allowed_hosts",
        Kind::Hosts,
        Some("[]"),
        "Further hosts that clients may name, without port, besides loopback and the upstream's; `*` for any.",
    ),
    api("allowed_origins", Kind::Origins, Some("[]"), "Origins of web pages that may call."),
    api(
        "require_header.name",
        Kind::HeaderName,
        None,
        "A header that each request must have (against server-side request forgery); it is not forwarded.",
    ),
    api("require_header.value", Kind::Source, None, "What that header must hold: text or a source.").otherwise("anything"),
    api("allow_uids", Kind::Ids, Some("[]"), "User ids that may call; if this and `allow_gids` are empty, all may."),
    api("allow_gids", Kind::Ids, Some("[]"), "Group ids that may call, on Unix sockets."),
    api("socket_mode", Kind::Mode, Some("\"0660\""), "Mode of Unix sockets, in octal."),
    api("socket_group", Kind::Text, None, "Group of Unix sockets, by name or number.").otherwise("the process's"),
    api("path_words", Kind::Words, Some("[]"), "Further path segments that logs may show."),
    api("allow_insecure_upstream", Kind::Switch, Some("false"), "Allows plain http to a loopback upstream."),
    api("http2", Kind::OneOf(&["off", "auto"]), Some("\"off\""), "Protocol towards upstream; `auto` offers HTTP/2."),
    api(
        "replay_buffer",
        Kind::Size { min: 0, max: 64 * KIB * KIB },
        Some("\"64KiB\""),
        "Bytes of a request body kept to send it again.",
    ),
    api("retry_idempotency_key", Kind::Switch, Some("false"), "`Idempotency-Key` makes a request safe to send again."),
    api("max_requests", Kind::Count { min: 1, max: 1_000_000 }, Some("1024"), "Requests in flight."),
    api("max_connections", Kind::Count { min: 1, max: 1_000_000 }, Some("4096"), "Connections per listen address."),
    api("max_header_bytes", Kind::Size { min: 8 * KIB, max: KIB * KIB }, Some("\"64KiB\""), "Bytes of a head."),
    api("max_headers", Kind::Count { min: 8, max: 4096 }, Some("256"), "Header lines of a head."),
    api(
        "head_timeout",
        between_ms(10, 600),
        Some("\"10s\""),
        "From accept to the first whole head, and from the first byte of each later one.",
    ),
    api("connect_timeout", between_ms(10, 300), Some("\"5s\""), "Name, connection and TLS together."),
    api(
        "response_timeout",
        between_ms(10, DAY),
        Some("\"60s\""),
        "From the last byte of the request's body to the answer's head.",
    ),
    api("body_idle", between_ms(10, DAY), Some("\"60s\""), "Silence of the side that a body comes from."),
    api(
        "stream_idle",
        between_ms(10, 30 * DAY),
        Some("\"1h\""),
        "Silence of an answer of the type `text/event-stream`, and of a tunnel.",
    ),
    api("client_idle", between_ms(10, 30 * DAY), Some("\"1h\""), "Silence between a client's requests."),
    api("pool_idle", between_ms(0, HOUR), Some("\"15s\""), "Silence of a kept upstream connection."),
    api("connection_max_age", between_ms(1000, 30 * DAY), Some("\"5m\""), "Age of an upstream connection, ±20 %."),
];

/// A variable that stands for one key, or for a choice that has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// The key it sets, as a path; `None`: read on its own.
    pub(super) path: Option<&'static str>,
    /// Whether `NAME_FILE` may hold the name of a file instead.
    pub(super) file: bool,
    pub(super) doc: &'static str,
    pub(super) default: &'static str,
}

const fn variable(name: &'static str, path: Option<&'static str>, doc: &'static str, default: &'static str) -> Variable {
    Variable { name, path, file: false, doc, default }
}

const fn from_file(mut variable: Variable) -> Variable {
    variable.file = true;
    variable
}

/// The variable that names the settings file.
pub(super) const CONFIG: &str = "CAREPORTALS_CONFIG";
/// The variable that names a directory of credentials.
pub(super) const CREDENTIALS_DIR: &str = "CAREPORTALS_CREDENTIALS_DIR";
/// systemd's own.
pub(super) const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// All of them, in the order of the documentation.
pub(super) const VARIABLES: &[Variable] = &[
    variable(CONFIG, None, "The settings file.", "`/etc/careportals-sidecar/config.toml` when present"),
    from_file(variable("CAREPORTALS_ORGANIZATION", Some("accounts.default.organization"), "Organization id.", "required")),
    from_file(variable(
        "CAREPORTALS_USERNAME",
        Some("accounts.default.username"),
        "User name.",
        "required, unless log-in is off",
    )),
    from_file(variable(
        "CAREPORTALS_PASSWORD",
        Some("accounts.default.password"),
        "Password; warned about when given directly.",
        "required, unless log-in is off",
    )),
    variable(
        CREDENTIALS_DIR,
        None,
        "Directory holding `organization`, `username`, `password` (a Kubernetes secret mount).",
        "`$CREDENTIALS_DIRECTORY` (systemd `LoadCredential=`)",
    ),
    variable(
        "CAREPORTALS_API",
        Some("apis.default.preset"),
        "Preset: `careportals`, `patient`, `crm`, `emr` or `public`.",
        "`careportals`",
    ),
    variable("CAREPORTALS_UPSTREAM", Some("apis.default.upstream"), "Base URL; may carry a path prefix.", "from the preset"),
    variable(
        "CAREPORTALS_LOGIN_URL",
        Some("accounts.default.login_url"),
        "Absolute, or a path under the upstream; `off` for none.",
        "from the preset",
    ),
    variable("CAREPORTALS_LISTEN", Some("apis.default.listen"), "Comma-separated addresses.", "`127.0.0.1:2273,[::1]:2273`"),
    variable(
        "CAREPORTALS_ALLOW_NON_LOOPBACK",
        Some("apis.default.allow_non_loopback"),
        "`true` allows other TCP addresses in `CAREPORTALS_LISTEN`.",
        "`false`",
    ),
    variable(
        "CAREPORTALS_TELEMETRY_LISTEN",
        Some("telemetry_listen"),
        "Health and metrics; any address, or `off`.",
        "`127.0.0.1:2274`",
    ),
    variable("CAREPORTALS_CONTROL_SOCKET", Some("control_socket"), "Unix socket, or `off`.", "the first default place that fits"),
    variable("CAREPORTALS_CA_FILE", Some("ca_file"), "PEM roots to trust besides the system's.", "none"),
    variable("CAREPORTALS_CA_ONLY_FILE", Some("ca_only_file"), "PEM roots to trust instead of the system's.", "none"),
    variable("CAREPORTALS_WORKERS", Some("workers"), "Worker threads.", "usable cores, at most 4"),
    variable("CAREPORTALS_LOG", Some("log"), "Log filter.", "`info`"),
    variable("CAREPORTALS_LOG_FORMAT", Some("log_format"), "`auto`, `text` or `json`.", "`auto`"),
];

/// The key of that name in that section.
pub(super) fn find(section: Section, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The keys of one section.
pub(super) fn of(section: Section) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section == section)
}

/// The key that a path like `apis.emr.listen` or `log` names.
pub(super) fn at(path: &str) -> Option<&'static Key> {
    let mut parts = path.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("accounts"), Some(_), Some(name)) => find(Section::Account, name),
        (Some("apis"), Some(_), Some(name)) => find(Section::Api, name),
        _ => find(Section::Global, path),
    }
}
