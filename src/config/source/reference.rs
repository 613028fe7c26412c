//! The reference of all settings, as `docs/settings.md` holds it between its marks.
//!
//! Pure. Made from the table of keys, so that a key's doc is its definition.

use super::keys::{self, Key, Kind, Section, VARIABLES};

/// The tables, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("### Variables\n\n| variable | meaning | default |\n| --- | --- | --- |\n");
    for variable in VARIABLES {
        let file = if variable.file { ", `_FILE`" } else { "" };
        row(&mut text, &[&format!("`{}`{file}", variable.name), variable.doc, variable.default]);
    }
    text += "| `HTTPS_PROXY`, `NO_PROXY` | Egress through a CONNECT proxy (`http://` or `https://`, credentials in the URL allowed), and who is reached without it; lower case wins. Never for loopback. | none |\n";
    for (section, title) in
        [(Section::Global, "Top level"), (Section::Account, "`[accounts.NAME]`"), (Section::Api, "`[apis.NAME]`")]
    {
        text += "\n### ";
        text += title;
        text += "\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
        for key in keys::of(section) {
            setting(&mut text, key);
        }
    }
    text
}

fn row(text: &mut String, cells: &[&str]) {
    *text += "| ";
    *text += &cells.join(" | ");
    *text += " |\n";
}

fn setting(text: &mut String, key: &Key) {
    let default = match key.default {
        Some(default) => format!("`{default}`"),
        None => key.otherwise.to_owned(),
    };
    let name = format!("`{}`", key.name);
    row(text, &[&name, &kind(key.kind), &default, key.doc]);
}

fn kind(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Path | Kind::Prefix => "path".to_owned(),
        Kind::Switch => "`true` or `false`".to_owned(),
        Kind::Count { min, max } => format!("{min} to {max}"),
        Kind::Size { .. } => "size".to_owned(),
        Kind::Duration { .. } => "duration".to_owned(),
        Kind::OneOf(words) => quoted(words, ", "),
        Kind::Source => "text or source".to_owned(),
        Kind::Upstream => "URL".to_owned(),
        Kind::LoginUrl => "URL, path or `off`".to_owned(),
        Kind::Endpoint => "URL or path".to_owned(),
        Kind::Listen => "list of addresses".to_owned(),
        Kind::AddressOrOff => "address or `off`".to_owned(),
        Kind::SocketOrOff => "path or `off`".to_owned(),
        Kind::Headers { .. } => "table of texts".to_owned(),
        Kind::HeaderName => "header's name".to_owned(),
        Kind::Json => "table".to_owned(),
        Kind::Pointer => "JSON pointer".to_owned(),
        Kind::Statuses => "list of 400 to 599".to_owned(),
        Kind::Ids => "list of ids".to_owned(),
        Kind::Rules => "list of rules".to_owned(),
        Kind::Origins => "list of origins".to_owned(),
        Kind::Hosts => "list of hosts".to_owned(),
        Kind::Words => "list of words".to_owned(),
        Kind::Mode => "octal mode".to_owned(),
        Kind::Account => "account's name".to_owned(),
        Kind::Filter => "filter".to_owned(),
    }
}

fn quoted(words: &[&str], between: &str) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(between)
}
