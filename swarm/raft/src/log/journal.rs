//! The journal itself: segments, replay, operations. Synchronous; one owner.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use skep_seal::Key;

use super::index::{Index, Segment, Slot, decode_log_id, encode_entry};
use super::record::{self, Kind};
use super::sealed::FileSeal;
use crate::StoreError;
use crate::files::{sync_folder, write_whole};
use crate::types::{Entry, LogId, Vote};

/// See the module's drawing.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    key: Key,
    segment_bytes: u32,
    index: Arc<RwLock<Index>>,
    head: Head,
    active: u64,
    /// End of the active segment.
    end: u32,
    /// Up to where it is durable.
    synced: u32,
    failed: bool,
}

/// What the next segment has to start with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Head {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
}

/// A segment is full at this size: small enough that a purge frees space soon, large enough to be made seldom.
pub(super) const SEGMENT_BYTES: u32 = 8 << 20;

impl Journal {
    /// Opens the log in `dir`, replays it, and cuts a torn tail.
    pub(crate) fn open(dir: &Path, key: &Key, segment_bytes: u32) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::io("make folder", dir))?;
        let mut numbers = list(dir)?;
        numbers.sort_unstable();
        let mut journal = Self {
            dir: dir.to_owned(),
            key: key.clone(),
            segment_bytes,
            index: Arc::default(),
            head: Head::default(),
            active: 0,
            end: 0,
            synced: 0,
            failed: false,
        };
        if numbers.is_empty() {
            journal.start_segment(1)?;
            return Ok(journal);
        }
        if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
            let reason = "this segment is missing".to_owned();
            return Err(StoreError::Corrupt { path: segment_path(dir, pair[0] + 1), offset: 0, reason });
        }
        for &number in &numbers {
            journal.replay(number, Some(&number) == numbers.last())?;
        }
        journal.check_whole(numbers[0])?;
        Ok(journal)
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn index(&self) -> Arc<RwLock<Index>> {
        Arc::clone(&self.index)
    }

    /// Adds entries; durable when it returns. Those that are purged already are left out.
    pub(super) fn append(&mut self, mut entries: Vec<Entry>) -> Result<(), StoreError> {
        let (mut last, purged) = {
            let index = self.index.read();
            (index.last(), index.purged)
        };
        entries.retain(|entry| purged.is_none_or(|purged| entry.log_id.index > purged.index));
        for entry in &entries {
            if let Some(last) = last
                && entry.log_id.index != last.index + 1
            {
                return Err(StoreError::Order { index: entry.log_id.index, last: last.index });
            }
            last = Some(entry.log_id);
        }
        self.make_room()?;
        let active = self.active_segment()?;
        let mut bytes = Vec::new();
        let mut slots = Vec::with_capacity(entries.len());
        for entry in &entries {
            let offset = self.end_after(bytes.len())?;
            let payload = encode_entry(entry)?;
            active.seal.write(&mut bytes, Kind::Entry, offset.into(), self.synced, &payload)?;
            let size = self.end_after(bytes.len())? - offset;
            slots.push(Slot { log_id: entry.log_id, segment: self.active, offset, size });
        }
        self.write(&bytes)?;
        self.sync()?;
        let mut index = self.index.write();
        for (slot, entry) in slots.into_iter().zip(entries) {
            index.push(slot, Some(entry));
        }
        Ok(())
    }

    /// Durable when it returns.
    pub(super) fn vote(&mut self, vote: Vote) -> Result<(), StoreError> {
        self.add(Kind::Vote, &vote)?;
        self.head.vote = Some(vote);
        self.sync()
    }

    /// Not synced: losing it costs a little at the next start, nothing else.
    pub(super) fn committed(&mut self, committed: Option<LogId>) -> Result<(), StoreError> {
        self.add(Kind::Committed, &committed)?;
        self.head.committed = committed;
        Ok(())
    }

    /// Voids the entries from `since` on; durable when it returns.
    pub(super) fn truncate(&mut self, since: u64) -> Result<(), StoreError> {
        self.add(Kind::Truncate, &since)?;
        self.sync()?;
        self.index.write().truncate(since);
        Ok(())
    }

    /// Voids the entries up to `upto`, and drops the segments that hold nothing else.
    pub(super) fn purge(&mut self, upto: LogId) -> Result<(), StoreError> {
        self.add(Kind::Purge, &upto)?;
        self.head.purged = self.head.purged.max(Some(upto));
        self.index.write().purge(upto);
        self.drop_void_segments()
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        if self.synced == self.end {
            return Ok(());
        }
        let segment = self.active_segment()?;
        if let Err(source) = segment.file.sync_data() {
            self.failed = true;
            return Err(StoreError::Io { action: "sync", path: segment.path.clone(), source });
        }
        self.synced = self.end;
        Ok(())
    }

    fn drop_void_segments(&mut self) -> Result<(), StoreError> {
        let first_live = {
            let index = self.index.read();
            index.slots.front().map_or(self.active, |slot| slot.segment)
        };
        loop {
            let number = match self.index.read().segments.keys().next() {
                Some(&number) if number < first_live => number,
                _ => return Ok(()),
            };
            // What made it void (a purge, a truncation) must outlive it.
            self.sync()?;
            let path = segment_path(&self.dir, number);
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            // One by one, so that after a power cut no gap can be between two segments.
            sync_folder(&self.dir)?;
            self.index.write().segments.remove(&number);
        }
    }

    fn add(&mut self, kind: Kind, value: &impl Serialize) -> Result<(), StoreError> {
        self.make_room()?;
        let mut bytes = Vec::new();
        let active = self.active_segment()?;
        active.seal.write(&mut bytes, kind, self.end.into(), self.synced, &encode(value)?)?;
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        let end = self.end_after(bytes.len())?;
        let segment = self.active_segment()?;
        if let Err(source) = segment.file.write_all_at(bytes, self.end.into()) {
            self.failed = true;
            return Err(StoreError::Io { action: "write", path: segment.path.clone(), source });
        }
        self.end = end;
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), StoreError> {
        if self.end < self.segment_bytes {
            return Ok(());
        }
        self.sync()?;
        self.start_segment(self.active + 1)?;
        self.drop_void_segments()
    }

    fn start_segment(&mut self, number: u64) -> Result<(), StoreError> {
        let path = segment_path(&self.dir, number);
        let mut bytes = Vec::new();
        let head = encode(&self.head)?;
        let seal = FileSeal::begin(&self.key, &segment_name(number), Kind::Head, &head, &mut bytes)?;
        let file = write_whole(&path, &bytes)?;
        self.index.write().segments.insert(number, Arc::new(Segment { path, file, seal }));
        self.active = number;
        self.end = 0;
        self.end = self.end_after(bytes.len())?;
        self.synced = self.end;
        Ok(())
    }

    fn active_segment(&self) -> Result<Arc<Segment>, StoreError> {
        if self.failed {
            return Err(StoreError::Failed);
        }
        self.index.read().segments.get(&self.active).cloned().ok_or(StoreError::Failed)
    }

    fn end_after(&self, bytes: usize) -> Result<u32, StoreError> {
        u32::try_from(bytes).ok().and_then(|bytes| self.end.checked_add(bytes)).ok_or_else(|| {
            StoreError::Encode {
                what: "a batch of entries",
                reason: "it does not fit into a segment".to_owned(),
            }
        })
    }

    fn replay(&mut self, number: u64, is_last: bool) -> Result<(), StoreError> {
        let path = segment_path(&self.dir, number);
        let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        let corrupt = |offset: usize, reason: String| StoreError::Corrupt {
            path: path.clone(),
            offset: offset as u64,
            reason,
        };
        if u32::try_from(bytes.len()).is_err() {
            return Err(corrupt(bytes.len(), "the file is impossibly large".to_owned()));
        }
        let mut offset = 0;
        let mut seal: Option<FileSeal> = None;
        while offset < bytes.len() || seal.is_none() {
            let record = match record::read(&bytes[offset..]) {
                Ok(record) => record,
                Err(reason) => {
                    // The head is there before the file has its name: it cannot be torn.
                    let later = bytes.get(offset + 1..).unwrap_or_default();
                    let torn = is_last && offset > 0 && !record::any_synced_beyond(later, offset as u32);
                    if !torn {
                        return Err(corrupt(offset, reason.to_owned()));
                    }
                    break;
                }
            };
            if (record.kind == Kind::Head) != (offset == 0) {
                return Err(corrupt(offset, "a head that is not at the start, or none there".to_owned()));
            }
            let payload = match &seal {
                Some(seal) => seal.open(&path, offset as u64, &record)?,
                None => {
                    let (begun, payload) =
                        FileSeal::resume(&self.key, &segment_name(number), &path, &record)?;
                    seal = Some(begun);
                    payload
                }
            };
            self.replay_record(number, offset as u32, &record, &payload)
                .map_err(|reason| corrupt(offset, reason))?;
            offset += record.size;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(is_last)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        if is_last {
            self.cut(&file, &path, offset, bytes.len())?;
        }
        let Some(seal) = seal else { return Err(corrupt(0, "the segment is empty".to_owned())) };
        self.index.write().segments.insert(number, Arc::new(Segment { path, file, seal }));
        self.active = number;
        self.end = offset as u32;
        self.synced = self.end;
        Ok(())
    }

    /// Cuts a torn tail, and makes what was read durable: it may be in the page cache alone, and from now on counts.
    fn cut(&self, file: &File, path: &Path, offset: usize, length: usize) -> Result<(), StoreError> {
        if offset < length {
            tracing::warn!(
                file = %path.display(), offset, bytes = length - offset,
                "the log ends in a torn write: it was never acknowledged and is cut off"
            );
            file.set_len(offset as u64).map_err(StoreError::io("cut", path))?;
        }
        file.sync_all().map_err(StoreError::io("sync", path))
    }

    fn replay_record(
        &mut self,
        segment: u64,
        offset: u32,
        record: &record::Record<'_>,
        payload: &[u8],
    ) -> Result<(), String> {
        let mut index = self.index.write();
        match record.kind {
            Kind::Head => {
                self.head = decode(payload)?;
                if let Some(purged) = self.head.purged {
                    index.purge(purged);
                }
            }
            Kind::Entry => {
                let log_id = decode_log_id(payload)?;
                // With no entry before it (they were in segments that are gone), any may be the first one here:
                // `check_whole` looks at the end whether it fits to what was purged.
                if let Some(last) = index.slots.back()
                    && log_id.index != last.log_id.index + 1
                {
                    return Err(format!("entry {} does not follow {}", log_id.index, last.log_id.index));
                }
                index.push(Slot { log_id, segment, offset, size: record.size as u32 }, None);
            }
            Kind::Truncate => index.truncate(decode(payload)?),
            Kind::Purge => {
                let upto: LogId = decode(payload)?;
                self.head.purged = self.head.purged.max(Some(upto));
                index.purge(upto);
            }
            Kind::Vote => self.head.vote = Some(decode(payload)?),
            Kind::Committed => self.head.committed = decode(payload)?,
            Kind::SnapshotHead | Kind::SnapshotBody | Kind::SnapshotEnd => {
                return Err("a snapshot's record in the log".to_owned());
            }
        }
        Ok(())
    }

    /// No entry may be missing between what was purged and the first one that is there.
    fn check_whole(&mut self, first_segment: u64) -> Result<(), StoreError> {
        let mut index = self.index.write();
        if let Some(purged) = self.head.purged {
            index.purge(purged);
        }
        let expected = index.purged.map_or(0, |purged| purged.index + 1);
        match index.slots.front() {
            Some(slot) if slot.log_id.index > expected => {
                let reason = format!("entries {expected} to {} are missing before it", slot.log_id.index - 1);
                let path = segment_path(&self.dir, first_segment);
                Err(StoreError::Corrupt { path, offset: 0, reason })
            }
            _ => Ok(()),
        }
    }

    /// Bytes of all segments, roughly: what the log takes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        let full = self.index.read().segments.len().saturating_sub(1) as u64;
        full * u64::from(self.segment_bytes) + u64::from(self.end)
    }
}

fn list(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let mut numbers = Vec::new();
    for item in std::fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let name = item.map_err(StoreError::io("list", dir))?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".seg"))
            .filter(|digits| digits.len() == 16)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        // A temporary file of a segment that was never finished is overwritten by the next one.
        numbers.extend(number);
    }
    Ok(numbers)
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(segment_name(number))
}

fn segment_name(number: u64) -> String {
    format!("{number:016x}.seg")
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    rmp_serde::to_vec_named(value)
        .map_err(|error| StoreError::Encode { what: "a log record", reason: error.to_string() })
}

fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
    rmp_serde::from_slice(payload).map_err(|error| format!("the record does not decode: {error}"))
}
