//! One manager's Raft.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skep_state::{State, Transaction};
use tokio::sync::watch;

use crate::types::Leadership;
use crate::{Manager, MembershipError, OpenError, ProposeError, RaftOptions, ReadError, Subscription, Transport};

/// One manager's Raft. Cloning gives another handle to the same one; it stops at [`Self::shutdown`] or with the last
/// handle.
#[derive(Clone)]
pub struct RaftNode {}

impl RaftNode {
    /// Opens (or makes) the log and the snapshot in `options.dir`, brings the state up to what is known to be
    /// committed, and starts. A folder that was never initialised waits to be added by a leader. Call inside a tokio
    /// runtime.
    pub async fn open(_options: RaftOptions, _transport: Arc<dyn Transport>) -> Result<Self, OpenError> {
        Err(OpenError::Start("not yet".to_owned()))
    }

    /// Makes a swarm of this node alone, with `first` as its first transaction. Returns its index.
    pub async fn initialize(&self, _first: Transaction) -> Result<u64, MembershipError> {
        Err(MembershipError::Stopped)
    }

    /// The other side of [`Transport::send`]: what `from_node_id` (as the mesh has proven it) sent. Garbage gives an
    /// answer that says so. May take as long as a proposal does: do not serialise calls of one peer.
    pub async fn handle_rpc(&self, _from_node_id: &str, _rpc: Bytes) -> Bytes {
        Bytes::new()
    }

    /// Proposes a transaction, at the leader or through it, and returns its index once the state on *this* node has
    /// it. Waits for an election for a few seconds; after that a swarm without a leader is refused at once.
    pub async fn propose(&self, transaction: Transaction) -> Result<u64, ProposeError> {
        self.propose_within(transaction, Duration::from_secs(10)).await
    }

    /// [`Self::propose`] with a time limit of its own.
    pub async fn propose_within(&self, _tx: Transaction, _timeout: Duration) -> Result<u64, ProposeError> {
        Err(ProposeError::Stopped)
    }

    /// Makes a node a manager: it receives the log first, then gets its vote. Goes through the leader. It must have
    /// opened its Raft and be reachable. Doing it again is no error.
    pub async fn add_manager(&self, _node_id: &str) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped)
    }

    /// Takes a manager out (it may be the leader, and need not be reachable). Goes through the leader. Doing it again
    /// is no error.
    pub async fn remove_manager(&self, _node_id: &str) -> Result<(), MembershipError> {
        Err(MembershipError::Stopped)
    }

    /// The managers, as this node knows them, in order of their IDs.
    pub fn members(&self) -> Vec<Manager> {
        Vec::new()
    }

    /// The leader's node ID.
    pub fn leader(&self) -> Option<String> {
        None
    }

    /// Whether this node leads, with a majority that has answered lately.
    pub fn is_leader(&self) -> bool {
        false
    }

    /// The term that this node knows.
    pub fn term(&self) -> u64 {
        0
    }

    /// Follows who leads.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::default()).1
    }

    /// Reads the state as this node has it (perhaps a little behind: see [`Self::ensure_linearizable`]). Keep it
    /// short: nothing is applied meanwhile. Must not call `read` again inside.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&State::default())
    }

    /// Follows the state. Subscribe first, then read: nothing falls between.
    pub fn subscribe(&self) -> Subscription {
        Subscription { applied: watch::channel(0).1, updates: tokio::sync::broadcast::channel(1).1 }
    }

    /// After this, [`Self::read`] sees everything that was acknowledged anywhere before it was called.
    pub async fn ensure_linearizable(&self) -> Result<(), ReadError> {
        Err(ReadError::Stopped)
    }

    /// Stops; returns when the log is closed and the folder is free.
    pub async fn shutdown(&self) {}
}
