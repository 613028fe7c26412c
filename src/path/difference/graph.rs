//! The automaton of two sets of rules together. Pure.

use std::collections::HashMap;

use super::{super::symbols::Symbol, Progress, Side, patterns::Incomplete};

/// How many states are looked at for one method. Only contrived rules have more.
const MAX_STATES: usize = 2000;

/// The states of both sets together that some path leads to; the first is that of no segment.
#[derive(Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
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

impl Graph {
    pub(super) fn new(sides: &[Side<'_>; 2], bases: [&str; 2], symbols: &[Symbol]) -> Result<Self, Incomplete> {
        let after =
            |state: &[Progress; 2], segment: &str| [sides[0].after(&state[0], segment), sides[1].after(&state[1], segment)];
        let differs = |state: &[Progress; 2]| sides[0].passes(&state[0]) && !sides[1].passes(&state[1]);
        let start = [sides[0].start(bases[0]), sides[1].start(bases[1])];
        // A path may lead back to the first state; that of no segment stays apart, since it is no path.
        let (mut known, mut states, mut graph) = (HashMap::new(), vec![start], Self::default());
        while let Some(state) = states.get(graph.nodes.len()).cloned() {
            let mut node = Node { differs: differs(&state), ..Node::default() };
            node.differs_with_slash = differs(&after(&state, ""));
            for symbol in symbols {
                let next = after(&state, &symbol.segment);
                let index = *known.entry(next.clone()).or_insert(states.len());
                if index == states.len() {
                    states.push(next);
                }
                node.next.push(index);
            }
            if states.len() > MAX_STATES {
                return Err(Incomplete);
            }
            graph.nodes.push(node);
        }
        graph.find_whole();
        graph.find_kinds();
        Ok(graph)
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
