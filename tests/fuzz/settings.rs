//! Checks the settings: any file and any environment give a configuration or a fault, no secret is shown, and the output of
//! `config` can be given back.
//!
//! An input is a settings file, and after a byte of 1 further variables, `NAME=value`, separated by such bytes. Where
//! `cAn4ry` is a secret or a part of one, it must not be printed.

use std::{collections::BTreeMap, io::Write as _, os::fd::AsRawFd, path::PathBuf};

use careportals_sidecar::config::source::{Environment, Input, Loaded, load, render_check, render_effective};
use toml_edit::{Document, Item, TableLike, Value};

const CANARY: &str = "cAn4ry";

/// Checks any bytes, up to the size that certainly fits into a pipe.
pub fn check(input: &[u8]) {
    let input = &input[..input.len().min(4096)];
    let mut parts = input.split(|&byte| byte == 1);
    let text = parts.next().unwrap_or_default();
    let variables: BTreeMap<&str, &str> = parts.filter_map(|part| std::str::from_utf8(part).ok()?.split_once('=')).collect();
    let loaded = loaded(text, variables.iter().map(|(name, value)| (*name, *value)).collect());
    assert_eq!(loaded.config.is_none(), !loaded.faults.is_empty(), "either a configuration or a fault");
    check_again(&loaded);
    let printed = printed(&loaded);
    let odd = |shown: char| shown.is_control() && shown != '\n';
    assert!(!printed.contains(odd), "a terminal might obey this: {printed:?}");
    if is_secret(text, &variables) {
        let debug = format!("{:?}{:?}{:?}", loaded.faults, loaded.warnings, loaded.config);
        assert!(!printed.contains(CANARY) && !debug.contains(CANARY), "a secret is shown:\n{printed}");
    }
}

/// Checks that the output of `config` is a settings file with the same meaning, where it shows every value.
fn check_again(loaded: &Loaded) {
    let mut text = Vec::new();
    render_effective(loaded, &mut text).expect("a vector takes everything");
    let shows_all =
        !loaded.values.iter().any(|value| value.shown.contains("[redacted]") || value.path.contains(char::is_uppercase));
    if loaded.config.is_none() || !shows_all || text.len() > 32_000 {
        return;
    }
    let again = self::loaded(&text, Environment::default());
    assert!(again.faults.is_empty(), "{:?}\n{}", again.faults, String::from_utf8_lossy(&text));
    // A value that follows from another one stands elsewhere than one that is written.
    let values =
        |loaded: &Loaded| loaded.values.iter().map(|value| (value.path.clone(), value.shown.clone())).collect::<BTreeMap<_, _>>();
    assert_eq!(values(&again), values(loaded));
}

/// Loads the settings. The file is a pipe, so that no disk is touched.
fn loaded(text: &[u8], environment: Environment) -> Loaded {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(text).expect("an empty pipe takes a page");
    drop(writer);
    let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
    load(Input {
        config_flag: Some(path),
        default_file: PathBuf::new(),
        needs_file_keys: false,
        flags: Vec::new(),
        environment,
        defaults: &[],
    })
}

fn printed(loaded: &Loaded) -> String {
    let mut out = Vec::new();
    render_check(loaded, &mut out).expect("a vector takes everything");
    render_effective(loaded, &mut out).expect("a vector takes everything");
    String::from_utf8(out).expect("what is printed is text")
}

/// Whether the canary stands only where a secret belongs: in values of secret keys, or in text that is not TOML and so says
/// nothing.
fn is_secret(text: &[u8], variables: &BTreeMap<&str, &str>) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let of_file = match Document::parse(text) {
        Ok(document) => of_table("", document.as_table(), false),
        // A fault names a key that stands twice.
        Err(_) => !text.lines().any(|line| line.split('=').next().is_some_and(|key| key.contains(CANARY))),
    };
    of_file
        && variables.iter().all(|(name, value)| !name.contains(CANARY) && (!value.contains(CANARY) || is_secret_variable(name)))
}

/// Whether the values of a key are never shown, in whichever table it stands.
fn is_secret_key(key: &str) -> bool {
    ["organization", "username", "password", "login_extra", "login_headers", "headers"].contains(&key)
}

fn is_secret_variable(name: &str) -> bool {
    ["CAREPORTALS_PASSWORD", "CAREPORTALS_USERNAME", "CAREPORTALS_ORGANIZATION"].contains(&name)
        || ["__PASSWORD", "__USERNAME", "__ORGANIZATION", "__LOGIN_EXTRA", "__LOGIN_HEADERS", "__HEADERS"]
            .iter()
            .any(|end| name.ends_with(end) && !name.contains("LOGIN_FIELDS"))
}

/// `secret`: under a key whose values are secret.
fn of_table(name: &str, table: &dyn TableLike, secret: bool) -> bool {
    table.iter().all(|(key, item)| {
        // A source says where a secret is read from, which may be shown.
        let shown = secret && ["file", "env", "command"].contains(&key) || name == "login_fields";
        !key.contains(CANARY) && of_item(key, item, !shown && (secret || is_secret_key(key)))
    })
}

fn of_item(key: &str, item: &Item, secret: bool) -> bool {
    match item {
        Item::None => true,
        Item::Value(value) => of_value(key, value, secret),
        Item::Table(table) => of_table(key, table, secret),
        Item::ArrayOfTables(tables) => tables.iter().all(|table| of_table(key, table, secret)),
    }
}

fn of_value(key: &str, value: &Value, secret: bool) -> bool {
    match value {
        Value::InlineTable(table) => of_table(key, table, secret),
        Value::Array(items) => items.iter().all(|item| of_value(key, item, secret)),
        Value::String(text) => secret || !text.value().contains(CANARY),
        _ => true,
    }
}
