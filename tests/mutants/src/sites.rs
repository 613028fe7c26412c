//! Finds where in a file its mutants stand: which expression, arm or function each of them changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use syn::{
    Arm, Attribute, BinOp, Block, Expr, ExprBinary, ExprUnary, GenericArgument, ImplItemFn, ItemFn, ItemImpl, Meta,
    PathArguments, ReturnType, Signature, TraitItemFn, Type, TypeParamBound, spanned::Spanned, visit::Visit,
};

use crate::Mutant;

/// A change of the text that builds mutants in.
pub(crate) struct Edit {
    pub(crate) range: Range<usize>,
    pub(crate) kind: Kind,
}

/// What stands at a site, and the number and replacement of each mutant there.
pub(crate) enum Kind {
    /// Statements at the beginning of a function.
    Function(Vec<(usize, String)>),
    /// The body of a function that returns `impl Iterator`, where each mutant is an iterator of another type.
    Iterator { item: Range<usize>, mutants: Vec<(usize, String)> },
    /// The word `const` of a function whose body asks which mutant is in effect.
    Const,
    /// Both operands are evaluated first.
    Binary { left: Range<usize>, right: Range<usize>, operator: String, mutants: Vec<(usize, String)> },
    /// `!` or `-`, which the mutant leaves out.
    Unary { operand: Range<usize>, operator: String, mutant: usize },
    /// The end of a pattern without a guard, whose arm the mutant takes away.
    ArmEnd(usize),
    /// A guard: the mutant that takes the arm away, the one that makes the guard true, and the one that makes it false.
    Guard { deleted: Option<usize>, always: Option<usize>, never: Option<usize> },
}

type Found = (Vec<Edit>, Vec<(usize, &'static str)>);

/// The edits of a file in the order of their beginnings, the outer one first; and the mutants that have no place, with the reason.
pub(crate) fn find(source: &str, mutants: Vec<Mutant>, left_out: &BTreeSet<&str>) -> Result<Found, syn::Error> {
    let file = syn::parse_file(source)?;
    let mut unplaced = Vec::new();
    let mut waiting: BTreeMap<(&'static str, usize), Vec<Mutant>> = BTreeMap::new();
    let mut bodies = Vec::new();
    for mutant in mutants {
        match mutant.genre.as_str() {
            "FnValue" => bodies.push(mutant),
            _ if !mutant.in_function => unplaced.push((mutant.number, "a constant")),
            "BinaryOperator" => waiting.entry(("operator", mutant.start)).or_default().push(mutant),
            "UnaryOperator" => waiting.entry(("unary", mutant.start)).or_default().push(mutant),
            "MatchArm" => waiting.entry(("arm", mutant.start)).or_default().push(mutant),
            "MatchArmGuard" => waiting.entry(("guard", mutant.start)).or_default().push(mutant),
            _ => unplaced.push((mutant.number, "a field")),
        }
    }
    let mut sites = Sites { source, left_out, waiting, edits: Vec::new(), functions: Vec::new() };
    sites.visit_file(&file);
    sites.place_bodies(bodies, &mut unplaced);
    sites.free_functions_of_const();
    let Sites { mut edits, waiting, .. } = sites;
    unplaced.extend(waiting.into_values().flatten().map(|mutant| (mutant.number, "no place for it")));
    // An insertion stands before what begins there, and a guard around the expression that it is.
    edits.sort_by_key(|edit| {
        let is_guard = matches!(edit.kind, Kind::Guard { .. });
        (edit.range.start, !edit.range.is_empty(), std::cmp::Reverse(edit.range.end), !is_guard)
    });
    Ok((edits, unplaced))
}

struct Sites<'a> {
    source: &'a str,
    left_out: &'a BTreeSet<&'a str>,
    waiting: BTreeMap<(&'static str, usize), Vec<Mutant>>,
    edits: Vec<Edit>,
    functions: Vec<Function>,
}

struct Function {
    name: String,
    body: Range<usize>,
    /// What the iterators yield that it returns as `impl Iterator`.
    item: Option<Range<usize>>,
    constness: Option<Range<usize>>,
}

impl Sites<'_> {
    fn take(&mut self, genre: &'static str, at: usize) -> Vec<Mutant> {
        self.waiting.remove(&(genre, at)).unwrap_or_default()
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        let constness = signature.constness.as_ref().map(|word| word.span.byte_range());
        let item = item_of(&signature.output);
        let (name, body) = (signature.ident.to_string(), block.span().byte_range());
        self.functions.push(Function { name, body, item, constness });
    }

    /// Puts each replaced value into the innermost function around it.
    fn place_bodies(&mut self, bodies: Vec<Mutant>, unplaced: &mut Vec<(usize, &'static str)>) {
        let mut by_body: BTreeMap<(usize, usize), (Option<Range<usize>>, Vec<(usize, String)>)> = BTreeMap::new();
        for mutant in bodies {
            let around = |function: &&Function| function.body.start <= mutant.start && mutant.end <= function.body.end;
            let Some(function) = self.functions.iter().filter(around).min_by_key(|function| function.body.len()) else {
                unplaced.push((mutant.number, "no place for it"));
                continue;
            };
            let (begin, end) = (function.body.start + 1, function.body.end - 1);
            let item = function.item.clone().filter(|_| mutant.replacement.starts_with("::std::iter::"));
            let end = if item.is_some() { end } else { begin };
            by_body.entry((begin, end)).or_insert_with(|| (item, Vec::new())).1.push((mutant.number, mutant.replacement));
        }
        self.edits.extend(by_body.into_iter().map(|((begin, end), (item, mutants))| {
            let kind = match item {
                Some(item) => Kind::Iterator { item, mutants },
                None => Kind::Function(mutants),
            };
            Edit { range: begin..end, kind }
        }));
    }

    /// A function that asks which mutant is in effect is not `const`; one that has to be loses its mutants.
    fn free_functions_of_const(&mut self) {
        for function in &self.functions {
            let Some(constness) = &function.constness else { continue };
            let within = |edit: &Edit| function.body.start < edit.range.start && edit.range.end < function.body.end;
            if self.left_out.contains(function.name.as_str()) {
                self.edits.retain(|edit| !within(edit));
            } else if self.edits.iter().any(within) {
                self.edits.push(Edit { range: constness.clone(), kind: Kind::Const });
            }
        }
    }
}

impl<'ast> Visit<'ast> for Sites<'_> {
    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if !is_for_another_system(&item.attrs) {
            syn::visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if is_for_another_system(&item.attrs) {
            return;
        }
        self.function(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if is_for_another_system(&item.attrs) {
            return;
        }
        self.function(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_expr_binary(&mut self, binary: &'ast ExprBinary) {
        let operator = binary.op.span().byte_range();
        // In a chain with `let` no other operator than `&&` compiles.
        let chained = matches!(binary.op, BinOp::And(_)) && (has_let(&binary.left) || has_let(&binary.right));
        let mutants = if chained { Vec::new() } else { self.take("operator", operator.start) };
        if !mutants.is_empty() {
            let (left, right) = (binary.left.span().byte_range(), binary.right.span().byte_range());
            let range = left.start..right.end;
            let mutants = mutants.into_iter().map(|mutant| (mutant.number, mutant.replacement)).collect();
            let operator = self.source[operator].to_owned();
            self.edits.push(Edit { range, kind: Kind::Binary { left, right, operator, mutants } });
        }
        syn::visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'ast ExprUnary) {
        let operator = unary.op.span().byte_range();
        for mutant in self.take("unary", operator.start) {
            let (range, operand) = (unary.span().byte_range(), unary.expr.span().byte_range());
            let operator = self.source[operator.clone()].to_owned();
            self.edits.push(Edit { range, kind: Kind::Unary { operand, operator, mutant: mutant.number } });
        }
        syn::visit::visit_expr_unary(self, unary);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        let deleted = self.take("arm", arm.span().byte_range().start).first().map(|mutant| mutant.number);
        let pattern_end = arm.pat.span().byte_range().end;
        match &arm.guard {
            None => self.edits.extend(deleted.map(|mutant| Edit { range: pattern_end..pattern_end, kind: Kind::ArmEnd(mutant) })),
            Some((_, guard)) => {
                let range = guard.span().byte_range();
                let replaced = self.take("guard", range.start);
                let by = |value: &str| replaced.iter().find(|mutant| mutant.replacement == value).map(|mutant| mutant.number);
                let (always, never) = (by("true"), by("false"));
                if deleted.or(always).or(never).is_some() {
                    self.edits.push(Edit { range, kind: Kind::Guard { deleted, always, never } });
                }
            }
        }
        syn::visit::visit_arm(self, arm);
    }
}

/// The `T` of `impl Iterator<Item = T>`.
fn item_of(output: &ReturnType) -> Option<Range<usize>> {
    let ReturnType::Type(_, returned) = output else { return None };
    let Type::ImplTrait(bounds) = &**returned else { return None };
    let [TypeParamBound::Trait(bound)] = bounds.bounds.iter().collect::<Vec<_>>()[..] else { return None };
    let PathArguments::AngleBracketed(arguments) = &bound.path.segments.last()?.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(item) if item.ident == "Item" => Some(item.ty.span().byte_range()),
        _ => None,
    })
}

/// Whether an item is left out on Linux, where this runs: no test could see its mutants.
fn is_for_another_system(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition.starts_with("not") && condition.contains("target_os = \"linux\"")
        }
        _ => false,
    })
}

fn has_let(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}
