//! Sizes, names, and reasons given.

use crate::{Finding, Source, Tree, assert_none, in_each};

/// Lines of a function, first to last.
const FUNCTION_MAX: usize = 70;
/// Lines of a file without its tests.
const FILE_MAX: usize = 500;

/// Words that say nothing about what a thing does.
const EMPTY_WORDS: &[&str] =
    &["manager", "helper", "helpers", "util", "utils", "common", "context", "data", "info", "handler", "misc", "stuff"];

/// Names that are not ours to choose: item and name.
const GIVEN_NAMES: &[(&str, &str)] = &[
    // `http_body::Body`'s associated type.
    ("type", "Data"),
];

#[test]
fn functions_fit_on_a_screen() {
    let tree = Tree::read();
    let findings = in_each(&tree.sources, |source, findings| {
        for at in (0..source.tokens.len()).filter(|&at| source.tokens[at].text == "fn") {
            let name = &source.tokens[at + 1];
            if !name.text.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                continue; // A type, `fn(…)`.
            }
            let end = crate::source::item_end(&source.tokens, at);
            let lines = source.tokens[end].line - name.line + 1;
            if lines > FUNCTION_MAX {
                let what = format!("`{}` has {lines} lines, more than {FUNCTION_MAX}", name.text);
                findings.push(Finding { file: source.file.clone(), line: name.line, what });
            }
        }
    });
    assert_none("what has to be understood at once has to be seen at once; pull decisions up and leave pure leaves", &findings);
}

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
fn an_exception_from_a_lint_has_its_reason() {
    let tree = Tree::read();
    let findings = in_each(&tree.sources, |source, findings| {
        for at in 0..source.tokens.len() {
            let opened = ["allow", "expect"]
                .iter()
                .any(|lint| source.stands(at, &["#", "[", lint, "("]) || source.stands(at, &["#", "!", "[", lint, "("]));
            if opened && !source.words_at(at).take_while(|word| *word != "]").any(|word| word == "reason") {
                let what = "no `reason = …`".to_owned();
                findings.push(Finding { file: source.file.clone(), line: source.tokens[at].line, what });
            }
        }
    });
    assert_none("whoever reads it next has to judge whether it still holds", &findings);
}

#[test]
fn no_test_is_switched_off_nothing_sleeps_and_nothing_is_left_for_later() {
    let tree = Tree::read();
    let findings = in_each(&tree.sources, |source, findings| {
        for at in 0..source.tokens.len() {
            let word = source.tokens[at].text.as_str();
            let ignored = source.stands(at, &["#", "[", "ignore"]);
            let sleeps = source.stands(at, &["thread", "::", "sleep"]);
            let later = ["todo", "unimplemented"].contains(&word) && source.stands(at + 1, &["!"]);
            if ignored || later || sleeps {
                findings.push(Finding { file: source.file.clone(), line: source.tokens[at].line, what: word.to_owned() });
            }
        }
    });
    assert_none(
        "what is not done is missing, and says so in the documentation; what sleeps is slow or flaky, and mostly both",
        &findings,
    );
}

#[test]
fn a_name_is_taken_apart_into_its_words() {
    let of = |name: &str| words(name).filter(|word| !word.is_empty()).collect::<Vec<_>>();
    assert_eq!(of("HeaderUtil"), ["header", "util"]);
    assert_eq!(of("read_INFO"), ["read", "info"]);
    assert_eq!(of("utility"), ["utility"]);
}

#[test]
fn a_long_function_is_noticed() {
    let text = format!("fn long() {{\n{}}}\n", "    step();\n".repeat(FUNCTION_MAX));
    let source = Source::new("src/x.rs".to_owned(), text);
    let end = crate::source::item_end(&source.tokens, 0);
    assert_eq!(source.tokens[end].line, FUNCTION_MAX + 2);
}
