//! `check`: what it warns of, and what it explains of a request.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
};

use rustix::process::getuid;

use crate::harness::{Output, Setup, program_file, simulator};

/// Settings that need no file beside them; the password comes from a command, which `check` does not run.
fn settings(of_api: &str) -> Setup {
    let mut setup = Setup::empty();
    setup.settings(&format!(
        "[accounts.default]\norganization = {{ env = \"ORG\" }}\nusername = {{ env = \"USER\" }}\npassword = {{ command = [\"true\"] }}\n[apis.default]\n{of_api}"
    ));
    setup.variable("ORG", "acme").variable("USER", "me");
    setup
}

fn check(of_api: &str) -> Output {
    settings(of_api).output("check")
}

#[track_caller]
fn warns(output: &Output, warnings: &[&str]) {
    let found: Vec<&str> = output.stdout.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(found.len(), warnings.len(), "{}", output.stdout);
    for said in warnings {
        assert!(found.iter().any(|line| line.contains(said)), "{said}\n{}", output.stdout);
    }
    assert_eq!(output.code, Some(0), "{output:?}");
    let counted = match warnings.len() {
        0 => "ok: 1 account, 1 API\n".to_owned(),
        1 => "\nvalid: 1 account, 1 API, 1 warning\n".to_owned(),
        count => format!("\nvalid: 1 account, 1 API, {count} warnings\n"),
    };
    assert!(output.stdout.ends_with(&counted), "{}", output.stdout);
}

#[test]
fn a_rule_that_can_never_match_is_a_warning_that_names_it() {
    warns(
        &check(
            "prefix = \"/crm\"\nupstream = \"https://api.example/v1\"\n\
             allow = [\"GET /v1/customers/**\", \"GET /customers\", \"GET /v1/customers/*\", \"POST /v1/auth\", \"GET /v1/x/ssn\"]\n\
             deny = [\"* /crm/v1/x\", \"* /x\", \"GET /V1/customers/*/SSN/\", \"HEAD /v1/customers/*/ssn\", \"* /v1/x/**\"]\n",
        ),
        &[
            "config.toml:8: apis.default.allow: `GET /customers` has no effect: the path that is judged begins with /v1",
            "`GET /v1/customers/*` has no effect: `GET /v1/customers/**` lets all of it through already",
            "`POST /v1/auth` has no effect: log-in paths are refused",
            "`GET /v1/x/ssn` has no effect: `* /v1/x/**` in `deny` refuses all of it",
            "config.toml:9: apis.default.deny: `* /crm/v1/x` has no effect: the prefix /crm is cut off",
            "`* /x` has no effect: the path that is judged begins with /v1",
            "`HEAD /v1/customers/*/ssn` has no effect: `GET /V1/customers/*/SSN/` refuses all of it already",
        ],
    );
    warns(&check("allow = [\"GET /a/**\", \"POST /a\", \"GET /b/*\", \"* /a/*/c\"]\ndeny = [\"* /a/b\", \"* /c\"]\n"), &[]);
}

#[test]
fn an_empty_list_of_what_passes_is_a_warning() {
    warns(&check("allow = []\n"), &["config.toml:6: apis.default.allow: is empty: every request is refused"]);
    warns(&check("allow = []\nobserve = true\n"), &["NOT ENFORCED"]);
}

#[test]
fn strict_turns_warnings_into_exit_1() {
    let sound = settings("deny = [\"* /a\"]\n");
    assert_eq!(sound.output_of(&["check", "--strict"]).code, Some(0));
    let twice = settings("deny = [\"* /a\", \"* /a\"]\n").output_of(&["check", "--strict"]);
    assert_eq!(twice.code, Some(1), "{twice:?}");
    assert!(twice.stdout.ends_with(", 1 warning\n"), "{twice:?}");
    let faulty = settings("deny = [\"a\", \"* /a\"]\n").output_of(&["check", "--strict"]);
    assert_eq!(faulty.code, Some(78), "{faulty:?}");
}

#[test]
fn a_reader_that_has_gone_does_not_turn_a_failure_into_a_success() {
    let setup = settings("deny = [\"GET /a\"]\n");
    let code = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = setup.command("check");
        let output = command.args(arguments).stdout(writer).stderr(std::process::Stdio::piped()).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        output.status.code()
    };
    assert_eq!(code(&["--explain", "GET /a"]), Some(1));
    assert_eq!(code(&["--explain", "GET /b"]), Some(0));
    // Nobody listens there.
    assert_eq!(code(&["--online", "--upstream", "https://127.0.0.1:1"]), Some(1));
    assert_eq!(code(&[]), Some(0));
}

#[test]
fn a_base_path_under_which_rules_would_make_each_request_a_400_is_a_fault() {
    let output = check("upstream = \"https://api.example/a;b\"\nallow = [\"* /**\"]\n");
    assert_eq!(output.code, Some(78), "{output:?}");
    let said = "config.toml:6: apis.default.upstream: its path is not in canonical form: with `allow` or `deny` each request would be a 400";
    assert!(output.stdout.contains(said) && output.stdout.contains("leave out `;`"), "{output:?}");
}

#[test]
fn protections_that_are_off_are_warnings() {
    warns(&check("allowed_hosts = [\"*\"]\n"), &["apis.default.allowed_hosts: lets clients call by any name"]);
    warns(&check("observe = true\n"), &["apis.default.observe: the rules are judged and counted, and NOT ENFORCED"]);
    let socket = "listen = [\"unix:/api.sock\"]\nsocket_mode = \"0666\"\nallowed_hosts = [\"*\"]\n";
    warns(&check(socket), &["apis.default.socket_mode: lets every user of this machine call"]);
    warns(&check(&format!("{socket}allow_uids = [1]\n")), &[]);
    let open = |key: &str, value: &str, address: &str| {
        let mut setup = settings("");
        setup.global(key, value).variable("CAREPORTALS_TELEMETRY_LISTEN", address).output("check")
    };
    warns(&open("quitquitquit", "true", "0.0.0.0:0"), &["QUITQUITQUIT: is on, and `CAREPORTALS_TELEMETRY_LISTEN` is reachable"]);
    warns(&open("quitquitquit", "true", "127.0.0.1:0"), &[]);
    warns(&open("quitquitquit", "true", "off"), &["QUITQUITQUIT: has no effect, since `CAREPORTALS_TELEMETRY_LISTEN` is off"]);
    warns(&open("hardening", "off", "[::]:0"), &["HARDENING: is off, and the daemon is reachable"]);
    warns(&open("hardening", "off", "off"), &[]);
    let beyond = "listen = [\"0.0.0.0:1\"]\nallow_non_loopback = true\nallowed_hosts = [\"sidecar\"]\n";
    let mut setup = settings(beyond);
    warns(&setup.global("hardening", "off").output("check"), &["HARDENING: is off, and the daemon is reachable"]);
}

#[test]
fn files_that_others_may_write_or_read_are_warnings() {
    let mut setup = Setup::empty();
    setup.settings(
        "[accounts.default]\norganization = { file = \"o\" }\nusername = { file = \"u\" }\npassword = { file = \"p\" }\n[apis.default]\n",
    );
    let on = |file: &str, mode: u32| {
        let path = setup.file(file, "x\n");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let settings = setup.dir.path().join("config.toml");
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o644)).unwrap();
    on("o", 0o644);
    on("u", 0o600);
    on("p", 0o640);
    warns(&setup.output("check"), &[]);
    on("p", 0o604);
    let in_memory = rustix::fs::statfs(setup.dir.path()).unwrap().f_type == 0x0102_1994;
    let read: &[&str] = if in_memory { &[] } else { &["accounts.default.password: everybody may read p, which holds a secret"] };
    warns(&setup.output("check"), read);
    on("p", 0o602);
    on("o", 0o646);
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o646)).unwrap();
    let output = setup.output("check");
    let file = format!("everybody may write to {}", settings.display());
    warns(&output, &["accounts.default.password: everybody may write to p", "organization: everybody may write to o", &file]);
    assert!(output.stdout.contains("chmod o-w"), "{output:?}");
}

#[test]
fn settings_that_everybody_may_read_hold_no_secret_where_a_command_gives_it() {
    let told = |password: &str| {
        let mut setup = Setup::empty();
        setup.settings(&format!(
            "[accounts.default]\norganization = \"acme\"\nusername = {{ env = \"USER\" }}\npassword = {password}\n[apis.default]\n"
        ));
        fs::set_permissions(setup.dir.path().join("config.toml"), fs::Permissions::from_mode(0o644)).unwrap();
        let in_memory = rustix::fs::statfs(setup.dir.path()).unwrap().f_type == 0x0102_1994;
        (setup.variable("USER", "me").output("check"), in_memory)
    };
    warns(&told("{ command = [\"op\", \"read\", \"op://vault/careportals\"] }").0, &[]);
    let (written, in_memory) = told("\"canary\"");
    let readable = "which holds a secret\n  hint: keep secrets in files of their own";
    assert!(in_memory || written.stdout.contains(readable), "{written:?}");
}

#[test]
fn an_upstream_that_ends_in_a_log_in_path_is_a_warning() {
    for (path, told) in [("/patient/auth", "/patient/auth"), ("/v1/auth/login/", "/auth/login"), ("/auth", "/auth")] {
        let said = format!("apis.default.upstream: ends in {told}, which is a log-in path");
        warns(&check(&format!("upstream = \"https://api.example{path}\"\n")), &[&said]);
    }
    warns(&check("upstream = \"https://api.example/oauth\"\n"), &[]);
}

#[test]
fn what_is_wrong_with_a_path_of_a_credential_is_seen_in_each_error() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    let path = setup.file("password", "x");
    setup.without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_PASSWORD_FILE", &format!("{}\r", path.display()));
    let told = format!("{}\\r does not exist", path.display());
    for arguments in [&["check"][..], &["check", "--online"], &["exec", "--wait", "100ms", "--", "true"]] {
        let output = setup.output_of(arguments);
        assert!(output.all().contains(&told), "{output:?}");
        assert!(output.all().contains("leave out the blank or control character at its end"), "{output:?}");
    }
}

/// Settings whose three credentials come from the files `o`, `u` and `p`.
fn from_files() -> Setup {
    let mut setup = Setup::empty();
    setup.settings(
        "[accounts.default]\norganization = { file = \"./o\" }\nusername = { file = \"./u\" }\npassword = { file = \"./p\" }\n[apis.default]\n",
    );
    for file in ["o", "u", "p"] {
        write_private(&setup, file, "x\n");
    }
    setup
}

fn write_private(setup: &Setup, file: &str, text: &str) {
    fs::set_permissions(setup.file(file, text), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_credential_that_is_missing_or_empty_or_no_file_is_a_warning() {
    let setup = from_files();
    warns(&setup.output("check"), &[]);
    write_private(&setup, "p", "");
    write_private(&setup, "u", "[redacted]\n");
    fs::remove_file(setup.dir.path().join("o")).unwrap();
    let output = setup.output("check");
    warns(
        &output,
        &[
            "config.toml:2: accounts.default.organization: ./o does not exist; it is watched",
            "config.toml:3: accounts.default.username: the value in ./u is `[redacted]`, which `config` shows in place of a secret",
            "config.toml:4: accounts.default.password: ./p is empty",
        ],
    );
    assert_eq!(output.stdout.matches("\n  hint: ").count(), 3, "{output:?}");
    assert_eq!(setup.output_of(&["check", "--strict"]).code, Some(1));
    write_private(&setup, "o", "\n");
    fs::remove_file(setup.dir.path().join("p")).unwrap();
    fs::create_dir(setup.dir.path().join("p")).unwrap();
    write_private(&setup, "u", "x");
    warns(&setup.output("check"), &["o is empty", "p is not a regular file"]);
}

#[test]
fn a_credential_that_may_not_be_read_is_told_with_its_owner_its_mode_and_our_uid() {
    const STRANGER: u32 = 65_531;
    if !getuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let setup = from_files();
    let directory = setup.dir.path();
    let program = directory.join("program");
    fs::copy(program_file(), &program).unwrap();
    for (path, mode) in [(directory, 0o755), (&program, 0o755), (&directory.join("o"), 0o644), (&directory.join("u"), 0o644)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let as_stranger = || {
        let mut command = std::process::Command::new(&program);
        command.args(setup.command("check").get_args()).uid(STRANGER).gid(STRANGER).current_dir(directory);
        command.env_clear().env("CAREPORTALS_CONFIG", directory.join("config.toml"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let said = as_stranger();
    let expected = format!("p can't be read: permission denied (owner uid 0, mode 0600; this process is uid {STRANGER})");
    assert!(said.contains(&expected), "{said}");
    // Of a directory that may not be searched nothing else is known.
    fs::create_dir(directory.join("closed")).unwrap();
    fs::set_permissions(directory.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let text = fs::read_to_string(directory.join("config.toml")).unwrap();
    let inside = format!("{}/closed/p", directory.display());
    setup.file("config.toml", &text.replace("\"./p\"", &format!("\"{inside}\"")));
    let said = as_stranger();
    let expected = format!("{inside} can't be read: permission denied ({}/closed: owner uid 0, mode 0700", directory.display());
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn a_password_that_stands_where_its_files_name_belongs_is_shown_nowhere() {
    let simulator = simulator();
    let mut setup = Setup::controlled(&simulator);
    setup.without("CAREPORTALS_PASSWORD").variable("CAREPORTALS_PASSWORD_FILE", "hunter2");
    let checked = setup.output("check");
    let said = "warning: CAREPORTALS_PASSWORD_FILE: the file that it names does not exist; it is watched";
    assert!(checked.stdout.contains(said), "{checked:?}");
    let shown = setup.output("config");
    assert!(shown.stdout.contains("\npassword = { file = \"[redacted]\" } "), "{shown:?}");
    let online = setup.output_of(&["check", "--online"]);
    assert!(online.stdout.contains("password: the file that it names does not exist"), "{online:?}");
    let sidecar = setup.start();
    sidecar.wait_for_log("password: the file that it names does not exist");
    let status = sidecar.setup.output_of(&["status", "--json"]);
    assert!(status.stdout.contains("the file that it names does not exist"), "{status:?}");
    for output in [checked, shown, online, status] {
        assert!(!output.all().contains("hunter2"), "{output:?}");
    }
    assert!(!sidecar.logs().contains("hunter2"), "{}", sidecar.logs());
}

#[test]
fn a_user_name_in_a_variable_is_a_warning() {
    let mut setup = settings("");
    setup.variable("CAREPORTALS_USERNAME", "jane");
    warns(&setup.output("check"), &["CAREPORTALS_USERNAME: is given directly; whoever sees this process's environment sees it"]);
    setup.without("CAREPORTALS_USERNAME").account("username", "jane");
    warns(&setup.output("check"), &["CAREPORTALS__ACCOUNTS__DEFAULT__USERNAME: is given directly"]);
    setup.account("username", "{ env = \"USER\" }");
    warns(&setup.output("check"), &[]);
}

#[test]
fn a_log_filter_that_would_silence_the_daemon_is_a_fault() {
    for command in ["check", "run"] {
        let output = settings("").variable("CAREPORTALS_LOG", "verbose").output(command);
        assert_eq!(output.code, Some(78), "{output:?}");
        assert!(output.all().contains("CAREPORTALS_LOG: `verbose` is not a filter\n  hint: write `error`, `warn`"), "{output:?}");
    }
}

#[test]
fn an_organization_in_the_settings_file_is_no_secret() {
    let setup = from_files();
    let text = fs::read_to_string(setup.dir.path().join("config.toml")).unwrap();
    setup.file("config.toml", &text.replace("{ file = \"./o\" }", "\"acme\""));
    fs::set_permissions(setup.dir.path().join("config.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    warns(&setup.output("check"), &[]);
}

/// Exit code and output of `check --explain`.
fn explained(setup: &Setup, request: &str, further: &[&str]) -> (Option<i32>, String) {
    let output = setup.output_of(&[&["check", "--explain", request], further].concat());
    (output.code, output.all())
}

#[test]
fn explain_names_the_api_the_rule_and_what_upstream_would_receive() {
    let mut setup = Setup::empty();
    setup.settings(
        r#"[accounts.default]
organization = { env = "ORG" }
username = { env = "USER" }
password = { command = ["true"] }
login_url = "https://crm.example/auth"
[apis.crm]
prefix = "/crm"
upstream = "https://crm.example/v1"
listen = ["127.0.0.1:1", "[::1]:1"]
allow = ["GET /v1/orders", "GET /v1/customers/**"]
deny = ["* /v1/x", "* /v1/customers/*/ssn"]
allow_uids = [1]
[apis.emr]
prefix = "/emr"
upstream = "https://emr.example"
listen = ["127.0.0.1:1", "127.0.0.1:2"]
deny = ["GET /admin"]
observe = true
"#,
    );
    setup.variable("ORG", "acme").variable("USER", "me");
    let (code, said) = explained(&setup, "GET /crm/customers/1?x=1", &["--api", "crm"]);
    assert_eq!(code, Some(0), "{said}");
    for line in [
        "passes: API crm, at 127.0.0.1:1\n  rule: allow \"GET /v1/customers/**\" (apis.crm.allow, ",
        "config.toml:10)\n  upstream receives: GET https://crm.example/v1/customers/1?x=1\n  not judged here: Host, ",
        "passes: API crm, at [::1]:1\n",
        "the caller (allow_uids, allow_gids)",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    for (request, line) in [
        (
            "GET /crm/customers/1/SSN",
            "refused with 403 not_allowed: API crm, at 127.0.0.1:1\n  rule: deny \"* /v1/customers/*/ssn\" (apis.crm.deny, ",
        ),
        ("POST /crm/orders", "rule: none of allow matches (apis.crm.allow, "),
        ("GET /crm//orders", "refused with 400 not_canonical: API crm, at"),
        ("GET /crm/auth", "refused with 403 login_path: API crm, at"),
        ("GET /crm/AUTH/?x", "upstream would receive: GET https://crm.example/v1/AUTH/?x"),
        ("TRACE /crm/orders", "refused with 405 method_not_allowed"),
        ("GET /orders", "refused with 404 no_api: at 127.0.0.1:1\n"),
        ("GET /a b", "refused with 400: the HTTP parser"),
        ("GET /crm/orders#\u{7f}", "refused with 400: the HTTP parser"),
    ] {
        let (code, said) = explained(&setup, request, &["--api", "crm"]);
        assert_eq!((code, said.contains(line)), (Some(1), true), "{request}: {line}\n{said}");
    }
    let (code, said) = explained(&setup, "HEAD /emr/ADMIN", &["--api", "emr"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("passes, since the rules are observed and not enforced (else 403 not_allowed): API emr, at"), "{said}");
    let (code, said) = explained(&setup, "GET /emr/patients", &[]);
    assert_eq!(code, Some(1), "it is refused at one of the three addresses: {said}");
    assert!(said.contains("passes: API emr, at 127.0.0.1:1\n") && said.contains("passes: API emr, at 127.0.0.1:2\n"), "{said}");
    assert!(said.contains("refused with 404 no_api: at [::1]:1\n"), "{said}");
    assert_eq!(explained(&setup, "GET /a", &["--api", "nowhere"]).0, Some(2));
    assert_eq!(explained(&setup, "/a", &[]).0, Some(2));
    assert_eq!(explained(&settings("deny = [\"a\"]\n"), "GET /a", &[]).0, Some(78));
}

#[test]
fn what_explain_says_is_what_the_daemon_does() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.api("allow", r#"["GET /users/**", "* /_sim/echo"]"#).api("deny", r#"["* /users/*/ssn"]"#);
    let requests = [
        "GET /users/account",
        "GET /users/1/ssn",
        "GET /users/1/SSN/",
        "POST /_sim/echo?a=/../b",
        "GET /",
        "GET /users//7",
        "GET /patient/AUTH",
        "TRACE /users",
        "get /users/7",
        "HEAD /users/account",
        "OPTIONS *",
    ];
    let explained: Vec<bool> = requests.iter().map(|request| explained(&setup, request, &[]).0 == Some(0)).collect();
    let sidecar = setup.start().ready();
    for (request, passes) in requests.iter().zip(explained) {
        let (method, target) = request.split_once(' ').unwrap();
        let answer = sidecar.send(&crate::harness::Request::new(method, target));
        assert_eq!(answer.header("proxy-status").is_none(), passes, "{request}: {answer:?}");
    }
}

#[test]
fn diff_lists_what_a_change_of_rules_makes_reachable_or_unreachable() {
    let file = |rules: &str| {
        format!(
            "[accounts.default]\norganization = {{ env = \"ORG\" }}\nusername = {{ env = \"USER\" }}\npassword = {{ command = [\"true\"] }}\n[apis.default]\nupstream = \"https://api.example/v1\"\n{rules}"
        )
    };
    let mut setup = Setup::empty();
    setup.variable("ORG", "acme").variable("USER", "me");
    let diff = |setup: &mut Setup, old: &str, new: &str| {
        setup.settings(&file(new)).file("old.toml", &file(old));
        setup.output_of(&["check", "--diff", "old.toml"])
    };
    let old = "allow = [\"GET /v1/customers/**\", \"POST /v1/orders\", \"POST /v1/auth\"]\n";
    let new = "allow = [\"GET /v1/customers/**\", \"* /v1/products\"]\ndeny = [\"* /v1/customers/*/ssn\"]\n";
    let told = diff(&mut setup, old, new);
    assert_eq!(told.code, Some(0), "{told:?}");
    let expected = "# API default\n+ * /v1/products\n- GET /v1/customers/*/ssn\n- GET /v1/customers/*/ssn/\n- POST /v1/orders\n";
    assert_eq!(told.stdout, expected, "{told:?}");
    let reverse = diff(&mut setup, new, old);
    let swapped: Vec<String> =
        expected.lines().map(|line| line.replacen('+', "?", 1).replacen("- ", "+ ", 1).replacen('?', "-", 1)).collect();
    let mut lines: Vec<&str> = reverse.stdout.lines().collect();
    lines.sort_unstable();
    let mut swapped: Vec<&str> = swapped.iter().map(String::as_str).collect();
    swapped.sort_unstable();
    assert_eq!(lines, swapped, "{reverse:?}");
    assert_eq!(diff(&mut setup, old, old).stdout, "# no request becomes reachable or unreachable\n");
    let missing = setup.output_of(&["check", "--diff", "nosuch.toml"]);
    assert!(missing.code == Some(78) && missing.stderr.starts_with("error: --diff: cannot read nosuch.toml: "), "{missing:?}");
    let opened = diff(&mut setup, "allow = []\n", "");
    assert_eq!(opened.stdout, "# API default\n# paths that are not canonical become reachable\n+ * /v1/**\n", "{opened:?}");
    assert_eq!(diff(&mut setup, "allow = [1]\n", old).code, Some(78));
}

#[test]
fn faults_of_every_kind_are_told_at_once() {
    let mut setup = Setup::empty();
    let file = setup.file("in_the_way", "");
    let nowhere = setup.dir.path().join("nowhere.pem");
    setup.settings(&format!(
        "ca_file = {:?}\ndrain_delay = 0\nunknown = 1\n[accounts.default]\nusername = {{ env = \"USER\" }}\n\
         [apis.default]\nlisten = [\"unix:{}\"]\nsocket_group = \"no-such-group\"\nupstream = \"http://api.example\"\n\
         [apis.other]\nlisten = [\"127.0.0.1:1\"]\nallow = [\"GET a\"]\n[apis.third]\naccount = \"other\"\nlisten = [\"127.0.0.1:1\"]\n",
        nowhere,
        file.display()
    ));
    setup.variable("USER", "me");
    let all = [
        "config.toml:1: ca_file: ",
        "config.toml:2: drain_delay: ",
        "config.toml:3: ",
        "config.toml:4: accounts.default.login_url: APIs `default` and `other` of this account do not agree",
        "config.toml:4: accounts.default.password: is missing",
        "config.toml:4: accounts.default.organization: is missing",
        "config.toml:7: apis.default.listen: cannot listen on unix:",
        "config.toml:8: apis.default.socket_group: ",
        "config.toml:9: apis.default.upstream: plain http would show the token",
        "config.toml:12: apis.other.allow: ",
        "config.toml:14: apis.third.account: there is no account `other`",
        "config.toml:15: apis.third.listen: shares 127.0.0.1:1 with API `other`",
    ];
    for (command, is_checked) in [("check", true), ("run", false)] {
        let output = setup.output(command);
        assert_eq!(output.code, Some(78), "{output:?}");
        let said = if is_checked { &output.stdout } else { &output.stderr };
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(lines.len(), all.len(), "{said}");
        for (line, expected) in lines.iter().zip(all) {
            assert!(line.contains(expected), "{expected}\n{said}");
        }
    }
}

#[test]
fn a_socket_in_a_directory_that_is_missing_is_a_warning() {
    let said = "config.toml:6: apis.default.listen: cannot listen on unix:/nowhere/deep/api.sock: there is no directory /nowhere";
    warns(&check("listen = [\"unix:/nowhere/deep/api.sock\"]\n"), &[said]);
}

#[test]
fn a_socket_below_a_file_is_a_fault() {
    let output = check("listen = [\"unix:/etc/passwd/deep/api.sock\"]\n");
    assert_eq!(output.code, Some(78), "{output:?}");
    assert!(
        output.stdout.contains("cannot listen on unix:/etc/passwd/deep/api.sock: /etc/passwd is not a directory"),
        "{output:?}"
    );
}
