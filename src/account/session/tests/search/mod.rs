//! Plays every sequence of actions up to a depth, breadth first, and compares the session with the model after each action.
//!
//! Two sequences that lead to the same node are followed once from there, so the search is exhaustive for the actions in
//! `actions`: chance always draws the same jitter, which is another one for another `SIDECAR_SIM_SEED`, and time passes to the
//! moments that the session goes by. The first failure has the fewest actions that any failure has.

mod actions;

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind},
};

use self::actions::{ACTIONS, Action, Key, Node};
use super::*;

/// What was found: nodes by number, in the order in which the search came to them.
struct Search {
    /// The action that first led to a node, and the node before it; the start has none.
    first: Vec<Option<(usize, Action)>>,
    /// The nodes that one action leads to.
    next: Vec<Vec<usize>>,
    states: Vec<StateName>,
    played: Vec<Action>,
}

impl Search {
    fn to(depth: usize, seed: u64) -> Self {
        let start = Node::new(seed);
        let mut known: HashMap<Key, usize> = HashMap::from([(start.key(), 0)]);
        let mut search = Self { first: vec![None], next: vec![Vec::new()], states: vec![start.state()], played: Vec::new() };
        let mut frontier = vec![(0, start)];
        for _ in 0..depth {
            let mut found = Vec::new();
            for (number, node) in &frontier {
                for action in ACTIONS {
                    let Some(after) = search.play(*number, node, action) else { continue };
                    let then = match known.entry(after.key()) {
                        Entry::Occupied(entry) => *entry.get(),
                        Entry::Vacant(entry) => {
                            let then = search.first.len();
                            search.first.push(Some((*number, action)));
                            search.next.push(Vec::new());
                            search.states.push(after.state());
                            found.push((then, after));
                            *entry.insert(then)
                        }
                    };
                    search.next[*number].push(then);
                }
            }
            frontier = found;
        }
        search
    }

    /// The node after that action, if the action is possible.
    fn play(&mut self, number: usize, node: &Node, action: Action) -> Option<Node> {
        let Ok(after) = catch_unwind(AssertUnwindSafe(|| node.after(action))) else {
            panic!("the session broke a rule, as said above, after these events:\n{}", self.list(number, action))
        };
        if after.is_some() && !self.played.contains(&action) {
            self.played.push(action);
        }
        after
    }

    /// The actions that first led to a node, and one more, line by line.
    fn list(&self, number: usize, last: Action) -> String {
        let mut listed = vec![last];
        let mut at = number;
        while let Some((before, action)) = self.first[at] {
            listed.push(action);
            at = before;
        }
        let lines: Vec<_> = listed.iter().rev().enumerate().map(|(at, action)| format!("{:3}. {action:?}", at + 1)).collect();
        lines.join("\n")
    }

    /// How many sequences of at most `depth` actions there are.
    fn sequences(&self, depth: usize) -> u128 {
        let mut ending_at = vec![0_u128; self.first.len()];
        ending_at[0] = 1;
        let mut total = 0;
        for _ in 0..depth {
            let mut longer = vec![0; ending_at.len()];
            for (sequences, next) in ending_at.iter().zip(&self.next).filter(|(sequences, _)| **sequences > 0) {
                for then in next {
                    longer[*then] += sequences;
                }
            }
            total += longer.iter().sum::<u128>();
            ending_at = longer;
        }
        total
    }
}

/// The depth of a search that takes a few seconds without optimization.
const DEPTH: usize = 11;

#[expect(clippy::disallowed_methods, reason = "how another search is asked for")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn no_sequence_of_events_breaks_a_rule() {
    let depth = number("SIDECAR_SIM_DEPTH").map_or(DEPTH, |depth| usize::try_from(depth).unwrap());
    let search = Search::to(depth, number("SIDECAR_SIM_SEED").unwrap_or(1));
    let (nodes, sequences) = (search.first.len(), search.sequences(depth));
    println!("{nodes} nodes, {sequences} sequences of at most {depth} actions");
    if depth >= DEPTH {
        assert!(nodes > 40_000 && sequences > 5_000_000_000_000, "{nodes} nodes, {sequences} sequences");
        assert!(StateName::ALL.iter().all(|name| search.states.contains(name)));
        let never: Vec<Action> = ACTIONS.into_iter().filter(|action| !search.played.contains(action)).collect();
        assert!(never.is_empty(), "never possible: {never:?}");
    }
}
