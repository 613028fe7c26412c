//! Builds mutants into the sources: `careportals-sidecar-mutants LIST TREE LEFT_OUT` rewrites the files below TREE.
//!
//! LIST is what `cargo mutants --list --json` prints; a mutant's number is its index there. LEFT_OUT holds numbers of mutants, and names
//! of functions that stay `const`. In the rewritten sources `crate::mutated::on(7)` decides whether mutant 7 is in effect, so one build
//! serves all of them. The numbers of mutants that can't be built in are printed, each with the reason.

mod sites;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::ExitCode,
};

use serde::Deserialize;

/// A mutant, as cargo-mutants lists it.
#[derive(Deserialize)]
struct Listed {
    file: String,
    function: Option<serde::de::IgnoredAny>,
    genre: String,
    replacement: String,
    span: Span,
}

#[derive(Deserialize)]
struct Span {
    start: Position,
    end: Position,
}

/// Lines and columns count from 1; columns count characters.
#[derive(Deserialize)]
struct Position {
    line: usize,
    column: usize,
}

/// A mutant of one file. Positions are bytes.
struct Mutant {
    number: usize,
    genre: String,
    replacement: String,
    start: usize,
    end: usize,
    in_function: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let [_, list, tree, left_out] = arguments.as_slice() else {
        eprintln!("usage: careportals-sidecar-mutants LIST TREE LEFT_OUT");
        return ExitCode::from(2);
    };
    match rewrite_all(Path::new(list), Path::new(tree), Path::new(left_out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn rewrite_all(list: &Path, tree: &Path, left_out: &Path) -> Result<(), String> {
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let listed: Vec<Listed> = serde_json::from_str(&read(list)?).map_err(|error| format!("the list: {error}"))?;
    let left_out = read(left_out)?;
    let left_out: BTreeSet<&str> = left_out.split_whitespace().collect();
    let mut files: BTreeMap<&str, Vec<(usize, &Listed)>> = BTreeMap::new();
    for (number, mutant) in listed.iter().enumerate() {
        if !left_out.contains(number.to_string().as_str()) {
            files.entry(&mutant.file).or_default().push((number, mutant));
        }
    }
    for (file, listed) in files {
        let path = tree.join(file);
        let source = read(&path)?;
        let lines: Vec<usize> = std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let offset = |position: &Position| {
            let line = lines[position.line - 1];
            source[line..].char_indices().nth(position.column - 1).map_or(source.len(), |(at, _)| line + at)
        };
        let mutants = listed.into_iter().map(|(number, listed)| Mutant {
            number,
            genre: listed.genre.clone(),
            replacement: listed.replacement.clone(),
            start: offset(&listed.span.start),
            end: offset(&listed.span.end),
            in_function: listed.function.is_some(),
        });
        let (edits, unplaced) = sites::find(&source, mutants.collect(), &left_out).map_err(|error| format!("{file}: {error}"))?;
        for (number, reason) in unplaced {
            println!("{number} {reason}");
        }
        let on = if file == "src/main.rs" { "careportals_sidecar::mutated::on" } else { "crate::mutated::on" };
        fs::write(&path, text::render(&source, &edits, on)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
