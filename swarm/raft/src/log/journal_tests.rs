//! The journal against a model, and against every way of cutting it short.

use std::collections::BTreeMap;
use std::path::PathBuf;

use openraft::{CommittedLeaderId, EntryPayload};
use proptest::prelude::*;
use skep_seal::Key;
use skep_state::{Change, Kind, Transaction};
use tempfile::TempDir;

use super::journal::Journal;
use crate::StoreError;
use crate::types::{Batch, Entry, LogId, Vote};

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn entry(term: u64, index: u64, size: usize) -> Entry {
    let changes = vec![Change::Remove(Kind::Task, "x".repeat(size))];
    let batch =
        Batch { transactions: vec![Transaction { changes, ..Transaction::default() }], accepted: None };
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(batch) }
}

fn contents(journal: &Journal) -> Vec<(LogId, usize)> {
    let planned = journal.index().read().plan(0, u64::MAX, usize::MAX);
    planned
        .into_iter()
        .map(|planned| {
            let entry = planned.load().unwrap();
            let EntryPayload::Normal(batch) = &entry.payload else { panic!("{entry:?}") };
            let Change::Remove(_, text) = &batch.transactions[0].changes[0] else { panic!("{entry:?}") };
            (entry.log_id, text.len())
        })
        .collect()
}

fn segments(dir: &TempDir) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(dir.path()).unwrap().map(|item| item.unwrap().path()).collect();
    paths.sort();
    paths
}

fn key() -> Key {
    Key::from_bytes([7; 32])
}

const LARGE: u32 = 1 << 20;

/// At every length at which the file can end: all that was durable before is there, and nothing half.
#[test]
fn every_cut_of_the_tail_leaves_whole_entries() {
    let dir = TempDir::new().unwrap();
    let mut journal = Journal::open(dir.path(), &key(), LARGE).unwrap();
    let path = segments(&dir)[0].clone();
    let mut ends = BTreeMap::new();
    ends.insert(std::fs::metadata(&path).unwrap().len(), 0);
    for index in 0..8 {
        journal.append(vec![entry(1, index, index as usize)]).unwrap();
        ends.insert(std::fs::metadata(&path).unwrap().len(), index + 1);
        journal.committed(Some(log_id(1, index))).unwrap();
    }
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    let head = *ends.keys().next().unwrap();
    for length in head..=whole.len() as u64 {
        std::fs::write(&path, &whole[..length as usize]).unwrap();
        let mut journal = Journal::open(dir.path(), &key(), LARGE).unwrap();
        let expected = *ends.range(..=length).next_back().unwrap().1;
        let found = contents(&journal);
        assert_eq!(found.len() as u64, expected, "cut at {length}");
        // It can be written on, and read again.
        journal.append(vec![entry(2, expected, 3)]).unwrap();
        drop(journal);
        let journal = Journal::open(dir.path(), &key(), LARGE).unwrap();
        assert_eq!(contents(&journal).len() as u64, expected + 1);
        assert!(journal.head().committed.map_or(0, |committed| committed.index + 1) <= expected);
    }
}

/// The last batch torn in any way (some pages written, some not) is cut; nothing of the batches before it is.
#[test]
fn a_torn_last_batch_is_cut_wherever_it_is_damaged() {
    let dir = TempDir::new().unwrap();
    let mut journal = Journal::open(dir.path(), &key(), LARGE).unwrap();
    let path = segments(&dir)[0].clone();
    journal.append(vec![entry(1, 0, 5), entry(1, 1, 5)]).unwrap();
    let durable = std::fs::metadata(&path).unwrap().len() as usize;
    journal.append(vec![entry(1, 2, 5), entry(1, 3, 5), entry(1, 4, 5)]).unwrap();
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    for at in durable..whole.len() {
        let mut torn = whole.clone();
        torn[at] ^= 0x55;
        std::fs::write(&path, &torn).unwrap();
        let journal = Journal::open(dir.path(), &key(), LARGE).unwrap();
        let found = contents(&journal);
        assert!((2..5).contains(&found.len()), "damaged at {at}: {found:?}");
    }
}

/// Damage before the last batch is corruption: named, and the file left alone.
#[test]
fn damage_to_what_was_durable_is_an_error() {
    let dir = TempDir::new().unwrap();
    let mut journal = Journal::open(dir.path(), &key(), LARGE).unwrap();
    let path = segments(&dir)[0].clone();
    journal.append(vec![entry(1, 0, 5), entry(1, 1, 5)]).unwrap();
    let durable = std::fs::metadata(&path).unwrap().len() as usize;
    journal.append(vec![entry(1, 2, 5)]).unwrap();
    drop(journal);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..durable {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&path, &damaged).unwrap();
        match Journal::open(dir.path(), &key(), LARGE) {
            Err(StoreError::Corrupt { path: named, offset, .. }) => {
                assert_eq!(named, path);
                assert!(offset <= at as u64, "damaged at {at}, reported at {offset}");
            }
            other => panic!("damaged at {at}: {other:?}"),
        }
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
}

#[test]
fn a_missing_segment_and_a_damaged_full_one_are_errors() {
    let dir = TempDir::new().unwrap();
    let mut journal = Journal::open(dir.path(), &key(), 200).unwrap();
    for index in 0..20 {
        journal.append(vec![entry(1, index, 50)]).unwrap();
    }
    drop(journal);
    let paths = segments(&dir);
    assert!(paths.len() > 3);
    let second = std::fs::read(&paths[1]).unwrap();
    std::fs::write(&paths[1], &second[..second.len() - 1]).unwrap();
    assert!(
        matches!(Journal::open(dir.path(), &key(), 200), Err(StoreError::Corrupt { path, .. }) if path == paths[1])
    );
    std::fs::remove_file(&paths[1]).unwrap();
    assert!(
        matches!(Journal::open(dir.path(), &key(), 200), Err(StoreError::Corrupt { path, .. }) if path == paths[1])
    );
    std::fs::write(&paths[1], &second).unwrap();
    std::fs::remove_file(&paths[0]).unwrap();
    let missing = Journal::open(dir.path(), &key(), 200).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
}

#[test]
fn a_hole_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut journal = Journal::open(dir.path(), &key(), LARGE).unwrap();
    journal.append(vec![entry(1, 0, 1)]).unwrap();
    assert!(matches!(journal.append(vec![entry(1, 2, 1)]), Err(StoreError::Order { index: 2, last: 0 })));
    journal.append(vec![entry(1, 1, 1)]).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, size: usize },
    Truncate { back: u64 },
    Purge { forward: u64 },
    PurgeBeyond { forward: u64 },
    Vote,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..6_u64, 0..200_usize).prop_map(|(count, size)| Step::Append { count, size }),
        2 => (1..8_u64).prop_map(|back| Step::Truncate { back }),
        2 => (1..12_u64).prop_map(|forward| Step::Purge { forward }),
        1 => (1..5_u64).prop_map(|forward| Step::PurgeBeyond { forward }),
        1 => Just(Step::Vote),
        2 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to it, the journal holds what a map would hold, before and after it is opened again.
    #[test]
    fn the_journal_equals_a_model(steps in prop::collection::vec(step(), 1..40)) {
        let dir = TempDir::new().unwrap();
        let mut journal = Journal::open(dir.path(), &key(), 400).unwrap();
        let mut model: BTreeMap<u64, (LogId, usize)> = BTreeMap::new();
        let mut purged: Option<LogId> = None;
        let mut vote = None;
        for (term, step) in (1_u64..).zip(steps) {
            let last = model.keys().next_back().copied().max(purged.map(|purged| purged.index));
            let next = last.map_or(0, |last| last + 1);
            match step {
                Step::Append { count, size } => {
                    let entries: Vec<Entry> = (next..next + count).map(|index| entry(term, index, size)).collect();
                    model.extend(entries.iter().map(|entry| (entry.log_id.index, (entry.log_id, size))));
                    journal.append(entries).unwrap();
                }
                Step::Truncate { back } => {
                    let first = purged.map_or(0, |purged| purged.index + 1);
                    let since = next.saturating_sub(back).max(first);
                    model.split_off(&since);
                    journal.truncate(since).unwrap();
                }
                Step::Purge { forward } => {
                    let wanted = model.keys().next().copied().unwrap_or(0) + forward;
                    if let Some((_, &(upto, _))) = model.range(..=wanted).next_back() {
                        model = model.split_off(&(upto.index + 1));
                        purged = Some(upto);
                        journal.purge(upto).unwrap();
                    }
                }
                Step::PurgeBeyond { forward } => {
                    let upto = log_id(term, next + forward);
                    model.clear();
                    purged = Some(upto);
                    journal.purge(upto).unwrap();
                }
                Step::Vote => {
                    vote = Some(Vote::new(term, 7));
                    journal.vote(Vote::new(term, 7)).unwrap();
                }
                Step::Reopen => {
                    drop(journal);
                    journal = Journal::open(dir.path(), &key(), 400).unwrap();
                }
            }
            let expected: Vec<(LogId, usize)> = model.values().copied().collect();
            prop_assert_eq!(contents(&journal), expected);
            prop_assert_eq!(journal.index().read().purged, purged);
            prop_assert_eq!(journal.head().vote, vote);
        }
        // Only the segment that is written to is needed once everything is purged.
        journal.purge(log_id(1000, 1000)).unwrap();
        prop_assert_eq!(segments(&dir).len(), 1);
    }
}
