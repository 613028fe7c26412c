//! Where a daemon is looked for, whatever else its settings say.

use super::*;
use crate::config::{ControlSocket, RuntimeDirectories};

fn reached(text: &str, variables: &[(&str, &str)]) -> DaemonAddress {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, text).unwrap();
    daemon_address(&Input { config_flag: Some(path), ..input(variables) })
}

#[test]
fn nothing_but_the_two_addresses_needs_to_be_right() {
    let found = reached("telemetry_listen = \"127.0.0.1:9\"\ncontrol_socket = \"/c\"\nnonsense = 1\n[apis.x]\nlisten = 3\n", &[]);
    assert_eq!(found.telemetry.value, Ok(Some("127.0.0.1:9".parse().unwrap())));
    assert_eq!(found.control.value, Ok(ControlSocket::Path("/c".into())));
    assert!(found.control.origin.to_string().ends_with("config.toml:2"), "{}", found.control.origin);
    assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
}

#[test]
fn the_usual_order_holds_and_a_broken_file_leaves_the_rest() {
    let variables = [("CAREPORTALS_CONTROL_SOCKET", "/v"), ("CAREPORTALS__TELEMETRY_LISTEN", "off")];
    let mut found = reached("control_socket = \"/c\"\n", &variables);
    assert_eq!(found.control.value, Ok(ControlSocket::Path("/v".into())));
    assert_eq!(found.control.origin.to_string(), "CAREPORTALS_CONTROL_SOCKET");
    assert_eq!(found.telemetry.value, Ok(None));
    found = reached("no TOML", &[("CAREPORTALS_CONTROL_SOCKET", "off")]);
    assert_eq!(found.control.value, Ok(ControlSocket::Off));
    assert_eq!(found.telemetry.value, Ok(Some("127.0.0.1:2274".parse().unwrap())));
    assert_eq!(found.faults.len(), 1);
    found = reached("", &[("CAREPORTALS_CONTROL_SOCKET", "relative")]);
    assert!(found.control.value.unwrap_err().to_string().starts_with("CAREPORTALS_CONTROL_SOCKET: expected a path"));
}

#[test]
fn a_variable_that_may_be_meant_for_the_socket_is_not_called_ignored() {
    let found = reached("", &[("CAREPORTALS_CONTROL_SOKET", "/v")]);
    let fault = found.control.value.unwrap_err().to_string();
    let expected = "CAREPORTALS_CONTROL_SOKET: no such variable\n  hint: did you mean `CAREPORTALS_CONTROL_SOCKET`?; or name";
    assert!(fault.starts_with(expected), "{fault}");
}

#[test]
fn where_the_file_can_not_be_read_no_command_guesses_the_control_socket() {
    let of = |variables: &[(&str, &str)]| {
        daemon_address(&Input { config_flag: Some("/nonexistent/a.toml".into()), ..input(variables) })
    };
    let unknown = of(&[]);
    let fault = unknown.control.value.unwrap_err().to_string();
    assert!(
        fault.contains("there is no such file") && fault.contains("or name the daemon's socket with --control-socket"),
        "{fault}"
    );
    assert_eq!(unknown.faults.len(), 1);
    assert!(unknown.telemetry.value.unwrap_err().to_string().contains("or name the listener with CAREPORTALS_TELEMETRY_LISTEN"));
    let named = of(&[("CAREPORTALS_CONTROL_SOCKET", "/run/a.sock")]);
    assert_eq!(named.control.value, Ok(ControlSocket::Path("/run/a.sock".into())));
    assert_eq!(named.faults.len(), 1);
}

#[test]
fn the_environment_names_the_directories_of_the_default_place() {
    let directories = |variables: &[(&str, &str)]| match reached("", variables).control.value {
        Ok(ControlSocket::Default(directories)) => directories,
        other => panic!("{other:?}"),
    };
    let named = |service: Option<&str>, user: Option<&str>| RuntimeDirectories {
        service: service.map(Into::into),
        user: user.map(Into::into),
    };
    assert_eq!(directories(&[]), named(None, None));
    assert_eq!(directories(&[("RUNTIME_DIRECTORY", "/run/a:/run/b")]), named(Some("/run/a"), None));
    assert_eq!(directories(&[("XDG_RUNTIME_DIR", "/run/user/7"), ("RUNTIME_DIRECTORY", "")]), named(None, Some("/run/user/7")));
    assert_eq!(directories(&[("XDG_RUNTIME_DIR", "relative")]), named(None, None));
}
