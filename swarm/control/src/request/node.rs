//! Requests about nodes (swarmkit `manager/controlapi/node.go`).

use skep_state::spec::{NodeRole, NodeSpec};
use skep_state::{Change, Kind, Node, NodeState, State, Timestamp, Transaction};

use super::cluster::remember_removed;
use super::{Refusal, find};

/// Changes name, labels, role or availability of a node.
///
/// Of the role only the wanted one changes here: what follows is drawn in [`crate::roles`]. `reachable` says of a manager,
/// by node ID, whether it is a member of Raft that this manager hears; it is asked about the managers that would be left
/// after a demotion, this one included (of which it must say yes).
pub fn update_node(
    state: &State,
    reference: &str,
    version: u64,
    spec: NodeSpec,
    reachable: impl Fn(&str) -> bool,
    at: Timestamp,
) -> Result<Transaction, Refusal> {
    let node = find::node(state, reference)?;
    if node.meta.version.index != version {
        return Err(Refusal::out_of_sequence());
    }
    if node.spec.role == NodeRole::Manager && spec.role == NodeRole::Worker {
        check_demotion(state, node, reachable)?;
    }
    let node = Node { spec, ..node.clone() };
    Ok(Transaction { at, changes: vec![Change::PutNode(Box::new(node))] })
}

/// Removes a node that is down (or, with `force`, one that is not) and is no manager, and remembers that it was removed.
///
/// In the middle of a role change: a node that was told to become a manager but is none yet may go. A manager that was
/// told to become a worker must first have left Raft, unless it is down: a voter that nobody answers any more, because it
/// is not listed, could cost the quorum. (swarmkit lets it go at once; there its vote still counts until it is out.) The
/// leader takes what is left of a removed node out of Raft.
pub fn remove_node(
    state: &State,
    reference: &str,
    force: bool,
    at: Timestamp,
) -> Result<Transaction, Refusal> {
    let node = find::node(state, reference)?;
    let id = &node.meta.id;
    let manager = node.role == NodeRole::Manager || node.raft.is_some();
    if manager && node.spec.role == NodeRole::Manager {
        return Err(Refusal::precondition(format!(
            "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
        )));
    }
    if manager && node.status.state != NodeState::Down {
        return Err(Refusal::precondition(format!(
            "node {id} is a cluster manager and is a member of the raft cluster. Its demotion to worker is under way: try again"
        )));
    }
    if !force && node.status.state == NodeState::Ready {
        return Err(Refusal::precondition(format!("node {id} is not down and can't be removed")));
    }
    let mut changes = vec![Change::Remove(Kind::Node, id.clone())];
    if let Some(mut cluster) = state.cluster.clone() {
        remember_removed(&mut cluster, id, node.certificate.not_after, at);
        changes.push(Change::PutCluster(Box::new(cluster)));
    }
    Ok(Transaction { at, changes })
}

fn check_demotion(state: &State, node: &Node, reachable: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    // A promotion that has not happened yet is called off: Raft does not notice.
    if node.role == NodeRole::Worker {
        return Ok(());
    }
    // Those that are on their way out do not count, nor those that were told to become managers and are none yet.
    let rest: Vec<&Node> = state
        .nodes
        .values()
        .filter(|other| other.meta.id != node.meta.id)
        .filter(|other| other.role == NodeRole::Manager && other.spec.role == NodeRole::Manager)
        .collect();
    if rest.is_empty() {
        return Err(Refusal::precondition("attempting to demote the last manager of the swarm"));
    }
    let heard = rest.iter().filter(|other| reachable(&other.meta.id)).count();
    if heard <= rest.len() / 2 {
        return Err(Refusal::precondition(
            "can't remove member from the raft: this would result in a loss of quorum",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use skep_state::Raft;
    use skep_state::spec::Availability;

    use super::super::RefusalKind;
    use super::*;

    fn state(managers: usize) -> State {
        let mut state = State::default();
        for number in 1..=managers + 1 {
            let mut node = Node::default();
            node.meta.id = format!("n{number}");
            node.meta.version.index = 7;
            node.status.state = NodeState::Ready;
            if number <= managers {
                node.spec.role = NodeRole::Manager;
                node.raft = Some(Raft { id: number as u64 });
            }
            state.nodes.insert(node.meta.id.clone(), node);
        }
        state
    }

    fn demote(state: &State, id: &str, reachable: impl Fn(&str) -> bool) -> Result<Transaction, Refusal> {
        let mut state = state.clone();
        if let Some(node) = state.nodes.get_mut(id) {
            node.status.state = NodeState::Down;
        }
        update_node(&state, id, 7, NodeSpec::default(), reachable, Timestamp::default())
    }

    #[test]
    fn an_update_replaces_the_spec_alone() {
        let spec =
            NodeSpec { role: NodeRole::Manager, availability: Availability::Drain, ..NodeSpec::default() };
        let transaction =
            update_node(&state(1), "n1", 7, spec.clone(), |_| true, Timestamp::from_nanos(9)).unwrap();
        let [Change::PutNode(node)] = transaction.changes.as_slice() else { panic!("{transaction:?}") };
        assert_eq!(
            (node.spec.clone(), node.status.state, node.raft),
            (spec, NodeState::Ready, Some(Raft { id: 1 }))
        );
        assert_eq!(transaction.at.nanos(), 9);
    }

    #[test]
    fn a_stale_version_is_refused() {
        let refused =
            update_node(&state(1), "n2", 6, NodeSpec::default(), |_| true, Timestamp::default()).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::OutOfSequence);
        assert!(refused.message.contains("update out of sequence"));
    }

    #[test]
    fn the_last_manager_stays_and_so_does_the_quorum() {
        assert!(demote(&state(1), "n1", |_| true).unwrap_err().message.contains("last manager of the swarm"));
        assert!(
            demote(&state(3), "n1", |id| id == "n2").unwrap_err().message.contains("loss of quorum"),
            "of the two left only one is heard"
        );
        let demoted = demote(&state(3), "n1", |_| true).unwrap();
        let [Change::PutNode(node)] = demoted.changes.as_slice() else { panic!("{demoted:?}") };
        assert_eq!((node.role, node.raft), (NodeRole::Worker, None), "it is out of Raft by the same change");
        assert!(demote(&state(3), "n3", |id| id != "n3").is_ok(), "a silent manager may be demoted");
    }

    #[test]
    fn the_role_of_a_node_that_is_up_stays() {
        let state = state(3);
        let promote = NodeSpec { role: NodeRole::Manager, ..NodeSpec::default() };
        let promoted = update_node(&state, "n4", 7, promote, |_| true, Timestamp::default());
        assert_eq!(promoted.unwrap_err().kind, RefusalKind::Unimplemented);
        let demoted = update_node(&state, "n1", 7, NodeSpec::default(), |_| true, Timestamp::default());
        assert_eq!(demoted.unwrap_err().kind, RefusalKind::Unimplemented);
    }

    #[test]
    fn managers_and_live_nodes_are_not_removed() {
        let mut state = state(1);
        let remove = |state: &State, id: &str, force| remove_node(state, id, force, Timestamp::default());
        assert!(remove(&state, "n1", true).unwrap_err().message.contains("must be demoted to worker"));
        assert!(remove(&state, "n2", false).unwrap_err().message.contains("is not down"));
        assert!(remove(&state, "n2", true).is_ok());
        assert_eq!(remove(&state, "n9", true).unwrap_err().kind, RefusalKind::NotFound);
        if let Some(node) = state.nodes.get_mut("n2") {
            node.status.state = NodeState::Down;
        }
        assert!(remove(&state, "n2", false).is_ok());
    }
}
