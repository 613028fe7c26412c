//! What the log says, as `docs/logs.md` lists it: what is logged is documented, and what is documented is logged.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Tree, read};

/// Level and message, with the names of the fields.
type Events = BTreeMap<(String, String), BTreeSet<String>>;

const WHY: &str = "operators alert on messages and fields: docs/logs.md is where they find them, and where a change of one shows";

#[test]
fn docs_logs_md_lists_every_event_with_its_fields() {
    let mut logged = Events::new();
    for source in Tree::read().shipped().filter(|source| source.file.starts_with("src/")) {
        for (level, message, fields) in events(&source.shipped) {
            logged.entry((level, message)).or_default().extend(fields);
        }
    }
    let lost = read("src/logging/mod.rs");
    let lost = lost.split("const DROPPED: &str = \"").nth(1).expect("the line that tells of lost lines");
    let lost = lost.split('"').next().unwrap_or_default().to_owned();
    logged.insert(("warn".to_owned(), lost), BTreeSet::from(["dropped".to_owned()]));
    assert!(logged.len() > 30, "{logged:#?}");
    let documented = documented();
    let differing: Vec<_> = logged.iter().filter(|(event, fields)| documented.get(event) != Some(fields)).collect();
    assert!(differing.is_empty(), "docs/logs.md lacks these, or has other fields: {differing:#?}\nwhy: {WHY}");
    let gone: Vec<_> = documented.keys().filter(|event| !logged.contains_key(event)).collect();
    assert!(gone.is_empty(), "docs/logs.md lists what is not logged: {gone:?}\nwhy: {WHY}");
}

/// The rows of the table of events.
fn documented() -> Events {
    let text = read("docs/logs.md");
    let rows = text.split("## Events").nth(1).expect("a section on events").lines().filter(|line| line.starts_with("| "));
    // What stands before the first bar is nothing.
    let cells = rows.map(|row| row.split('|').skip(1).map(str::trim).collect::<Vec<_>>());
    let events = cells.filter(|cells| ["info", "warn", "error"].contains(&cells[0]));
    let event = |cells: Vec<&str>| {
        let fields = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        ((cells[0].to_owned(), cells[1].trim_matches('`').to_owned()), fields)
    };
    events.map(event).collect()
}

#[test]
fn docs_logs_md_lists_every_field_of_the_access_line() {
    let access = read("src/logging/line/access/mod.rs");
    let body = access.split("fn fields(").nth(1).expect("the fields in their order").split("\nfn ").next().unwrap_or_default();
    let mut written: BTreeSet<String> = ["path", "status"].map(str::to_owned).into();
    for start in ["word(\"", "number(\"", "(\""] {
        written.extend(body.split(start).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    let text = read("docs/logs.md");
    let section = text.split("## The access line").nth(1).and_then(|rest| rest.split("## Events").next()).expect("a section");
    let first_cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let documented: BTreeSet<String> = first_cells
        .flat_map(|cell| cell.split(['`', ',']))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(written, documented, "why: {WHY}");
}

/// Each event of at least `info`: level, message, names of fields.
fn events(text: &str) -> Vec<(String, String, BTreeSet<String>)> {
    let mut events = Vec::new();
    for level in ["info", "warn", "error"] {
        let call = format!("{level}!(");
        for (at, _) in text.match_indices(&call) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let arguments = arguments(&text[at + call.len()..]);
            let message = arguments.iter().find(|argument| argument.starts_with('"')).cloned().unwrap_or_default();
            let names = arguments.iter().take_while(|argument| !argument.starts_with('"'));
            let names = names.map(|argument| argument.split('=').next().unwrap_or_default());
            let fields = names.map(|name| name.trim().trim_start_matches(['%', '?']).to_owned()).collect();
            events.push((level.to_owned(), placeholders(message.trim_matches('"'), &arguments), fields));
        }
    }
    events
}

/// The arguments of a call, up to the parenthesis that closes it.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut arguments = vec![String::new()];
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = arguments.last_mut() {
            last.push(c);
        }
    }
    let trimmed = arguments.iter().map(|argument| argument.trim().to_owned());
    trimmed.filter(|argument| !argument.is_empty()).collect()
}

/// A message whose `{}` is filled by an argument goes by that argument's first word, as in `why(&error)`: `{why}`.
fn placeholders(message: &str, arguments: &[String]) -> String {
    let mut message = message.to_owned();
    for value in arguments.iter().skip_while(|argument| !argument.starts_with('"')).skip(1) {
        let word: String = value.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        message = message.replacen("{}", &format!("{{{word}}}"), 1);
    }
    message
}

#[test]
fn an_event_is_taken_apart() {
    let text = r#"tracing::warn!(account, %listener, n = f(1, ","), "a, {error}: {}", why(&error)); my_info!("no"); info!("b")"#;
    let fields = BTreeSet::from(["account", "listener", "n"].map(str::to_owned));
    let expected =
        [("info".to_owned(), "b".to_owned(), BTreeSet::new()), ("warn".to_owned(), "a, {error}: {why}".to_owned(), fields)];
    assert_eq!(events(text), expected);
}
