//! Finds what others may read or write: secret, key and settings files, and a user name that stands in a variable.
//!
//! It looks at modes and file systems alone, and opens no file.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::config::{
    Account, Config, Source,
    source::{EffectiveValue, Loaded, ValueOrigin},
};

const READABLE: &str = "take that right from the others (chmod o-r)";
/// A service's own user may read its settings only by that right.
const SECRETS_IN_SETTINGS: &str = "keep secrets in files of their own, or take that right from the others (chmod o-r)";
const WRITABLE: &str = "take that right from the others (chmod o-w)";

/// The warnings: for each, the key that names the file, what may go wrong, and a hint. `loaded`: how `config` was written.
#[must_use]
pub fn open_files(config: &Config, loaded: &Loaded) -> Vec<(String, String, &'static str)> {
    let mut warnings = Vec::new();
    let mut look = |key: &str, path: &Path, is_secret: bool| {
        let found = findings(path, is_secret).into_iter();
        let hint = |hint| if key.is_empty() && hint == READABLE { SECRETS_IN_SETTINGS } else { hint };
        warnings.extend(found.map(|(message, of_file)| (key.to_owned(), message, hint(of_file))));
    };
    for account in &config.accounts {
        for (key, file, is_secret) in files_of(account) {
            look(&format!("accounts.{}.{key}", account.name), file, is_secret);
        }
    }
    for api in &config.apis {
        if let Some(Source::File(path)) = api.require_header.as_ref().and_then(|required| required.value.as_ref()) {
            look(&format!("apis.{}.require_header.value", api.name), path, true);
        }
    }
    let own = config.tls.client_certificate.as_ref();
    let of_tls: [(&str, Option<&PathBuf>); 4] = [
        ("tls_key_file", own.map(|own| &own.key)),
        ("tls_cert_file", own.map(|own| &own.certificates)),
        ("ca_file", config.tls.ca_file.as_ref()),
        ("ca_only_file", config.tls.ca_only_file.as_ref()),
    ];
    for (key, path) in of_tls {
        if let Some(path) = path {
            look(key, path, key == "tls_key_file");
        }
    }
    if let Some(path) = &loaded.file {
        look("", path, holds_secrets(loaded));
    }
    warnings.extend(loaded.values.iter().filter_map(visible_name));
    warnings
}

/// The warning about a user name that a variable gives directly. One of a settings file is told when that is read.
fn visible_name(value: &EffectiveValue) -> Option<(String, String, &'static str)> {
    let ValueOrigin::Variable(name) = &value.origin else { return None };
    // Where it is read from would be shown.
    let is_written = value.path.ends_with(".username") && value.shown == "\"[redacted]\"";
    let by_path = name.starts_with("CAREPORTALS__");
    let hint = if by_path { "use the variable that ends in __FILE" } else { "use CAREPORTALS_USERNAME_FILE" };
    let message = "is given directly; whoever sees this process's environment sees it";
    is_written.then(|| (value.path.clone(), message.to_owned(), hint))
}

/// The files of an account, each with its key, and whether it holds a secret.
fn files_of(account: &Account) -> impl Iterator<Item = (&'static str, &Path, bool)> {
    let login = account.login.iter().flat_map(|login| [("username", &login.username, true), ("password", &login.password, true)]);
    let all = std::iter::once(("organization", &account.organization, false)).chain(login);
    all.filter_map(|(key, source, is_secret)| match source {
        Source::File(path) => Some((key, path.as_path(), is_secret)),
        Source::Value(_) | Source::Command(_) => None,
    })
}

/// Whether the settings file itself holds a value that is never shown.
fn holds_secrets(loaded: &Loaded) -> bool {
    let in_file = loaded.values.iter().filter(|value| matches!(value.origin, ValueOrigin::File { .. }));
    // An organization is no secret, and a command gives one that stands elsewhere.
    let is_elsewhere = |value: &EffectiveValue| value.path.ends_with(".organization") || value.shown.starts_with("{ command = ");
    in_file.into_iter().any(|value| value.shown.contains("[redacted]") && !is_elsewhere(value))
}

fn findings(path: &Path, is_secret: bool) -> Vec<(String, &'static str)> {
    // A file that is absent, empty or out of reach is told elsewhere.
    let mode = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode()).unwrap_or_default();
    let holds_text = fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0);
    let (shown, directory) = (path.display(), path.parent().filter(|directory| !directory.as_os_str().is_empty()));
    let mut found = Vec::new();
    if mode(path) & 0o002 != 0 {
        found.push((format!("everybody may write to {shown}"), WRITABLE));
    }
    // With the sticky bit only a file's owner may replace it.
    if let Some(directory) = directory.filter(|directory| mode(directory) & 0o1002 == 0o002) {
        found.push((format!("everybody may write to {}, and so may replace {shown}", directory.display()), WRITABLE));
    }
    if is_secret && holds_text && mode(path) & 0o004 != 0 && !is_in_memory(path) {
        found.push((format!("everybody may read {shown}, which holds a secret"), READABLE));
    }
    found
}

/// Whether the file is on a tmpfs, where Kubernetes and systemd mount secrets: other users of the machine don't reach it there.
#[cfg(target_os = "linux")]
fn is_in_memory(path: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| matches!(kind, TMPFS | RAMFS)))
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_right_of_others_has_its_own_finding() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("d");
        fs::create_dir(&directory).unwrap();
        let path = directory.join("secret");
        let set = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let found = |of_directory: u32, mode: u32, text: &str, is_secret: bool| {
            fs::write(&path, text).unwrap();
            set(&path, mode);
            set(&directory, of_directory);
            findings(&path, is_secret).into_iter().map(|(message, _)| message).collect::<Vec<_>>()
        };
        let shown = path.display();
        let writable = format!("everybody may write to {shown}");
        let replaceable = format!("everybody may write to {}, and so may replace {shown}", directory.display());
        let readable = (!is_in_memory(&path)).then(|| format!("everybody may read {shown}, which holds a secret"));
        let readable: Vec<String> = readable.into_iter().collect();
        assert_eq!(found(0o755, 0o640, "x", true), [""; 0]);
        assert_eq!(found(0o755, 0o602, "x", true), std::slice::from_ref(&writable));
        assert_eq!(found(0o777, 0o600, "x", true), std::slice::from_ref(&replaceable));
        assert_eq!(found(0o1777, 0o600, "x", true), [""; 0], "only its owner may replace it");
        assert_eq!(found(0o755, 0o604, "x", true), readable[..]);
        assert_eq!(found(0o755, 0o604, "x", false), [""; 0]);
        assert_eq!(found(0o755, 0o604, "", true), [""; 0], "it holds nothing");
        assert_eq!(found(0o777, 0o602, "x", false), [writable, replaceable]);
        assert_eq!(findings(&directory.join("nowhere"), true).len(), 1, "the directory may be written to");
        set(&directory, 0o705);
        assert_eq!(findings(&directory, true), [], "a directory holds no text");
    }

    #[test]
    fn only_file_systems_in_memory_are_taken_for_such() {
        assert!(!is_in_memory(Path::new("/proc/self/status")));
        assert!(!is_in_memory(Path::new("/nonexistent/file")));
        // Where there is none, there is nothing to try.
        if fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.lines().any(|line| line.contains(" /dev/shm tmpfs "))) {
            assert!(is_in_memory(Path::new("/dev/shm")));
        }
    }
}
