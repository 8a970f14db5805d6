//! The types that openraft is configured with.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use skep_state::{Conflict, Transaction};

openraft::declare_raft_types!(
    /// openraft, with our types.
    pub(crate) TypeConfig:
        D = Batch,
        R = Vec<Result<Applied, Conflict>>,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;

/// What one log entry carries: proposals that arrived together. openraft 0.9 syncs the log once for every entry, so
/// this is where concurrent proposals come to share an fsync. Each is applied or refused on its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// In the order in which they arrived.
    pub(crate) transactions: Vec<Transaction>,
    /// Set once the leader's log has the entry. Before that, a refusal means that nothing happened; after it, the entry
    /// may still be committed by another leader even though this one was told otherwise.
    #[serde(skip)]
    pub(crate) accepted: Option<Arc<AtomicBool>>,
}

/// That a transaction was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// At this index.
    pub(crate) index: u64,
}

/// A member as openraft stores it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The mesh's ID for it: 25 characters.
    pub(crate) node_id: String,
}

/// One of the managers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// Its node ID.
    pub node_id: String,
    /// Whether it votes; one that is still catching up does not.
    pub voter: bool,
    /// Whether it leads, as this node sees it.
    pub leader: bool,
}

/// Who leads, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader's node ID. None during an election, and when the leader (this node or another) has no majority.
    pub leader: Option<String>,
    /// The term that this node knows.
    pub term: u64,
}

/// The number that openraft knows a node by: the first 8 bytes, big-endian, of the SHA-256 of its ID. With 100
/// managers the chance of two equal ones is below 1 in 10^15; [`crate::RaftNode::add_manager`] refuses the second.
pub fn raft_id(node_id: &str) -> u64 {
    let digest = Sha256::digest(node_id.as_bytes());
    digest.iter().take(8).fold(0, |id, &byte| (id << 8) | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raft_ids_are_stable() {
        // From sha256sum: these numbers are in the logs of running swarms and must never change.
        assert_eq!(raft_id(""), 0xe3b0_c442_98fc_1c14);
        assert_eq!(raft_id("abc"), 0xba78_16bf_8f01_cfea);
    }
}
