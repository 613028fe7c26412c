//! The manual equals the program's own help: `docs/commands.md`, and the man pages and completions that packages install.
//!
//! `UPDATE_DOCS=1` writes all of them. They are kept in git since a plain `cargo deb` runs nothing between its build and its
//! packing but build scripts, and a build script can't see the command line's definition, which uses `config`.

use std::{fmt::Write as _, fs, io::Write as _, path::Path};

use careportals_sidecar::cli;
use clap::Command;
use clap_complete::Shell;

use crate::{is_update, read};

/// The width at which help and man pages are rendered, whatever the terminal's.
const COLUMNS: usize = 100;

/// Every visible command with its arguments. The program itself comes first.
fn commands() -> Vec<Command> {
    let mut program = cli::command().term_width(COLUMNS);
    program.build();
    let subcommands = program.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let subcommands: Vec<Command> = subcommands.map(|command| command.term_width(COLUMNS)).collect();
    [vec![program], subcommands].concat()
}

/// Renders each command's help.
fn reference() -> String {
    let mut text = String::new();
    for mut command in commands() {
        let name = command.get_bin_name().unwrap_or("careportals-sidecar").to_owned();
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        writeln!(text, "## `{name}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end()).unwrap();
    }
    text
}

#[test]
fn the_reference_of_commands_is_what_the_help_says() {
    const MARKS: [&str; 2] = ["<!-- begin -->\n", "<!-- end -->"];
    if cfg!(not(feature = "demo")) {
        // The manual describes the program with all features.
        return;
    }
    let text = read("docs/commands.md");
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (_, after) = rest.split_once(MARKS[1]).unwrap();
    let right = format!("{before}{}\n{}{}{after}", MARKS[0], reference(), MARKS[1]);
    if is_update() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md"), right).unwrap();
    } else {
        assert!(text == right, "docs/commands.md is not what the help says: UPDATE_DOCS=1 cargo test reference");
    }
}

/// The command line as packages and images ship it, without `demo`.
fn packaged() -> Command {
    let program = cli::command();
    Command::new("careportals-sidecar")
        .version(env!("CARGO_PKG_VERSION"))
        .about(program.get_about().cloned().unwrap_or_default())
        .long_about(program.get_long_about().cloned().unwrap_or_default())
        .args(program.get_arguments().cloned())
        .subcommands(program.get_subcommands().filter(|command| command.get_name() != "demo").cloned())
        .disable_help_subcommand(true)
        .term_width(COLUMNS)
}

/// Asserts that a folder holds these files and no others but those that another test writes. With `UPDATE_DOCS=1` it writes them first.
fn holds(folder: &str, files: &[(String, Vec<u8>)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    for (name, right) in files {
        let file = folder.join(name);
        if is_update() {
            fs::write(&file, right).unwrap();
        }
        let found = fs::read(&file).unwrap_or_default();
        assert!(found == *right, "{} is not what the program says: UPDATE_DOCS=1 cargo test reference", file.display());
    }
    for found in fs::read_dir(&folder).unwrap() {
        let found = found.unwrap();
        let is_one = files.iter().any(|(name, _)| **name == *found.file_name()) || found.file_name() == SETTINGS_PAGE;
        assert!(is_one, "{} belongs to no command", found.path().display());
    }
}

/// The page that `config/source` writes, from the same declarations as docs/settings.md.
const SETTINGS_PAGE: &str = "careportals-sidecar.toml.5";

/// Renders the page of a command. Of the parts that hold for the whole program it has what the command's flags lead to.
fn man_page(command: &Command, version: &str) -> Vec<u8> {
    let takes = |flag: &str| command.get_arguments().any(|known| known.get_long() == Some(flag));
    let (settings, file, socket) = (takes("listen"), takes("config"), takes("control-socket"));
    let man = clap_mangen::Man::new(command.clone()).source(format!("careportals-sidecar {version}")).manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page).unwrap();
    }
    for part in cli::manual_parts() {
        let applies = |name: &str| match part.heading {
            "ENVIRONMENT" => {
                let finds = [("CONFIG", file), ("TELEMETRY_LISTEN", file && !settings), ("CONTROL_SOCKET", socket)];
                settings || finds.iter().any(|(end, applies)| *applies && name == format!("CAREPORTALS_{end}"))
            }
            "FILES" => {
                if name.ends_with("/control.sock") {
                    socket
                } else {
                    file
                }
            }
            _ => name != "n" || settings,
        };
        let entries: Vec<_> = part.entries.iter().filter(|(name, _)| applies(name)).collect();
        if !entries.is_empty() {
            writeln!(page, ".SH \"{}\"", part.heading).unwrap();
        }
        for (name, meaning) in entries {
            writeln!(page, ".TP\n\\fB{}\\fR\n{}", roff(name), roff(meaning)).unwrap();
        }
    }
    let others = if command.has_subcommands() { "" } else { "\\fBcareportals\\-sidecar\\fR(1), " };
    writeln!(page, ".SH \"SEE ALSO\"\n{others}\\fBcareportals\\-sidecar.toml\\fR(5)").unwrap();
    page
}

/// Escapes a text for roff.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[test]
fn the_man_pages_are_a_reference_of_what_the_help_says() {
    let mut program = packaged();
    program.build();
    let version = program.get_version().unwrap_or_default().to_owned();
    let commands = program.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect::<Vec<_>>();
    let pages = [vec![program], commands].concat().into_iter().map(|command| {
        let name = command.get_display_name().unwrap_or("careportals-sidecar").to_owned();
        let page = man_page(&command, &version);
        (format!("{name}.1"), page)
    });
    holds("deploy/man", &pages.collect::<Vec<_>>());
}

#[test]
fn the_completions_of_packages_are_a_reference_of_the_commands() {
    let shells =
        [("careportals-sidecar", Shell::Bash), ("_careportals-sidecar", Shell::Zsh), ("careportals-sidecar.fish", Shell::Fish)];
    let scripts = shells.map(|(file, shell)| (file.to_owned(), cli::completions(shell, packaged())));
    holds("deploy/completions", &scripts);
}
