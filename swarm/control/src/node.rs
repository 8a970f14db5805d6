//! Nodes: their state, and whether tasks may stay on them.

use std::collections::BTreeSet;
use std::time::Duration;

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

/// How long a node on a fast network may be silent before it is down, where the settings have Docker's heartbeat period.
const SILENCE_MS: u64 = 1_300;

/// The heartbeat period (`--dispatcher-heartbeat`) for which that holds, and which counts where the settings name none.
const HEARTBEAT_PERIOD_MS: u64 = 5_000;

/// Three of the heartbeats that nodes really send, every 200 ms: Docker calls a node down after as many, and less would
/// take a single lost packet and its repetition for the end of a node.
const SILENCE_FLOOR: Duration = Duration::from_millis(600);

/// How long a node on a fast network may be silent before it is down: in proportion to the heartbeat period in the swarm's
/// settings, though nodes send their heartbeats far more often.
pub fn silence_allowed(state: &State) -> Duration {
    let period = state.cluster.as_ref().map_or(0, |cluster| cluster.spec.dispatcher.heartbeat_period);
    if period == 0 {
        return Duration::from_millis(SILENCE_MS);
    }
    let nanos = u128::from(period) * u128::from(SILENCE_MS) / u128::from(HEARTBEAT_PERIOD_MS);
    // Less than the period, so it fits.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(period)).max(SILENCE_FLOOR)
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
    fn silence_follows_the_heartbeat_period() {
        let mut state = State::default();
        assert_eq!(silence_allowed(&state), Duration::from_millis(1_300));
        let second = 1_000_000_000;
        let allowed = [
            (0, 1_300),
            (5 * second, 1_300),
            (20 * second, 5_200),
            (3 * second, 780),
            (second, 600),
            (1, 600),
        ];
        for (period, millis) in allowed {
            let mut cluster = skep_state::Cluster::default();
            cluster.spec.dispatcher.heartbeat_period = period;
            state.cluster = Some(cluster);
            assert_eq!(silence_allowed(&state), Duration::from_millis(millis), "{period} ns");
        }
        state.cluster.as_mut().unwrap().spec.dispatcher.heartbeat_period = u64::MAX;
        assert!(silence_allowed(&state) > Duration::from_secs(3_600));
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
