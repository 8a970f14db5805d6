//! Requests about nodes (swarmkit `manager/controlapi/node.go`).

use skep_state::spec::{NodeRole, NodeSpec};
use skep_state::{Change, Cluster, Kind, Node, NodeState, State, Timestamp, Transaction};

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
/// told to become a worker must first have left Raft, see [`demotion_pending`]: nobody answers a node that is not listed,
/// but its vote would still count. (swarmkit lets it go at once.)
pub fn remove_node(
    state: &State,
    reference: &str,
    force: bool,
    at: Timestamp,
) -> Result<Transaction, Refusal> {
    let node = find::node(state, reference)?;
    let id = &node.meta.id;
    if is_manager(node) {
        let what_to_do = match node.spec.role {
            NodeRole::Manager => "It must be demoted to worker before removal",
            NodeRole::Worker => "It is being demoted to worker: try again when it has left",
        };
        return Err(Refusal::precondition(format!(
            "node {id} is a cluster manager and is a member of the raft cluster. {what_to_do}"
        )));
    }
    if !force && node.status.state == NodeState::Ready {
        return Err(Refusal::precondition(format!("node {id} is not down and can't be removed")));
    }
    let mut cluster = state.cluster.clone();
    let mut changes = Vec::from(node_removal(cluster.as_mut(), node, at));
    changes.extend(cluster.map(|cluster| Change::PutCluster(Box::new(cluster))));
    Ok(Transaction { at, changes })
}

/// The changes that remove a node; `cluster` remembers it and is to be put with them.
pub(crate) fn node_removal(cluster: Option<&mut Cluster>, node: &Node, at: Timestamp) -> [Change; 2] {
    let id = &node.meta.id;
    if let Some(cluster) = cluster {
        remember_removed(cluster, id, node.certificate.not_after, at);
    }
    // A removal alone has no version: the node put back as it is ties it to the node that was looked at here, so that one
    // that became a manager, or came, meanwhile stays.
    [Change::PutNode(Box::new(node.clone())), Change::Remove(Kind::Node, id.clone())]
}

/// Whether a node is a manager that was told to become a worker and is none yet: the leader sees to it, and whoever wants
/// to remove the node, as scripts do right after demoting it, may wait for a moment. False when there is no such node.
pub fn demotion_pending(state: &State, reference: &str) -> bool {
    find::node(state, reference).is_ok_and(|node| node.spec.role == NodeRole::Worker && is_manager(node))
}

fn is_manager(node: &Node) -> bool {
    node.role == NodeRole::Manager || node.raft.is_some()
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

    const DAY: i64 = 24 * 3_600 * 1_000_000_000;

    /// Nodes n1, n2, … of which the first are managers and the last is a worker; all are up.
    fn state(managers: usize) -> State {
        let mut state = State { cluster: Some(Cluster::default()), ..State::default() };
        for number in 1..=managers + 1 {
            let mut node = Node::default();
            node.meta.id = format!("n{number}");
            node.meta.version.index = 7;
            node.status.state = NodeState::Ready;
            if number <= managers {
                (node.spec.role, node.role) = (NodeRole::Manager, NodeRole::Manager);
                node.raft = Some(Raft { id: number as u64 });
            }
            state.nodes.insert(node.meta.id.clone(), node);
        }
        state
    }

    fn set(state: &mut State, id: &str, change: impl FnOnce(&mut Node)) {
        change(state.nodes.get_mut(id).unwrap());
    }

    fn update(
        state: &State,
        id: &str,
        role: NodeRole,
        reachable: impl Fn(&str) -> bool,
    ) -> Result<Node, Refusal> {
        let spec = NodeSpec { role, ..NodeSpec::default() };
        let transaction = update_node(state, id, 7, spec, reachable, Timestamp::default())?;
        let [Change::PutNode(node)] = transaction.changes.as_slice() else { panic!("{transaction:?}") };
        Ok((**node).clone())
    }

    fn demote(state: &State, id: &str, reachable: impl Fn(&str) -> bool) -> Result<Node, Refusal> {
        update(state, id, NodeRole::Worker, reachable)
    }

    fn remove(state: &State, id: &str, force: bool) -> Result<Transaction, Refusal> {
        remove_node(state, id, force, Timestamp::from_nanos(100 * DAY))
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
    fn only_the_wanted_role_changes_at_once() {
        let promoted = update(&state(1), "n2", NodeRole::Manager, |_| true).unwrap();
        assert_eq!(
            (promoted.spec.role, promoted.role, promoted.raft),
            (NodeRole::Manager, NodeRole::Worker, None)
        );
        let demoted = demote(&state(3), "n1", |_| true).unwrap();
        assert_eq!(
            (demoted.spec.role, demoted.role, demoted.raft),
            (NodeRole::Worker, NodeRole::Manager, Some(Raft { id: 1 }))
        );
    }

    #[test]
    fn the_last_manager_stays_and_so_does_the_quorum() {
        let last = demote(&state(1), "n1", |_| true).unwrap_err();
        assert_eq!(last.kind, RefusalKind::FailedPrecondition);
        assert!(last.message.contains("attempting to demote the last manager of the swarm"));
        let quorum = demote(&state(3), "n1", |id| id == "n2").unwrap_err();
        assert_eq!(quorum.kind, RefusalKind::FailedPrecondition);
        assert!(quorum.message.contains("loss of quorum"), "of the two left only one is heard");
        assert!(demote(&state(3), "n3", |id| id != "n3").is_ok(), "a silent manager may be demoted");
        assert!(demote(&state(4), "n1", |id| id != "n4").is_ok(), "two of the three left are heard");
        assert!(demote(&state(4), "n1", |id| id == "n2").is_err());
    }

    #[test]
    fn those_on_their_way_in_or_out_do_not_count() {
        let mut state = state(2);
        set(&mut state, "n2", |node| node.spec.role = NodeRole::Worker);
        assert!(
            demote(&state, "n1", |_| true).unwrap_err().message.contains("last manager"),
            "n2 is leaving"
        );
        set(&mut state, "n3", |node| node.spec.role = NodeRole::Manager);
        assert!(
            demote(&state, "n1", |_| true).unwrap_err().message.contains("last manager"),
            "n3 is none yet"
        );
        set(&mut state, "n3", |node| node.role = NodeRole::Manager);
        assert!(
            demote(&state, "n1", |id| id != "n3").unwrap_err().message.contains("loss of quorum"),
            "n3 is not in Raft yet"
        );
        assert!(demote(&state, "n1", |_| true).is_ok());
    }

    #[test]
    fn a_promotion_that_has_not_happened_is_called_off() {
        let mut state = state(1);
        set(&mut state, "n2", |node| node.spec.role = NodeRole::Manager);
        assert_eq!(demote(&state, "n2", |_| false).unwrap().spec.role, NodeRole::Worker);
    }

    #[test]
    fn managers_and_live_nodes_are_not_removed() {
        let mut state = state(1);
        assert!(remove(&state, "n1", true).unwrap_err().message.contains("must be demoted to worker"));
        assert!(
            remove(&state, "n2", false).unwrap_err().message.contains("is not down and can't be removed")
        );
        assert!(remove(&state, "n2", true).is_ok());
        assert_eq!(remove(&state, "n9", true).unwrap_err().kind, RefusalKind::NotFound);
        set(&mut state, "n2", |node| node.status.state = NodeState::Down);
        assert!(remove(&state, "n2", false).is_ok());
    }

    #[test]
    fn a_node_is_removed_before_its_promotion_but_not_within_its_demotion() {
        let mut state = state(2);
        set(&mut state, "n3", |node| node.spec.role = NodeRole::Manager);
        assert!(remove(&state, "n3", true).is_ok(), "it is no manager yet");
        set(&mut state, "n2", |node| node.spec.role = NodeRole::Worker);
        assert!(demotion_pending(&state, "n2") && !demotion_pending(&state, "n1"));
        set(&mut state, "n2", |node| node.status.state = NodeState::Down);
        assert!(remove(&state, "n2", true).unwrap_err().message.contains("is being demoted"));
        set(&mut state, "n2", |node| (node.role, node.raft) = (NodeRole::Worker, None));
        assert!(!demotion_pending(&state, "n2"));
        assert!(remove(&state, "n2", false).is_ok());
        assert!(!demotion_pending(&state, "n9"));
    }

    #[test]
    fn a_removed_node_is_remembered_while_its_certificate_lives() {
        let mut state = state(1);
        set(&mut state, "n2", |node| node.certificate.not_after = Timestamp::from_nanos(150 * DAY));
        let removed = [("old", 92), ("recent", 94)];
        state.cluster.as_mut().unwrap().removed =
            removed.map(|(id, day)| (id.to_owned(), Timestamp::from_nanos(day * DAY))).into();
        let transaction = remove(&state, "n2", true).unwrap();
        let [Change::PutNode(_), Change::Remove(Kind::Node, id), Change::PutCluster(cluster)] =
            transaction.changes.as_slice()
        else {
            panic!("{transaction:?}")
        };
        assert_eq!(id, "n2");
        let kept: Vec<_> =
            cluster.removed.iter().map(|(id, until)| (id.as_str(), until.nanos() / DAY)).collect();
        assert_eq!(kept, [("n2", 150), ("recent", 94)], "one that ended more than a week ago is forgotten");
        set(&mut state, "n2", |node| node.certificate.not_after = Timestamp::default());
        let transaction = remove(&state, "n2", true).unwrap();
        let Some(Change::PutCluster(cluster)) = transaction.changes.get(2) else { panic!("{transaction:?}") };
        assert_eq!(cluster.removed["n2"].nanos() / DAY, 190, "a full life where the end is not known");
    }

    #[test]
    fn not_every_removed_node_is_remembered() {
        let mut state = state(1);
        state.cluster.as_mut().unwrap().removed = (0..2_000)
            .map(|number| (format!("gone{number}"), Timestamp::from_nanos(110 * DAY + number)))
            .collect();
        let transaction = remove(&state, "n2", true).unwrap();
        let Some(Change::PutCluster(cluster)) = transaction.changes.get(2) else { panic!("{transaction:?}") };
        assert_eq!(cluster.removed.len(), 1_000);
        assert!(cluster.removed.contains_key("n2") && cluster.removed.contains_key("gone1999"));
    }
}
