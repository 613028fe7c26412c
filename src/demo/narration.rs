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

/// Where a value begins.
const VALUE_COLUMN: usize = INDENT + NAME_WIDTH + 1;

/// How far the lines of a step are indented.
const INDENT: usize = 3;

/// The least width that lines are wrapped at; a narrower terminal wraps them itself.
const LEAST_WIDTH: usize = 40;

/// Prints the demo's text to `W`. Every method returns the error of the output, except for a closed pipe.
pub(super) struct Narration<W> {
    out: W,
    colour: bool,
    width: usize,
}

impl<W: Write> Narration<W> {
    /// Prints to `out`; with `colour` only if that is a terminal which shows it. Lines are wrapped at `width`, if there is one;
    /// a command to type is not.
    pub(super) fn new(out: W, colour: bool, width: Option<usize>) -> Self {
        Self { out, colour, width: width.map_or(usize::MAX, |width| width.max(LEAST_WIDTH)) }
    }

    /// Prints the demo's title.
    pub(super) fn title(&mut self, title: &str, subtitle: &str) -> io::Result<()> {
        self.heading(title)?;
        self.paragraph(0, FAINT, subtitle)
    }

    /// Prints the number and the title of a step.
    pub(super) fn step(&mut self, number: usize, title: &str) -> io::Result<()> {
        let mut lines = wrapped(title, self.width - INDENT).into_iter().map(|line| self.styled(STRONG, line)).collect::<Vec<_>>();
        let number = self.styled(ACCENT, &number.to_string());
        lines[0] = format!("\n{number}  {}", lines[0]);
        self.line(&lines.join("\n   "))
    }

    /// Prints the title of a part without a number.
    pub(super) fn heading(&mut self, title: &str) -> io::Result<()> {
        self.line("")?;
        self.paragraph(0, STRONG, title)
    }

    /// Prints a name, its value, and a note (which may be empty).
    pub(super) fn fact(&mut self, name: &str, value: &str, note: &str) -> io::Result<()> {
        self.row(name, value, None, note)
    }

    /// Prints a call and the status of its answer.
    pub(super) fn call(&mut self, who: &str, method: &Method, target: &str, status: u16, note: &str) -> io::Result<()> {
        let code = status.to_string();
        let style = if matches!(status, 200..300) { GOOD } else { CAUTION };
        let call = format!("{method} {target} →");
        let shown = format!("{call} {}", self.styled(style, &code));
        self.row(who, &format!("{call} {code}"), Some(shown), note)
    }

    /// Prints a sentence inside a step.
    pub(super) fn remark(&mut self, sentence: &str) -> io::Result<()> {
        self.paragraph(INDENT, FAINT, sentence)
    }

    /// Prints a command to type, and what it does. `width` is the length of the longest command in the list.
    pub(super) fn command(&mut self, command: &str, width: usize, does: &str) -> io::Result<()> {
        let shown = self.styled(ACCENT, command);
        let column = INDENT + width + 2;
        if column + 2 + does.chars().count() <= self.width {
            let does = self.styled(FAINT, &format!("# {does}"));
            let padding = " ".repeat(column - INDENT - command.chars().count());
            return self.line(&format!("   {shown}{padding}{does}"));
        }
        // Of what does not fit, the command stands alone, so that it can be copied.
        for line in wrapped(does, self.width - INDENT - 2) {
            let line = self.styled(FAINT, &format!("# {line}"));
            self.line(&format!("   {line}"))?;
        }
        self.line(&format!("   {shown}"))
    }

    /// Prints that every step had the expected outcome; for a demo that does not stay up.
    pub(super) fn all_well(&mut self) -> io::Result<()> {
        self.line("")?;
        self.paragraph(0, GOOD, "All went as told.")?;
        self.paragraph(0, FAINT, "Without --once the demo stays up, for you to try.")?;
        self.line("")
    }

    /// Prints a row of the table. `shown` is the value with its colours; it is plain where it has to be wrapped.
    fn row(&mut self, name: &str, value: &str, shown: Option<String>, note: &str) -> io::Result<()> {
        let name = self.styled(FAINT, &format!("{name:NAME_WIDTH$}"));
        let lines = wrapped(value, self.width - VALUE_COLUMN);
        let (length, is_whole) = (value.chars().count(), lines.len() == 1);
        let value = match shown {
            Some(shown) if is_whole => shown,
            _ => lines.join(&format!("\n{}", " ".repeat(VALUE_COLUMN))),
        };
        let column = VALUE_COLUMN + length.max(VALUE_WIDTH) + 2;
        if note.is_empty() {
            return self.line(&format!("   {name} {value}"));
        }
        if is_whole && column + note.chars().count() <= self.width {
            let padding = " ".repeat(VALUE_WIDTH.saturating_sub(length));
            let note = self.styled(FAINT, note);
            return self.line(&format!("   {name} {value}{padding}  {note}"));
        }
        self.line(&format!("   {name} {value}"))?;
        self.paragraph(VALUE_COLUMN, FAINT, note)
    }

    fn paragraph(&mut self, indent: usize, style: &str, text: &str) -> io::Result<()> {
        for line in wrapped(text, self.width - indent) {
            let line = self.styled(style, line);
            self.line(&format!("{}{line}", " ".repeat(indent)))?;
        }
        Ok(())
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

/// Breaks a text between words, so that each line has `width` characters at most, or one word.
fn wrapped(text: &str, width: usize) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some((end, _)) = rest.char_indices().nth(width) {
        // The blank after the last whole word may stand right behind the line's end.
        let reach = end + rest[end..].chars().next().map_or(0, char::len_utf8);
        let Some(blank) = rest[..reach].rfind(' ').or_else(|| rest.find(' ')) else { break };
        lines.push(&rest[..blank]);
        rest = rest[blank..].trim_start();
    }
    lines.push(rest);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        for (text, width, expected) in [
            ("", 5, &[""][..]),
            ("one", 5, &["one"]),
            ("one two", 7, &["one two"]),
            ("one two", 6, &["one", "two"]),
            ("one two", 3, &["one", "two"]),
            ("→→→ →→ →", 6, &["→→→ →→", "→"]),
            ("far-too-long a", 5, &["far-too-long", "a"]),
            ("a far-too-long", 5, &["a", "far-too-long"]),
        ] {
            assert_eq!(wrapped(text, width), expected, "{text:?} {width}");
        }
    }

    #[test]
    fn a_narrow_terminal_gets_short_lines_and_whole_commands() {
        let mut out = Vec::new();
        let mut narration = Narration::new(&mut out, false, Some(42));
        narration.title("The title", "A sentence that is quite a bit longer than that.").unwrap();
        narration.step(1, "A title that goes on and on, and then on").unwrap();
        narration.fact("name", "one, two, three, four, five, six", "a note of it").unwrap();
        narration.call("your app", &Method::GET, "/x", 403, "a note that does not fit there").unwrap();
        narration.remark("The remark is a whole sentence and needs two lines.").unwrap();
        let command = "curl -N http://localhost:2273/a/very/long/path/without/blanks";
        narration.command(command, 99, "it calls a path that is as long as a path can be").unwrap();
        narration.all_well().unwrap();
        let printed = String::from_utf8(out).unwrap();
        let told = format!("   {command}");
        for line in printed.lines().filter(|line| *line != told) {
            assert!(line.chars().count() <= 42, "{line:?}\n{printed}");
        }
        assert!(printed.lines().any(|line| line == told), "{printed}");
        assert!(printed.contains("\n                   a note that does not\n"), "{printed}");
    }

    fn printed(colour: bool) -> String {
        let mut out = Vec::new();
        let mut narration = Narration::new(&mut out, colour, Some(80));
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
        assert!(Narration::new(FailingWriter(io::ErrorKind::BrokenPipe), false, None).line("x").is_ok());
        assert!(Narration::new(FailingWriter(io::ErrorKind::StorageFull), false, None).line("x").is_err());
    }
}
