//! Following the state as it changes.

use std::sync::Arc;

use skep_state::Event;
use tokio::sync::{broadcast, watch};

/// What happened since the last call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// These objects changed, up to this index.
    Events {
        /// The Raft index of the change.
        index: u64,
        /// In order.
        events: Arc<[Event]>,
    },
    /// Events are missing (the subscriber was too slow, or the state came as a snapshot): read the whole state.
    Resync,
}

/// A follower of the state. It loses no wake-up: what is applied after [`crate::RaftNode::subscribe`] returned is
/// either delivered or announced as [`Update::Resync`].
#[derive(Debug)]
pub struct Subscription {
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) updates: broadcast::Receiver<Update>,
}

impl Subscription {
    /// The next update; `None` once this node's Raft is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Update> {
        match self.updates.recv().await {
            Ok(update) => Some(update),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Update::Resync),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next update if there is one already.
    pub fn try_next(&mut self) -> Option<Update> {
        match self.updates.try_recv() {
            Ok(update) => Some(update),
            Err(broadcast::error::TryRecvError::Lagged(_)) => Some(Update::Resync),
            Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => None,
        }
    }

    /// The highest index that the state contains. Jumps; never goes back.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Waits until the state contains `index`; false once this node's Raft is gone. Cancel-safe.
    pub async fn applied_at_least(&mut self, index: u64) -> bool {
        self.applied.wait_for(|&applied| applied >= index).await.is_ok()
    }
}
