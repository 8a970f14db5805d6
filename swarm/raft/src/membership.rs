//! Who the managers are, and changing that. The changes run at the leader, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::{Instant, timeout, timeout_at};

use crate::options::{CATCH_UP_DISTANCE, MEMBERSHIP_TIMEOUT};
use crate::types::{Leadership, Member, Raft, raft_id};
use crate::{Manager, MembershipError};

type WriteError = RaftError<u64, ClientWriteError<u64, Member>>;

/// Adds a manager: learner, caught up, voter. At the leader.
pub(crate) async fn add(raft: &Raft, node_id: &str) -> Result<(), MembershipError> {
    let deadline = Instant::now() + MEMBERSHIP_TIMEOUT;
    let id = raft_id(node_id);
    check(raft, node_id, id)?;
    if voters(raft).contains(&id) {
        return Ok(());
    }
    let member = Member { node_id: node_id.to_owned() };
    within(deadline, retry(deadline, || raft.add_learner(id, member.clone(), false))).await?;
    if let Err(error) = catch_up(raft, id, node_id, deadline).await {
        // Not left behind as a learner: a majority must not come to wait for it, and it may be added again.
        let removal = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        let limit = Instant::now() + Duration::from_secs(5);
        if let Err(error) =
            within(limit, retry(limit, || raft.change_membership(removal.clone(), false))).await
        {
            tracing::warn!(%error, node_id, "taking out a manager that did not catch up");
        }
        return Err(error);
    }
    let voter = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
    within(deadline, retry(deadline, || raft.change_membership(voter.clone(), true))).await
}

/// Takes a manager out. At the leader; it may be the leader.
pub(crate) async fn remove(raft: &Raft, node_id: &str) -> Result<(), MembershipError> {
    let deadline = Instant::now() + MEMBERSHIP_TIMEOUT;
    let id = raft_id(node_id);
    let voters = voters(raft);
    if voters == BTreeSet::from([id]) {
        return Err(MembershipError::LastManager { node_id: node_id.to_owned() });
    }
    if voters.contains(&id) {
        let change = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
        within(deadline, retry(deadline, || raft.change_membership(change.clone(), false))).await?;
    }
    let known = raft.metrics().borrow().membership_config.membership().get_node(&id).is_some();
    if known && !voters.contains(&id) {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        within(deadline, retry(deadline, || raft.change_membership(change.clone(), false))).await?;
    }
    Ok(())
}

/// The managers as this node knows them.
pub(crate) fn list(raft: &Raft, leadership: &Leadership) -> Vec<Manager> {
    let metrics = raft.metrics().borrow().clone();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let by_name: BTreeMap<&str, bool> =
        membership.nodes().map(|(id, member)| (member.node_id.as_str(), voters.contains(id))).collect();
    by_name
        .into_iter()
        .map(|(node_id, voter)| Manager {
            node_id: node_id.to_owned(),
            voter,
            leader: leadership.leader.as_deref() == Some(node_id),
        })
        .collect()
}

fn voters(raft: &Raft) -> BTreeSet<u64> {
    raft.metrics().borrow().membership_config.membership().voter_ids().collect()
}

/// Refuses an ID that another manager's ID hashes to.
fn check(raft: &Raft, node_id: &str, id: u64) -> Result<(), MembershipError> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow();
    match metrics.membership_config.membership().get_node(&id) {
        Some(other) if other.node_id != node_id => Err(MembershipError::BadNodeId {
            node_id: node_id.to_owned(),
            reason: format!("manager {} has the same Raft ID", other.node_id),
        }),
        _ => Ok(()),
    }
}

async fn catch_up(raft: &Raft, id: u64, node_id: &str, deadline: Instant) -> Result<(), MembershipError> {
    let goal = raft.metrics().borrow().last_log_index.unwrap_or(0).saturating_sub(CATCH_UP_DISTANCE);
    let mut metrics = raft.metrics();
    let caught_up = metrics.wait_for(|metrics| {
        let Some(replication) = &metrics.replication else { return true };
        replication.get(&id).copied().flatten().is_some_and(|matched| matched.index >= goal)
    });
    match timeout_at(deadline.min(Instant::now() + MEMBERSHIP_TIMEOUT / 2), caught_up).await {
        Ok(Ok(metrics)) if metrics.replication.is_some() => Ok(()),
        Ok(Ok(_)) => Err(MembershipError::NoLeader),
        Ok(Err(_)) => Err(MembershipError::Stopped),
        Err(_) => Err(MembershipError::NotCaughtUp { node_id: node_id.to_owned() }),
    }
}

async fn within<T>(
    deadline: Instant,
    change: impl Future<Output = Result<T, WriteError>>,
) -> Result<(), MembershipError> {
    match timeout_at(deadline, change).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::Fatal(_))) => Err(MembershipError::Stopped),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(MembershipError::NoLeader),
        Ok(Err(error)) => Err(MembershipError::Unconfirmed(error.to_string())),
        Err(_) => Err(MembershipError::Unconfirmed("no majority answered in time".to_owned())),
    }
}

/// A change that finds an earlier one not yet committed waits for it.
async fn retry<T, F: Future<Output = Result<T, WriteError>>>(
    deadline: Instant,
    mut change: impl FnMut() -> F,
) -> Result<T, WriteError> {
    const PAUSE: Duration = Duration::from_millis(50);
    loop {
        let outcome = change().await;
        let in_progress = matches!(
            &outcome,
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_)
            )))
        );
        if !in_progress || Instant::now() + PAUSE >= deadline {
            return outcome;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until this node, which has just made a swarm of itself, leads it.
pub(crate) async fn leads(raft: &Raft) -> bool {
    let mut metrics = raft.metrics();
    let leads = metrics.wait_for(|metrics| metrics.state == openraft::ServerState::Leader);
    matches!(timeout(MEMBERSHIP_TIMEOUT, leads).await, Ok(Ok(_)))
}
