//! Why something did not work: one enum for each thing a caller does.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_state::Conflict;

/// The words that Docker's users know for a swarm without a leader.
const NO_LEADER: &str = "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.";

/// Why the log or the snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file holds what this program did not write there. The file is left as it is.
    #[error("{} is damaged at byte {offset}: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A file was sealed with another key. It is left as it is.
    #[error("wrong key: {} is sealed with another one (at byte {offset})", path.display())]
    WrongKey {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// Something cannot be encoded, or is too large for one record.
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// An earlier write failed. What of it is on the disk is unknown, so that nothing more is written until the log is
    /// opened again.
    #[error("the log is closed since an earlier write failed")]
    Failed,
    /// The caller broke the order of the log.
    #[error("entry {index} does not follow entry {last}")]
    Order {
        /// The entry given.
        index: u64,
        /// The last one in the log.
        last: u64,
    },
}

impl StoreError {
    /// For `map_err` after a file operation.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Why [`crate::RaftNode::open`] failed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log or the snapshot.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another process has the folder.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The folder belongs to another node.
    #[error("{} belongs to node {found}, not to {expected}", path.display())]
    OtherNode {
        /// The file that says so.
        path: PathBuf,
        /// Whose folder it is.
        found: String,
        /// Who wanted it.
        expected: String,
    },
    /// The options contradict each other.
    #[error("raft options: {0}")]
    Options(String),
    /// openraft did not start.
    #[error("raft did not start: {0}")]
    Start(String),
}

/// Why the folder could not be changed while no Raft runs in it.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// The folder does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no Raft in it: nothing to recover.
    #[error("{} holds no state of a swarm", dir.display())]
    Empty {
        /// The folder.
        dir: PathBuf,
    },
    /// There is one: it is not overwritten.
    #[error("{} holds the state of a swarm already", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
}

impl From<StoreError> for RaftError {
    fn from(error: StoreError) -> Self {
        Self::Open(error.into())
    }
}

/// Why [`crate::RaftNode::propose`] or [`crate::RaftNode::read_barrier`] failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ProposeError {
    /// The state refused it; nothing was changed.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// There is no leader to take it. Certainly not accepted: it may be proposed again.
    #[error("{NO_LEADER}")]
    NoLeader,
    /// A leader took it, but was lost before it answered: the change may or may not have been made, or may yet be.
    /// Proposing the same objects with the same versions again is safe: whichever comes second is a conflict.
    #[error("the leader was lost before it confirmed the change: it may or may not have been made")]
    LeaderLost,
    /// The time is up: as for [`Self::LeaderLost`], the change may have been made.
    #[error("the change was not confirmed in time: it may or may not have been made")]
    Timeout,
    /// Of a read: this manager did not catch up with the leader in time.
    #[error("this manager did not catch up with the leader in time")]
    Behind,
    /// More bytes than one transaction may have.
    #[error("the change has {bytes} bytes, more than the {limit} that fit")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// This node's Raft is shut down.
    #[error("raft is stopped on this node")]
    Stopped,
    /// This node's (or the leader's) disk failed; its Raft has stopped.
    #[error("the raft log failed: {0}")]
    Storage(String),
}

/// Why the managers could not be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MembershipError {
    /// No leader to do it.
    #[error("{NO_LEADER}")]
    NoLeader,
    /// The node did not receive the log in time; it was taken out again.
    #[error("manager {node_id} did not catch up in time; is it reachable?")]
    NotCaughtUp {
        /// The node.
        node_id: String,
    },
    /// The last manager cannot go.
    #[error("manager {node_id} is the last one")]
    LastManager {
        /// The node.
        node_id: String,
    },
    /// Two node IDs with one Raft ID, or one that is too long.
    #[error("node ID {node_id} cannot be used: {reason}")]
    BadNodeId {
        /// The node.
        node_id: String,
        /// Why.
        reason: String,
    },
    /// This node already belongs to a swarm.
    #[error("this node is already part of a swarm")]
    AlreadyInitialized,
    /// Not confirmed in time, or the leader was lost meanwhile: look at the members before trying again.
    #[error("the change of managers was not confirmed: {0}")]
    Unconfirmed(String),
    /// The first transaction was not accepted.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// This node's Raft is shut down.
    #[error("raft is stopped on this node")]
    Stopped,
}
