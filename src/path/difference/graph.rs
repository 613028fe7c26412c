//! The automaton of two sets of rules together. Pure.

use std::collections::HashMap;

use http::Method;

use super::{
    super::{Rule, symbols::Symbol},
    automaton::{Automaton, MatchStates, after},
};

/// How many states are looked at for one method. Only contrived rules have more.
const MAX_STATES: usize = 2000;

/// The states of both sets together that some path leads to; the first is that of no segment.
#[derive(Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    /// Whether every state was looked at.
    pub(super) is_complete: bool,
    /// By node: those of one kind differ with the same further segments.
    pub(super) kinds: Vec<usize>,
}

#[derive(Default)]
pub(super) struct Node {
    /// By symbol.
    pub(super) next: Vec<usize>,
    /// Whether a path that ends here differs.
    pub(super) differs: bool,
    /// Whether it does with a slash at its end.
    pub(super) differs_with_slash: bool,
    /// Whether every longer path differs too.
    pub(super) all_below: bool,
}

impl Node {
    /// Whether a path that ends here differs, and every longer one.
    pub(super) fn is_whole(&self) -> bool {
        self.all_below && self.differs
    }
}

/// A rule of one of the sets, which has read its base path.
pub(super) struct Part<'a> {
    pub(super) role: Role,
    pub(super) rule: &'a Rule,
    pub(super) automaton: Automaton,
}

/// Which list a rule is in: of the set that lets requests through, or of the other one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Allow,
    Deny,
    OtherAllow,
    OtherDeny,
}

impl Part<'_> {
    fn is_for(&self, method: &Method) -> bool {
        match self.role {
            Role::Allow | Role::OtherAllow => self.rule.method().is_none_or(|only| only == method),
            Role::Deny | Role::OtherDeny => self.rule.denies_method(method),
        }
    }

    /// Whether a path can differ that the rule matches, though no other rule of the kind of these two does: the other set has no such
    /// rule.
    fn makes_odds(&self, parts: &[&Part<'_>]) -> bool {
        let counterpart = match self.role {
            Role::Allow => Role::OtherAllow,
            Role::OtherDeny => Role::Deny,
            Role::Deny | Role::OtherAllow => return false,
        };
        !parts.iter().any(|part| part.role == counterpart && part.rule.segments == self.rule.segments)
    }
}

/// How the two sets are compared, besides by their rules.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    /// Whether each set allows all.
    pub(super) allows_all: [bool; 2],
    pub(super) has_same_base: bool,
    pub(super) symbols: &'a [Symbol],
}

impl Graph {
    /// For requests of one method. `work` is what may still be looked at; what more there is counts as no difference.
    pub(super) fn new(parts: &[Part<'_>], terms: Terms<'_>, method: &Method, work: &mut usize) -> Self {
        let Terms { allows_all, has_same_base, symbols } = terms;
        let of_method: Vec<&Part<'_>> = parts.iter().filter(|part| part.is_for(method)).collect();
        let makes_odds: Vec<bool> = of_method.iter().map(|part| !has_same_base || part.makes_odds(&of_method)).collect();
        // Where only rules are left that both sets have, nothing differs any more.
        let may_differ = |state: &MatchStates| allows_all == [true, false] || state.iter().any(|(number, _)| makes_odds[*number]);
        let automaton = |number: usize| &of_method[number].automaton;
        // `None`: a state that was not looked at.
        let after = |state: Option<&MatchStates>, symbol| -> Option<MatchStates> {
            Some(Some(after(automaton, state?, symbol)).filter(may_differ).unwrap_or_default())
        };
        let differs = |state: Option<&MatchStates>| {
            let Some(state) = state else { return false };
            let matched = state.iter().filter(|(number, progress)| automaton(*number).is_matched(*progress));
            let matched: Vec<Role> = matched.map(|(number, _)| of_method[*number].role).collect();
            let passes = |allows_all, allow, deny| (allows_all || matched.contains(&allow)) && !matched.contains(&deny);
            passes(allows_all[0], Role::Allow, Role::Deny) && !passes(allows_all[1], Role::OtherAllow, Role::OtherDeny)
        };
        let start: MatchStates = of_method.iter().map(|part| part.automaton.start()).enumerate().collect();
        // A path may lead back to the first state; that of no segment stays apart, since it is no path.
        let (mut known, mut states, mut graph) =
            (HashMap::new(), vec![Some(start)], Self { is_complete: true, ..Self::default() });
        while let Some(state) = states.get(graph.nodes.len()).cloned() {
            let mut node = Node { differs: differs(state.as_ref()), ..Node::default() };
            node.differs_with_slash = differs(after(state.as_ref(), symbols.len()).as_ref());
            let left =
                work.checked_sub(symbols.len() * (1 + state.as_ref().map_or(0, Vec::len))).filter(|_| states.len() < MAX_STATES);
            graph.is_complete &= left.is_some();
            *work = left.unwrap_or(*work);
            for symbol in 0..symbols.len() {
                let next = if left.is_some() { after(state.as_ref(), symbol) } else { None };
                let index = *known.entry(next.clone()).or_insert(states.len());
                if index == states.len() {
                    states.push(next);
                }
                node.next.push(index);
            }
            graph.nodes.push(node);
        }
        graph.find_whole();
        graph.find_kinds();
        graph
    }

    /// Divides the nodes until those of one kind lead to the same kinds (Moore's algorithm).
    fn find_kinds(&mut self) {
        let mut count = 0;
        self.kinds = vec![0; self.nodes.len()];
        loop {
            let mut known = HashMap::new();
            let kind = |(node, kind): (&Node, &usize)| {
                let next: Vec<usize> = node.next.iter().map(|next| self.kinds[*next]).collect();
                let number = known.len();
                *known.entry((*kind, node.differs, node.differs_with_slash, next)).or_insert(number)
            };
            let kinds: Vec<usize> = self.nodes.iter().zip(&self.kinds).map(kind).collect();
            if known.len() == count {
                return;
            }
            (count, self.kinds) = (known.len(), kinds);
        }
    }

    /// Finds the nodes below which everything differs: the largest set of nodes that lead only to each other.
    fn find_whole(&mut self) {
        let mut is_whole: Vec<bool> = self.nodes.iter().map(|node| node.differs_with_slash).collect();
        loop {
            let holds =
                |at: usize| is_whole[at] && self.nodes[at].next.iter().all(|next| is_whole[*next] && self.nodes[*next].differs);
            let smaller: Vec<bool> = (0..is_whole.len()).map(holds).collect();
            if smaller == is_whole {
                break;
            }
            is_whole = smaller;
        }
        for (node, is_whole) in self.nodes.iter_mut().zip(is_whole) {
            node.all_below = is_whole;
        }
    }
}
