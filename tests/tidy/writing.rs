//! Sizes, names, and how tests wait. Clippy holds what it can: the length of functions, and that exceptions have reasons.

use crate::{Finding, Tree, assert_none, in_each};

/// Lines of a file without its tests.
const FILE_MAX: usize = 500;

/// Words that say nothing about what a thing does.
const EMPTY_WORDS: &[&str] =
    &["manager", "helper", "helpers", "util", "utils", "common", "context", "data", "info", "handler", "misc", "stuff"];

/// Names that are not ours to choose: item and name.
const GIVEN_NAMES: &[(&str, &str)] = &[
    // `http_body::Body`'s associated type.
    ("type", "Data"),
    // `figment::Provider`'s method.
    ("fn", "data"),
];

#[test]
fn files_have_one_subject() {
    let tree = Tree::read();
    let mut findings = Vec::new();
    for source in tree.shipped() {
        let lines = source.shipped_lines();
        if lines > FILE_MAX {
            let what = format!("{lines} lines without tests, more than {FILE_MAX}");
            findings.push(Finding { file: source.file.clone(), line: 1, what });
        }
    }
    assert_none("a longer file has a second subject, which deserves a name", &findings);
}

#[test]
fn files_say_what_they_are_for() {
    let tree = Tree::read();
    let findings = in_each(&tree.sources, |source, findings| {
        // What stands beside its subject and is called `tests` needs no introduction.
        if !source.file.ends_with("/tests.rs") && !source.text.starts_with("//! ") {
            let what = "no `//!` header".to_owned();
            findings.push(Finding { file: source.file.clone(), line: 1, what });
        }
    });
    assert_none("a header says what a file is for, what it may depend on and what it guarantees", &findings);
}

#[test]
fn names_say_something() {
    const ITEMS: &[&str] = &["fn", "struct", "enum", "union", "trait", "mod", "type", "const", "static"];
    let tree = Tree::read();
    let findings = in_each(&tree.sources, |source, findings| {
        let mut name_is_empty = |name: &str, line: usize| {
            if let Some(word) = words(name).find(|word| EMPTY_WORDS.contains(&word.as_str())) {
                findings.push(Finding { file: source.file.clone(), line, what: format!("`{name}`: \"{word}\"") });
            }
        };
        for pair in source.tokens.windows(2) {
            let (item, name) = (pair[0].text.as_str(), pair[1].text.as_str());
            if ITEMS.contains(&item) && !GIVEN_NAMES.contains(&(item, name)) {
                name_is_empty(name, pair[1].line);
            }
        }
        for part in source.file.trim_end_matches(".rs").split('/') {
            name_is_empty(part, 1);
        }
    });
    assert_none("these words name anything and so nothing; say what it does", &findings);
}

/// `read_some`, `readSome`, `ReadSome` and `READ_SOME` as words in lower case.
fn words(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
        before = c;
    }
    words.into_iter()
}

#[test]
fn no_test_is_switched_off() {
    let tree = Tree::read();
    let findings = in_each(&tree.sources, |source, findings| {
        for at in (0..source.tokens.len()).filter(|&at| source.stands(at, &["#", "[", "ignore"])) {
            findings.push(Finding { file: source.file.clone(), line: source.tokens[at].line, what: "`ignore`".to_owned() });
        }
    });
    assert_none("what is not done is missing, and says so in the documentation", &findings);
}

/// Ways to wait without a reason. Clippy knows some of them, and this knows the one place that is excepted.
const WAITS: &[&[&str]] =
    &[&["thread", "::", "sleep"], &["park_timeout"], &["wait_timeout"], &["wait_timeout_while"], &["wait_until"]];

#[test]
fn end_to_end_tests_wait_in_one_place() {
    const PLACE: &str = "tests/it/harness/waiting.rs";
    let tree = Tree::read();
    let findings = in_each(&tree.sources, |source, findings| {
        if !source.file.starts_with("tests/it/") || source.file == PLACE {
            return;
        }
        for at in 0..source.tokens.len() {
            for wait in WAITS.iter().filter(|wait| source.stands(at, wait)) {
                let what = format!("`{}`, which {PLACE} does for all", wait.concat());
                findings.push(Finding { file: source.file.clone(), line: source.tokens[at].line, what });
            }
        }
    });
    assert_none("what waits says why, and fails with that reason; what sleeps is slow or flaky, and mostly both", &findings);
}

#[test]
fn a_name_is_taken_apart_into_its_words() {
    let of = |name: &str| words(name).filter(|word| !word.is_empty()).collect::<Vec<_>>();
    assert_eq!(of("HeaderUtil"), ["header", "util"]);
    assert_eq!(of("read_INFO"), ["read", "info"]);
    assert_eq!(of("utility"), ["utility"]);
}
