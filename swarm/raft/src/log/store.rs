//! The journal on a thread of its own, as openraft's log storage.
//!
//! openraft 0.9 waits for each append to be durable before it does anything else, so nothing is gained by queueing
//! several here: proposals are put together before they become entries (see `propose`).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::{Mutex, RwLock};
use skep_seal::Key;
use tokio::sync::{mpsc, oneshot};

use super::index::{Index, Planned};
use super::journal::{Journal, SEGMENT_BYTES};
use crate::StoreError;
use crate::options::REPLICATION_BYTES_MAX;
use crate::types::{Entry, LogId, StorageError, TypeConfig, Vote};

/// openraft's log storage over the journal. A clone reads and writes the same log.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    index: Arc<RwLock<Index>>,
    known: Arc<Mutex<Known>>,
    bytes: Arc<AtomicU64>,
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Known {
    vote: Option<Vote>,
    committed: Option<LogId>,
}

type Done = oneshot::Sender<Result<(), StoreError>>;

#[derive(Debug)]
enum Job {
    Append(Vec<Entry>, Done),
    Vote(Vote, Done),
    Committed(Option<LogId>),
    Truncate(u64, Done),
    Purge(LogId, Done),
    Close,
}

/// Jobs that wait; openraft has one at a time, and fire-and-forget `Committed` between them.
const JOB_QUEUE: usize = 64;

impl LogStore {
    /// Opens the log in `dir` and starts its thread, which ends with the last clone; `guard` is dropped then.
    pub(crate) fn open(dir: &Path, key: &Key, guard: impl Send + 'static) -> Result<Self, StoreError> {
        Self::with_segments(dir, key, SEGMENT_BYTES, guard)
    }

    pub(super) fn with_segments(
        dir: &Path,
        key: &Key,
        segment_bytes: u32,
        guard: impl Send + 'static,
    ) -> Result<Self, StoreError> {
        let journal = Journal::open(dir, key, segment_bytes)?;
        let head = journal.head();
        let (jobs, receiver) = mpsc::channel(JOB_QUEUE);
        let store = Self {
            index: journal.index(),
            known: Arc::new(Mutex::new(Known { vote: head.vote, committed: head.committed })),
            bytes: Arc::new(AtomicU64::new(journal.bytes())),
            jobs,
        };
        let bytes = Arc::clone(&store.bytes);
        std::thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || {
                run(journal, receiver, &bytes);
                drop(guard);
            })
            .map_err(StoreError::io("start a thread for", dir))?;
        Ok(store)
    }

    /// Ends the thread after the jobs that are there already. Later ones fail.
    pub(crate) fn close(&self) {
        // The queue is full only while the disk is stuck; then the thread is left to end by itself. Closed: it has ended.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.jobs.try_send(Job::Close) {
            tracing::warn!("the raft log did not take the request to close");
        }
    }

    /// What the log takes on the disk, roughly.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The last entry's ID.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.index.read().last()
    }

    async fn call(&self, job: impl FnOnce(Done) -> Job) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        self.jobs.send(job(done)).await.map_err(|_| StoreError::Failed)?;
        outcome.await.unwrap_or(Err(StoreError::Failed))
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let planned = self.index.read().plan(start, end, bytes_max);
        let needs_disk = planned.iter().any(Planned::needs_disk);
        let load = move || planned.into_iter().map(Planned::load).collect::<Result<Vec<_>, _>>();
        let entries = if needs_disk {
            tokio::task::spawn_blocking(load).await.unwrap_or(Err(StoreError::Failed))
        } else {
            load()
        };
        entries.map_err(|error| StorageIOError::read_logs(&error).into())
    }
}

fn run(mut journal: Journal, mut jobs: mpsc::Receiver<Job>, bytes: &AtomicU64) {
    while let Some(job) = jobs.blocking_recv() {
        let (outcome, done) = match job {
            Job::Append(entries, done) => (journal.append(entries), Some(done)),
            Job::Vote(vote, done) => (journal.vote(vote), Some(done)),
            Job::Committed(committed) => (journal.committed(committed), None),
            Job::Truncate(since, done) => (journal.truncate(since), Some(done)),
            Job::Purge(upto, done) => (journal.purge(upto), Some(done)),
            Job::Close => break,
        };
        bytes.store(journal.bytes(), Ordering::Relaxed);
        if let Err(error) = &outcome {
            tracing::error!(%error, "the raft log");
        }
        if let Some(done) = done {
            // Nobody waits any more: openraft was stopped.
            let _ = done.send(outcome);
        }
    }
    if let Err(error) = journal.sync() {
        tracing::warn!(%error, "closing the raft log");
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, REPLICATION_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let index = self.index.read();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        self.call(|done| Job::Vote(vote, done))
            .await
            .map_err(|error| StorageError::from(StorageIOError::write_vote(&error)))?;
        self.known.lock().vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.known.lock().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.known.lock().committed = committed;
        self.jobs
            .send(Job::Committed(committed))
            .await
            .map_err(|_| StorageError::from(StorageIOError::write_logs(&StoreError::Failed)))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        // Written later than the entries it is about, but not synced: after a power cut the log may end before it.
        let last = self.index.read().last();
        Ok(self.known.lock().committed.min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        for entry in &mut entries {
            if let EntryPayload::Normal(batch) = &mut entry.payload
                && let Some(accepted) = batch.accepted.take()
            {
                accepted.store(true, Ordering::Release);
            }
        }
        match self.call(|done| Job::Append(entries, done)).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(io::Error::other(error.to_string())));
                Err(StorageIOError::write_logs(&error).into())
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.call(|done| Job::Truncate(log_id.index, done))
            .await
            .map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.call(|done| Job::Purge(log_id, done))
            .await
            .map_err(|error| StorageIOError::write_logs(&error).into())
    }
}
