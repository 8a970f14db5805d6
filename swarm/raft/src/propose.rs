//! Proposals: many into one log entry, at the leader; forwarded to it from elsewhere.
//!
//! ```text
//!  propose ──▶ is there a leader? ── this node ──▶ queue ──▶ batch ──▶ log entry ──▶ applied here ──▶ index
//!                 │    ▲     └────── another ────▶ Propose request ──▶ (the same there) ──▶ applied here ──▶ index
//!       none for  │    │                                │ certainly not accepted (unreachable, not leader any more)
//!  LEADERLESS_PATIENCE └────────────────────────────────┘
//!                 ▼                                     │ accepted or unknown, and no answer
//!              NoLeader                                 ▼
//!                                                LeaderLost / Timeout (never tried again from here)
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::error::{ClientWriteError, Fatal};
use skep_state::{Conflict, Transaction};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::elect::Pulse;
use crate::machine::Machine;
use crate::network;
use crate::options::{
    BATCH_BYTES_MAX, BATCH_PROPOSALS_MAX, BATCHES_IN_FLIGHT, LEADERLESS_PATIENCE, PROPOSAL_QUEUE,
    TRANSACTION_BYTES_MAX,
};
use crate::rpc::{Answer, Request};
use crate::types::{Applied, Batch, Leadership, Raft};
use crate::{ProposeError, RaftOptions, Transport, TransportError};

/// Proposes, from any manager.
pub(crate) struct Proposer {
    pub(crate) options: Arc<RaftOptions>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) machine: Machine,
    pub(crate) queue: mpsc::Sender<Proposal>,
}

/// One proposal that waits for its batch.
pub(crate) struct Proposal {
    transaction: Transaction,
    bytes: usize,
    done: oneshot::Sender<Result<u64, ProposeError>>,
}

/// Between two attempts, when a leader has just changed.
const RETRY: Duration = Duration::from_millis(25);

impl Proposer {
    /// Proposes, waits until this node has applied it, and returns the index.
    pub(crate) async fn propose(
        &self,
        transaction: Transaction,
        timeout: Duration,
    ) -> Result<u64, ProposeError> {
        let deadline = Instant::now() + timeout;
        let bytes = size(&transaction)?;
        let mut leader = self.leader(deadline).await?;
        let index = loop {
            let outcome = if leader == self.options.node_id {
                self.propose_here(transaction.clone(), bytes, deadline).await
            } else {
                self.forward(&leader, transaction.clone(), deadline).await
            };
            match outcome {
                Err(ProposeError::NoLeader) => {}
                outcome => break outcome?,
            }
            if Instant::now() + RETRY >= deadline {
                return Err(ProposeError::NoLeader);
            }
            tokio::time::sleep(RETRY).await;
            leader = self.leader(deadline).await?;
        };
        let mut applied = self.machine.watch_applied();
        match tokio::time::timeout_at(deadline, applied.wait_for(|&applied| applied >= index)).await {
            Ok(Ok(_)) => Ok(index),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// Proposes at this node, which should be the leader. [`ProposeError::NoLeader`]: certainly not accepted.
    pub(crate) async fn propose_here(
        &self,
        transaction: Transaction,
        bytes: usize,
        deadline: Instant,
    ) -> Result<u64, ProposeError> {
        let (done, outcome) = oneshot::channel();
        let proposal = Proposal { transaction, bytes, done };
        match tokio::time::timeout_at(deadline, self.queue.send(proposal)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(ProposeError::Stopped),
            Err(_) => return Err(ProposeError::NoLeader),
        }
        tokio::select! {
            outcome = outcome => outcome.unwrap_or(Err(ProposeError::Stopped)),
            () = tokio::time::sleep_until(deadline) => Err(ProposeError::Timeout),
            () = self.lost(&self.options.node_id) => Err(ProposeError::LeaderLost),
        }
    }

    /// Checks a transaction from another manager and proposes it at this node.
    pub(crate) async fn propose_for_peer(
        &self,
        transaction: Transaction,
        timeout: Duration,
    ) -> Result<u64, ProposeError> {
        if self.pulse.leader().as_ref() != Some(&self.options.node_id) {
            return Err(ProposeError::NoLeader);
        }
        let bytes = size(&transaction)?;
        self.propose_here(transaction, bytes, Instant::now() + timeout).await
    }

    async fn forward(
        &self,
        leader: &str,
        transaction: Transaction,
        deadline: Instant,
    ) -> Result<u64, ProposeError> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Propose { transaction, timeout_ms };
        let answer = tokio::select! {
            answer = network::call(&*self.transport, leader, &request, &[], limit) => answer,
            () = self.lost(leader) => return Err(ProposeError::LeaderLost),
        };
        match answer {
            Ok(Answer::Propose(outcome)) => outcome,
            // Nothing but a decoding error before anything was done.
            Ok(Answer::Bad(reason)) => {
                tracing::warn!(leader, reason, "the leader refused a forwarded proposal");
                Err(ProposeError::NoLeader)
            }
            Ok(_) => Err(ProposeError::LeaderLost),
            Err(TransportError::Unreachable { .. }) => Err(ProposeError::NoLeader),
            Err(TransportError::Lost { .. }) if Instant::now() >= deadline => Err(ProposeError::Timeout),
            Err(TransportError::Lost { .. }) => Err(ProposeError::LeaderLost),
        }
    }

    /// The leader, waiting through an election, but not for ever.
    pub(crate) async fn leader(&self, deadline: Instant) -> Result<String, ProposeError> {
        let mut leadership = self.pulse.watch();
        let known = leadership.borrow_and_update().leader.clone();
        if let Some(leader) = known {
            return Ok(leader);
        }
        let patience = self.pulse.leaderless_since().map_or(deadline, |since| since + LEADERLESS_PATIENCE);
        let found = leadership.wait_for(|leadership| leadership.leader.is_some());
        match tokio::time::timeout_at(patience.min(deadline), found).await {
            Ok(Ok(leadership)) => leadership.leader.clone().ok_or(ProposeError::NoLeader),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::NoLeader),
        }
    }

    /// Returns once `leader` has not been the leader for a while.
    async fn lost(&self, leader: &str) {
        let mut leadership = self.pulse.watch();
        loop {
            // Never keep what `wait_for` returns: it holds the channel's lock.
            let other = |leadership: &Leadership| leadership.leader.as_deref() != Some(leader);
            if leadership.wait_for(other).await.is_err() {
                return;
            }
            let back = leadership.wait_for(|leadership| leadership.leader.as_deref() == Some(leader));
            if tokio::time::timeout(LEADERLESS_PATIENCE, back).await.is_err() {
                return;
            }
        }
    }
}

fn size(transaction: &Transaction) -> Result<usize, ProposeError> {
    let bytes = rmp_serde::to_vec_named(transaction)
        .map_err(|error| ProposeError::Storage(format!("the transaction does not encode: {error}")))?
        .len();
    if bytes > TRANSACTION_BYTES_MAX {
        return Err(ProposeError::TooLarge { bytes, limit: TRANSACTION_BYTES_MAX });
    }
    Ok(bytes)
}

/// The queue of proposals.
pub(crate) fn queue() -> (mpsc::Sender<Proposal>, mpsc::Receiver<Proposal>) {
    mpsc::channel(PROPOSAL_QUEUE)
}

/// Puts proposals together: while batches are on their way, the next one grows.
pub(crate) async fn batch(raft: Raft, mut queue: mpsc::Receiver<Proposal>) {
    let in_flight = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    while let Some(first) = queue.recv().await {
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while batch.len() < BATCH_PROPOSALS_MAX && bytes < BATCH_BYTES_MAX {
            let Ok(next) = queue.try_recv() else { break };
            bytes += next.bytes;
            batch.push(next);
        }
        // Callers that gave up while waiting here: certainly not accepted, and it stays so.
        batch.retain(|proposal| !proposal.done.is_closed());
        if batch.is_empty() {
            continue;
        }
        let (transactions, waiting): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|proposal| (proposal.transaction, proposal.done)).unzip();
        let accepted = Arc::new(AtomicBool::new(false));
        let entry = Batch { transactions, accepted: Some(Arc::clone(&accepted)) };
        // Sent from here, so that batches keep their order; its answer is awaited elsewhere.
        let answer = raft.client_write_ff(entry).await;
        let raft = raft.clone();
        tokio::spawn(async move {
            let outcome = match answer {
                Ok(answer) => match answer.await {
                    Ok(Ok(written)) => Ok(written.data),
                    Ok(Err(error)) => Err(refused(&error, &accepted)),
                    Err(_) => Err(gone(&raft)),
                },
                Err(fatal) => Err(stopped(&fatal)),
            };
            drop(permit);
            reply(waiting, outcome);
        });
    }
}

fn reply(
    waiting: Vec<oneshot::Sender<Result<u64, ProposeError>>>,
    outcome: Result<Vec<Result<Applied, Conflict>>, ProposeError>,
) {
    match outcome {
        Ok(results) => {
            for (done, result) in waiting.into_iter().zip(results) {
                let _ = done.send(result.map(|applied| applied.index).map_err(ProposeError::Conflict));
            }
        }
        Err(error) => {
            for done in waiting {
                let _ = done.send(Err(error.clone()));
            }
        }
    }
}

fn refused(error: &ClientWriteError<u64, crate::types::Member>, accepted: &AtomicBool) -> ProposeError {
    if accepted.load(Ordering::Acquire) {
        tracing::info!(%error, "leadership was lost with proposals on their way");
        return ProposeError::LeaderLost;
    }
    ProposeError::NoLeader
}

/// Why openraft went away.
fn gone(raft: &Raft) -> ProposeError {
    match &raft.metrics().borrow().running_state {
        Err(fatal) => stopped(fatal),
        Ok(()) => ProposeError::Stopped,
    }
}

/// What a dead openraft means to a caller.
pub(crate) fn stopped(fatal: &Fatal<u64>) -> ProposeError {
    match fatal {
        Fatal::StorageError(error) => ProposeError::Storage(error.to_string()),
        Fatal::Panicked | Fatal::Stopped => ProposeError::Stopped,
    }
}
