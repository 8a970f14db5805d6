//! The state machine: the state in memory, and its snapshots on disk.
//!
//! The state itself is not written at every change: after a restart it is the snapshot plus the log behind it.
//!
//! - `snapshot`: the snapshot file.

mod snapshot;

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use parking_lot::{Mutex, RwLock};
use skep_seal::Key;
use skep_state::{Conflict, State};
use tokio::sync::{broadcast, watch};

use crate::options::EVENTS_KEPT;
use crate::types::{Applied, Entry, LogId, SnapshotMeta, StorageError, StoredMembership, TypeConfig};
use crate::{StoreError, Subscription, Update, retention};

/// The state machine. A clone is another handle to the same one.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    key: Key,
    state: Arc<RwLock<State>>,
    position: Mutex<Position>,
    /// Held while the snapshot file is replaced; what it contains.
    snapshot: Mutex<Option<SnapshotMeta>>,
    applied: watch::Sender<u64>,
    updates: broadcast::Sender<Update>,
}

/// How far the state is. Changes together with the state, under the state's write lock.
#[derive(Debug, Clone, Default)]
struct Position {
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Machine {
    /// Loads the snapshot at `path`, if there is one.
    pub(crate) fn open(path: PathBuf, key: &Key) -> Result<Self, StoreError> {
        let loaded = snapshot::load(&path, key)?;
        let (meta, state) = match loaded {
            Some((meta, bytes)) => {
                let state = snapshot::decode(&bytes).map_err(|reason| StoreError::Corrupt {
                    path: path.clone(),
                    offset: 0,
                    reason,
                })?;
                (Some(meta), state)
            }
            None => (None, State::default()),
        };
        let position = meta.as_ref().map_or_else(Position::default, |meta| Position {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        });
        let applied = watch::Sender::new(position.applied.map_or(0, |log_id| log_id.index));
        let shared = Shared {
            path,
            key: key.clone(),
            state: Arc::new(RwLock::new(state)),
            position: Mutex::new(position),
            snapshot: Mutex::new(meta),
            applied,
            updates: broadcast::Sender::new(EVENTS_KEPT),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state.read())
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription { applied: self.shared.applied.subscribe(), updates: self.shared.updates.subscribe() }
    }

    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.shared.applied.subscribe()
    }

    /// The last entry that was applied.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.shared.position.lock().applied
    }

    /// The index after it.
    pub(crate) fn next_index(&self) -> u64 {
        self.applied().map_or(0, |log_id| log_id.index + 1)
    }

    /// Applies entries outside of Raft.
    pub(crate) fn take(&self, entries: Vec<Entry>) {
        for entry in entries {
            self.apply_entry(entry);
        }
    }

    /// Writes a snapshot of the state (or of another one) with another membership, outside of Raft. Blocks.
    pub(crate) fn rewrite(
        &self,
        last: LogId,
        membership: StoredMembership,
        state: Option<State>,
    ) -> Result<(), StoreError> {
        let bytes = match &state {
            Some(state) => snapshot::encode(state)?,
            None => snapshot::encode(&self.shared.state.read())?,
        };
        let snapshot_id = format!("{last}-alone");
        let meta = SnapshotMeta { last_log_id: Some(last), last_membership: membership, snapshot_id };
        self.shared.store(&meta, &bytes)
    }

    fn apply_entry(&self, entry: Entry) -> Vec<Result<Applied, Conflict>> {
        let index = entry.log_id.index;
        let mut results = Vec::new();
        let mut events = Vec::new();
        let mut state = self.shared.state.write();
        let mut position = self.shared.position.lock();
        position.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                position.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            EntryPayload::Normal(batch) => {
                for transaction in &batch.transactions {
                    results.push(state.apply(index, transaction).map(|happened| {
                        events.extend(happened);
                        Applied { index }
                    }));
                }
            }
        }
        drop(position);
        drop(state);
        if !events.is_empty() {
            // Nobody listens: fine.
            let _ = self.shared.updates.send(Update::Events { index, events: events.into() });
        }
        self.shared.applied.send_replace(index);
        results
    }

    fn snapshot_bytes(&self) -> Result<Option<Snapshot<TypeConfig>>, StoreError> {
        // The lock keeps meta and file together.
        let current = self.shared.snapshot.lock();
        if current.is_none() {
            return Ok(None);
        }
        Ok(snapshot::load(&self.shared.path, &self.shared.key)?
            .map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

impl Shared {
    /// Writes a snapshot, unless there is a newer one.
    fn store(&self, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), StoreError> {
        let mut current = self.snapshot.lock();
        if current.as_ref().is_some_and(|current| current.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        // Nobody reads them back; they are for an operator who wants to look at the past.
        let kept = retention::old_snapshots(&self.state.read());
        if let Err(error) = snapshot::keep_old(&self.path, current.as_ref(), kept) {
            tracing::warn!(%error, "cannot keep or remove old snapshots");
        }
        snapshot::store(&self.path, &self.key, meta, bytes)?;
        *current = Some(meta.clone());
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let position = self.shared.position.lock();
        Ok((position.applied, position.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Result<Applied, Conflict>>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(entries.into_iter().map(|entry| self.apply_entry(entry)).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // The clone is what applying waits for; encoding and writing it is not.
        let state = self.shared.state.read();
        let position = self.shared.position.lock().clone();
        Builder { shared: Arc::clone(&self.shared), state: Some(state.clone()), position }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let shared = Arc::clone(&self.shared);
        let meta = meta.clone();
        let bytes = snapshot.into_inner();
        let signature = meta.signature();
        let install = move || {
            let new = snapshot::decode(&bytes)
                .map_err(|reason| StoreError::Encode { what: "the snapshot that was received", reason })?;
            shared.store(&meta, &bytes)?;
            let index = meta.last_log_id.map_or(0, |log_id| log_id.index);
            let mut state = shared.state.write();
            let mut position = shared.position.lock();
            *state = new;
            *position = Position { applied: meta.last_log_id, membership: meta.last_membership };
            drop(position);
            drop(state);
            let _ = shared.updates.send(Update::Resync);
            shared.applied.send_replace(index);
            Ok(())
        };
        tokio::task::spawn_blocking(install)
            .await
            .unwrap_or(Err(StoreError::Failed))
            .map_err(|error| StorageIOError::write_snapshot(Some(signature), &error).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let machine = self.clone();
        tokio::task::spawn_blocking(move || machine.snapshot_bytes())
            .await
            .unwrap_or(Err(StoreError::Failed))
            .map_err(|error| StorageIOError::read_snapshot(None, &error).into())
    }
}

/// Writes a snapshot of the state as it was when this was made.
#[derive(Debug)]
pub(crate) struct Builder {
    shared: Arc<Shared>,
    state: Option<State>,
    position: Position,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let shared = Arc::clone(&self.shared);
        let meta = SnapshotMeta {
            last_log_id: self.position.applied,
            last_membership: self.position.membership.clone(),
            snapshot_id: self.position.applied.map_or_else(String::new, |log_id| log_id.to_string()),
        };
        let signature = meta.signature();
        let state = self.state.take().unwrap_or_else(|| shared.state.read().clone());
        let build = move || {
            let bytes = snapshot::encode(&state)?;
            shared.store(&meta, &bytes)?;
            Ok((meta, bytes))
        };
        tokio::task::spawn_blocking(build)
            .await
            .unwrap_or(Err(StoreError::Failed))
            .map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
            .map_err(|error| StorageIOError::write_snapshot(Some(signature), &error).into())
    }
}
