//! The snapshot file: records of the log's kind, so that the same checks and the same seal hold for it.
//!
//! ```text
//! snapshot   [SnapshotHead: what it contains][SnapshotBody: 1 MiB]…[SnapshotBody][SnapshotEnd: length of the body]
//! ```
//! Older ones that are kept are `snapshot-<entry>` beside it. It is replaced whole (temporary name, fsync, rename, fsync of the folder), so it is never torn: whatever does not
//! check is corruption.

use std::io::ErrorKind;
use std::path::Path;

use skep_seal::Key;
use skep_state::State;

use crate::StoreError;
use crate::files::write_whole;
use crate::log::record::{self, Kind};
use crate::log::sealed::FileSeal;
use crate::options::SNAPSHOT_BYTES_MAX;
use crate::types::SnapshotMeta;

pub(super) fn encode(state: &State) -> Result<Vec<u8>, StoreError> {
    let bytes = rmp_serde::to_vec_named(state)
        .map_err(|error| StoreError::Encode { what: "a snapshot", reason: error.to_string() })?;
    if bytes.len() > SNAPSHOT_BYTES_MAX {
        let reason = format!("{} bytes are more than {SNAPSHOT_BYTES_MAX}", bytes.len());
        return Err(StoreError::Encode { what: "a snapshot", reason });
    }
    Ok(bytes)
}

pub(super) fn decode(bytes: &[u8]) -> Result<State, String> {
    rmp_serde::from_slice(bytes).map_err(|error| format!("the state does not decode: {error}"))
}

pub(super) fn store(path: &Path, key: &Key, meta: &SnapshotMeta, state: &[u8]) -> Result<(), StoreError> {
    let head = rmp_serde::to_vec_named(meta)
        .map_err(|error| StoreError::Encode { what: "a snapshot's head", reason: error.to_string() })?;
    let mut bytes = Vec::with_capacity(state.len() + head.len() + 1024);
    let seal = FileSeal::begin(key, NAME, Kind::SnapshotHead, &head, &mut bytes)?;
    for piece in state.chunks(BODY_BYTES) {
        let offset = bytes.len() as u64;
        seal.write(&mut bytes, Kind::SnapshotBody, offset, 0, piece)?;
    }
    let offset = bytes.len() as u64;
    seal.write(&mut bytes, Kind::SnapshotEnd, offset, 0, &(state.len() as u64).to_le_bytes())?;
    write_whole(path, &bytes).map(drop)
}

/// Gives the snapshot at `path`, which is about to be replaced, a name of its own if old ones are to be `kept`, and removes
/// the oldest beyond that number. A crash may leave an old one that is the current one as well; the next snapshot goes on
/// from there.
pub(super) fn keep_old(path: &Path, current: Option<&SnapshotMeta>, kept: usize) -> Result<(), StoreError> {
    let index = current.and_then(|meta| meta.last_log_id).map_or(0, |log_id| log_id.index);
    let name = |index: u64| path.with_file_name(format!("{OLD}{index:020}"));
    if kept > 0 && current.is_some() {
        match std::fs::hard_link(path, name(index)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(StoreError::io("keep", path)(error));
            }
            _ => {}
        }
    }
    let Some(folder) = path.parent() else { return Ok(()) };
    let mut old = Vec::new();
    for item in std::fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let item = item.map_err(StoreError::io("list", folder))?.path();
        let is_old =
            item.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(OLD));
        if is_old {
            old.push(item);
        }
    }
    // By name they are in the order of their entries.
    old.sort();
    for path in old.iter().take(old.len().saturating_sub(kept)) {
        std::fs::remove_file(path).map_err(StoreError::io("remove", path))?;
    }
    Ok(())
}

/// What the snapshot contains, and the encoded state; `None` when there is no snapshot.
pub(super) fn load(path: &Path, key: &Key) -> Result<Option<(SnapshotMeta, Vec<u8>)>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    let corrupt = |offset: usize, reason: &str| StoreError::Corrupt {
        path: path.to_owned(),
        offset: offset as u64,
        reason: reason.to_owned(),
    };
    let mut offset = 0;
    let foreign = "a record that does not belong here";
    let first = record::read(&bytes).map_err(|reason| corrupt(0, reason))?;
    if first.kind != Kind::SnapshotHead {
        return Err(corrupt(0, foreign));
    }
    let (seal, head) = FileSeal::resume(key, NAME, path, &first)?;
    let meta: SnapshotMeta = rmp_serde::from_slice(&head)
        .map_err(|error| corrupt(0, &format!("the head does not decode: {error}")))?;
    offset += first.size;
    let mut state = Vec::with_capacity(bytes.len());
    loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        let record = record::read(rest).map_err(|reason| corrupt(offset, reason))?;
        let payload = seal.open(path, offset as u64, &record)?;
        match record.kind {
            Kind::SnapshotBody => state.extend_from_slice(&payload),
            Kind::SnapshotEnd if payload == (state.len() as u64).to_le_bytes() => break,
            _ => return Err(corrupt(offset, foreign)),
        }
        offset += record.size;
    }
    Ok(Some((meta, state)))
}

/// How the names of old snapshots begin.
const OLD: &str = "snapshot-";

/// What the first record is sealed for.
const NAME: &str = "snapshot";

/// Bytes of the state in one record.
const BODY_BYTES: usize = 1 << 20;
