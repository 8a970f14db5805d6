//! Requests about nodes (swarmkit `manager/controlapi/node.go`).

use skep_state::spec::{NodeRole, NodeSpec};
use skep_state::{Change, Kind, Node, NodeState, State, Timestamp, Transaction};

use super::{Refusal, find};

/// Changes name, labels, role or availability of a node.
///
/// `reachable` says of a manager, by node ID, whether this manager hears it; it is asked about the managers that would
/// be left after a demotion, this one included (of which it must say yes).
///
/// A node's role stands in its certificate, which is not renewed yet: so only a manager that is down can be demoted,
/// which takes it out of Raft for good. Other changes of role go by leaving and joining with the other token.
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
    if node.spec.role == NodeRole::Worker && spec.role == NodeRole::Manager {
        return Err(Refusal::unimplemented(format!(
            "promoting a node of the swarm is not supported: let node {} leave, and join with the manager token",
            node.meta.id
        )));
    }
    let mut node = Node { spec, ..node.clone() };
    if node.spec.role == NodeRole::Worker {
        (node.role, node.raft) = (NodeRole::Worker, None);
    }
    Ok(Transaction { at, changes: vec![Change::PutNode(Box::new(node))] })
}

/// Removes a node that is down (or, with `force`, one that is not) and is no manager.
pub fn remove_node(
    state: &State,
    reference: &str,
    force: bool,
    at: Timestamp,
) -> Result<Transaction, Refusal> {
    let node = find::node(state, reference)?;
    let id = &node.meta.id;
    if node.spec.role == NodeRole::Manager || node.raft.is_some() {
        return Err(Refusal::precondition(format!(
            "node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
        )));
    }
    if !force && node.status.state == NodeState::Ready {
        return Err(Refusal::precondition(format!("node {id} is not down and can't be removed")));
    }
    Ok(Transaction { at, changes: vec![Change::Remove(Kind::Node, id.clone())] })
}

fn check_demotion(state: &State, node: &Node, reachable: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let rest: Vec<&Node> = state
        .nodes
        .values()
        .filter(|other| other.meta.id != node.meta.id && other.spec.role == NodeRole::Manager)
        .collect();
    if rest.is_empty() {
        return Err(Refusal::precondition("attempting to demote the last manager of the swarm"));
    }
    if node.status.state != NodeState::Down {
        return Err(Refusal::unimplemented(format!(
            "demoting a manager that is up is not supported: let node {} leave with --force, and join with the worker token",
            node.meta.id
        )));
    }
    // Only members of Raft vote: a node that was promoted a moment ago does not help yet.
    let members: Vec<&Node> = rest.into_iter().filter(|other| other.raft.is_some()).collect();
    let heard = members.iter().filter(|other| reachable(&other.meta.id)).count();
    let quorum = members.len() / 2 + 1;
    if heard < quorum {
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
