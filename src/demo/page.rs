//! What the story looks like: aligned columns, and on a terminal a little colour.

use std::io::{self, Write};

use http::{Method, StatusCode};

/// The printed story. A reader that goes away ends nothing.
pub(super) struct Narration<W> {
    out: W,
    colour: bool,
}

/// How words are set off.
#[derive(Clone, Copy)]
enum Style {
    Strong,
    Faint,
    Accent,
    Good,
    Caution,
}

/// Columns: names, and values that a note follows.
const NAME_WIDTH: usize = 15;
const VALUE_WIDTH: usize = 27;

impl<W: Write> Narration<W> {
    /// An empty one.
    pub(super) fn new(out: W, colour: bool) -> Self {
        Self { out, colour }
    }

    /// What this is.
    pub(super) fn title(&mut self, title: &str, subtitle: &str) -> io::Result<()> {
        let (title, subtitle) = (self.set(Style::Strong, title), self.set(Style::Faint, subtitle));
        self.line(&format!("\n{title}\n{subtitle}"))
    }

    /// A step begins.
    pub(super) fn step(&mut self, number: usize, title: &str) -> io::Result<()> {
        let (number, title) = (self.set(Style::Accent, &number.to_string()), self.set(Style::Strong, title));
        self.line(&format!("\n{number}  {title}"))
    }

    /// A part without a number begins.
    pub(super) fn heading(&mut self, title: &str) -> io::Result<()> {
        let title = self.set(Style::Strong, title);
        self.line(&format!("\n{title}"))
    }

    /// A name, its value, and a remark.
    pub(super) fn fact(&mut self, name: &str, value: &str, note: &str) -> io::Result<()> {
        self.row(name, value, value, note)
    }

    /// A call and its answer.
    pub(super) fn call(&mut self, who: &str, method: &Method, target: &str, status: StatusCode, note: &str) -> io::Result<()> {
        let code = status.as_str();
        let style = if status.is_success() { Style::Good } else { Style::Caution };
        let plain = format!("{method} {target} → {code}");
        let shown = format!("{method} {target} → {}", self.set(style, code));
        self.row(who, &plain, &shown, note)
    }

    /// A sentence inside a step.
    pub(super) fn remark(&mut self, sentence: &str) -> io::Result<()> {
        let sentence = self.set(Style::Faint, sentence);
        self.line(&format!("   {sentence}"))
    }

    /// A command to type, and what it does.
    pub(super) fn command(&mut self, command: &str, width: usize, does: &str) -> io::Result<()> {
        let padding = " ".repeat(width.saturating_sub(command.len()));
        let (command, does) = (self.set(Style::Accent, command), self.set(Style::Faint, &format!("# {does}")));
        self.line(&format!("   {command}{padding}  {does}"))
    }

    /// A line as it is.
    pub(super) fn say(&mut self, line: &str) -> io::Result<()> {
        self.line(line)
    }

    /// The end of a demo that does not stay.
    pub(super) fn all_well(&mut self) -> io::Result<()> {
        let verdict = self.set(Style::Good, "All went as told.");
        let more = self.set(Style::Faint, "Without --once the demo stays up, for you to try.");
        self.line(&format!("\n{verdict} {more}\n"))
    }

    fn row(&mut self, name: &str, value: &str, shown: &str, note: &str) -> io::Result<()> {
        let name = format!("{name:NAME_WIDTH$}");
        let name = self.set(Style::Faint, &name);
        if note.is_empty() {
            return self.line(&format!("   {name} {shown}"));
        }
        let padding = " ".repeat(VALUE_WIDTH.saturating_sub(value.chars().count()));
        let note = self.set(Style::Faint, note);
        self.line(&format!("   {name} {shown}{padding}  {note}"))
    }

    fn set(&self, style: Style, words: &str) -> String {
        if !self.colour {
            return words.to_owned();
        }
        let code = match style {
            Style::Strong => "1",
            Style::Faint => "2",
            Style::Accent => "36",
            Style::Good => "32",
            Style::Caution => "33",
        };
        format!("\x1b[{code}m{words}\x1b[0m")
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
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
        let mut page = Narration::new(&mut out, colour);
        page.step(1, "A step").unwrap();
        page.fact("name", "value", "note").unwrap();
        page.call("your app", &Method::GET, "/x", StatusCode::FORBIDDEN, "note").unwrap();
        page.command("curl", 6, "calls").unwrap();
        String::from_utf8(out).unwrap()
    }

    /// The same without what only a terminal understands.
    fn stripped(text: &str) -> String {
        let mut parts = text.split('\x1b');
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| text + part.split_once('m').unwrap().1)
    }

    #[test]
    fn without_colour_there_is_no_escape_and_with_it_the_same_words() {
        assert!(!printed(false).contains('\x1b'));
        assert!(printed(true).contains("\x1b[33m403\x1b[0m"));
        assert_eq!(stripped(&printed(true)), printed(false));
    }

    #[test]
    fn notes_stand_in_one_column() {
        let column = |line: &str| line.chars().count() - "note".len();
        let notes: Vec<usize> = printed(false).lines().filter(|line| line.ends_with("note")).map(column).collect();
        assert_eq!(notes.len(), 2);
        assert_eq!(notes[0], notes[1]);
    }

    #[test]
    fn a_reader_that_went_away_ends_nothing_and_a_full_disk_does() {
        struct Broken(io::ErrorKind);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(Narration::new(Broken(io::ErrorKind::BrokenPipe), false).say("x").is_ok());
        assert!(Narration::new(Broken(io::ErrorKind::StorageFull), false).say("x").is_err());
    }
}
