//! Promotion and demotion: what the leader must do so that every node's role becomes the wanted one.
//!
//! A node's `spec.role` is wanted, its `role` is given; Raft's members are the third part. The machine of one node, as
//! (wanted, given, in Raft):
//!
//! ```text
//!   (worker, worker, out) ── promote ──▶ (manager, worker, out) ── it asks for a certificate: `certificates::issued`
//!      ▲    ▲                                 │ demote                               │
//!      │    └─────────────────────────────────┘                                      ▼
//!      │ Commit                                                          (manager, manager, out)
//!      │                                                                   │ demote      │ Add (it is heard)
//!   (worker, manager, out) ◀───────────────────────────────────────────────┘             ▼
//!      ▲        └── promote: back to (manager, manager, out)               (manager, manager, in)
//!      │ Remove: quorum of the rest is heard                                   │ demote  ▲ promote
//!      └────────────────────────── (worker, manager, in) ◀─────────────────────┘         │
//!                                        │  └────────────────────────────────────────────┘
//!                                        └── not removed while it is the last voter or the rest has no quorum
//!
//!   not listed, or given worker, but in Raft (a manager that left, a folder that came back): Remove
//! ```
//!
//! So a node is a worker only once it is out of Raft, and in Raft only once it was given the manager's role and has come
//! (`Node::awaited`). A leader that is demoted takes itself out last; the next leader commits its role.

use std::collections::BTreeSet;

use skep_state::spec::NodeRole;
use skep_state::{Change, Node, State};

/// Raft as the leader sees it.
#[derive(Clone, Copy)]
pub struct RaftView<'a> {
    /// Node ID of the leader: the node that asks.
    pub leader: &'a str,
    /// Members that vote, by node ID.
    pub voters: &'a BTreeSet<String>,
    /// Members that do not vote yet, by node ID.
    pub learners: &'a BTreeSet<String>,
    /// Whether the leader hears a node now. Not asked about the leader itself.
    pub heard: &'a dyn Fn(&str) -> bool,
}

/// One thing for the leader to do.
#[derive(Debug, Clone, PartialEq)]
pub enum RoleStep {
    /// Commit this: the node is out of Raft and becomes a worker.
    Commit(Change),
    /// Add the node with this ID to Raft.
    Add(String),
    /// Take the node with this ID out of Raft. The leader's own comes last; it may hand over its leadership first.
    Remove(String),
}

/// What the leader must do now. In order, one at a time, each finished before the next begins; after one that failed call
/// this again instead of going on, for the later steps count on the earlier ones (but a failed `Add` may be skipped: no
/// step counts on it). No change of Raft's members may be under way when this is called.
pub fn next(state: &State, raft: &RaftView<'_>) -> Vec<RoleStep> {
    let is_member = |id: &str| raft.voters.contains(id) || raft.learners.contains(id);
    let mut steps = Vec::new();
    for node in state.nodes.values() {
        let id = node.meta.id.as_str();
        match (node.spec.role, node.role) {
            (NodeRole::Worker, NodeRole::Manager) if !is_member(id) => {
                steps.push(RoleStep::Commit(made_worker(node)));
            }
            // One that was admitted and has no session yet may never have one: its vote would have to be removed again.
            (NodeRole::Manager, NodeRole::Manager)
                if !raft.voters.contains(id) && !node.awaited && hears(raft, id) =>
            {
                steps.push(RoleStep::Add(id.to_owned()));
            }
            _ => {}
        }
    }
    // Commits are few and quick, and an addition may take long: they go first.
    steps.sort_by_key(|step| !matches!(step, RoleStep::Commit(_)));

    let stays = |id: &str| {
        state
            .nodes
            .get(id)
            .is_some_and(|node| node.role == NodeRole::Manager && node.spec.role == NodeRole::Manager)
    };
    steps.extend(raft.learners.iter().filter(|id| !stays(id)).cloned().map(RoleStep::Remove));
    let mut voters = raft.voters.clone();
    let mut leaving: Vec<&String> = raft.voters.iter().filter(|id| !stays(id)).collect();
    // Silent ones first: they are dead weight, and without them more of the others can go. The leader last.
    leaving.sort_by_key(|id| (id.as_str() == raft.leader, hears(raft, id)));
    for id in leaving {
        if can_remove(&voters, id, |id| hears(raft, id)) {
            voters.remove(id);
            steps.push(RoleStep::Remove(id.clone()));
        }
    }
    steps
}

/// Whether Raft can go on without the voter `leaving`: somebody is left, and of those left a majority is heard (swarmkit
/// `raft.CanRemoveMember`).
pub fn can_remove(voters: &BTreeSet<String>, leaving: &str, heard: impl Fn(&str) -> bool) -> bool {
    let rest: Vec<&String> = voters.iter().filter(|id| id.as_str() != leaving).collect();
    let answering = rest.iter().filter(|id| heard(id)).count();
    !rest.is_empty() && answering > rest.len() / 2
}

fn hears(raft: &RaftView<'_>, id: &str) -> bool {
    id == raft.leader || (raft.heard)(id)
}

fn made_worker(node: &Node) -> Change {
    let mut node = node.clone();
    (node.role, node.raft) = (NodeRole::Worker, None);
    Change::PutNode(Box::new(node))
}

#[cfg(test)]
#[path = "roles_test.rs"]
mod tests;
