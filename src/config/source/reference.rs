//! Writes the reference of all settings, which `docs/settings.md` holds between its marks.
//!
//! Pure. Each row comes from the declaration of its setting.

use super::{
    named_variables,
    render::in_toml,
    setting::{Key, Section, Unset},
};

/// The tables of the reference, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("### Variables\n\n| variable | meaning | default |\n| --- | --- | --- |\n");
    for variable in named_variables::all() {
        let file = if variable.file { ", `_FILE`" } else { "" };
        row(&mut text, &[&format!("`{}`{file}", variable.name), variable.doc, variable.default]);
    }
    text += "| `HTTPS_PROXY`, `NO_PROXY` | Egress through a CONNECT proxy (`http://` or `https://`, credentials in the URL allowed), and who is reached without it; lower case wins. Never for loopback. | none |\n";
    for (section, title) in
        [(Section::TopLevel, "Top level"), (Section::Account, "`[accounts.NAME]`"), (Section::Api, "`[apis.NAME]`")]
    {
        text += "\n### ";
        text += title;
        text += "\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
        for key in section.keys() {
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
    let default = match (key.default, key.unset) {
        (Some(default), _) => format!("`{}`", in_toml(&default())),
        (None, Unset::Shown(words) | Unset::Documented(words)) => words.to_owned(),
    };
    row(text, &[&format!("`{}`", key.name), &(key.words)(), &default, key.doc]);
}
