//! Manifests and documents: reasons, links, and commands that exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Finding, Tree, assert_none, is_update, read};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_careportals-sidecar");

#[test]
fn each_dependency_says_why_it_is_here() {
    let mut findings = Vec::new();
    for file in ["Cargo.toml", "simulator/Cargo.toml"] {
        let text = read(file);
        let lines: Vec<&str> = text.lines().collect();
        let mut section = "";
        for (number, line) in lines.iter().enumerate() {
            if line.starts_with('[') {
                section = line;
            } else if section.ends_with("dependencies]") && line.contains('=') && !line.starts_with('#') {
                let explained = lines[number - 1].starts_with("# ");
                if !explained {
                    let name = line.split(['=', ' ']).next().unwrap_or_default();
                    findings.push(Finding {
                        file: file.to_owned(),
                        line: number + 1,
                        what: format!("`{name}`: no comment above it"),
                    });
                }
            }
        }
    }
    assert_none("every dependency is code that we ship without having written it", &findings);
}

/// Pages whose claims name the tests that show them, and where these tests are.
const CLAIMS: &[(&str, &[&str])] = &[
    ("docs/threat-model.md", &["tests/it"]),
    ("docs/evaluation.md", &["tests/it", "tests/tidy"]),
    ("docs/http-conformance.md", &["tests/it"]),
];

#[test]
fn pages_about_security_name_tests_that_exist() {
    let mut findings = Vec::new();
    for (page, folders) in CLAIMS {
        let mut named = 0;
        for (number, line) in read(page).lines().enumerate() {
            // Between single backquotes are, among others, `file::test`s.
            for (file, test) in line.split('`').skip(1).step_by(2).filter_map(|quoted| quoted.split_once("::")) {
                named += 1;
                if !is_test(folders, file, test) && !is_row(file, test) {
                    let what = format!("`{file}::{test}`: no such test");
                    findings.push(Finding { file: (*page).to_owned(), line: number + 1, what });
                }
            }
        }
        assert!(named > 30, "{page} names {named}");
    }
    assert_none("a claim without a test is a hope", &findings);
}

/// Whether `test` is in the chapter `file` of one of these suites.
fn is_test(folders: &[&str], file: &str, test: &str) -> bool {
    let within = |path: &str| {
        folders.iter().any(|folder| path == format!("{folder}/{file}.rs") || path.starts_with(&format!("{folder}/{file}/")))
    };
    let signature = format!("#[test]\nfn {test}()");
    Tree::read().sources.iter().any(|source| within(&source.file) && source.text.contains(&signature))
}

/// Whether `case` is a row of that file of the corpus.
fn is_row(file: &str, case: &str) -> bool {
    let path = format!("tests/corpus/{file}.jsonl");
    let row = format!("{{\"case\": \"{case}\", ");
    Tree::read().texts.iter().any(|(known, text)| *known == path && text.lines().any(|line| line.starts_with(&row)))
}

#[test]
fn the_index_names_every_document() {
    let index = read(INDEX);
    let linked: BTreeSet<PathBuf> =
        index.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()).map(normal).collect();
    let mut findings = Vec::new();
    for document in documents() {
        if !linked.contains(Path::new(document)) {
            findings.push(Finding { file: document.to_owned(), line: 1, what: format!("{INDEX} does not name it") });
        }
    }
    assert_none("a page that no list names is found by nobody, and is not in the book", &findings);
}

const INDEX: &str = "docs/README.md";

/// Every document but the index, and what only the forge shows.
fn documents() -> impl Iterator<Item = &'static str> {
    let files = Tree::read().texts.iter().map(|(file, _)| file.as_str());
    files.filter(|file| is_document(file) && *file != INDEX && !file.starts_with(".github/"))
}

/// A link of the index as a path in the repository.
fn normal(target: &str) -> PathBuf {
    target.strip_prefix("../").map_or_else(|| Path::new("docs").join(target), PathBuf::from)
}

#[test]
fn the_book_has_every_document_once() {
    let place = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/book/build");
    let gathered = Command::new(script).arg("--sources-only").env("CARGO_TARGET_DIR", place.path()).output().unwrap();
    if gathered.status.code() == Some(127) {
        return eprintln!("not run: there is no python3");
    }
    assert!(gathered.status.success(), "{}", String::from_utf8_lossy(&gathered.stderr));
    let summary = fs::read_to_string(place.path().join("book/src/SUMMARY.md")).unwrap();
    let mut chapters: Vec<&str> = summary.split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default()).collect();
    chapters.sort_unstable();
    let mut expected: Vec<&str> = documents().chain([INDEX]).collect();
    expected.sort_unstable();
    assert_eq!(chapters, expected);
    let reference = summary.split("# Reference").nth(1).expect("the reference is apart from the tasks");
    assert!(reference.contains("(docs/settings.md)") && !reference.contains("(docs/exec.md)"), "{reference}");
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let checkout = env!("CARGO_MANIFEST_DIR").trim_end_matches('/');
    // Put together here, so that this file does not name them itself.
    let mut places: Vec<String> = ["home", "root"].iter().map(|folder| format!("/{folder}/")).collect();
    if checkout.matches('/').count() > 1 {
        places.push(format!("{checkout}/"));
    }
    let mut findings = Vec::new();
    for (file, text) in &Tree::read().texts {
        for (number, line) in text.lines().enumerate() {
            for place in places.iter().filter(|place| names_path(line, place)) {
                findings.push(Finding { file: file.clone(), line: number + 1, what: format!("`{place}`") });
            }
        }
    }
    assert_none("the sources are built by others, elsewhere", &findings);
}

/// Whether `place` begins a path in `line`, and is not the middle of one.
fn names_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "-_.}~".contains(c)))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut findings = Vec::new();
    let tree = Tree::read();
    for (file, text) in tree.texts.iter().filter(|(file, _)| is_document(file)) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        for (number, line) in text.lines().enumerate() {
            let after = |mark, end| line.split(mark).skip(1).filter_map(move |rest: &str| rest.split(end).next());
            for target in after("](", ')').chain(after("src=\"", '"')).chain(after("srcset=\"", '"')) {
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (path, place) = target.split_once('#').unwrap_or((target, ""));
                let found = if path.is_empty() { folder.clone() } else { folder.with_file_name("").join(path) };
                let mut what = None;
                if !found.exists() {
                    what = Some(format!("`{path}` does not exist"));
                } else if !place.is_empty() && !anchors(&fs::read_to_string(&found).unwrap_or_default()).contains(place) {
                    what = Some(format!("`{target}`: there is no such heading"));
                }
                findings.extend(what.map(|what| Finding { file: file.clone(), line: number + 1, what }));
            }
        }
    }
    assert_none("a reader who is sent somewhere has to arrive", &findings);
}

fn is_document(file: &str) -> bool {
    file.to_lowercase().ends_with(".md")
}

/// The places in a page that its headings can be linked by.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

#[test]
fn each_alert_has_its_section_in_the_runbook_and_each_section_an_alert() {
    let alerts = read("deploy/prometheus/alerts.yaml");
    let of = |key: &str| alerts.lines().filter_map(|line| line.trim().strip_prefix(key)).map(str::trim).collect::<Vec<_>>();
    let links: Vec<&str> =
        of("runbook_url: ").into_iter().filter_map(|link| link.split_once("docs/runbook.md#")).map(|(_, to)| to).collect();
    assert_eq!(links.len(), of("- alert: ").len(), "each alert says where its runbook is");
    let sections: BTreeSet<String> =
        read("docs/runbook.md").lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
    assert_eq!(links.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), sections);
}

#[test]
fn links_to_the_runbook_begin_with_the_homepage() {
    const END: &str = "docs/runbook.md";
    let homepage = env!("CARGO_PKG_HOMEPAGE");
    assert!(homepage.starts_with("https://") && homepage.ends_with('/'), "{homepage}");
    for file in [
        "prometheus/alerts.yaml",
        "prometheus/tests.yaml",
        "grafana/careportals-sidecar.json",
        "kubernetes/monitoring/rules/prometheusrule.yaml",
    ]
    .map(|file| format!("deploy/{file}"))
    {
        let text = read(&file);
        let linked =
            text.split("https://").skip(1).filter_map(|rest| rest.split_once(END)).map(|(base, _)| format!("https://{base}"));
        let others: BTreeSet<String> = linked.filter(|base| base.as_str() != homepage).collect();
        assert!(text.contains(&format!("{homepage}{END}")) || !others.is_empty(), "{file} links to no runbook");
        if is_update() {
            let right = others.iter().fold(text, |text, base| text.replace(&format!("{base}{END}"), &format!("{homepage}{END}")));
            fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file), right).unwrap();
        } else {
            assert_eq!(others, BTreeSet::new(), "{file}; UPDATE_DOCS=1 writes the links anew");
        }
    }
}

/// What readers are told to type.
const GUIDES: &[&str] = &[
    "README.md",
    "docs/agents.md",
    "docs/building.md",
    "docs/control.md",
    "docs/debian.md",
    "docs/evaluation.md",
    "docs/exec.md",
    "docs/helm.md",
    "docs/install.md",
    "docs/kubernetes.md",
    "docs/kubernetes-try-out.md",
    "docs/questions.md",
    "docs/runbook.md",
    "deploy/kubernetes/sidecar/pod.yaml",
    "deploy/helm/careportals-sidecar/templates/_parts.tpl",
    "systemd/README.md",
    "CONTRIBUTING.md",
    "examples/agents/careportals-sidecar/SKILL.md",
];

#[test]
fn commands_in_the_guides_exist() {
    let mut told = BTreeSet::new();
    for guide in GUIDES {
        for line in read(guide).lines() {
            for start in ["careportals-sidecar ", "cargo run --release -- "] {
                let after = line.split(start).skip(1);
                let words = after.filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next());
                told.extend(words.filter(|word| is_command(line, start, word)).map(str::to_owned));
            }
        }
    }
    assert!(told.contains("demo") && told.contains("check"), "the guides have lost their commands: {told:?}");
    for command in told {
        if command == "demo" && cfg!(not(feature = "demo")) {
            continue;
        }
        let outcome = Command::new(PROGRAM).args([&command, "--help"]).output().unwrap();
        assert!(outcome.status.success(), "the guides name `{command}`, which the program does not know");
    }
}

/// Whether `word` is typed as a command: a line of code, not the program's name in a sentence.
fn is_command(line: &str, start: &str, word: &str) -> bool {
    let code =
        line.trim_start().starts_with("$ ") || line.contains(&format!("`{start}{word}")) || line.trim_start().starts_with(start);
    code && !word.is_empty()
}

#[test]
fn variables_in_the_guides_exist() {
    let settings = read("docs/settings.md");
    for guide in GUIDES {
        for line in read(guide).lines() {
            for (at, _) in line.match_indices("CAREPORTALS_") {
                let name: String = line[at..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
                // The program that `exec` starts is given those.
                let is_given = name.ends_with("_BASE_URL");
                // `CAREPORTALS__APIS__DEFAULT__MAX_REQUESTS` is any key.
                let key = name.strip_prefix("CAREPORTALS__").and_then(|path| path.rsplit("__").next()).map(str::to_lowercase);
                let is_key = key.is_some_and(|key| settings.contains(&format!("| `{key}` |")));
                let known = is_given || is_key || settings.contains(&name) || settings.contains(name.trim_end_matches("_FILE"));
                assert!(known, "{guide} names {name}, which docs/settings.md does not know");
            }
        }
    }
}

#[test]
fn the_template_unit_is_the_service_but_for_its_names() {
    let of_one = [
        ("(%i)", ""),
        (" --config /etc/careportals-sidecar/%i.toml", ""),
        ("careportals-sidecar/%i.environment", "careportals-sidecar/environment"),
        ("careportals-sidecar/%i/", "careportals-sidecar/credentials/"),
        ("RuntimeDirectory=careportals-sidecar-%i", "RuntimeDirectory=careportals-sidecar"),
    ];
    let lines = |file: &str| {
        let mut unit = read(file);
        for (template, service) in of_one {
            unit = unit.replace(template, service);
        }
        let told = unit.lines().map(|line| line.trim().to_owned());
        told.filter(|line| !line.starts_with('#') && line != "User=careportals-%i").collect::<Vec<_>>()
    };
    let (service, template) = (lines("systemd/careportals-sidecar.service"), lines("systemd/careportals-sidecar@.service"));
    assert_eq!(service, template, "what protects one instance protects all of them");
}

#[test]
fn the_test_that_contributing_md_shows_is_one_of_the_suite() {
    let text = read("CONTRIBUTING.md");
    let shown = text.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let shown: Vec<&str> = shown.filter(|code| code.starts_with("#[test]\n")).collect();
    assert!(!shown.is_empty(), "CONTRIBUTING.md has lost its test");
    let tree = Tree::read();
    let is_real =
        |code: &str| tree.sources.iter().any(|source| source.file.starts_with("tests/it/") && source.text.contains(code));
    for code in shown {
        assert!(is_real(code), "CONTRIBUTING.md shows a test that is not in tests/it:\n{code}");
    }
}
