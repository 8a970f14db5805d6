//! Nodes: their state, and whether tasks may stay on them.

use std::collections::BTreeSet;

use skep_state::spec::Availability;
use skep_state::{Change, Node, NodeState, State};

/// The change that marks a node as `state`; `None` when it is marked so already or there is no such node.
///
/// `message` says why, for `node ls`. The next tick acts on it: the tasks of a node that is down are replaced.
pub fn node_state_change(state: &State, node_id: &str, to: NodeState, message: &str) -> Option<Change> {
    let node = state.nodes.get(node_id).filter(|node| node.status.state != to)?;
    let mut node = node.clone();
    node.status.state = to;
    message.clone_into(&mut node.status.message);
    Some(Change::PutNode(Box::new(node)))
}

/// The change that marks a node down, with the words that Docker uses for a missed heartbeat.
pub fn node_down(state: &State, node_id: &str) -> Option<Change> {
    node_state_change(state, node_id, NodeState::Down, "heartbeat failure")
}

/// The number for a new node: the smallest from 1 that no node has. `None` when all 65,535 are taken.
pub fn next_node_index(state: &State) -> Option<u16> {
    let taken: BTreeSet<u16> = state.nodes.values().map(|node| node.index).collect();
    (1..=u16::MAX).find(|index| !taken.contains(index))
}

/// Whether a node is known to run nothing any more: it is down, has left, or is gone from the swarm.
pub(crate) fn is_lost(node: Option<&Node>) -> bool {
    node.is_none_or(|node| matches!(node.status.state, NodeState::Down | NodeState::Disconnected))
}

/// Whether tasks must leave a node.
pub(crate) fn must_be_left(node: Option<&Node>) -> bool {
    is_lost(node) || node.is_some_and(|node| node.spec.availability == Availability::Drain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_from_the_smallest() {
        let mut state = State::default();
        for (id, index) in [("a", 1), ("b", 3)] {
            state.nodes.insert(id.to_owned(), Node { index, ..Node::default() });
        }
        assert_eq!(next_node_index(&state), Some(2));
    }

    #[test]
    fn a_state_is_marked_once() {
        let mut state = State::default();
        let mut node = Node::default();
        node.status.state = NodeState::Ready;
        state.nodes.insert("a".to_owned(), node);
        let Some(Change::PutNode(down)) = node_down(&state, "a") else { panic!("no change") };
        assert_eq!(down.status.state, NodeState::Down);
        state.nodes.insert("a".to_owned(), *down);
        assert_eq!(node_down(&state, "a"), None);
    }
}
