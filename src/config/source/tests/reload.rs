//! What a changed setting means for a reload, as the types say it.

use super::*;

#[test]
fn each_setting_that_needs_a_restart_is_named_and_no_other_is() {
    let before = sound(load_text(ACCOUNT)).restart_only;
    for (line, expected) in [
        ("workers = 3", &["workers"][..]),
        ("log_format = \"json\"", &["log_format"]),
        ("telemetry_listen = \"off\"", &["telemetry_listen"]),
        ("quitquitquit = true", &["quitquitquit"]),
        ("control_socket = \"off\"", &["control_socket"]),
        ("control_allow_uids = [7]", &["control_allow_uids"]),
        ("hardening = \"off\"", &["hardening"]),
        ("hardening = \"off\"\nworkers = 3", &["workers", "hardening"]),
        ("log = \"debug\"", &[]),
        ("access_log = \"off\"", &[]),
        ("drain_delay = \"1s\"", &[]),
        ("drain_timeout = \"1s\"", &[]),
    ] {
        assert_eq!(before.changed(&sound(global_with(line)).restart_only).collect::<Vec<_>>(), expected, "{line}");
    }
}

#[test]
fn connections_are_kept_unless_what_they_are_made_from_changes() {
    let before = sound(load_text(ACCOUNT)).apis.remove(0).connections;
    for (line, kept) in [
        ("upstream = \"https://other.example\"\npreset = \"public\"", false),
        ("http2 = \"auto\"", false),
        ("max_header_bytes = \"8KiB\"", false),
        ("max_headers = 8", false),
        ("connect_timeout = \"1s\"", false),
        ("pool_idle = \"1s\"", false),
        ("connection_max_age = \"1s\"", false),
        ("deny = \"GET /a\"", true),
        ("response_timeout = \"1s\"", true),
        ("max_requests = 1", true),
        ("headers = { x-a = \"b\" }", true),
    ] {
        assert_eq!(sound(api_with(line)).apis[0].connections == before, kept, "{line}");
    }
}
