//! Changes to a folder in which no Raft runs: what is left of a swarm becomes a swarm of one manager.
//!
//! The other members, should they come back with the old log, know nothing of it and could elect a leader among
//! themselves. Nothing in Raft forbids that: the caller must keep the two apart (the mesh does, by its epoch).

use std::collections::{BTreeMap, BTreeSet};

use openraft::storage::RaftLogStorage;
use openraft::{CommittedLeaderId, LogId as OpenLogId, Membership, RaftLogReader};
use skep_state::State;
use tokio::sync::watch;

use crate::machine::Machine;
use crate::node::open_stores;
use crate::types::{LogId, Member, StoredMembership, Vote, raft_id};
use crate::{OpenError, RaftError, RaftOptions};

/// The term of a state that comes from a copy: whatever it was, the lone manager begins anew.
const FIRST_TERM: u64 = 1;

/// Makes the Raft in the folder one of this node alone. Everything in its log counts as committed, for nobody is left who
/// could say otherwise. Returns the index of the last entry. A crash leaves the former members or this one.
pub async fn make_single(options: RaftOptions) -> Result<u64, RaftError> {
    change(&options, async |mut log, machine| {
        let storage = |error: crate::types::StorageError| OpenError::Start(error.to_string());
        let entries = log.try_get_log_entries(machine.next_index()..).await.map_err(storage)?;
        machine.take(entries);
        let last = machine.applied().ok_or_else(|| RaftError::Empty { dir: options.dir.clone() })?;
        machine.rewrite(last, alone(&options, last), None)?;
        log.purge(last).await.map_err(storage)?;
        Ok(last.index)
    })
    .await
}

/// Makes a Raft of this node alone with this state, in a folder that holds none.
pub async fn seed(options: RaftOptions, state: State) -> Result<(), RaftError> {
    change(&options, async |mut log, machine| {
        if log.last().is_some() || machine.applied().is_some() {
            return Err(RaftError::NotEmpty { dir: options.dir.clone() });
        }
        let id = raft_id(&options.node_id);
        let last = OpenLogId::new(CommittedLeaderId::new(FIRST_TERM, id), state.index.max(1));
        let storage = |error: crate::types::StorageError| OpenError::Start(error.to_string());
        log.save_vote(&Vote::new(FIRST_TERM, id)).await.map_err(storage)?;
        machine.rewrite(last, alone(&options, last), Some(state))?;
        Ok(())
    })
    .await
}

/// Opens the folder, changes it, and closes it again.
async fn change<T>(
    options: &RaftOptions,
    change: impl AsyncFnOnce(crate::log::LogStore, Machine) -> Result<T, RaftError>,
) -> Result<T, RaftError> {
    let (closing, closed) = watch::channel(false);
    let (log, machine) = open_stores(options, closing).await?;
    let changed = change(log.clone(), machine).await;
    log.close();
    drop(log);
    // An error is as good: the log's thread is gone.
    let _ = closed.clone().wait_for(|&closed| closed).await;
    changed
}

fn alone(options: &RaftOptions, at: LogId) -> StoredMembership {
    let id = raft_id(&options.node_id);
    let nodes = BTreeMap::from([(id, Member { node_id: options.node_id.clone() })]);
    StoredMembership::new(Some(at), Membership::new(vec![BTreeSet::from([id])], nodes))
}
