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
fn version_tells_the_build_and_help_tells_of_environment_files_and_exit_status() {
    let setup = Setup::empty();
    let version = setup.output("version").stdout;
    let lines: Vec<_> = version.lines().collect();
    assert_eq!(lines[0], setup.output("--version").stdout.trim_end());
    let told = |place: usize, name: &str| lines[place].strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap();
    let commit = told(1, "commit");
    let is_digest = |text: &str| text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(commit == "unknown" || is_digest(commit.trim_end_matches(", modified")), "{version}");
    assert!(told(2, "target").contains(std::env::consts::ARCH), "{version}");
    assert!(!told(3, "profile").is_empty(), "{version}");

    let help = setup.output("help");
    assert_eq!((help.code, help.stdout.trim_end()), (Some(0), setup.output("--help").stdout.trim_end()));
    for part in [
        "\nENVIRONMENT:\n",
        "\n  CAREPORTALS_PASSWORD, CAREPORTALS_PASSWORD_FILE\n",
        "\nFILES:\n",
        "\nEXIT STATUS:\n",
        "\n  78  ",
    ] {
        assert!(help.stdout.contains(part), "{part:?}: {}", help.stdout);
    }
    let of_status = setup.output_of(&["help", "status"]).stdout;
    assert_eq!(of_status.trim_end(), setup.output_of(&["status", "--help"]).stdout.trim_end());
    let unknown = setup.output_of(&["help", "stauts"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
}

#[test]
#[cfg(not(feature = "demo"))]
fn a_build_without_the_demo_says_how_to_get_it() {
    for words in [&["demo"][..], &["demo", "--once"], &["demo", "--help"]] {
        let output = Setup::empty().output_of(words);
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
        assert!(
            output.stderr.starts_with("error: this build has no `demo`") && output.stderr.contains("cargo run"),
            "{output:?}"
        );
    }
}

#[test]
fn a_flag_of_the_settings_is_taken_where_it_applies_before_the_command_too() {
    let setup = Setup::empty();
    let usage = ["--config", "--listen", "--upstream", "--control-socket", "--log", "--log-format", "--workers"];
    for (command, taken) in [
        ("run", "1111111"),
        ("exec", "1111111"),
        ("check", "1110000"),
        ("config", "1110000"),
        ("status", "1001000"),
        ("rules", "1001000"),
        ("login", "1001000"),
        ("logout", "1001000"),
        ("reload", "1001000"),
        ("shutdown", "1001000"),
        ("healthcheck", "1000000"),
        ("completions", "0000000"),
    ] {
        let help = setup.output_of(&[command, "--help"]).stdout;
        let shown: String =
            usage.map(|flag| if help.contains(&format!("\n      {flag} <")) { '1' } else { '0' }).iter().collect();
        assert_eq!(shown, taken, "{command}: {help}");
    }
    for words in [["--workers", "3", "status"], ["status", "--workers", "3"]] {
        let output = setup.output_of(&words);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains("unexpected argument '--workers'"), "{output:?}");
    }
    let output = setup.output_of(&["--config", "nowhere.toml", "check"]);
    assert!(output.code == Some(78) && output.all().contains("nowhere.toml"), "{output:?}");
    let output = setup.output_of(&["--control-socket=nowhere.sock", "status"]);
    assert!(output.stderr.contains("--control-socket: expected a path"), "{output:?}");
}

#[test]
fn listen_and_upstream_set_the_default_api() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_UPSTREAM", "https://192.0.2.1").variable("CAREPORTALS_LISTEN", "192.0.2.1:1");
    setup.argument("--listen=127.0.0.1:0").argument("--upstream").argument(&simulator.base_url());
    let sidecar = setup.start().ready();
    assert_eq!(sidecar.get("/users/account").status, 200);

    let mut named = Setup::empty();
    named.settings(
        "[accounts.a]\norganization = \"o\"\nlogin_url = \"off\"\n[apis.a]\naccount = \"a\"\nupstream = \"https://a.example\"\n",
    );
    let output = named.output_of(&["check", "--upstream", "https://b.example"]);
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(output.stdout.contains("--upstream: sets `[apis.default]`, which the settings do not have"), "{output:?}");
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
fn tls_files_that_can_not_be_used_are_named_with_where_they_are_set() {
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
    for arguments in [&["check"][..], &["run"], &["exec", "--", "true"]] {
        let output = setup.output_of(arguments);
        assert_eq!(output.code, Some(78), "{output:?}");
        let said = output.stdout + &output.stderr;
        assert!(said.contains("config.toml:2: tls_key_file: cannot read"), "{said}");
    }
    // All of them are named at once.
    let mut setup = Setup::new(&simulator);
    setup.settings("tls_cert_file = \"tls.crt\"\ntls_key_file = \"nowhere.key\"\n").file("tls.crt", simulator.ca_pem());
    let ca = setup.file("ca.pem", "no certificate\n");
    setup.variable("CAREPORTALS_CA_ONLY_FILE", ca.to_str().unwrap());
    setup
        .variable("CAREPORTALS_LISTEN", &format!("unix:{}", setup.dir.path().display()))
        .api("socket_group", "no-such-group-here");
    for arguments in [&["check"][..], &["run"], &["exec", "--", "true"]] {
        let output = setup.output_of(arguments);
        assert_eq!(output.code, Some(78), "{output:?}");
        let said = output.stdout + &output.stderr;
        for fault in
            ["CA_ONLY_FILE: no usable", "tls_key_file: cannot read", "a directory is there", "SOCKET_GROUP: there is no group"]
        {
            assert_eq!(said.matches(fault).count(), 1, "{fault}: {said}");
        }
    }
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
    setup.global("drain_delay", "3s").argument("--listen").argument("127.0.0.1:0,[::1]:0");
    let output = setup.output("config");
    assert_eq!(output.code, Some(0), "{output:?}");
    let line =
        |key: &str| output.stdout.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}\n{output:?}"));
    assert!(line("drain_delay").contains("3s") && line("drain_delay").contains("CAREPORTALS__DRAIN_DELAY"));
    let listen = line("listen ");
    assert!(listen.contains("[::1]:0") && listen.contains("--listen"), "the flag wins over the variable: {listen}");
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
