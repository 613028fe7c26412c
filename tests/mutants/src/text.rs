//! Writes the text of a file in which each mutant can be put into effect.
//!
//! `/*[7,8*/ … /*]*/` stands around what mutants 7 and 8 need: where the compiler refuses that, they are left out.

use std::ops::Range;

use crate::sites::{Edit, Kind};

/// The source with all edits. `on` is the path of the function that says whether a mutant is in effect.
pub(crate) fn render(source: &str, edits: &[Edit], on: &str) -> String {
    Renderer { source, edits, on }.range(0..source.len(), 0)
}

struct Renderer<'a> {
    source: &'a str,
    edits: &'a [Edit],
    on: &'a str,
}

impl Renderer<'_> {
    /// The text of a range, with the edits in it from the one with this index on.
    fn range(&self, range: Range<usize>, first: usize) -> String {
        let mut text = String::new();
        let mut at = range.start;
        for (index, edit) in self.edits.iter().enumerate().skip(first) {
            if edit.range.start < at || edit.range.end > range.end {
                if edit.range.start >= range.end {
                    break;
                }
                continue;
            }
            text.push_str(&self.source[at..edit.range.start]);
            text.push_str(&self.edit(index));
            at = edit.range.end;
        }
        text.push_str(&self.source[at..range.end]);
        text
    }

    fn edit(&self, index: usize) -> String {
        let edit = &self.edits[index];
        let inner = |range: &Range<usize>| self.range(range.clone(), index + 1);
        let is_on = |mutant: &usize| format!("{}({mutant})", self.on);
        match &edit.kind {
            Kind::Const => String::new(),
            Kind::Function(mutants) => {
                let each = mutants
                    .iter()
                    .map(|(mutant, value)| marked(&[*mutant], &format!("if {} {{ return {value}; }}", is_on(mutant))));
                format!(" {}", each.collect::<Vec<_>>().join(" "))
            }
            Kind::Iterator { item, mutants } => {
                let each = mutants
                    .iter()
                    .map(|(mutant, value)| marked(&[*mutant], &format!("if {} {{ Box::new({value}) }}", is_on(mutant))));
                let each = each.collect::<Vec<_>>().join(" else ");
                let (item, body) = (&self.source[item.clone()], self.range(edit.range.clone(), index + 1));
                let numbers: Vec<usize> = mutants.iter().map(|(mutant, _)| *mutant).collect();
                let boxed =
                    format!("let each: Box<dyn Iterator<Item = {item}> + '_> = {each} else {{ Box::new({{ {body} }}) }}; each");
                marked(&numbers, &boxed)
            }
            Kind::Unary { operand, operator, mutant } => {
                let body = format!(
                    "(match ({}) {{ value => if {} {{ value }} else {{ {operator}value }} }})",
                    inner(operand),
                    is_on(mutant)
                );
                marked(&[*mutant], &body)
            }
            Kind::ArmEnd(mutant) => marked(&[*mutant], &format!(" if !{}", is_on(mutant))),
            Kind::Guard { deleted, always, never } => {
                let condition = |mutant: &Option<usize>| mutant.as_ref().map_or_else(|| "false".to_owned(), is_on);
                let [deleted_on, always_on, never_on] = [deleted, always, never].map(condition);
                let numbers: Vec<usize> = [deleted, always, never].into_iter().flatten().copied().collect();
                let guard = self.range(edit.range.clone(), index + 1);
                marked(&numbers, &format!("(!{deleted_on} && ({always_on} || (!{never_on} && ({guard}))))"))
            }
            Kind::Binary { left, right, operator, mutants } => {
                let numbers: Vec<usize> = mutants.iter().map(|(mutant, _)| *mutant).collect();
                marked(&numbers, &binary(&inner(left), &inner(right), operator, mutants, &is_on))
            }
        }
    }
}

fn marked(mutants: &[usize], text: &str) -> String {
    let numbers: Vec<String> = mutants.iter().map(ToString::to_string).collect();
    format!("/*[{}*/{text}/*]*/", numbers.join(","))
}

fn binary(left: &str, right: &str, operator: &str, mutants: &[(usize, String)], is_on: &dyn Fn(&usize) -> String) -> String {
    // `variant` writes the expression with another operator.
    let choice = |variant: &dyn Fn(&str) -> String| {
        let each =
            mutants.iter().map(|(mutant, other)| marked(&[*mutant], &format!("if {} {{ {} }}", is_on(mutant), variant(other))));
        format!("{} else {{ {} }}", each.collect::<Vec<_>>().join(" else "), variant(operator))
    };
    match operator {
        // The right operand is evaluated only where it is needed. These have one mutant.
        "&&" => format!("(if ({left}) != {on} {{ {right} }} else {{ {on} }})", on = is_on(&mutants[0].0)),
        "||" => format!("(if ({left}) == {on} {{ {right} }} else {{ !{on} }})", on = is_on(&mutants[0].0)),
        // Comparisons take their operands by reference.
        "==" | "!=" | "<" | "<=" | ">" | ">=" => {
            format!("(match (&({left}), &({right})) {{ (left, right) => {} }})", choice(&|by| format!("*left {by} *right")))
        }
        _ if operator.ends_with('=') => choice(&|by| format!("{left} {by} {right}")),
        _ => format!("(match (({left}), ({right})) {{ (left, right) => {} }})", choice(&|by| format!("left {by} right"))),
    }
}
