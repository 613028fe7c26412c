//! Tests of the settings: the contract's sentences, as tables.

mod daemon_address;
mod examples;
mod file;
pub(crate) mod fixture;
mod man_page;
mod properties;
mod reference;
mod relations;
mod reload;
mod rendering;
mod values;
mod variables;

use super::{
    setting::{Key, Section},
    *,
};
use crate::config::{Account, Api, Config, Login};
use std::{fs, path::Path};

/// Enough of an account for the rest to be judged.
const ACCOUNT: &str =
    "[accounts.default]\norganization = { file = \"/o\" }\nusername = { file = \"/u\" }\npassword = { file = \"/p\" }\n";

/// The same from the environment.
const VARIABLES: [(&str, &str); 3] =
    [("CAREPORTALS_ORGANIZATION", "acme"), ("CAREPORTALS_USERNAME_FILE", "/u"), ("CAREPORTALS_PASSWORD_FILE", "/p")];

/// What comes of a file's text and variables. The file is called `config.toml` in what is printed.
fn load_both(text: &str, variables: &[(&str, &str)]) -> Loaded {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, text).unwrap();
    load(Input { config_flag: Some(path), ..input(variables) })
}

/// All sections, in the order of the documentation.
const SECTIONS: [Section; 3] = [Section::TopLevel, Section::Account, Section::Api];

fn keys() -> Vec<&'static Key> {
    SECTIONS.into_iter().flat_map(Section::keys).collect()
}

fn load_text(text: &str) -> Loaded {
    load_both(text, &[])
}

fn load_variables(variables: &[(&str, &str)]) -> Loaded {
    load(input(variables))
}

fn input(variables: &[(&str, &str)]) -> Input {
    Input {
        defaults: &[],
        config_flag: None,
        default_file: PathBuf::from("/nonexistent/config.toml"),
        needs_file_keys: false,
        flags: Vec::new(),
        environment: variables.iter().copied().collect(),
    }
}

fn with_account(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    VARIABLES.iter().chain(more).copied().collect()
}

/// Without the directory that the test made up.
fn plain(text: &str) -> String {
    let mut parts = text.split("/config.toml").peekable();
    let mut plain = String::new();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            plain += part;
        } else {
            plain += &part[..part.rfind([' ', '\n', '(']).map_or(0, |at| at + 1)];
            plain += "config.toml";
        }
    }
    plain
}

fn faults(loaded: &Loaded) -> Vec<String> {
    loaded.faults.iter().map(|fault| plain(&fault.to_string())).collect()
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(|warning| plain(&warning.to_string())).collect()
}

#[track_caller]
fn sound(loaded: Loaded) -> Config {
    assert_eq!(faults(&loaded), Vec::<String>::new());
    loaded.config.unwrap()
}

/// Exactly these faults, each by its beginning.
#[track_caller]
fn assert_faults(loaded: &Loaded, expected: &[&str]) {
    let found = faults(loaded);
    assert!(loaded.config.is_none() || expected.is_empty(), "a configuration in spite of {expected:?}");
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nshould begin with\n{expected}");
    }
}

fn api_with(line: &str) -> Loaded {
    load_text(&format!("{ACCOUNT}[apis.default]\n{line}\n"))
}

fn account_with(line: &str) -> Loaded {
    load_text(&format!("{ACCOUNT}{line}\n"))
}

fn global_with(line: &str) -> Loaded {
    load_text(&format!("{line}\n{ACCOUNT}"))
}

fn only_api(config: &Config) -> &Api {
    let [api] = config.apis.as_slice() else { panic!("{} APIs", config.apis.len()) };
    api
}

fn only_account(config: &Config) -> &Account {
    let [account] = config.accounts.as_slice() else { panic!("{} accounts", config.accounts.len()) };
    account
}

fn only_login(config: &Config) -> &Login {
    only_account(config).login.as_ref().unwrap()
}
