//! The reference in `docs/settings.md`: the tables are made from the declared settings.

use super::{
    super::{setting::Unset, toml::in_toml},
    *,
};

/// `UPDATE_DOCS=1` writes it anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for the reference to be written")]
fn the_reference_in_docs_is_what_the_code_says() {
    const MARKS: [&str; 2] = ["<!-- begin -->\n", "<!-- end -->"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (_, after) = rest.split_once(MARKS[1]).unwrap();
    let right = format!("{before}{}\n{}\n{}{after}", MARKS[0], reference(), MARKS[1]);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &right).unwrap();
    } else {
        assert_eq!(text, right, "run UPDATE_DOCS=1 cargo test reference");
    }
}

/// The tables of the reference, in Markdown.
fn reference() -> String {
    let mut text = String::from("### Variables\n\n| variable | meaning | default |\n| --- | --- | --- |\n");
    for variable in named_variables::VARIABLES {
        let file = if variable.file { ", `_FILE`" } else { "" };
        let [meaning, default] = variable.reference;
        row(&mut text, &[&format!("`{}`{file}", variable.name), meaning, default]);
    }
    row(&mut text, &named_variables::EGRESS);
    for section in SECTIONS {
        text += "\n### ";
        text += &section.heading();
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
    let default = match (key.default_value(&[]), key.unset) {
        (Some(default), _) => format!("`{}`", in_toml(&default)),
        (None, Unset::Shown(words) | Unset::Documented(words)) => words.to_owned(),
    };
    row(text, &[&format!("`{}`", key.name), &(key.kind)().0, &default, key.doc]);
}
