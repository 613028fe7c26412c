//! The man page of the settings file: the text of `docs/settings.md`, and the tables that its reference is made from.

use std::fmt::Write as _;

use super::{
    super::{setting::Unset, toml::in_toml},
    *,
};

/// `UPDATE_DOCS=1` writes it anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "how a developer asks for the reference to be written")]
fn the_man_page_is_a_reference_of_the_settings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (page, guide) = (root.join("deploy/man/careportals-sidecar.toml.5"), root.join("docs/settings.md"));
    let right = man_page(&fs::read_to_string(guide).unwrap());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&page, &right).unwrap();
    } else {
        assert!(fs::read_to_string(&page).unwrap_or_default() == right, "run UPDATE_DOCS=1 cargo test reference");
    }
}

fn man_page(guide: &str) -> String {
    let mut page = format!(
        ".TH \"careportals-sidecar.toml\" \"5\" \"\" \"careportals-sidecar {}\" \"File Formats\"\n.SH NAME\n\
         careportals\\-sidecar.toml \\- settings of careportals\\-sidecar\n.SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    let (text, _) = guide.split_once("\n## Reference").unwrap();
    prose(&mut page, text.split_once('\n').unwrap().1);
    for section in SECTIONS {
        let heading = section.heading().replace('`', "").to_uppercase();
        writeln!(page, ".SH \"KEYS: {}\"", inline(&heading)).unwrap();
        for key in section.keys() {
            let default = match (key.default_value(&[]), key.unset) {
                (Some(default), _) => in_toml(&default),
                (None, Unset::Shown(words) | Unset::Documented(words)) => words.to_owned(),
            };
            let (kind, name) = ((key.kind)().0, inline(key.name));
            let (kind, meaning, default) = (inline(&kind), inline(key.doc), inline(&default));
            writeln!(page, ".TP\n\\fB{name}\\fR ({kind})\n{meaning}\n.br\nDefault: {default}").unwrap();
        }
    }
    page + ".SH \"SEE ALSO\"\n\\fBcareportals\\-sidecar\\fR(1)\n"
}

/// Writes Markdown of headings, paragraphs and lists as roff.
fn prose(page: &mut String, markdown: &str) {
    for line in markdown.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            writeln!(page, ".SH \"{}\"", inline(&heading.to_uppercase())).unwrap();
        } else if let Some(item) = line.strip_prefix("- ") {
            writeln!(page, ".IP \\(bu 2\n{}", inline(item)).unwrap();
        } else if line.is_empty() {
            *page += if page.ends_with(".PP\n") { "" } else { ".PP\n" };
        } else {
            writeln!(page, "{}", inline(line.trim_start())).unwrap();
        }
    }
}

/// Turns a line of Markdown into roff: code and strong words are bold, and a link is its text.
fn inline(markdown: &str) -> String {
    let mut text = markdown.replace('\\', "\\e").replace('-', "\\-");
    while let Some((before, after, rest)) = link(&text) {
        text = format!("{before}{after}{rest}");
    }
    for mark in ["**", "`"] {
        let parts: Vec<&str> = text.split(mark).collect();
        let marked = parts
            .iter()
            .enumerate()
            .map(|(place, part)| if place % 2 == 1 { format!("\\fB{part}\\fR") } else { (*part).to_owned() });
        text = marked.collect();
    }
    // A line that begins so would be a command.
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// The first link of a line: what is before it, its words, and what follows.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let (words, target) = text.split_once("](")?;
    let (before, words) = words.rsplit_once('[')?;
    Some((before, words, target.split_once(')')?.1))
}
