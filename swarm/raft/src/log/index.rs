//! Where each live entry is.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::record;
use super::sealed::FileSeal;
use crate::StoreError;
use crate::types::{Entry, LogId};

/// An open segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) seal: FileSeal,
}

/// Where an entry stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) log_id: LogId,
    /// Number of the segment.
    pub(super) segment: u64,
    /// Start of its record.
    pub(super) offset: u32,
    /// Bytes of its record.
    pub(super) size: u32,
}

/// The live entries, and the latest of them decoded, for replication and applying, which read what was just written.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) slots: VecDeque<Slot>,
    pub(super) purged: Option<LogId>,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    recent: VecDeque<(Entry, u32)>,
    recent_bytes: usize,
}

/// Bytes (as encoded) of entries kept decoded.
const RECENT_BYTES_MAX: usize = 1 << 20;

impl Index {
    pub(super) fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.log_id).or(self.purged)
    }

    pub(super) fn push(&mut self, slot: Slot, entry: Option<Entry>) {
        self.slots.push_back(slot);
        let Some(entry) = entry else { return };
        self.recent.push_back((entry, slot.size));
        self.recent_bytes += slot.size as usize;
        while self.recent_bytes > RECENT_BYTES_MAX {
            let Some((_, size)) = self.recent.pop_front() else { break };
            self.recent_bytes -= size as usize;
        }
    }

    pub(super) fn truncate(&mut self, since: u64) {
        while self.slots.back().is_some_and(|slot| slot.log_id.index >= since) {
            self.slots.pop_back();
        }
        while self.recent.back().is_some_and(|(entry, _)| entry.log_id.index >= since) {
            if let Some((_, size)) = self.recent.pop_back() {
                self.recent_bytes -= size as usize;
            }
        }
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        if self.purged < Some(upto) {
            self.purged = Some(upto);
        }
        while self.slots.front().is_some_and(|slot| slot.log_id.index <= upto.index) {
            self.slots.pop_front();
        }
        while self.recent.front().is_some_and(|(entry, _)| entry.log_id.index <= upto.index) {
            if let Some((_, size)) = self.recent.pop_front() {
                self.recent_bytes -= size as usize;
            }
        }
    }

    /// What is needed to read `[start, end)`: as many entries as `bytes_max` allows, but at least one.
    pub(super) fn plan(&self, start: u64, end: u64, bytes_max: usize) -> Vec<Planned> {
        let Some(first) = self.slots.front().map(|slot| slot.log_id.index) else { return Vec::new() };
        let from = usize::try_from(start.max(first) - first).unwrap_or(usize::MAX);
        let recent_first = self.recent.front().map_or(u64::MAX, |(entry, _)| entry.log_id.index);
        let mut bytes = 0;
        let mut planned = Vec::new();
        for slot in self.slots.iter().skip(from).take_while(|slot| slot.log_id.index < end) {
            bytes += slot.size as usize;
            if bytes > bytes_max && !planned.is_empty() {
                break;
            }
            let recent = slot
                .log_id
                .index
                .checked_sub(recent_first)
                .and_then(|at| self.recent.get(usize::try_from(at).ok()?));
            planned.push(match (recent, self.segments.get(&slot.segment)) {
                (Some((entry, _)), _) => Planned::Recent(entry.clone()),
                (None, Some(segment)) => Planned::OnDisk(*slot, Arc::clone(segment)),
                (None, None) => Planned::Lost(*slot),
            });
        }
        planned
    }
}

/// One entry to be read.
#[derive(Debug)]
pub(super) enum Planned {
    Recent(Entry),
    OnDisk(Slot, Arc<Segment>),
    Lost(Slot),
}

impl Planned {
    pub(super) fn needs_disk(&self) -> bool {
        !matches!(self, Self::Recent(_))
    }

    /// Reads and checks. An unlinked segment can still be read: its file is open.
    pub(super) fn load(self) -> Result<Entry, StoreError> {
        let (slot, segment) = match self {
            Self::Recent(entry) => return Ok(entry),
            Self::OnDisk(slot, segment) => (slot, segment),
            Self::Lost(slot) => {
                let reason = format!("segment {} of entry {} is not open", slot.segment, slot.log_id);
                return Err(StoreError::Corrupt { path: PathBuf::new(), offset: slot.offset.into(), reason });
            }
        };
        let mut bytes = vec![0; slot.size as usize];
        segment
            .file
            .read_exact_at(&mut bytes, slot.offset.into())
            .map_err(StoreError::io("read", &segment.path))?;
        let corrupt = |reason: String| StoreError::Corrupt {
            path: segment.path.clone(),
            offset: slot.offset.into(),
            reason,
        };
        let record = record::read(&bytes).map_err(|reason| corrupt(reason.to_owned()))?;
        let payload = segment.seal.open(&segment.path, slot.offset.into(), &record)?;
        let entry = decode_entry(&payload).map_err(corrupt)?;
        if entry.log_id != slot.log_id {
            return Err(corrupt(format!("entry {} stands where {} should", entry.log_id, slot.log_id)));
        }
        Ok(entry)
    }
}

/// An entry's payload: its log ID in 24 bytes (which stays in clear, and need not be decoded
/// to open a log), then the rest.
pub(super) fn encode_entry(entry: &Entry) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    bytes.extend_from_slice(&entry.log_id.leader_id.node_id.to_le_bytes());
    bytes.extend_from_slice(&entry.log_id.index.to_le_bytes());
    rmp_serde::encode::write_named(&mut bytes, &entry.payload)
        .map_err(|error| StoreError::Encode { what: "a log entry", reason: error.to_string() })?;
    Ok(bytes)
}

pub(super) fn decode_log_id(payload: &[u8]) -> Result<LogId, String> {
    let number = |at: usize| {
        payload
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_le_bytes)
            .ok_or_else(|| "the entry is too short".to_owned())
    };
    Ok(LogId::new(openraft::CommittedLeaderId::new(number(0)?, number(8)?), number(16)?))
}

fn decode_entry(payload: &[u8]) -> Result<Entry, String> {
    let log_id = decode_log_id(payload)?;
    let rest = payload.get(24..).unwrap_or_default();
    let payload =
        rmp_serde::from_slice(rest).map_err(|error| format!("the entry does not decode: {error}"))?;
    Ok(Entry { log_id, payload })
}
