//! Prints what the demo does, in aligned columns, with colour on a terminal.
//!
//! Guarantees: a reader that closes the pipe does not end the demo; every other error of the output does.

use std::io::{self, Write};

use http::Method;

/// The width of the column of names, in characters.
const NAME_WIDTH: usize = 15;

/// The width of the column of values, if a note follows, in characters.
const VALUE_WIDTH: usize = 27;

// How words look on a terminal (ECMA-48, 8.3.117).
const STRONG: &str = "1";
const FAINT: &str = "2";
const ACCENT: &str = "36";
const GOOD: &str = "32";
const CAUTION: &str = "33";

/// Prints the demo's text to `W`. Every method returns the error of the output, except for a closed pipe.
pub(super) struct Narration<W> {
    out: W,
    colour: bool,
}

impl<W: Write> Narration<W> {
    /// Prints to `out`; with `colour` only if that is a terminal which shows it.
    pub(super) fn new(out: W, colour: bool) -> Self {
        Self { out, colour }
    }

    /// Prints the demo's title.
    pub(super) fn title(&mut self, title: &str, subtitle: &str) -> io::Result<()> {
        let (title, subtitle) = (self.styled(STRONG, title), self.styled(FAINT, subtitle));
        self.line(&format!("\n{title}\n{subtitle}"))
    }

    /// Prints the number and the title of a step.
    pub(super) fn step(&mut self, number: usize, title: &str) -> io::Result<()> {
        let (number, title) = (self.styled(ACCENT, &number.to_string()), self.styled(STRONG, title));
        self.line(&format!("\n{number}  {title}"))
    }

    /// Prints the title of a part without a number.
    pub(super) fn heading(&mut self, title: &str) -> io::Result<()> {
        let title = self.styled(STRONG, title);
        self.line(&format!("\n{title}"))
    }

    /// Prints a name, its value, and a note (which may be empty).
    pub(super) fn fact(&mut self, name: &str, value: &str, note: &str) -> io::Result<()> {
        self.row(name, value, value, note)
    }

    /// Prints a call and the status of its answer.
    pub(super) fn call(&mut self, who: &str, method: &Method, target: &str, status: u16, note: &str) -> io::Result<()> {
        let code = status.to_string();
        let style = if matches!(status, 200..300) { GOOD } else { CAUTION };
        let plain = format!("{method} {target} → {code}");
        let shown = format!("{method} {target} → {}", self.styled(style, &code));
        self.row(who, &plain, &shown, note)
    }

    /// Prints a sentence inside a step.
    pub(super) fn remark(&mut self, sentence: &str) -> io::Result<()> {
        let sentence = self.styled(FAINT, sentence);
        self.line(&format!("   {sentence}"))
    }

    /// Prints a command to type, and what it does. `width` is the length of the longest command in the list.
    pub(super) fn command(&mut self, command: &str, width: usize, does: &str) -> io::Result<()> {
        let padding = " ".repeat(width.saturating_sub(command.len()));
        let (command, does) = (self.styled(ACCENT, command), self.styled(FAINT, &format!("# {does}")));
        self.line(&format!("   {command}{padding}  {does}"))
    }

    /// Prints that every step had the expected outcome; for a demo that does not stay up.
    pub(super) fn all_well(&mut self) -> io::Result<()> {
        let verdict = self.styled(GOOD, "All went as told.");
        let more = self.styled(FAINT, "Without --once the demo stays up, for you to try.");
        self.line(&format!("\n{verdict} {more}\n"))
    }

    fn row(&mut self, name: &str, value: &str, shown: &str, note: &str) -> io::Result<()> {
        let name = format!("{name:NAME_WIDTH$}");
        let name = self.styled(FAINT, &name);
        if note.is_empty() {
            return self.line(&format!("   {name} {shown}"));
        }
        let padding = " ".repeat(VALUE_WIDTH.saturating_sub(value.chars().count()));
        let note = self.styled(FAINT, note);
        self.line(&format!("   {name} {shown}{padding}  {note}"))
    }

    fn styled(&self, style: &str, words: &str) -> String {
        if self.colour { format!("\x1b[{style}m{words}\x1b[0m") } else { words.to_owned() }
    }

    /// Prints a line as it is.
    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        match writeln!(self.out, "{line}").and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(colour: bool) -> String {
        let mut out = Vec::new();
        let mut narration = Narration::new(&mut out, colour);
        narration.step(1, "A step").unwrap();
        narration.fact("name", "value", "note").unwrap();
        narration.call("your app", &Method::GET, "/x", 403, "note").unwrap();
        narration.command("curl", 6, "calls").unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Removes the escape sequences that set a style.
    fn without_escapes(text: &str) -> String {
        let mut parts = text.split('\x1b');
        let unstyled = parts.next().unwrap().to_owned();
        parts.fold(unstyled, |text, part| text + part.split_once('m').unwrap().1)
    }

    #[test]
    fn without_colour_there_is_no_escape_and_with_colour_the_words_are_the_same() {
        assert!(!printed(false).contains('\x1b'));
        assert!(printed(true).contains("\x1b[33m403\x1b[0m"));
        assert_eq!(without_escapes(&printed(true)), printed(false));
    }

    #[test]
    fn notes_start_in_one_column() {
        let column = |line: &str| line.chars().count() - "note".len();
        let notes: Vec<usize> = printed(false).lines().filter(|line| line.ends_with("note")).map(column).collect();
        assert_eq!(notes.len(), 2);
        assert_eq!(notes[0], notes[1]);
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
        struct FailingWriter(io::ErrorKind);
        impl Write for FailingWriter {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(Narration::new(FailingWriter(io::ErrorKind::BrokenPipe), false).line("x").is_ok());
        assert!(Narration::new(FailingWriter(io::ErrorKind::StorageFull), false).line("x").is_err());
    }
}
