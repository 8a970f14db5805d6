//! What makes the records of a file, a segment or a snapshot, unreadable without the key.
//!
//! A record's payload is `[what is in clear][the rest, sealed]`; see [`Kind::clear_bytes`]. Sealed together with it, so
//! that no record can be put in the place of another: its kind, what is in clear (an entry's term and index), where in
//! the file it stands, and which file that is: the SHA-256 of the sealed payload of the file's first record, which is
//! another one in every file, since its nonce is random. The first record itself is sealed for the file's name.

use std::path::Path;

use sha2::{Digest, Sha256};
use skep_seal::{Key, SealError};

use super::record::{self, Kind, Record};
use crate::StoreError;

/// Seals and opens the records of one file.
#[derive(Debug, Clone)]
pub(crate) struct FileSeal {
    key: Key,
    file: [u8; 32],
}

impl FileSeal {
    /// Begins a file: its first record, added to `out`.
    pub(crate) fn begin(
        key: &Key,
        name: &str,
        kind: Kind,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Self, StoreError> {
        let sealed = skep_seal::seal(key, &first_context(name, kind), payload);
        record::write(out, kind, 0, &sealed)?;
        Ok(Self::of(key, &sealed))
    }

    /// Goes on with a file: opens its first record, found in `path`.
    pub(crate) fn resume(
        key: &Key,
        name: &str,
        path: &Path,
        first: &Record<'_>,
    ) -> Result<(Self, Vec<u8>), StoreError> {
        let payload = skep_seal::open(key, &first_context(name, first.kind), first.payload)
            .map_err(|error| refused(error, path, 0))?;
        Ok((Self::of(key, first.payload), payload))
    }

    fn of(key: &Key, first: &[u8]) -> Self {
        Self { key: key.clone(), file: Sha256::digest(first).into() }
    }

    /// Adds a record that will stand at `offset` to `out`.
    pub(crate) fn write(
        &self,
        out: &mut Vec<u8>,
        kind: Kind,
        offset: u64,
        synced: u32,
        payload: &[u8],
    ) -> Result<(), StoreError> {
        let (clear, secret) = payload.split_at(kind.clear_bytes().min(payload.len()));
        let sealed = skep_seal::seal(&self.key, &self.context(kind, offset, clear), secret);
        record::write(out, kind, synced, &[clear, &sealed].concat())
    }

    /// Opens a record that stands at `offset` in `path`, and returns its payload as it was given to [`Self::write`].
    pub(crate) fn open(&self, path: &Path, offset: u64, record: &Record<'_>) -> Result<Vec<u8>, StoreError> {
        let (clear, sealed) =
            record.payload.split_at_checked(record.kind.clear_bytes()).ok_or_else(|| {
                StoreError::Corrupt {
                    path: path.to_owned(),
                    offset,
                    reason: "the record is too short".to_owned(),
                }
            })?;
        let secret = skep_seal::open(&self.key, &self.context(record.kind, offset, clear), sealed)
            .map_err(|error| refused(error, path, offset))?;
        Ok([clear, &secret].concat())
    }

    fn context(&self, kind: Kind, offset: u64, clear: &[u8]) -> Vec<u8> {
        // All but the last have a fixed length: nothing can be taken for something else.
        [b"skep-raft/1".as_slice(), &[kind as u8], &offset.to_le_bytes(), &self.file, clear].concat()
    }
}

fn first_context(name: &str, kind: Kind) -> Vec<u8> {
    [b"skep-raft/1 first".as_slice(), &[kind as u8], name.as_bytes()].concat()
}

fn refused(error: SealError, path: &Path, offset: u64) -> StoreError {
    let path = path.to_owned();
    match error {
        SealError::WrongKey => StoreError::WrongKey { path, offset },
        error => StoreError::Corrupt { path, offset, reason: error.to_string() },
    }
}
