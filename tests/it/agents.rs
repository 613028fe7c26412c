//! Coding agents: the rules that `docs/agents.md` proposes, and the MCP server of the examples under `exec`.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;
use toml_edit::DocumentMut;

use crate::harness::{Setup, simulator};

const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/agent.toml");
const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/agents/mcp-server.py");

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/agents.md")).unwrap()
}

/// A list of rules of the only API in a settings file.
fn rules(settings: &str, list: &str) -> Vec<String> {
    let settings: DocumentMut = settings.parse().unwrap();
    let rules = settings["apis"]["default"][list].as_array().unwrap();
    rules.iter().map(|rule| rule.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_rules_for_reading_are_those_that_the_page_shows() {
    let (page, settings) = (page(), fs::read_to_string(SETTINGS).unwrap());
    let shown = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    for list in ["allow", "deny"] {
        assert_eq!(rules(shown, list), rules(&settings, list), "{list}");
    }
}

#[test]
fn the_rules_for_reading_do_what_the_page_says_of_each_request() {
    let mut setup = Setup::empty();
    setup.variable("CAREPORTALS_CONFIG", SETTINGS);
    for (name, value) in [("ORGANIZATION", "acme"), ("USERNAME", "me"), ("PASSWORD", "secret-1")] {
        setup.variable(&format!("CAREPORTALS_{name}"), value);
    }
    let page = page();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "));
    let mut passing = 0;
    let mut refused = 0;
    for (request, told) in rows {
        let output = setup.output_of(&["check", "--explain", request]);
        if told == "passes" {
            assert_eq!(output.code, Some(0), "{request}: {output:?}");
            passing += 1;
        } else {
            let code = told.trim_matches('`');
            assert_eq!(output.code, Some(1), "{request}: {output:?}");
            assert!(
                output.stdout.lines().any(|line| line.starts_with("refused") && line.contains(code)),
                "{request}: {output:?}"
            );
            refused += 1;
        }
    }
    assert!(passing >= 3 && refused >= 6, "{passing} pass, {refused} are refused");
}

#[test]
fn the_skill_says_by_its_head_what_it_is_for_as_a_loader_of_skills_reads_it() {
    let skill = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/agents/careportals-sidecar/SKILL.md")).unwrap();
    let head = skill.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n")).unwrap().0;
    let [name, description] = head.lines().map(|line| line.split_once(": ").unwrap()).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(name, ("name", "careportals-sidecar"), "it is the folder's");
    assert_eq!(description.0, "description");
    // The head is YAML, in which a plain text holds neither.
    assert!(!description.1.contains(": ") && !description.1.contains(" #"), "{}", description.1);
    assert!((100..=1024).contains(&description.1.len()), "{}", description.1.len());
}

/// What the server answers to these lines, an answer a line, in their order.
fn conversation(setup: &Setup, lines: &[&str]) -> Option<Vec<Value>> {
    if Command::new("python3").arg("--version").env("PATH", "/usr/bin:/bin").output().is_err() {
        eprintln!("not run: there is no python3");
        return None;
    }
    let mut command = setup.command("exec");
    command.args(["--", "python3", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The server ends when its standard input does.
    writeln!(child.stdin.take().unwrap(), "{}", lines.join("\n")).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn call(id: u32, path: &str) -> String {
    let arguments = format!(r#"{{"name": "read", "arguments": {{"path": "{path}"}}}}"#);
    format!(r#"{{"jsonrpc": "2.0", "id": {id}, "method": "tools/call", "params": {arguments}}}"#)
}

#[test]
fn the_mcp_server_of_the_examples_reads_what_the_rules_allow_and_tells_what_they_refuse() {
    let simulator = simulator();
    let mut setup = Setup::new(&simulator);
    setup.variable("CAREPORTALS_CONFIG", SETTINGS);
    let (reads, refused) = (call(3, "/users/account"), call(4, "/customers"));
    let (elsewhere, blank) = (call(5, "http://elsewhere.example/"), call(8, "/v2/a b"));
    let Some(answers) = conversation(
        &setup,
        &[
            r#"{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-03-26"}}"#,
            r#"{"jsonrpc": "2.0", "method": "notifications/initialized"}"#,
            r#"{"jsonrpc": "2.0", "id": 2, "method": "tools/list"}"#,
            &reads,
            &refused,
            &elsewhere,
            r#"{"jsonrpc": "2.0", "id": 6, "method": "tools/call", "params": {"name": "write"}}"#,
            "no JSON",
            r#"{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": ["read"]}"#,
            &blank,
        ],
    ) else {
        return;
    };
    let ids: Vec<Option<u64>> = answers.iter().map(|answer| answer["id"].as_u64()).collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), None, Some(7), Some(8)], "{answers:?}");
    assert_eq!(answers[0]["result"]["protocolVersion"], "2025-03-26");
    assert_eq!(answers[1]["result"]["tools"][0]["name"], "read");
    let told = |answer: &Value| {
        let result = &answer["result"];
        (result["isError"].as_bool().unwrap(), result["content"][0]["text"].as_str().unwrap().to_owned())
    };
    let (failed, text) = told(&answers[2]);
    assert!(!failed && text.contains("\"_id\""), "{text}");
    let (failed, text) = told(&answers[3]);
    assert!(failed && text.starts_with("the sidecar answered 403: ") && text.contains("\"not_allowed\""), "{text}");
    assert_eq!(told(&answers[4]), (true, "a path begins with /".to_owned()));
    assert_eq!(answers[5]["error"]["code"], -32601);
    assert_eq!(answers[6]["error"]["code"], -32700);
    assert_eq!(answers[7]["error"]["code"], -32602);
    let (failed, text) = told(&answers[8]);
    assert!(failed && text.starts_with("no answer: "), "{text}");
    assert_eq!(simulator.control().counts().by_route.keys().collect::<Vec<_>>(), ["GET /users/account"]);
}
