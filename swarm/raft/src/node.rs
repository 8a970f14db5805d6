//! One manager's Raft.
//!
//! ```text
//!  open ──▶ Waiting ──(added by a leader, or `initialize`)──▶ Member ──▶ … elections: see `elect` …
//!             │                                                 │  a write or fsync fails: Failed. Raft stops, every
//!             └─────────────── shutdown / last handle ──────────┴─▶ Stopped     call says so; open again to go on
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{CheckIsLeaderError, InitializeError, RaftError};
use openraft::raft::AppendEntriesResponse;
use openraft::{Config, SnapshotPolicy};
use skep_state::{State, Transaction};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::elect::{Elector, Pulse};
use crate::files::write_whole;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::network::{self, Network};
use crate::options::{
    MEMBERSHIP_TIMEOUT, REPLICATION_ENTRIES_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_CHUNK_TIMEOUT,
};
use crate::propose::{self, Proposer};
use crate::rpc::{self, Answer, Request};
use crate::types::{Leadership, Member, Raft, raft_id};
use crate::{
    Manager, MembershipError, OpenError, ProposeError, RaftOptions, StoreError, Subscription, Transport,
    membership,
};

/// One manager's Raft. Cloning gives another handle to the same one; it stops at [`Self::shutdown`] or with the last
/// handle.
#[derive(Clone)]
pub struct RaftNode {
    inner: Arc<Inner>,
}

struct Inner {
    options: Arc<RaftOptions>,
    id: u64,
    raft: Raft,
    machine: Machine,
    log: LogStore,
    transport: Arc<dyn Transport>,
    pulse: Arc<Pulse>,
    proposer: Proposer,
    /// One change of the managers at a time.
    changing: tokio::sync::Mutex<()>,
    tasks: [JoinHandle<()>; 2],
    /// Changes to true once the log is closed.
    closed: watch::Receiver<bool>,
    /// Looks for the read index: how many were begun, and the last one's number and outcome.
    reads_begun: AtomicU64,
    last_read: tokio::sync::Mutex<(u64, Result<u64, ProposeError>)>,
    /// Whether `shutdown` was called: openraft wants to hear of it once.
    stopped: AtomicBool,
}

impl RaftNode {
    /// Opens (or makes) the log and the snapshot in `options.dir`, brings the state up to what is known to be
    /// committed, and starts. A folder that was never initialised waits to be added by a leader. Call inside a tokio
    /// runtime.
    pub async fn open(options: RaftOptions, transport: Arc<dyn Transport>) -> Result<Self, OpenError> {
        let config = config(&options)?;
        let (closing, closed) = watch::channel(false);
        let (log, machine) = open_stores(&options, closing).await?;
        let options = Arc::new(options);
        let id = raft_id(&options.node_id);
        let network = Network { transport: Arc::clone(&transport), retry: options.heartbeat };
        let raft = Raft::new(id, Arc::new(config), network, log.clone(), machine.clone())
            .await
            .map_err(|error| OpenError::Start(error.to_string()))?;
        let pulse = Arc::new(Pulse::new());
        let elector = Elector {
            options: Arc::clone(&options),
            id,
            raft: raft.clone(),
            log: log.clone(),
            machine: machine.clone(),
            transport: Arc::clone(&transport),
            pulse: Arc::clone(&pulse),
        };
        let (queue, queued) = propose::queue();
        let tasks = [tokio::spawn(elector.run()), tokio::spawn(propose::batch(raft.clone(), queued))];
        let proposer = Proposer {
            options: Arc::clone(&options),
            transport: Arc::clone(&transport),
            pulse: Arc::clone(&pulse),
            machine: machine.clone(),
            queue,
        };
        let changing = tokio::sync::Mutex::new(());
        let inner = Inner {
            options,
            id,
            raft,
            machine,
            log,
            transport,
            pulse,
            proposer,
            changing,
            tasks,
            closed,
            reads_begun: AtomicU64::new(0),
            last_read: tokio::sync::Mutex::new((0, Err(ProposeError::NoLeader))),
            stopped: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes a swarm of this node alone, with `first` as its first transaction. Returns its index.
    pub async fn initialize(&self, first: Transaction) -> Result<u64, MembershipError> {
        let inner = &self.inner;
        let member = Member { node_id: inner.options.node_id.clone() };
        match inner.raft.initialize(BTreeMap::from([(inner.id, member)])).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                return Err(MembershipError::AlreadyInitialized);
            }
            Err(RaftError::APIError(error @ InitializeError::NotInMembers(_))) => {
                return Err(MembershipError::Unconfirmed(error.to_string()));
            }
            Err(RaftError::Fatal(_)) => return Err(MembershipError::Stopped),
        }
        if !membership::leads(&inner.raft).await {
            return Err(MembershipError::NoLeader);
        }
        Ok(self.propose(first).await?)
    }

    /// Whether this node was ever part of a swarm: its log or snapshot has something in it. Then
    /// [`Self::initialize`] would be refused.
    pub fn is_initialized(&self) -> bool {
        self.inner.log.last().is_some() || self.inner.raft.metrics().borrow().last_applied.is_some()
    }

    /// The other side of [`Transport::send`]: what `from_node_id` (as the mesh has proven it) sent. Garbage gives an
    /// answer that says so. May take as long as a proposal does: do not serialise calls of one peer.
    pub async fn handle_rpc(&self, from_node_id: &str, rpc: Bytes) -> Bytes {
        let answer = match rpc::decode(&rpc) {
            Ok((request, raw)) => self.answer(from_node_id, request, raw).await,
            Err(reason) => Answer::Bad(reason),
        };
        rpc::encode(&answer, &[]).unwrap_or_else(|reason| {
            tracing::warn!(reason, from_node_id, "an answer does not encode");
            rpc::encode(&Answer::Bad(reason), &[]).unwrap_or_default()
        })
    }

    /// Proposes a transaction, at the leader or through it, and returns its index once the state on *this* node has
    /// it. Waits for an election for a few seconds; after that a swarm without a leader is refused at once.
    pub async fn propose(&self, transaction: Transaction) -> Result<u64, ProposeError> {
        self.propose_within(transaction, self.inner.options.propose_timeout).await
    }

    /// [`Self::propose`] with a time limit of its own.
    pub async fn propose_within(
        &self,
        transaction: Transaction,
        timeout: Duration,
    ) -> Result<u64, ProposeError> {
        self.running()?;
        self.inner.proposer.propose(transaction, timeout).await
    }

    /// Makes a node a manager: it receives the log first, then gets its vote. Goes through the leader. It must have
    /// opened its Raft and be reachable. Doing it again is no error.
    pub async fn add_manager(&self, node_id: &str) -> Result<(), MembershipError> {
        self.change(Request::AddManager(node_id.to_owned())).await
    }

    /// Takes a manager out (it may be the leader, and need not be reachable). Goes through the leader. Doing it again
    /// is no error.
    pub async fn remove_manager(&self, node_id: &str) -> Result<(), MembershipError> {
        self.change(Request::RemoveManager(node_id.to_owned())).await
    }

    /// The managers, as this node knows them, in order of their IDs.
    pub fn members(&self) -> Vec<Manager> {
        membership::list(&self.inner.raft, &self.inner.pulse.watch().borrow())
    }

    /// The leader's node ID.
    pub fn leader(&self) -> Option<String> {
        self.inner.pulse.leader()
    }

    /// Whether this node leads, with a majority that has answered lately.
    pub fn is_leader(&self) -> bool {
        self.leader().is_some_and(|leader| leader == self.inner.options.node_id)
    }

    /// The term that this node knows.
    pub fn term(&self) -> u64 {
        self.inner.raft.metrics().borrow().current_term
    }

    /// Follows who leads.
    pub fn watch_leader(&self) -> watch::Receiver<Leadership> {
        self.inner.pulse.watch()
    }

    /// Reads the state as this node has it (perhaps a little behind: see [`Self::read_barrier`]). Keep it
    /// short: nothing is applied meanwhile. Must not call `read` again inside.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        self.inner.machine.read(look)
    }

    /// Follows the state. Subscribe first, then read: nothing falls between.
    pub fn subscribe(&self) -> Subscription {
        self.inner.machine.subscribe()
    }

    /// After this, [`Self::read`] sees everything that was acknowledged anywhere before it was called.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        let inner = &self.inner;
        let deadline = Instant::now() + inner.options.propose_timeout;
        for _ in 0..READ_ATTEMPTS {
            let leader = inner.proposer.leader(deadline).await?;
            let index = if leader == inner.options.node_id {
                self.read_index().await
            } else {
                let limit = inner.options.election_max;
                match network::call(&*inner.transport, &leader, &Request::ReadIndex, &[], limit).await {
                    Ok(Answer::ReadIndex(index)) => index,
                    _ => Err(ProposeError::NoLeader),
                }
            };
            match index {
                Ok(index) => {
                    let mut applied = inner.machine.watch_applied();
                    let caught_up = applied.wait_for(|&applied| applied >= index);
                    return match tokio::time::timeout_at(deadline, caught_up).await {
                        Ok(Ok(_)) => Ok(()),
                        Ok(Err(_)) => Err(ProposeError::Stopped),
                        Err(_) => Err(ProposeError::Behind),
                    };
                }
                Err(ProposeError::NoLeader) => tokio::time::sleep(inner.options.heartbeat).await,
                Err(error) => return Err(error),
            }
        }
        Err(ProposeError::NoLeader)
    }

    /// Stops; returns when the log is closed and the folder is free.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        for task in &inner.tasks {
            task.abort();
        }
        if !inner.stopped.swap(true, Ordering::AcqRel)
            && let Err(error) = inner.raft.shutdown().await
        {
            tracing::warn!(%error, "stopping raft");
        }
        inner.log.close();
        // An error is as good: the log's thread is gone.
        let _ = inner.closed.clone().wait_for(|&closed| closed).await;
    }

    fn running(&self) -> Result<(), ProposeError> {
        self.inner.raft.metrics().borrow().running_state.as_ref().map_err(propose::stopped).copied()
    }

    async fn answer(&self, from: &str, request: Request, raw: &[u8]) -> Answer {
        let inner = &self.inner;
        match request {
            Request::Append(request) => {
                if let Err(reason) = speaks_for_itself(from, &request.vote) {
                    return Answer::Bad(reason);
                }
                match inner.raft.append_entries(request).await {
                    Ok(answer) => {
                        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                            inner.pulse.heard();
                        }
                        Answer::Append(answer)
                    }
                    Err(error) => Answer::Bad(error.to_string()),
                }
            }
            Request::Vote(request) => {
                if let Err(reason) = speaks_for_itself(from, &request.vote) {
                    return Answer::Bad(reason);
                }
                match inner.raft.vote(request).await {
                    Ok(answer) => {
                        if answer.vote_granted {
                            inner.pulse.granted();
                        }
                        Answer::Vote(answer)
                    }
                    Err(error) => Answer::Bad(error.to_string()),
                }
            }
            Request::Snapshot(mut request) => {
                if let Err(reason) = speaks_for_itself(from, &request.vote) {
                    return Answer::Bad(reason);
                }
                let end = request.offset.saturating_add(raw.len() as u64);
                if end > SNAPSHOT_BYTES_MAX as u64 {
                    return Answer::Bad(format!("a snapshot of more than {SNAPSHOT_BYTES_MAX} bytes"));
                }
                let vote = request.vote;
                request.data = raw.to_vec();
                let answer = inner.raft.install_snapshot(request).await;
                if answer.as_ref().is_ok_and(|answer| answer.vote <= vote) {
                    inner.pulse.heard();
                }
                Answer::Snapshot(answer)
            }
            Request::PreVote { last } => {
                Answer::PreVote { granted: inner.pulse.would_grant(&inner.options, last, inner.log.last()) }
            }
            Request::Propose { transaction, timeout_ms } => {
                let timeout = Duration::from_millis(timeout_ms).min(inner.options.propose_timeout * 2);
                Answer::Propose(inner.proposer.propose_for_peer(transaction, timeout).await)
            }
            Request::ReadIndex => Answer::ReadIndex(self.read_index().await),
            change @ (Request::AddManager(_) | Request::RemoveManager(_)) => {
                Answer::Membership(self.change_here(&change).await)
            }
        }
    }

    /// Up to where a read must have applied. Asking a majority answers all who came before it was asked, so that many
    /// readers cost one round.
    async fn read_index(&self) -> Result<u64, ProposeError> {
        let inner = &self.inner;
        let begun_before = inner.reads_begun.load(Ordering::Acquire);
        let mut last = inner.last_read.lock().await;
        if last.0 > begun_before {
            return last.1.clone();
        }
        let number = inner.reads_begun.fetch_add(1, Ordering::AcqRel) + 1;
        let outcome = self.ask_for_read_index().await;
        *last = (number, outcome.clone());
        outcome
    }

    async fn ask_for_read_index(&self) -> Result<u64, ProposeError> {
        match self.inner.raft.get_read_log_id().await {
            Ok((read, _)) => Ok(read.map_or(0, |log_id| log_id.index)),
            Err(RaftError::APIError(
                CheckIsLeaderError::ForwardToLeader(_) | CheckIsLeaderError::QuorumNotEnough(_),
            )) => Err(ProposeError::NoLeader),
            Err(RaftError::Fatal(_)) => Err(ProposeError::Stopped),
        }
    }

    async fn change(&self, change: Request) -> Result<(), MembershipError> {
        let inner = &self.inner;
        self.running().map_err(|_| MembershipError::Stopped)?;
        let deadline = Instant::now() + inner.options.propose_timeout;
        let leader = inner.proposer.leader(deadline).await.map_err(|_| MembershipError::NoLeader)?;
        if leader == inner.options.node_id {
            return self.change_here(&change).await;
        }
        match network::call(&*inner.transport, &leader, &change, &[], MEMBERSHIP_TIMEOUT).await {
            Ok(Answer::Membership(outcome)) => outcome,
            Ok(_) => Err(MembershipError::Unconfirmed("the leader did not understand".to_owned())),
            Err(error) => Err(MembershipError::Unconfirmed(error.to_string())),
        }
    }

    async fn change_here(&self, change: &Request) -> Result<(), MembershipError> {
        let inner = &self.inner;
        let _one_at_a_time = inner.changing.lock().await;
        match change {
            Request::AddManager(node_id) if node_id.is_empty() || node_id.len() > NODE_ID_BYTES_MAX => {
                let reason = format!("it must have 1 to {NODE_ID_BYTES_MAX} characters");
                Err(MembershipError::BadNodeId {
                    node_id: node_id.chars().take(NODE_ID_BYTES_MAX).collect(),
                    reason,
                })
            }
            Request::AddManager(node_id) => membership::add(&inner.raft, node_id).await,
            Request::RemoveManager(node_id) => membership::remove(&inner.raft, node_id).await,
            _ => Err(MembershipError::Unconfirmed("not a change of managers".to_owned())),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if self.stopped.load(Ordering::Acquire) {
            return;
        }
        // openraft's core keeps itself alive: it has to be told. Without a runtime it died with the runtime.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (raft, log) = (self.raft.clone(), self.log.clone());
            runtime.spawn(async move {
                let _ = raft.shutdown().await;
                log.close();
            });
        }
    }
}

/// A Raft message must come from the node in whose name it is.
fn speaks_for_itself(from: &str, vote: &crate::types::Vote) -> Result<(), String> {
    if vote.leader_id.node_id == raft_id(from) {
        return Ok(());
    }
    Err(format!("manager {from} speaks for another one"))
}

pub(crate) async fn open_stores(
    options: &RaftOptions,
    closing: watch::Sender<bool>,
) -> Result<(LogStore, Machine), OpenError> {
    let dir = options.dir.clone();
    let (node_id, key) = (options.node_id.clone(), options.key.clone());
    let open = move || {
        std::fs::create_dir_all(&dir).map_err(StoreError::io("make folder", &dir))?;
        let lock = lock(&dir)?;
        own(&dir, &node_id)?;
        let machine = Machine::open(dir.join("snapshot"), &key)?;
        let log = LogStore::open(&dir.join("log"), &key, OnClose { lock, closing })?;
        Ok((log, machine))
    };
    tokio::task::spawn_blocking(open).await.map_err(|error| OpenError::Start(error.to_string()))?
}

/// Lives as long as the log's thread.
struct OnClose {
    lock: File,
    closing: watch::Sender<bool>,
}

impl Drop for OnClose {
    fn drop(&mut self) {
        // Explicitly, so that whoever waits for `closing` finds the folder free.
        let _ = self.lock.unlock();
        self.closing.send_replace(true);
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(StoreError::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse { path }),
        Err(std::fs::TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error).into()),
    }
}

/// Makes the folder this node's, or refuses if it is another's: two nodes with one log would vote twice.
fn own(dir: &Path, node_id: &str) -> Result<(), OpenError> {
    let path = dir.join("node");
    match std::fs::read_to_string(&path) {
        Ok(found) if found == node_id => Ok(()),
        Ok(found) => Err(OpenError::OtherNode { path, found, expected: node_id.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_whole(&path, node_id.as_bytes())?;
            Ok(())
        }
        Err(error) => Err(StoreError::io("read", &path)(error).into()),
    }
}

fn config(options: &RaftOptions) -> Result<Config, OpenError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let heartbeat = ms(options.heartbeat);
    if options.heartbeat * 3 > options.election_min
        || options.election_min >= options.election_max
        || heartbeat == 0
    {
        let reason = "heartbeat * 3 <= election_min < election_max is needed".to_owned();
        return Err(OpenError::Options(reason));
    }
    if options.node_id.is_empty() || options.node_id.len() > NODE_ID_BYTES_MAX {
        return Err(OpenError::Options(format!(
            "a node ID of 1 to {NODE_ID_BYTES_MAX} characters is needed"
        )));
    }
    // openraft's own timer is off (see `elect`). What is left of its election times: the lease during which a node
    // that hears a leader gives no vote (the maximum; it must be over when `elect` lets a node stand), and how long a
    // candidate waits for an answer (the minimum).
    let lease = ms(options.election_min).saturating_sub(heartbeat / 2);
    Config {
        cluster_name: "skep".to_owned(),
        heartbeat_interval: heartbeat,
        election_timeout_min: lease - 1,
        election_timeout_max: lease,
        enable_elect: false,
        install_snapshot_timeout: ms(SNAPSHOT_CHUNK_TIMEOUT),
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES as u64,
        max_payload_entries: REPLICATION_ENTRIES_MAX,
        // Both are seen to by `retention`, which follows the swarm's settings.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Must exceed the snapshot's interval, or a snapshot would not bring a follower near enough.
        replication_lag_threshold: options.snapshot_interval.saturating_mul(2),
        ..Config::default()
    }
    .validate()
    .map_err(|error| OpenError::Options(error.to_string()))
}

/// Node IDs have 25 characters; tests have shorter ones.
const NODE_ID_BYTES_MAX: usize = 64;
/// How often a linearizable read asks for the leader's index.
const READ_ATTEMPTS: usize = 5;

#[cfg(test)]
mod tests;
