//! The named variables of the environment.
//!
//! Pure.

/// The variable that names the settings file.
pub(super) const CONFIG: &str = "CAREPORTALS_CONFIG";
/// The variable that names a directory of credentials.
pub(super) const CREDENTIALS_DIR: &str = "CAREPORTALS_CREDENTIALS_DIR";
/// The same, as systemd sets it.
pub(super) const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// A variable that sets one key, or says where settings are.
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// The key that it sets, as a path. `None`: it sets none.
    pub(super) path: Option<&'static str>,
    /// Whether `NAME_FILE` may hold the name of a file instead.
    pub(super) file: bool,
    /// What the reference says of it: its meaning and its default.
    pub(super) reference: [&'static str; 2],
}

/// Declares the variables, in the order of the documentation: `/// Meaning. NAME or_file => "key", "default";`
macro_rules! variables {
    ($(#[doc = $doc:literal] $name:ident $($or_file:ident)? $(=> $path:literal)?, $default:literal;)+) => {
        /// All of them, in the order of the documentation.
        pub(super) const VARIABLES: &[Variable] = &[$(Variable {
            name: stringify!($name),
            path: [$(Some($path),)? None][0],
            file: variables!(@file $($or_file)?),
            reference: [$doc.trim_ascii(), $default],
        }),+];
    };
    (@file) => { false };
    (@file or_file) => { true };
}

variables! {
    /// The settings file.
    CAREPORTALS_CONFIG, "`/etc/careportals-sidecar/config.toml` when present";
    /// Organization id.
    CAREPORTALS_ORGANIZATION or_file => "accounts.default.organization", "required";
    /// User name; warned about when given directly.
    CAREPORTALS_USERNAME or_file => "accounts.default.username", "required, unless log-in is off";
    /// Password; warned about when given directly.
    CAREPORTALS_PASSWORD or_file => "accounts.default.password", "required, unless log-in is off";
    /// Directory holding `organization`, `username`, `password` (a Kubernetes secret mount).
    CAREPORTALS_CREDENTIALS_DIR, "`$CREDENTIALS_DIRECTORY` (systemd `LoadCredential=`)";
    /// Preset: `careportals`, `patient`, `crm`, `emr` or `public`.
    CAREPORTALS_API => "apis.default.preset", "`careportals`";
    /// Base URL; may carry a path prefix.
    CAREPORTALS_UPSTREAM => "apis.default.upstream", "from the preset";
    /// URL of the log-in: absolute, or a path under the upstream; `off` for none.
    CAREPORTALS_LOGIN_URL => "accounts.default.login_url", "from the preset";
    /// Addresses, separated by commas.
    CAREPORTALS_LISTEN => "apis.default.listen", "`127.0.0.1:2273,[::1]:2273`";
    /// `true` allows addresses other than loopback in `CAREPORTALS_LISTEN`.
    CAREPORTALS_ALLOW_NON_LOOPBACK => "apis.default.allow_non_loopback", "`false`";
    /// Address of health and metrics; any address, or `off`.
    CAREPORTALS_TELEMETRY_LISTEN => "telemetry_listen", "`127.0.0.1:2274`";
    /// Unix socket for the commands that talk to the daemon, or `off`.
    CAREPORTALS_CONTROL_SOCKET => "control_socket", "the first default place that fits";
    /// PEM file with roots to trust besides the system's.
    CAREPORTALS_CA_FILE => "ca_file", "none";
    /// PEM file with roots to trust instead of the system's.
    CAREPORTALS_CA_ONLY_FILE => "ca_only_file", "none";
    /// Number of worker threads.
    CAREPORTALS_WORKERS => "workers", "usable cores, at most 4";
    /// Log filter.
    CAREPORTALS_LOG => "log", "`info`";
    /// `auto`, `text` or `json`.
    CAREPORTALS_LOG_FORMAT => "log_format", "`auto`";
}

/// What the reference says of the proxy's variables, which are not ours.
pub(super) const EGRESS: [&str; 3] = [
    "`HTTPS_PROXY`, `NO_PROXY`",
    "CONNECT proxy towards upstream (`http://` or `https://`, credentials in the URL allowed), and the hosts that are reached without \
     it; lower case wins. Never used for loopback.",
    "none",
];

/// Each variable and its meaning, for the help and the man pages.
#[must_use]
pub fn variables_in_words() -> Vec<(String, String)> {
    let ours = VARIABLES.iter().map(|variable| {
        let file = if variable.file { format!(", {}_FILE", variable.name) } else { String::new() };
        let [meaning, default] = variable.reference;
        let default = match default {
            "none" => String::new(),
            _ if default.starts_with("required") => format!(" [{default}]"),
            _ => format!(" [default: {default}]"),
        };
        (format!("{}{file}", variable.name), format!("{meaning}{default}").replace('`', ""))
    });
    let [names, meaning, _] = EGRESS.map(|text| text.replace('`', ""));
    let any = (
        "CAREPORTALS__KEY, CAREPORTALS__APIS__NAME__KEY".to_owned(),
        "Any key of careportals-sidecar.toml(5), by its path.".to_owned(),
    );
    ours.chain([(names, meaning), any]).collect()
}

/// Every name that is known: those of the variables, then those for files. Each with its variable, and whether it is for a file.
pub(super) fn names() -> impl Iterator<Item = (String, &'static Variable, bool)> {
    let plain = VARIABLES.iter().map(|variable| (variable.name.to_owned(), variable, false));
    let of_files = VARIABLES.iter().filter(|variable| variable.file);
    plain.chain(of_files.map(|variable| (format!("{}_FILE", variable.name), variable, true)))
}

/// The variable of that name, and whether the name is that for a file.
pub(super) fn find(name: &str) -> Option<(&'static Variable, bool)> {
    names().find(|(known, ..)| known == name).map(|(_, variable, is_file)| (variable, is_file))
}

/// The variable that sets the key of this path: one with a name of its own, if there is one.
pub(super) fn variable_of(path: &str) -> String {
    let named = VARIABLES.iter().find(|variable| variable.path == Some(path));
    named.map_or_else(|| variable_by_path(path), |variable| variable.name.to_owned())
}

/// The variable that sets the key of this path by its path.
pub(super) fn variable_by_path(path: &str) -> String {
    format!("CAREPORTALS__{}", path.to_uppercase().replace('-', "_").replace('.', "__"))
}
