//! What was written and read while rows were played, for parsers that are not ours: `tests/corpus/compare` asks for it.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use serde_json::Value;

/// Writes the transcript of one file of rows, if the environment names a folder for it.
#[expect(clippy::disallowed_methods, reason = "how a script asks for transcripts")]
pub fn write(kind: &str, name: &str, rows: &[Value]) {
    let Some(folder) = std::env::var_os("CORPUS_TRANSCRIPTS").map(PathBuf::from) else { return };
    fs::create_dir_all(&folder).unwrap();
    let mut file = File::create(folder.join(format!("{kind}-{name}.jsonl"))).unwrap();
    for row in rows {
        writeln!(file, "{row}").unwrap();
    }
}
