//! The durable log: an append-only journal in segment files.
//!
//! Everything that Raft must not forget is a record, and records are only ever added: entries, votes, truncations,
//! purges, and (lazily) how far the log is committed. Replaying them from the start gives the log. So every operation
//! is one write at the end of one file, and one `fdatasync` where it counts.
//!
//! ```text
//! log/0000000000000007.seg   [Head][Entry][Entry][Committed][Entry][Vote][Truncate][Entry] …
//! log/0000000000000008.seg   [Head][Entry] …                 ◀ the active one: the only one that can have a torn tail
//!
//!            write + fdatasync                 SEGMENT_BYTES reached              its entries are all purged
//! (batch) ───────────────────▶ active segment ─────────────────────▶ full segment ─────────────────────────▶ unlinked
//!               │ error                              next one: written whole under a temporary name, then renamed
//!               ▼
//!            Failed: nothing more is written (an fsync that failed must not be tried again); reopening cuts the tail
//! ```
//!
//! Opening: a record that does not check is a **torn tail** if nothing behind it was written after it had been synced
//! (every record says up to where its file was durable when it was written): it and all behind it was never
//! acknowledged, and is cut off. Anything else is **corruption**, reported with file and offset, and nothing is changed.
//! (What cannot be told from a torn write: damage to the very last synced record.)
//!
//! A record that is whole, but does not open, is never a torn tail: sealed with another key it is **wrong key**, moved or
//! forged it is corruption.
//!
//! - `record`: how a record looks on disk.
//! - `sealed`: what is in it, unreadable without the key.
//! - `journal`: segments, replay, and the operations. Synchronous.
//! - `index`: where each live entry is, for readers.
//! - `store`: the journal on its own thread, as openraft's `RaftLogStorage`.

mod index;
mod journal;
pub(crate) mod record;
pub(crate) mod sealed;
mod store;

pub(crate) use store::LogStore;

#[cfg(test)]
mod journal_tests;
