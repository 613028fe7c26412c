//! The Dockerfiles: what they copy from the checkout is there, and `.dockerignore` lets it through.

use std::path::Path;

use crate::{Finding, assert_none, read};

const DOCKERFILES: [&str; 2] = ["Dockerfile", "simulator/Dockerfile"];

/// The sources that a line copies from the checkout; none where it copies from another stage.
fn copied(line: &str) -> Vec<&str> {
    let Some(rest) = line.strip_prefix("COPY ").filter(|rest| !rest.contains("--from=")) else { return Vec::new() };
    let words: Vec<&str> = rest.split_whitespace().filter(|word| !word.starts_with("--")).collect();
    words.split_last().map(|(_, sources)| sources.to_vec()).unwrap_or_default()
}

/// Whether the builder sees `path`, or something below it: the last rule that names it decides.
fn is_let_through(path: &str, ignored: &str) -> bool {
    let path = path.trim_end_matches('/');
    let names = |rule: &str| rule == "*" || rule == path || path.starts_with(&format!("{rule}/"));
    let rules = ignored.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rules.fold(true, |seen, rule| match rule.strip_prefix('!') {
        Some(kept) => seen || names(kept) || kept.starts_with(&format!("{path}/")),
        None => seen && !names(rule),
    })
}

#[test]
fn what_the_dockerfiles_copy_is_let_through() {
    let ignored = read(".dockerignore");
    let mut findings = Vec::new();
    for file in DOCKERFILES {
        for (at, line) in read(file).lines().enumerate() {
            for source in copied(line) {
                let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join(source).exists();
                if !exists || !is_let_through(source, &ignored) {
                    let what = if exists { ".dockerignore keeps it out" } else { "it does not exist" };
                    findings.push(Finding { file: file.to_owned(), line: at + 1, what: format!("`{source}`: {what}") });
                }
            }
        }
    }
    assert_none("an image that lacks a file does not build, and no other test builds one", &findings);
}

#[test]
fn the_last_rule_that_names_a_path_decides() {
    let ignored = "# a comment\n*\n!src\n!.cargo/config.toml\nsrc/secret\n";
    for (path, expected) in [("src", true), ("src/main.rs", true), (".cargo", true), ("src/secret", false), ("build.rs", false)] {
        assert_eq!(is_let_through(path, ignored), expected, "{path}");
    }
    assert_eq!(copied("COPY --chown=1:1 a b/c ./"), ["a", "b/c"]);
    assert!(copied("COPY --from=build /out/ /").is_empty() && copied("RUN cp a b").is_empty());
}
