//! The classes of segments that no rule tells apart, for comparisons of rules. Pure.

use std::collections::BTreeSet;

use super::{Rule, is_canonical, lenient::LenientPattern, rule::Pattern};
use crate::careportals::MOUNTS;

/// A class of segments, by one of them.
pub(super) struct Symbol {
    pub(super) segment: String,
    /// How a pattern shows it.
    pub(super) shown: String,
    /// The name of which it is another spelling, as an index. `None`: it is no other spelling.
    pub(super) spells: Option<usize>,
    /// Whether servers run a script of this name for every path.
    pub(super) is_script: bool,
    /// Whether the same routes answer below it, where it comes first.
    pub(super) is_mount: bool,
}

/// Servers run a script of this name for every path.
const SCRIPT: &str = "index.php";

/// The classes: other segments first, so that a pattern has `*` where it may.
pub(super) fn symbols(rules: &[&Rule], careless: bool) -> Vec<Symbol> {
    let names: BTreeSet<&str> = rules.iter().flat_map(|rule| rule.words()).collect();
    let mut candidates = Vec::new();
    for number in 0..=names.len() {
        candidates.push((format!("other{number}"), None, ""));
    }
    candidates.extend(names.iter().map(|name| ((*name).to_owned(), None, "")));
    if careless {
        for name in names.iter().copied().chain([SCRIPT]).chain(MOUNTS) {
            let capital = name[..1].to_uppercase() + &name[1..];
            let of = names.iter().position(|known| *known == name);
            for text in [name.to_owned(), format!("{name}.json")] {
                let spellings =
                    [text.clone(), text.to_uppercase(), capital.clone(), format!("%20{text}"), format!("%20%20{text}")];
                candidates.extend(spellings.map(|text| (text, of, name)));
            }
        }
    }
    // What rules can tell of a segment: which names it is, and which ones it may be for a careless server.
    let exact: Vec<Pattern> = names.iter().map(|name| Pattern::Literal((*name).to_owned())).collect();
    let all = names.iter().copied().chain([SCRIPT]).chain(MOUNTS).filter(|_| careless);
    let lenient: Vec<LenientPattern> = all.map(LenientPattern::of_path).collect();
    let signature = |segment: &str| {
        let exactly = exact.iter().map(|name| name.fits(segment));
        let alike = lenient.iter().map(|pattern| pattern.accepts(pattern.after(pattern.start(), segment)));
        exactly.chain(alike).collect::<Vec<bool>>()
    };
    let (mut known, mut symbols) = (BTreeSet::new(), Vec::<Symbol>::new());
    for (segment, of, name) in candidates.into_iter().filter(|(segment, ..)| is_canonical(&format!("/{segment}"))) {
        let is_other = symbols.is_empty();
        let signature = signature(&segment);
        if (is_other && signature.contains(&true)) || !known.insert(signature) {
            continue;
        }
        let shown = if is_other { "*".to_owned() } else { segment.clone() };
        let spells =
            of.and_then(|of| symbols.iter().position(|symbol| Some(symbol.segment.as_str()) == names.iter().nth(of).copied()));
        let (is_script, is_mount) = (name == SCRIPT, MOUNTS.contains(&name));
        symbols.push(Symbol { segment, shown, spells, is_script, is_mount });
    }
    symbols
}
