//! The commands that end by themselves, and what the program says of its settings.

use careportals_simulator::LoginFault;
use serde_json::Value;

use crate::harness::{self, PASSWORD, Setup, USERNAME, simulator};

/// A settings file with faults on its lines 2, 6 and 8.
const FAULTY: &str = r#"[accounts.default]
organisation = "acme"
username = { file = "u" }
password = { file = "p" }
[apis.default]
response_timout = "5s"
upstream = "https://api.example"
pool_idle = "soon"
"#;

#[test]
fn version_and_help_are_there_and_an_unknown_flag_is_a_usage_error() {
    let setup = Setup::empty();
    let version = setup.output("--version");
    assert_eq!((version.code, version.stdout.starts_with("careportals-sidecar ")), (Some(0), true), "{version:?}");
    let help = setup.output("--help");
    assert_eq!(help.code, Some(0));
    for command in ["run", "check", "config", "demo"] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {}", help.stdout);
    }
    assert_eq!(setup.output("--nonsense").code, Some(2));
    assert_eq!(setup.output("nonsense").code, Some(2));
}

#[test]
fn check_names_every_fault_with_its_line_and_a_suggestion() {
    let mut setup = Setup::empty();
    setup.settings(FAULTY).variable("CAREPORTALS__DRAIN_TIMEOUT", "never");
    let output = setup.output("check");
    assert_eq!(output.code, Some(78), "{output:?}");
    for said in [
        "config.toml:2: accounts.default.organisation: no such key",
        "did you mean `organization`?",
        "config.toml:6: apis.default.response_timout: no such key",
        "did you mean `response_timeout`?",
        "config.toml:8: apis.default.pool_idle:",
        "CAREPORTALS__DRAIN_TIMEOUT",
    ] {
        assert!(output.stdout.contains(said), "{said}\n{}", output.stdout);
    }
}

#[test]
fn check_names_tls_files_that_can_not_be_used() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let empty = setup.file("empty.pem", "no certificate\n");
    setup.variable("CAREPORTALS_CA_ONLY_FILE", empty.to_str().unwrap());
    for arguments in [&["check"][..], &["check", "--online"]] {
        let output = setup.output_of(arguments);
        assert_eq!(output.code, Some(78), "{output:?}");
        assert!(output.stdout.contains("error: CAREPORTALS_CA_ONLY_FILE: no usable certificate in"), "{output:?}");
        assert!(output.stdout.contains("hint: it must hold") && output.stdout.contains("invalid: 1 fault"), "{output:?}");
    }

    let mut setup = Setup::new(&simulator);
    setup.settings("tls_cert_file = \"tls.crt\"\ntls_key_file = \"nowhere.key\"\n").file("tls.crt", simulator.ca_pem());
    let output = setup.output("check");
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stdout.contains("config.toml:2: tls_key_file: cannot read"), "{output:?}");
}

#[test]
fn check_names_a_group_that_does_not_exist() {
    let mut setup = Setup::empty();
    setup.settings(
        "[accounts.default]\norganization = \"o\"\nusername = { file = \"u\" }\npassword = { file = \"p\" }\n\
         [apis.default]\nlisten = [\"unix:/nowhere/api.sock\"]\nsocket_group = \"nobody-has-this-name\"\n",
    );
    let output = setup.output("check");
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stdout.contains("config.toml:7: apis.default.socket_group: there is no group"), "{output:?}");
}

#[test]
fn run_refuses_a_faulty_configuration_with_every_fault_and_78() {
    let mut setup = Setup::empty();
    setup.settings(FAULTY);
    let output = setup.output("run");
    assert_eq!(output.code, Some(78), "{output:?}");
    for line in ["config.toml:2:", "config.toml:6:", "config.toml:8:"] {
        assert!(output.stderr.contains(line), "{line}\n{}", output.stderr);
    }
    assert_eq!(output.stdout, "");
}

#[test]
fn config_shows_every_value_with_its_origin_and_no_secret() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.global("drain_delay", "3s").argument("--log").argument("debug");
    let output = setup.output("config");
    assert_eq!(output.code, Some(0), "{output:?}");
    let line =
        |key: &str| output.stdout.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}\n{output:?}"));
    assert!(line("drain_delay").contains("3s") && line("drain_delay").contains("CAREPORTALS__DRAIN_DELAY"));
    assert!(line("log ").contains("debug") && line("log ").contains("--log"), "the flag wins over the variable");
    assert!(line("drain_timeout").contains("25s") && line("drain_timeout").contains("default"));
    assert!(line("password").contains("[redacted]"));
    assert!(!output.all().contains(PASSWORD) && !output.all().contains(USERNAME));
}

#[test]
fn the_schema_is_json_and_knows_the_keys() {
    let output = Setup::empty().output_of(&["config", "--json-schema"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let schema: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(schema["properties"]["drain_timeout"].is_object(), "{schema}");
    assert!(output.stdout.contains("response_timeout") && output.stdout.contains("relogin_floor"));
}

#[test]
fn a_named_settings_file_must_be_there() {
    let mut setup = Setup::empty();
    setup.argument("--config").argument("nowhere.toml");
    let output = setup.output("check");
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.all().contains("nowhere.toml"), "{output:?}");
}

#[test]
fn check_online_connects_logs_in_and_compares_clocks() {
    let simulator = simulator();
    let output = Setup::new(&simulator).output_of(&["check", "--online"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    for said in [
        "resolves to ",
        " ms), connects without a proxy (",
        " ms), certificate accepted, by a root of `ca_only_file`; TLS 1.3 (",
        " ms), HTTP/1.1\n",
        &format!("log-in at {}/patient/auth: token for 60 min, in ", simulator.base_url()),
        "clocks: agree within ",
    ] {
        assert!(output.stdout.contains(said), "{said}\n{}", output.stdout);
    }
    assert_eq!(simulator.control().counts().logins, 1);
    let mut setup = Setup::new(&simulator);
    let ca = setup.file("ca.pem", simulator.ca_pem());
    setup.without("CAREPORTALS_CA_ONLY_FILE").variable("CAREPORTALS_CA_FILE", ca.to_str().unwrap()).api("http2", "auto");
    let output = setup.output_of(&["check", "--online"]);
    assert!(output.stdout.contains("by a root of `ca_file`; ") && output.stdout.contains(", HTTP/2\n"), "{output:?}");
}

#[test]
fn check_online_fails_with_1_and_says_what_does_not_work() {
    let simulator = simulator();
    let control = simulator.control();
    let online = |setup: &Setup| setup.output_of(&["check", "--online"]);

    control.set_login_fault(Some(LoginFault::Status(401)));
    let refused = online(&Setup::new(&simulator));
    assert_eq!((refused.code, refused.stdout.contains("status 401")), (Some(1), true), "{refused:?}");
    control.set_login_fault(None);

    control.set_clock_offset(3 * 3600);
    let apart = online(&Setup::new(&simulator));
    let clocks = "clocks: ours is 2 h behind the server's; correct this machine's clock (`timedatectl`)";
    let told = apart.stdout.contains(clocks) || apart.stdout.contains(&clocks.replace("2 h", "3 h"));
    assert_eq!((apart.code, told), (Some(1), true), "{apart:?}");
    control.set_clock_offset(0);

    let stranger = harness::simulator();
    let mut setup = Setup::new(&simulator);
    let other = setup.file("other.pem", stranger.ca_pem());
    setup.variable("CAREPORTALS_CA_ONLY_FILE", other.to_str().unwrap());
    let untrusted = online(&setup);
    assert_eq!((untrusted.code, untrusted.stdout.contains("its issuer is not trusted")), (Some(1), true), "{untrusted:?}");
}
