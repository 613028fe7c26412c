//! Runs the commands of README.md in their order, and checks that they print what it says; `…` stands for any text.
//!
//! The test starts the program on free ports and puts these in place of the fixed ones.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
};

use careportals_simulator::UnknownFault;

use crate::program::{PROGRAM, started};

/// Separates the outputs of two commands.
const SEPARATOR: char = '\u{1e}';

const GUIDE: &str = include_str!("../../README.md");

/// A command of the guide, and the output that the guide shows for it.
struct GuideCommand {
    command: String,
    prints: String,
}

/// The commands in the blocks that show a shell; a command may continue on the next line.
fn commands(guide: &str) -> Vec<GuideCommand> {
    let mut all: Vec<GuideCommand> = Vec::new();
    for block in guide.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        for line in block.replace("\\\n", " ").lines() {
            match (line.strip_prefix("$ "), all.last_mut()) {
                (Some(command), _) => all.push(GuideCommand { command: command.to_owned(), prints: String::new() }),
                (None, Some(last)) => last.prints.push_str(line),
                (None, None) => panic!("{line} is printed by no command"),
            }
        }
    }
    all
}

/// Whether `text` matches `pattern`, in which `…` stands for any text.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

#[test]
fn a_text_is_like_a_pattern_with_gaps() {
    for (text, pattern, expected) in [
        ("abc", "abc", true),
        ("abcd", "abc", false),
        ("abcd", "a…", true),
        ("abcd", "a…d", true),
        ("abcd", "a…c", false),
        ("", "…", true),
    ] {
        assert_eq!(is_like(text, pattern), expected, "{text} {pattern}");
    }
}

#[test]
fn commands_of_the_guide_print_what_it_says() {
    let here = |tool: &str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !here("curl") {
        eprintln!("not run: there is no curl");
        return;
    }
    let folder = std::env::temp_dir().join(format!("careportals-simulator-guide-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder");
    let (_running, listen, admin) = started(&["--ca-out", folder.join("ca.pem").to_str().expect("text")]);
    let here = |text: &str| text.replace(":8443", &format!(":{}", listen.port())).replace(":8444", &format!(":{}", admin.port()));

    let (elsewhere, run): (Vec<GuideCommand>, Vec<GuideCommand>) = commands(GUIDE)
        .into_iter()
        .partition(|shown| shown.command.starts_with("docker ") || shown.command.starts_with("cargo "));
    // `started` runs the program with these flags. `deploy/compose/check` builds and runs the image.
    let flags: Vec<_> =
        elsewhere.iter().filter_map(|shown| shown.command.strip_prefix("cargo run -p careportals-simulator -- ")).collect();
    assert_eq!(flags, ["--listen 127.0.0.1:8443 --admin 127.0.0.1:8444 --ca-out ca.pem"]);
    assert_eq!(elsewhere.len(), 3);

    let script: Vec<_> = run.iter().map(|shown| format!("{}\nprintf '{SEPARATOR}'", here(&shown.command))).collect();
    let shell =
        Command::new("sh").args(["-ec", &script.join("\n")]).current_dir(&folder).env("NO_PROXY", "*").output().expect("a shell");
    fs::remove_dir_all(&folder).expect("removed");
    let printed = String::from_utf8(shell.stdout).expect("text");
    assert!(shell.status.success(), "{printed}{}", String::from_utf8_lossy(&shell.stderr));
    assert!(run.len() >= 10, "the guide has lost its commands");
    for (shown, printed) in run.iter().zip(printed.split(SEPARATOR)) {
        assert!(is_like(printed.trim_end(), &here(&shown.prints)), "{} printed {printed}", shown.command);
    }
}

#[test]
fn the_guide_lists_every_flag() {
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| c != '-' && !c.is_ascii_alphanumeric());
        words.filter(|word| word.starts_with("--") && word.len() > 2 && !word.starts_with("---")).map(str::to_owned).collect()
    };
    let help = Command::new(PROGRAM).arg("--help").output().expect("ran").stdout;
    let mut known = flags(&String::from_utf8(help).expect("text"));
    for everywhere in ["--help", "--version"] {
        assert!(known.remove(everywhere), "{everywhere}");
    }
    let rows = GUIDE.lines().filter(|line| line.starts_with("| `--")).filter_map(|row| row.split(" | ").next());
    assert_eq!(rows.flat_map(flags).collect::<BTreeSet<_>>(), known);
}

/// The names of the faults that the guide lists after `start`.
fn listed(start: &str) -> BTreeSet<&'static str> {
    let (_, list) = GUIDE.split_once(start).expect("a list of faults");
    let list = list.split("\n\n").next().unwrap_or_default();
    list.split('`').skip(1).step_by(2).filter_map(|fault| fault.split(':').next()).collect()
}

#[test]
fn the_guide_lists_every_fault() {
    let listed = listed("The faults of a log-in are ");
    let message = UnknownFault.to_string();
    let (_, forms) = message.split_once("one of ").expect("forms");
    let known: BTreeSet<&str> = forms.split(", ").filter_map(|form| form.split(':').next()).collect();
    assert_eq!(listed, known);
}

#[cfg(feature = "import")]
#[test]
fn the_routes_of_the_guide_are_good_and_its_faults_of_a_route_are_all_there_are() {
    let simulator = crate::client::simulator();
    let control = simulator.control();
    let routes = GUIDE.split_once("```json\n").and_then(|(_, rest)| rest.split("```").next()).expect("routes");
    control.add_routes(&serde_json::from_str(routes).expect("JSON")).expect("good routes");
    assert_eq!(control.route_names().len(), 4);
    let wrong = serde_json::json!([{ "path": "/x", "body": 1, "fault": "nonsense" }]);
    let told = control.add_routes(&wrong).expect_err("refused");
    let (_, forms) = told.split_once("one of ").expect("forms");
    let known: BTreeSet<&str> = forms.split(", ").filter_map(|form| form.split(':').next()).collect();
    assert_eq!(listed("The faults of a route are "), known);
}
