//! The files of the corpus: their heads, their rows, and the short forms that are written out before a row is played.

use std::{collections::BTreeMap, fs, path::PathBuf, thread};

use serde::{Deserialize, de::DeserializeOwned};

/// The first line of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// What the rows are about.
    pub subject: String,
    /// Keys of the API that the sidecar has, if not the default ones.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// What stands around a row's own text.
    #[serde(default)]
    templates: BTreeMap<String, String>,
}

/// What one side writes, a character for each byte.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// All of it.
    Whole(String),
    /// What stands in the place of `{}` in the template of that name.
    In(BTreeMap<String, String>),
}

/// The short forms of a row.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Short {
    /// Octets in hexadecimal, alone or as ranges. The row is played once with each of them in the place of `{octet}`.
    pub each: Option<String>,
    /// Texts and how often they are repeated, by the names of the places in braces where they stand.
    pub fill: BTreeMap<String, (String, usize)>,
}

impl Short {
    /// The octets of `each`; none is what a row without it is played with, once.
    pub fn octets(&self) -> Vec<Option<u8>> {
        let Some(each) = &self.each else { return vec![None] };
        let octet = |text: &str| u8::from_str_radix(text, 16).unwrap_or_else(|_| panic!("octet {text:?}"));
        let range = |word: &str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            octet(first)..=octet(last)
        };
        each.split(' ').flat_map(range).map(Some).collect()
    }

    /// Writes out what stands in braces.
    pub fn written_out(&self, text: &str, octet: Option<u8>) -> String {
        let mut text = text.to_owned();
        for (name, (piece, times)) in &self.fill {
            text = text.replace(&format!("{{{name}}}"), &piece.repeat(*times));
        }
        octet.map_or_else(|| text.clone(), |octet| text.replace("{octet}", &char::from(octet).to_string()))
    }
}

impl Head {
    /// A row's whole text, its short forms not written out yet.
    pub fn whole(&self, text: &Text) -> String {
        match text {
            Text::Whole(text) => text.clone(),
            Text::In(parts) => {
                let (name, text) = parts.iter().next().filter(|_| parts.len() == 1).expect("one template");
                let template = self.templates.get(name).unwrap_or_else(|| panic!("no template {name:?}"));
                template.replace("{}", text)
            }
        }
    }
}

/// The bytes of a text whose characters are bytes.
pub fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(u32::from(char)).unwrap_or_else(|_| panic!("{char:?} is no byte"))).collect()
}

/// Text with a character for each byte.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// Names and values of lines as `name: value`, sorted by name; values of one name keep their order.
pub fn fields<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Vec<(String, String)> {
    let split = |line: S| {
        let (name, value) = line.as_ref().split_once(": ").unwrap_or_else(|| panic!("field {:?}", line.as_ref()));
        (name.to_owned(), value.to_owned())
    };
    sorted(lines.into_iter().map(split).collect())
}

pub fn sorted(mut fields: Vec<(String, String)>) -> Vec<(String, String)> {
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

fn folder(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind)
}

/// The files of a kind, without `.jsonl`.
fn names(kind: &str) -> Vec<String> {
    let entries = fs::read_dir(folder(kind)).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Reads one file.
pub fn read<Row: DeserializeOwned>(kind: &str, name: &str) -> (Head, Vec<Row>) {
    let text = fs::read_to_string(folder(kind).join(name).with_extension("jsonl")).unwrap();
    let (first, rest) = text.split_once('\n').expect("a head");
    let head: Head = parsed(kind, name, 1, first);
    assert!(!head.subject.is_empty(), "{kind}/{name}.jsonl says what it is about");
    (head, rest.lines().enumerate().map(|(number, line)| parsed(kind, name, number + 2, line)).collect())
}

fn parsed<T: DeserializeOwned>(kind: &str, name: &str, number: usize, line: &str) -> T {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{kind}/{name}.jsonl, line {number}: {error}"))
}

/// Plays every file of a kind at the same time, each to a sidecar of its own, and fails with the faults of all. Returns how many
/// rows there are.
#[track_caller]
pub fn play_all(kind: &str, play: fn(&str) -> Vec<String>) -> usize {
    let names = names(kind);
    let faults: Vec<String> = thread::scope(|scope| {
        let playing: Vec<_> = names.iter().map(|name| scope.spawn(move || play(name))).collect();
        let found = |(name, thread): (&String, thread::ScopedJoinHandle<'_, Vec<String>>)| {
            let faults = thread.join().unwrap_or_else(|_| vec!["it panicked".to_owned()]);
            faults.into_iter().map(|fault| format!("{kind}/{name}: {fault}")).collect::<Vec<_>>()
        };
        names.iter().zip(playing).flat_map(found).collect()
    });
    assert!(faults.is_empty(), "{} rows:\n{}", faults.len(), faults.join("\n"));
    names.iter().map(|name| read::<serde_json::Value>(kind, name).1.len()).sum()
}

#[test]
fn short_forms_are_written_out() {
    let short = Short { each: Some("00-02 7f".to_owned()), fill: BTreeMap::from([("Q".to_owned(), ("ab".to_owned(), 2))]) };
    assert_eq!(short.octets(), [Some(0), Some(1), Some(2), Some(0x7f)]);
    assert_eq!(short.written_out("{Q}{octet}{}", Some(0x41)), "ababA{}");
    assert_eq!(Short::default().octets(), [None]);
    let templates = BTreeMap::from([("a".to_owned(), "<{}>".to_owned())]);
    let head = Head { subject: "s".to_owned(), settings: BTreeMap::new(), templates };
    let text: Text = serde_json::from_str(r#"{"a": "b"}"#).unwrap();
    assert_eq!((head.whole(&text), bytes("\u{ff}")), ("<b>".to_owned(), vec![0xff]));
}
