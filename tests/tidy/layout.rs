//! Who may use whom, and what stands in one place only.

use crate::{Finding, Source, Tree, assert_none, in_each, read};

/// The folders of the two crates; each has a map in its `lib.rs`.
const CRATES: [&str; 2] = ["src/", "simulator/src/"];

/// The rows of the map in the crate's `lib.rs`, from the bottom up.
fn map(folder: &str) -> Vec<String> {
    let rows: Vec<String> = read(&format!("{folder}lib.rs"))
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .filter(|line| line.starts_with("| ") && line.contains('`'))
        .map(str::to_owned)
        .collect();
    assert!(rows.len() > 10, "{folder}lib.rs has lost its map");
    rows
}

/// Module names in the map's order.
fn order(folder: &str) -> Vec<String> {
    map(folder).iter().map(|row| row.split('`').nth(1).unwrap().to_owned()).collect()
}

#[test]
fn the_maps_name_every_module_once() {
    let tree = Tree::read();
    for folder in CRATES {
        let mut mapped = order(folder);
        mapped.sort();
        let root = tree.sources.iter().find(|source| source.file == format!("{folder}lib.rs")).unwrap();
        let stands = |&at: &usize| root.stands(at, &["mod"]) && !root.is_test_token(at);
        let declared = (0..root.tokens.len()).filter(stands).map(|at| root.tokens[at + 1].text.clone());
        let mut declared: Vec<String> = declared.collect();
        declared.sort();
        assert_eq!(mapped, declared, "the map in {folder}lib.rs and its `mod` lines differ");
    }
}

#[test]
fn a_module_uses_only_what_the_map_lists_above_it() {
    let tree = Tree::read();
    for folder in CRATES {
        let order = order(folder);
        let findings = in_each(&tree.sources, |source, findings| {
            if source.file.starts_with(folder) {
                findings.extend(uses_not_above(source, &order));
            }
        });
        let why = format!("data flows one way: a reader of one layer need not know those over it (map in {folder}lib.rs)");
        assert_none(&why, &findings);
    }
}

/// Uses of modules that `order` does not list before the module of `source`.
fn uses_not_above(source: &Source, order: &[String]) -> Vec<Finding> {
    let module = source.module();
    let Some(layer) = module.first().and_then(|first| order.iter().position(|name| name == first)) else { return Vec::new() };
    let uses = crate_uses(source).into_iter().filter(|(used, _)| !order[..=layer].contains(used));
    let finding = |(used, line): (String, usize)| {
        let what = format!("`{}` uses `{used}`, which is not above it", order[layer]);
        Finding { file: source.file.clone(), line, what }
    };
    uses.map(finding).collect()
}

#[test]
fn a_use_of_a_later_module_is_noticed() {
    let order = ["record", "state", "router"].map(str::to_owned);
    let used = |text: &str| {
        let source = Source::new("simulator/src/state.rs".to_owned(), text.to_owned());
        uses_not_above(&source, &order).into_iter().map(|finding| finding.what).collect::<Vec<_>>()
    };
    let expected = ["`state` uses `router`, which is not above it"];
    assert_eq!(used("use crate::router::route;"), expected);
    assert_eq!(used("use crate::{\n    record::{Counts, listed},\n    router,\n};"), expected);
    assert_eq!(used("fn a() { crate::router::route() }"), expected);
    assert!(used("use crate::{record::Counts, state};\n#[cfg(test)]\nmod tests { use crate::router; }").is_empty());
}

/// Top-level modules that shipped code names, with lines.
fn crate_uses(source: &Source) -> Vec<(String, usize)> {
    let mut uses = Vec::new();
    for at in (0..source.tokens.len()).filter(|&at| !source.is_test_token(at)) {
        if source.stands(at, &["crate", "::", "{"]) {
            let mut depth = 0;
            for (before, token) in source.tokens[at + 2..].iter().zip(&source.tokens[at + 3..]) {
                match before.text.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                if depth == 1 && (before.text == "{" || before.text == ",") && token.text != "}" {
                    uses.push((token.text.clone(), token.line));
                }
            }
        } else if source.stands(at, &["crate", "::"]) {
            uses.push((source.tokens[at + 2].text.clone(), source.tokens[at + 2].line));
        }
    }
    // `super` that climbs out of its top-level module is another way to say `crate`.
    let depth = source.module().len();
    for at in (0..source.tokens.len()).filter(|&at| !source.is_test_token(at) && source.stands(at, &["super", "::"])) {
        let climbs = source.words_at(at).step_by(2).take_while(|word| *word == "super").count();
        if climbs >= depth && !(at > 1 && source.tokens[at - 2].text == "super") {
            uses.push(("super".to_owned(), source.tokens[at].line));
        }
    }
    uses
}

#[test]
fn files_of_a_folder_keep_the_order_that_its_header_states() {
    const PROMISE: &str = "each using only those before it";
    let tree = Tree::read();
    let findings = in_each(&tree.sources, |source, findings| {
        let header: String = source.text.lines().map_while(|line| line.strip_prefix("//!")).collect();
        let Some((_, listed)) = header.split_once(PROMISE) else { return };
        let order: Vec<&str> = listed.split('`').skip(1).step_by(2).collect();
        let folder = source.file.trim_end_matches("mod.rs");
        for (place, name) in order.iter().enumerate() {
            let file = tree
                .sources
                .iter()
                .find(|other| [format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")].contains(&other.file));
            let Some(file) = file else {
                let what = format!("the header lists `{name}`, which is not here");
                findings.push(Finding { file: source.file.clone(), line: 1, what });
                continue;
            };
            findings.extend(uses_later(file, &order[place + 1..]));
        }
        let names = tree.sources.iter().filter_map(|other| name_in(folder, &other.file));
        for name in names.filter(|name| !order.contains(name) && !["mod", "tests", "simulation"].contains(name)) {
            findings.push(Finding { file: source.file.clone(), line: 1, what: format!("the header does not list `{name}`") });
        }
    });
    assert_none(
        "the header says that each file uses only those before it; read in that order the folder needs no look ahead",
        &findings,
    );
}

/// The name of the module that `file` is in `folder`, if it stands directly there.
fn name_in<'a>(folder: &str, file: &'a str) -> Option<&'a str> {
    let inside = file.strip_prefix(folder)?;
    let name = inside.strip_suffix("/mod.rs").or_else(|| inside.strip_suffix(".rs"))?;
    (!name.contains('/')).then_some(name)
}

fn uses_later(source: &Source, later: &[&str]) -> Vec<Finding> {
    // A file that only tests compile has its place, too.
    let is_judged = |at: usize| source.is_test || !source.is_test_token(at);
    let mut findings = Vec::new();
    for at in (0..source.tokens.len()).filter(|&at| is_judged(at) && source.stands(at, &["super", "::"])) {
        let end = crate::source::item_end(&source.tokens, at);
        let direct = source.tokens[at + 2].text != "{";
        let named = &source.tokens[at + 2..if direct { at + 3 } else { end }];
        for token in named.iter().filter(|token| later.contains(&token.text.as_str())) {
            findings.push(Finding { file: source.file.clone(), line: token.line, what: format!("uses `{}`", token.text) });
        }
    }
    findings
}

#[test]
fn architecture_md_shows_the_same_map() {
    let text = read("ARCHITECTURE.md");
    for row in map("src/") {
        assert!(text.contains(&row), "ARCHITECTURE.md lacks this row of the map in src/lib.rs:\n{row}");
    }
}

/// Text that stands in a few places only: what, where, why.
const CONFINED: &[(&str, &[&str], &str)] = &[
    (
        "portals.care",
        &["src/careportals.rs", "simulator/"],
        "what is known of the API is in one file, so that it can be corrected there",
    ),
    (
        "careportals.com",
        &["src/careportals.rs", "simulator/"],
        "what is known of the API is in one file, so that it can be corrected there",
    ),
    (
        "\"Bearer ",
        &["src/secret/", "src/demo/", "simulator/"],
        "one maker of `Authorization` values, whose buffer is wiped; the demo shows what arrived",
    ),
    (
        "client::conn",
        &["src/upstream/", "src/connect/egress.rs", "src/local_http.rs", "src/demo/"],
        "one place knows how a request to upstream is sent, and whether it left",
    ),
    (
        "TcpListener",
        &["src/server/", "src/demo", "simulator/"],
        "one module opens listening sockets, and drains them; the demo looks for a free port",
    ),
    ("UnixListener", &["src/server/", "simulator/"], "one module opens listening sockets, and drains them"),
    (
        "TcpStream",
        &["src/server/", "src/local_http.rs", "src/connect/", "src/upstream_io.rs", "src/demo/", "simulator/"],
        "the layers below the wire open no socket, those above ask it",
    ),
    (
        "tokio::spawn",
        &["src/upstream/", "src/server/", "src/account/", "src/proxy/", "src/app/", "src/demo/", "simulator/"],
        "the layers below start no task, and each task has an owner",
    ),
];

#[test]
fn some_things_stand_in_one_place_only() {
    let tree = Tree::read();
    for (text, places, why) in CONFINED {
        let mut findings = Vec::new();
        for source in tree.shipped().filter(|source| !places.iter().any(|place| source.file.starts_with(place))) {
            for (number, line) in source.shipped.lines().enumerate() {
                if line.contains(text) {
                    let what = format!("`{text}`");
                    findings.push(Finding { file: source.file.clone(), line: number + 1, what });
                }
            }
        }
        assert_none(why, &findings);
        // A rule about something that is written differently by now protects nothing.
        let is_used = tree.shipped().any(|source| source.shipped.contains(text));
        assert!(is_used, "`{text}` is nowhere: correct its line in tests/tidy/layout.rs");
    }
}
