//! How a record looks on disk, in the log and in snapshots. What its payload says is for [`super::sealed`].
//!
//! ```text
//! offset 0   2     3     4        8          12        16
//!        [mark][kind][seal][length][synced up to][crc32c][payload …]     all numbers little-endian
//! ```
//! `length` counts the payload. The checksum covers the 12 bytes before it and the payload, as it stands there: torn
//! writes are found without the key. `seal` is 1: the payload is as `sealed` makes it. A record in clear is refused, or
//! whoever can write the folder, but has no key, could make one.

use crate::StoreError;

/// What a record holds. The numbers are on disk and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// First in every segment: vote, committed, purged as they were.
    Head = 1,
    /// One log entry.
    Entry = 2,
    /// All entries from an index on are void.
    Truncate = 3,
    /// All entries up to a log ID are void.
    Purge = 4,
    /// The vote.
    Vote = 5,
    /// How far the log is committed; not synced.
    Committed = 6,
    /// First in a snapshot: what it contains.
    SnapshotHead = 16,
    /// A piece of the state.
    SnapshotBody = 17,
    /// Last in a snapshot: how many bytes the state has.
    SnapshotEnd = 18,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Head,
            Self::Entry,
            Self::Truncate,
            Self::Purge,
            Self::Vote,
            Self::Committed,
            Self::SnapshotHead,
            Self::SnapshotBody,
            Self::SnapshotEnd,
        ]
        .into_iter()
        .find(|&kind| kind as u8 == byte)
    }

    /// How many bytes at the payload's start are in clear: an entry's log ID.
    pub(crate) const fn clear_bytes(self) -> usize {
        match self {
            Self::Entry => 24,
            _ => 0,
        }
    }
}

/// A record found in a file.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    /// What it holds.
    pub(crate) kind: Kind,
    /// Up to which offset its file was durable when it was written.
    pub(crate) synced: u32,
    /// As it is on disk.
    pub(crate) payload: &'a [u8],
    /// Bytes on disk.
    pub(crate) size: usize,
}

/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 16;
/// Largest payload: a batch with one transaction over the batch limit fits several times.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// Adds a record to `out`. `synced`: up to which offset its file is durable.
pub(crate) fn write(out: &mut Vec<u8>, kind: Kind, synced: u32, payload: &[u8]) -> Result<(), StoreError> {
    let length = match u32::try_from(payload.len()) {
        Ok(length) if payload.len() <= PAYLOAD_BYTES_MAX => length,
        _ => {
            let reason = format!("{} bytes are more than {PAYLOAD_BYTES_MAX}", payload.len());
            return Err(StoreError::Encode { what: "a record", reason });
        }
    };
    let mut header = [0_u8; 12];
    header[..2].copy_from_slice(&MARK);
    header[2] = kind as u8;
    header[3] = SEALED;
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..].copy_from_slice(&synced.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header), payload);
    out.reserve(HEADER_BYTES + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// The record at the start of `bytes`, or what is wrong with it.
pub(crate) fn read(bytes: &[u8]) -> Result<Record<'_>, &'static str> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err("the file ends inside a record's header");
    };
    if header[..2] != MARK {
        return Err("no record starts here");
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = number(4) as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err("the record's length is impossible");
    }
    let Some(payload) = rest.get(..length) else {
        return Err("the file ends inside a record");
    };
    if crc32c::crc32c_append(crc32c::crc32c(&header[..12]), payload) != number(12) {
        return Err("the record's checksum does not fit");
    }
    let Some(kind) = Kind::from_byte(header[2]) else {
        return Err("a record of an unknown kind; was it written by a newer version?");
    };
    if header[3] != SEALED {
        return Err("a record that is not sealed as this version seals");
    }
    Ok(Record { kind, synced: number(8), payload, size: HEADER_BYTES + length })
}

/// Whether a whole record stands anywhere in `bytes` that was written when its file was durable beyond `offset`.
pub(crate) fn any_synced_beyond(bytes: &[u8], offset: u32) -> bool {
    (0..bytes.len().saturating_sub(HEADER_BYTES - 1)).any(|at| {
        bytes[at..].starts_with(&MARK) && read(&bytes[at..]).is_ok_and(|record| record.synced > offset)
    })
}

/// Seldom in text, so that looking for a record's start does not stop often.
const MARK: [u8; 2] = [0xb5, 0x1e];
/// What stands in `seal`.
const SEALED: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_bit_is_noticed() {
        let mut bytes = Vec::new();
        write(&mut bytes, Kind::Entry, 77, b"payload").unwrap();
        let record = read(&bytes).unwrap();
        assert_eq!((record.kind, record.synced, record.payload), (Kind::Entry, 77, b"payload".as_slice()));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn later_records_are_found_behind_garbage() {
        let mut bytes = vec![0xb5; 9];
        write(&mut bytes, Kind::Entry, 100, b"x").unwrap();
        assert!(any_synced_beyond(&bytes, 99));
        assert!(!any_synced_beyond(&bytes, 100));
    }
}
