//! One word for one thing: no two public types share a name, and names that were given up do not come back.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Finding, Source, Tree, assert_none};

/// What begins a type.
const TYPES: &[&str] = &["struct", "enum", "union", "trait", "type"];

/// Private types count too, where the name is one that says too little to be there twice.
const COUNTED_WHEN_PRIVATE: &[&str] = &["Shared", "Place"];

/// A definition in shipped code.
struct Definition<'a> {
    name: &'a str,
    is_public: bool,
    line: usize,
}

/// What `source` defines by one of `keywords`, outside of its tests. Methods and associated types are definitions, too.
fn definitions<'a>(source: &'a Source, keywords: &'a [&str]) -> impl Iterator<Item = Definition<'a>> {
    (1..source.tokens.len()).filter(|&at| !source.is_test_token(at)).filter_map(|at| {
        let (keyword, name) = (source.tokens[at - 1].text.as_str(), &source.tokens[at]);
        let is_name = name.text.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if !keywords.contains(&keyword) || !is_name || source.stands(at + 1, &["::"]) {
            return None;
        }
        Some(Definition { name: &name.text, is_public: is_public(source, at - 1), line: name.line })
    })
}

/// Whether `pub`, with or without how far, stands before the keyword at `at`.
fn is_public(source: &Source, at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|at| source.tokens[at].text.as_str());
    match before(1) {
        Some("pub") => true,
        Some(")") => {
            (2..at).take(12).find_map(|back| before(back).filter(|word| *word == "(").and(before(back + 1))) == Some("pub")
        }
        _ => false,
    }
}

/// Names and where they are defined, one place a file: the same type may be written once for each system.
fn by_name<'a>(sources: impl Iterator<Item = &'a Source>) -> BTreeMap<&'a str, BTreeMap<&'a str, usize>> {
    let mut names: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for source in sources {
        for definition in definitions(source, TYPES) {
            if definition.is_public || COUNTED_WHEN_PRIVATE.contains(&definition.name) {
                names.entry(definition.name).or_default().entry(&source.file).or_insert(definition.line);
            }
        }
    }
    names
}

/// Whether these files may share a name: one defines a thing, and one of `config` its settings.
fn is_thing_and_settings<'a>(files: impl Iterator<Item = &'a str>) -> bool {
    let (settings, things): (Vec<_>, Vec<_>) = files.partition(|file| file.starts_with("src/config/"));
    settings.len() == 1 && things.len() == 1
}

#[test]
fn no_two_public_types_share_a_name() {
    let tree = Tree::read();
    let sources = tree.shipped().filter(|source| source.file.starts_with("src/"));
    let mut findings = Vec::new();
    for (name, places) in by_name(sources) {
        // Each module's own errors have that name.
        if name == "Error" || places.len() < 2 || is_thing_and_settings(places.keys().copied()) {
            continue;
        }
        for (file, line) in &places {
            let others: Vec<&str> = places.keys().copied().filter(|other| other != file).collect();
            let what = format!("`{name}` is in {}, too", others.join(", "));
            findings.push(Finding { file: (*file).to_owned(), line: *line, what });
        }
    }
    assert_none("a search for a name has to lead to one thing, and a reader has to know which", &findings);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Type,
    Variant,
    Function,
    Constant,
    /// A file or folder.
    Module,
}
use Kind::{Constant, Function, Module, Type, Variant};

/// Names that were given up, where they would be the old thing again, and what says it now. A word that is good English stays
/// good in a sentence, and in another part of the program.
const GIVEN_UP: &[(Kind, &[&str], &str, &str)] = &[
    (Module, &["server/seats"], "src/", "server/connection_limit"),
    (Type, &["Seats", "Seat"], "src/", "ConnectionLimit, ConnectionPermit"),
    (Type, &["Guest", "Room"], "src/server/", "Slot, Registry"),
    (Function, &["sit", "told", "decline"], "src/server/", "accepted, evicting, refuse_eviction"),
    (Function, &["ask"], "src/server/seats", "evict"),
    (Function, &["ask"], "src/server/connection_limit", "evict"),
    (Type, &["Claim"], "src/server/", "EvictionGuard"),
    (Module, &["server/visit"], "src/", "server/connection_state"),
    (Type, &["Visit"], "src/", "ConnectionState"),
    (Function, &["hurry", "owes_an_end"], "src/", "shorten_for_drain, close_delimited"),
    (Constant, &["MOMENT", "GRACE"], "src/server/", "CLOSE_GRACE, IDLE_GRACE"),
    (Module, &["app/doors"], "src/", "app/listeners"),
    (Type, &["Door", "Layout"], "src/app/", "Listener, ListenerPlan"),
    (Function, &["behind"], "src/app/", "apis_by_listener"),
    (Module, &["proxy/entrance"], "src/", "proxy/router"),
    (Type, &["Entrance"], "src/", "Router"),
    (Function, &["lead_to"], "src/", "replace_routes"),
    (Type, &["Places"], "src/", "RequestLimit"),
    (Type, &["Place"], "src/proxy/", "RequestPermit"),
    (Type, &["Place"], "src/app/", "PassedSocket"),
    (Type, &["Place"], "src/control/", "ControlSocketPath"),
    (Type, &["Place"], "src/ask", "Endpoint"),
    (Type, &["Place"], "src/local_http", "Endpoint"),
    (Type, &["Knocks"], "src/", "Signals"),
    (Type, &["Board"], "src/", "Published"),
    (Module, &["account/news"], "src/", "account/transition_log"),
    (Type, &["News"], "src/", "what account/transition_log calls it"),
    (Module, &["account/tenant"], "src/", "account/organization_only"),
    (Type, &["Tenant"], "src/", "what account/organization_only calls it"),
    (Type, &["Outlook", "Complaints", "Advice"], "src/", "Availability, OnUnauthorized"),
    (Type, &["Trial", "Verdict"], "src/account/", "Probation"),
    (Variant, &["Cured", "Uncured"], "src/account/", "Accepted, RejectedAgain"),
    (Module, &["account/floor"], "src/", "account/relogin_floor"),
    (Type, &["Floor"], "src/", "ReloginFloor"),
    (Type, &["Side", "Plan", "Crew", "Order"], "src/app/", "WorkerState, Snapshot, WorkerFactory, WorkerCommand"),
    (Module, &["pulse"], "src/", "liveness"),
    (Type, &["Pulse", "Beat"], "src/", "LivenessProbe, Responder"),
    (Type, &["Sight"], "src/", "StatusReader"),
    (Module, &["systemd/story", "systemd/sentence"], "src/", "systemd/notify_state, systemd/status_text"),
    (Module, &["ask"], "src/", "local_http"),
    (Module, &["stream"], "src/", "upstream_io"),
    (Type, &["Counted"], "src/stream", "CountingTcp"),
    (Type, &["Counted"], "src/upstream_io", "CountingTcp"),
];

#[test]
fn no_name_that_was_given_up_comes_back() {
    let tree = Tree::read();
    let mut findings = Vec::new();
    for (kind, words, within, now) in GIVEN_UP {
        for source in tree.shipped().filter(|source| source.file.starts_with(within)) {
            for (word, line) in occurrences(source, *kind, words) {
                findings.push(Finding { file: source.file.clone(), line, what: format!("`{word}` is now: {now}") });
            }
        }
    }
    findings.extend(tree.texts.iter().flat_map(|(file, text)| in_prose(file, text)));
    assert_none("a newcomer guessed wrong at each of these names", &findings);
}

/// Where `source` defines one of `words`, or names it where a name is all there is.
fn occurrences<'a>(source: &'a Source, kind: Kind, words: &'a [&'a str]) -> Vec<(&'a str, usize)> {
    let defined = |keywords: &'a [&'a str]| {
        let found = definitions(source, keywords).filter(|definition| words.contains(&definition.name));
        found.map(|definition| (definition.name, definition.line)).collect()
    };
    match kind {
        Type => defined(TYPES),
        Function => defined(&["fn"]),
        Constant => defined(&["const", "static"]),
        Variant => {
            let named = source.tokens.iter().filter(|token| words.contains(&token.text.as_str()));
            named.map(|token| (token.text.as_str(), token.line)).collect()
        }
        Module => {
            let module = source.module().join("/");
            let is_in = |word: &str| module == word || module.starts_with(&format!("{word}/"));
            words.iter().copied().filter(|word| is_in(word)).map(|word| (word, 1)).collect()
        }
    }
}

/// Where a document, or a comment in `src`, names an old module or type between backquotes.
fn in_prose(file: &str, text: &str) -> Vec<Finding> {
    let is_document = file.to_lowercase().ends_with(".md");
    // The log of changes tells how things were called.
    if !(is_document || file.starts_with("src/")) || file == "CHANGELOG.md" {
        return Vec::new();
    }
    // Short words are a module's name only where modules are listed.
    let is_map = ["ARCHITECTURE.md", "src/lib.rs"].contains(&file);
    let old: BTreeSet<&str> = GIVEN_UP
        .iter()
        .filter(|(kind, _, within, _)| *kind == Module || (*kind == Type && *within == "src/"))
        .flat_map(|(_, words, _, _)| words.iter().copied())
        .filter(|word| is_map || word.contains('/') || word.starts_with(char::is_uppercase))
        .collect();
    let prose = text.lines().enumerate().filter(|(_, line)| is_document || line.trim_start().starts_with("//"));
    prose
        .flat_map(|(number, line)| {
            let quoted = line.split('`').skip(1).step_by(2);
            quoted.filter(|quoted| old.contains(quoted)).map(move |quoted| (number, quoted))
        })
        .map(|(number, quoted)| Finding { file: file.to_owned(), line: number + 1, what: format!("`{quoted}`") })
        .collect()
}

#[test]
fn a_name_is_found_where_it_is_defined_and_public() {
    let text = "pub struct A;\npub(in crate::x) enum B {}\nstruct C;\n#[cfg(test)]\nmod tests {\n    pub struct D;\n}\n\
                impl I for A {\n    type E = u8;\n}\nlet f = g(struct_of, union(a, b));\npub(crate) struct Shared;\n";
    let source = Source::new("src/x.rs".to_owned(), text.to_owned());
    let found: Vec<(&str, bool)> = definitions(&source, TYPES).map(|found| (found.name, found.is_public)).collect();
    assert_eq!(found, [("A", true), ("B", true), ("C", false), ("E", false), ("Shared", true)]);
    let other = Source::new("src/y.rs".to_owned(), "pub struct A;\nstruct C;\nstruct Shared;\n".to_owned());
    let names = by_name([&source, &other].into_iter());
    let twice: Vec<&str> = names.iter().filter(|(_, places)| places.len() > 1).map(|(name, _)| *name).collect();
    assert_eq!(twice, ["A", "Shared"]);
}

#[test]
fn a_thing_and_its_settings_may_share_a_name() {
    let may = |files: &[&'static str]| is_thing_and_settings(files.iter().copied());
    assert!(may(&["src/account/mod.rs", "src/config/mod.rs"]));
    assert!(!may(&["src/account/mod.rs", "src/proxy/mod.rs"]));
    assert!(!may(&["src/config/mod.rs", "src/config/source/faults.rs"]));
    assert!(!may(&["src/account/mod.rs", "src/config/mod.rs", "src/proxy/mod.rs"]));
}

#[test]
fn an_old_name_is_found_as_what_it_was_and_nowhere_else() {
    let visit = Source::new("src/server/visit.rs".to_owned(), "fn told() {}\n".to_owned());
    assert_eq!(occurrences(&visit, Module, &["server/visit"]), [("server/visit", 1)]);
    assert_eq!(occurrences(&visit, Function, &["told"]), [("told", 1)]);
    let text = "let told = ask(place);\nuse std::alloc::Layout;\n";
    let other = Source::new("src/app/visitors.rs".to_owned(), text.to_owned());
    assert!(occurrences(&other, Module, &["server/visit", "app/visit"]).is_empty());
    assert!(occurrences(&other, Function, &["told", "ask"]).is_empty());
    assert!(occurrences(&other, Type, &["Layout"]).is_empty());
    let lines = |text: &str| in_prose("docs/x.md", text).iter().map(|finding| finding.line).collect::<Vec<_>>();
    assert_eq!(lines("To ask a tenant to visit the place is `ask`.\nSee `server/visit` and `Seats`.\n"), [2, 2]);
}
