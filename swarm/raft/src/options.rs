//! How a node's Raft runs, and the bounds that hold everywhere in this crate.

use std::path::PathBuf;
use std::time::Duration;

use skep_seal::Key;

/// How a node's Raft runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftOptions {
    /// The folder for log and snapshots; made when it is missing; used by one process at a time.
    pub dir: PathBuf,
    /// This node's ID: 25 characters.
    pub node_id: String,
    /// Seals every record of the log and the snapshots. Always the same for one folder.
    pub key: Key,
    /// How often a leader is heard.
    pub heartbeat: Duration,
    /// A follower that has not heard a leader for a random time between this …
    pub election_min: Duration,
    /// … and this asks the others whether they miss the leader too, and stands for election if most do.
    pub election_max: Duration,
    /// Log entries between two snapshots, where the swarm's settings say nothing.
    pub snapshot_interval: u64,
    /// Entries that stay in the log after a snapshot, so that a follower a little behind needs no snapshot; again, where
    /// the settings say nothing.
    pub log_entries_kept: u64,
    /// How long [`crate::RaftNode::propose`] tries.
    pub propose_timeout: Duration,
}

impl RaftOptions {
    /// The defaults: a leader that dies is replaced within about a second on a LAN.
    pub fn new(dir: impl Into<PathBuf>, node_id: impl Into<String>, key: Key) -> Self {
        Self {
            dir: dir.into(),
            node_id: node_id.into(),
            key,
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(800),
            snapshot_interval: 10_000,
            log_entries_kept: 500,
            propose_timeout: Duration::from_secs(10),
        }
    }
}

/// Most bytes of one encoded transaction (swarmkit `manager/state/store/memory.go`, `MaxTransactionBytes`).
pub(crate) const TRANSACTION_BYTES_MAX: usize = 1_500_000;
/// A batch of proposals takes no further one beyond this size: an entry stays one short write.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Most proposals in one log entry.
pub(crate) const BATCH_PROPOSALS_MAX: usize = 256;
/// Proposals that wait for a batch; more callers wait in line.
pub(crate) const PROPOSAL_QUEUE: usize = 1024;
/// Batches on their way at once: one is being written while the next is replicated.
pub(crate) const BATCHES_IN_FLIGHT: usize = 2;
/// Most bytes of one request over the transport: some log entries, or one snapshot chunk.
pub(crate) const RPC_BYTES_MAX: usize = 16 << 20;
/// Bytes of log entries sent in one request, unless a single entry is larger.
pub(crate) const REPLICATION_BYTES_MAX: usize = 1 << 20;
/// Entries sent in one request.
pub(crate) const REPLICATION_ENTRIES_MAX: u64 = 256;
/// Bytes of a snapshot sent in one request.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// Most bytes of an encoded state: 10,000 services with 100,000 tasks stay well below.
pub(crate) const SNAPSHOT_BYTES_MAX: usize = 1 << 30;
/// How long the sending and installing of one snapshot chunk may take.
pub(crate) const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a change of the managers may take, catching up included.
pub(crate) const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(60);
/// Event batches kept for a slow subscriber; one that is further behind reads the state anew.
pub(crate) const EVENTS_KEPT: usize = 1024;
/// How long a proposal waits for a leader that is gone before it is refused: several elections fit into it.
pub(crate) const LEADERLESS_PATIENCE: Duration = Duration::from_secs(3);
/// The log is compacted also when it has grown by this much since the last snapshot, however few its entries are.
pub(crate) const LOG_BYTES_BETWEEN_SNAPSHOTS: u64 = 64 << 20;
/// A new manager gets its vote when it is at most this many entries behind where the log was.
pub(crate) const CATCH_UP_DISTANCE: u64 = 16;
