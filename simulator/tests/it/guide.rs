//! The commands of README.md are typed as they stand there, in their order, and print what it says; `…` stands for anything.
//!
//! Its fixed ports become those of a program that this test starts on free ones.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::program::started;

/// Between the outputs of two commands.
const SEPARATOR: char = '\u{1e}';

struct Typed {
    command: String,
    prints: String,
}

/// What stands in the blocks that show a shell; a command on several lines is one.
fn typed(guide: &str) -> Vec<Typed> {
    let mut all: Vec<Typed> = Vec::new();
    for block in guide.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        for line in block.replace("\\\n", " ").lines() {
            match (line.strip_prefix("$ "), all.last_mut()) {
                (Some(command), _) => all.push(Typed { command: command.to_owned(), prints: String::new() }),
                (None, Some(last)) => last.prints.push_str(line),
                (None, None) => panic!("{line} is printed by no command"),
            }
        }
    }
    all
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
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
fn what_the_guide_has_typed_prints_what_it_says() {
    let here = |tool: &str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !here("curl") {
        eprintln!("not run: there is no curl");
        return;
    }
    let folder = std::env::temp_dir().join(format!("careportals-simulator-guide-{}", std::process::id()));
    fs::create_dir(&folder).expect("a folder");
    let (_running, listen, admin) = started(&["--ca-out", folder.join("ca.pem").to_str().expect("text")]);
    let here = |text: &str| text.replace(":8443", &format!(":{}", listen.port())).replace(":8444", &format!(":{}", admin.port()));

    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("a guide");
    let (elsewhere, run): (Vec<Typed>, Vec<Typed>) =
        typed(&guide).into_iter().partition(|typed| typed.command.starts_with("docker ") || typed.command.starts_with("cargo "));
    // `started` is the one, and takes the flags that it names; an image has a check of its own.
    let flags: Vec<_> =
        elsewhere.iter().filter_map(|typed| typed.command.strip_prefix("cargo run -p careportals-simulator -- ")).collect();
    assert_eq!(flags, ["--listen 127.0.0.1:8443 --admin 127.0.0.1:8444 --ca-out ca.pem"]);
    assert_eq!(elsewhere.len(), 3);

    let script: Vec<_> = run.iter().map(|typed| format!("{}\nprintf '{SEPARATOR}'", here(&typed.command))).collect();
    let shell =
        Command::new("sh").args(["-ec", &script.join("\n")]).current_dir(&folder).env("NO_PROXY", "*").output().expect("a shell");
    fs::remove_dir_all(&folder).expect("removed");
    let printed = String::from_utf8(shell.stdout).expect("text");
    assert!(shell.status.success(), "{printed}{}", String::from_utf8_lossy(&shell.stderr));
    assert!(run.len() >= 10, "the guide has lost its commands");
    for (typed, printed) in run.iter().zip(printed.split(SEPARATOR)) {
        assert!(is_like(printed.trim_end(), &here(&typed.prints)), "{} printed {printed}", typed.command);
    }
}
