//! What the program says of itself: its version, its help, and the parts of the manual beside commands and flags.
//!
//! Pure but for printing. The help, the man pages and `docs/commands.md` are made from it.

use std::{
    ffi::OsString,
    fmt::{Display, Write as _},
    io::Write as _,
    process::ExitCode,
};

use clap::{
    builder::PossibleValuesParser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use clap_complete::Shell;

use super::{command, fail, print};
use crate::config::source;

/// Says how to get `demo` where it was left out.
#[cfg(not(feature = "demo"))]
pub(super) const NO_DEMO: &str = "this build has no `demo`: packages and images leave the simulated CarePortals out\n  \
    hint: in a checkout, `cargo run --release -- demo`, or `cargo install --locked --path .`, which installs a program that has it";

/// The values of `--log-format`, which shells complete.
const LOG_FORMATS: [&str; 3] = ["auto", "text", "json"];

/// A part of the manual: names, and what each means.
pub struct ManualPart {
    /// The heading, in capitals.
    pub heading: &'static str,
    /// Names with their meanings.
    pub entries: Vec<(String, String)>,
}

/// The parts of the manual that hold for the whole program.
#[must_use]
pub fn manual_parts() -> [ManualPart; 3] {
    let entries =
        |entries: &[(&str, &str)]| entries.iter().map(|(name, what)| ((*name).to_owned(), (*what).to_owned())).collect();
    [
        ManualPart { heading: "ENVIRONMENT", entries: source::variables_in_words() },
        ManualPart {
            heading: "FILES",
            entries: entries(&[
                (source::DEFAULT_FILE, "Settings, where neither --config nor CAREPORTALS_CONFIG names another file."),
                ("/run/careportals-sidecar/control.sock", "Control socket of the system's daemon."),
                ("$XDG_RUNTIME_DIR/careportals-sidecar/control.sock", "Control socket of a user's daemon."),
            ]),
        },
        ManualPart {
            heading: "EXIT STATUS",
            entries: entries(&[
                ("0", "All is well; also after a drain that ran out of time."),
                ("1", "It failed, and standard error says why."),
                ("2", "The command line is wrong."),
                ("78", "The configuration is invalid."),
                ("n", "exec ends with its program's; with 128+n when signal n ended that, 126 or 127 when it could not be run."),
            ]),
        },
    ]
}

/// The end of the program's own help.
pub(super) fn after_help() -> String {
    let mut text = String::new();
    for (place, part) in manual_parts().into_iter().enumerate() {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}{}:", if place > 0 { "\n" } else { "" }, part.heading);
        let is_short = part.entries.iter().all(|(name, _)| name.len() <= 2);
        let between = if is_short { "  " } else { "\n          " };
        for (name, meaning) in part.entries {
            let _ = writeln!(text, "  {name:2}{between}{meaning}");
        }
    }
    text
}

/// Runs `help`: prints what `--help` prints of the program or of a command.
pub(super) fn help(of: Option<&str>) -> ExitCode {
    let mut program = command();
    program.build();
    let known = match of {
        None => Some(&mut program),
        Some(name) => program.find_subcommand_mut(name),
    };
    match known {
        Some(known) => {
            let text = known.render_long_help();
            print(|out| write!(out, "{text}"))
        }
        None => fail(&format_args!("there is no command `{}`: `help` lists them", of.unwrap_or_default()), 2),
    }
}

/// What `version` prints.
pub(super) fn version() -> String {
    let lines = [
        ("commit", env!("SIDECAR_COMMIT")),
        ("target", env!("SIDECAR_TARGET")),
        ("profile", env!("SIDECAR_PROFILE")),
        ("demo", if cfg!(feature = "demo") { "yes" } else { "no" }),
    ];
    let text = format!("{} {}\n", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    lines.iter().fold(text, |text, (name, value)| text + name + ": " + value + "\n")
}

/// The script by which a shell completes the commands and flags of `program`.
#[must_use]
pub fn completions(shell: Shell, program: clap::Command) -> Vec<u8> {
    // The command line does not judge these words, the settings do, which tell of a wrong one as they do elsewhere.
    let with_words = |arg: clap::Arg| match arg.get_long() {
        Some("log-format") => arg.value_parser(PossibleValuesParser::new(LOG_FORMATS)),
        _ => arg,
    };
    let mut program = program.mut_args(with_words).mut_subcommands(|command| command.mut_args(with_words));
    let name = env!("CARGO_PKG_NAME");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut script);
    if shell == Shell::Bash {
        // clap_complete 4.6 writes the dash of the program's name as `__` where it sets `cmd`, and in another way where it asks
        // for it.
        let [set, asked] = ["__", "__subcmd__"].map(|dash| name.replace('-', dash) + "__subcmd__");
        return String::from_utf8_lossy(&script).replace(&asked, &set).into_bytes();
    }
    script
}

/// Says where `--` goes, when `exec` was called without it. It repeats no argument of the program, which may hold a secret.
pub(super) fn two_dashes_missing(error: &clap::Error, words: &[OsString]) -> Option<impl Display + use<>> {
    let exec = words.iter().position(|word| word == "exec")?;
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument || unknown.starts_with('-') {
        return None;
    }
    let program = exec + words[exec..].iter().position(|word| word == unknown.as_str())?;
    let before: Vec<_> = words[1..program].iter().map(|word| word.to_string_lossy()).collect();
    Some(format!(
        "error: `{unknown}` is no option of `exec`\n  hint: the program stands after `--`: {} {} -- {unknown} …\n",
        env!("CARGO_PKG_NAME"),
        before.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_formats_that_shells_complete_are_those_of_the_settings() {
        assert_eq!(source::json_schema()["properties"]["log_format"]["enum"], serde_json::json!(LOG_FORMATS));
    }

    #[test]
    fn bash_is_asked_for_each_command_by_the_label_that_is_set() {
        let script = String::from_utf8(completions(Shell::Bash, command())).unwrap();
        let set: Vec<&str> = script.lines().filter_map(|line| line.trim().strip_prefix("cmd=\"")?.strip_suffix('"')).collect();
        assert!(set.len() > command().get_subcommands().count(), "{set:?}");
        for label in set.into_iter().filter(|label| !label.is_empty()) {
            assert!(script.lines().any(|line| line.trim() == format!("{label})")), "{label}");
        }
    }
}
