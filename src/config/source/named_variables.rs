//! The named variables of the environment.
//!
//! Pure.

/// The variable that names the settings file.
pub(super) const CONFIG: &str = "CAREPORTALS_CONFIG";
/// The variable that names a directory of credentials.
pub(super) const CREDENTIALS_DIR: &str = "CAREPORTALS_CREDENTIALS_DIR";
/// The same, as systemd sets it.
pub(super) const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// All named variables, in the order of the documentation.
const VARIABLES: &[Variable] = &[
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
        "`true` allows other TCP addresses in the former.",
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

/// A variable that sets one key, or says where settings are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// The key that it sets, as a path. `None`: it sets none.
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

/// All of them, in the order of the documentation.
pub(super) fn all() -> &'static [Variable] {
    VARIABLES
}

/// The variable of that name, and whether the name is that for a file.
pub(super) fn find(name: &str) -> Option<(&'static Variable, bool)> {
    let plain = VARIABLES.iter().find(|variable| variable.name == name).map(|variable| (variable, false));
    let is_file = |variable: &&Variable| variable.file && name.strip_suffix("_FILE") == Some(variable.name);
    plain.or_else(|| VARIABLES.iter().find(is_file).map(|variable| (variable, true)))
}

/// Every name that is known: those of the variables, then those for files.
pub(super) fn names() -> Vec<String> {
    let files = VARIABLES.iter().filter(|variable| variable.file).map(|variable| format!("{}_FILE", variable.name));
    VARIABLES.iter().map(|variable| variable.name.to_owned()).chain(files).collect()
}
