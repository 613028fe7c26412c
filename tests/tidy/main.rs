//! The house rules that a compiler does not know, held by reading the tree.
//!
//! Each broken rule is printed as `file:line: what`, followed by why the rule is there. Needs nothing but the sources.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod documents;
mod events;
mod images;
mod installation;
mod layout;
mod manual;
mod names;
mod source;
mod writing;

use std::{fmt::Write as _, fs, path::Path};

use source::{Source, Tree};

/// One place that breaks a rule.
struct Finding {
    file: String,
    line: usize,
    what: String,
}

/// Fails with every finding, and with the reason for the rule.
fn assert_none(why: &str, findings: &[Finding]) {
    let mut report = String::new();
    for Finding { file, line, what } in findings {
        writeln!(report, "{file}:{line}: {what}").unwrap();
    }
    assert!(findings.is_empty(), "\n{report}why: {why}\n");
}

/// A text file of the repository.
fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[expect(clippy::disallowed_methods, reason = "how a developer asks for the manual to be written")]
fn is_update() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// Collects what `rule` finds in each source.
fn in_each(sources: &[Source], mut rule: impl FnMut(&Source, &mut Vec<Finding>)) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        rule(source, &mut findings);
    }
    findings
}

#[test]
fn the_rules_see_the_sources() {
    // A reader that finds nothing to read would hold every rule.
    let tree = Tree::read();
    let names = |start: &str| tree.sources.iter().filter(|source| source.file.starts_with(start)).count();
    assert!(names("src/") > 30 && names("simulator/src/") > 10 && names("tests/") > 3);
    assert!(tree.sources.iter().any(|source| source.is_test && source.file == "src/path/tests.rs"));
    assert!(tree.texts.iter().any(|(file, _)| file == "Cargo.toml"));
}
