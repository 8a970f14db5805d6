//! Nodes that were admitted and never came: their join broke off after the commit, so the answer may have reached nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_state::spec::NodeRole;
use skep_state::{Change, State, Timestamp};

use crate::draft::Draft;
use crate::request::node_removal;

/// How long a node may take from its admission to its first session. One that got the answer needs seconds; a minute or
/// two may go by while it, or the network before it, restarts.
const FIRST_SESSION: Duration = Duration::from_secs(5 * 60);

/// Nodes removed in one tick: far below what fits into a transaction, which tasks need as well.
const MAX_REMOVED: usize = 32;

/// The nodes that were admitted and have not come, each with the moment since when its leader knows that. `before` is what
/// the leader got from the last call.
pub fn awaited_since(
    state: &State,
    before: &BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> BTreeMap<String, Timestamp> {
    let awaited = state.nodes.iter().filter(|(_, node)| node.awaited);
    awaited.map(|(id, _)| (id.clone(), before.get(id).copied().unwrap_or(now))).collect()
}

/// Removes them as `node rm` does, so that the certificate which may still be out there is refused from then on.
///
/// A manager among them is no member of Raft: [`crate::roles`] adds it only once it has come.
pub(crate) fn run(draft: &mut Draft<'_>, since: &BTreeMap<String, Timestamp>) {
    let mut overdue = Vec::new();
    for (id, node) in draft.state.nodes.iter().filter(|(_, node)| node.awaited) {
        let deadline = since.get(id).copied().unwrap_or(draft.now).plus(FIRST_SESSION);
        if draft.now >= deadline {
            overdue.push(node);
        } else {
            draft.wake(deadline);
        }
    }
    if overdue.is_empty() {
        return;
    }
    // The cluster, which remembers them, is put once for all.
    let mut cluster = draft.state.cluster.clone();
    let mut changes = Vec::new();
    for node in overdue.iter().take(MAX_REMOVED) {
        // A worker that is not listed is refused anyway, and the list of the removed has room for so many only.
        let remembers = cluster.as_mut().filter(|_| node.role == NodeRole::Manager);
        changes.extend(node_removal(remembers, node, draft.now));
    }
    changes.extend(cluster.map(|cluster| Change::PutCluster(Box::new(cluster))));
    if draft.change(changes) && overdue.len() > MAX_REMOVED {
        // The rest goes with the next tick, at once.
        draft.more();
    }
}

#[cfg(test)]
mod tests {
    use skep_state::{Cluster, Kind, Node, NodeState, Raft, State};

    use super::*;
    use crate::{Plan, TickInput, tick};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    /// A node that was admitted and not heard of.
    fn awaited(id: &str) -> Node {
        let mut node = Node { awaited: true, ..Node::default() };
        id.clone_into(&mut node.meta.id);
        node.certificate.not_after = at(90_000);
        node.status.state = NodeState::Down;
        node
    }

    fn state(nodes: Vec<Node>) -> State {
        let nodes = nodes.into_iter().map(|node| (node.meta.id.clone(), node)).collect();
        State { cluster: Some(Cluster::default()), nodes, ..State::default() }
    }

    /// What a leader decides at `now` that saw the state first at `since`.
    fn decide(state: &State, now: u64, since: u64) -> Plan {
        let since = awaited_since(state, &BTreeMap::new(), at(since));
        tick(state, &TickInput { now: at(now), awaited_since: &since }, &mut || 0)
    }

    fn removed(plan: &Plan) -> Vec<&str> {
        let gone = |change| match change {
            &Change::Remove(Kind::Node, ref id) => Some(id.as_str()),
            _ => None,
        };
        plan.changes.iter().filter_map(gone).collect()
    }

    #[test]
    fn who_never_came_is_removed_and_its_certificate_remembered() {
        let mut state = state(vec![awaited("ghost")]);
        let before = decide(&state, 1_299, 1_000);
        assert_eq!((before.changes, before.next_wakeup), (vec![], Some(at(1_300))));
        let plan = decide(&state, 1_300, 1_000);
        assert_eq!(removed(&plan), ["ghost"]);
        state.apply(1, &skep_state::Transaction { at: at(1_300), changes: plan.changes }).unwrap();
        assert!(state.cluster.as_ref().unwrap().removed.is_empty(), "workers need not be remembered");
        assert!(state.nodes.is_empty() && decide(&state, 1_301, 1_301).changes.is_empty());
    }

    #[test]
    fn who_came_stays_however_long_it_has_been_gone() {
        let node = Node { awaited: false, ..awaited("worker") };
        assert_eq!(decide(&state(vec![node]), 9_999, 10), Plan::default());
    }

    #[test]
    fn a_leader_counts_from_when_it_saw_the_node_first() {
        let state = state(vec![awaited("a"), awaited("b"), Node::default()]);
        let before = BTreeMap::from([("a".to_owned(), at(5)), ("gone".to_owned(), at(1))]);
        let now = awaited_since(&state, &before, at(9));
        assert_eq!(now, [("a".to_owned(), at(5)), ("b".to_owned(), at(9))].into());
        let plan = tick(&state, &TickInput { now: at(9), awaited_since: &BTreeMap::new() }, &mut || 0);
        assert_eq!((removed(&plan), plan.next_wakeup), (vec![], Some(at(309))), "however old the node is");
    }

    #[test]
    fn a_manager_that_never_came_is_removed_too() {
        let raft = Some(Raft { id: 7 });
        let node = Node { role: NodeRole::Manager, raft, ..awaited("manager") };
        assert_eq!(removed(&decide(&state(vec![node]), 1_300, 1_000)), ["manager"]);
    }

    #[test]
    fn many_go_in_several_ticks() {
        let mut state = state((0..70).map(|number| awaited(&format!("ghost{number}"))).collect());
        for expected in [32, 32, 6] {
            let plan = decide(&state, 2_000, 10);
            assert_eq!(removed(&plan).len(), expected);
            assert_eq!(plan.next_wakeup, (expected == 32).then(|| at(2_000)));
            let index = state.index + 1;
            state.apply(index, &skep_state::Transaction { at: at(2_000), changes: plan.changes }).unwrap();
        }
        assert!(state.nodes.is_empty());
    }
}
