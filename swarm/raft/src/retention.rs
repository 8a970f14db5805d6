//! How much of the past stays on the disk: when a snapshot is made, how many entries the log keeps behind it, how many
//! older snapshots are kept. All of it as the swarm's settings say now, which may change while Raft runs; so openraft's own
//! policy, fixed when it starts, is off.

use skep_state::State;

use crate::RaftOptions;
use crate::elect::Metrics;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::options::LOG_BYTES_BETWEEN_SNAPSHOTS;
use crate::types::Raft;

/// What is kept. Each manager keeps it on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    interval: u64,
    entries_kept: u64,
}

impl Retention {
    /// As the settings say; the options where they say nothing.
    pub(crate) fn of(options: &RaftOptions, state: &State) -> Self {
        let settings = state.cluster.as_ref().map(|cluster| &cluster.spec.raft);
        let or = |said: Option<u64>, default: u64| said.filter(|&said| said > 0).unwrap_or(default);
        Self {
            interval: or(settings.map(|raft| raft.snapshot_interval), options.snapshot_interval).max(1),
            entries_kept: or(
                settings.map(|raft| raft.log_entries_for_slow_followers),
                options.log_entries_kept,
            ),
        }
    }

    /// Whether a snapshot is due, with the last one at entry `snapshot`, everything up to `applied` in the state, and a log
    /// that has grown by so many bytes since.
    fn is_due(self, applied: Option<u64>, snapshot: Option<u64>, grown: u64) -> bool {
        let new = applied.map_or(0, |applied| applied.saturating_sub(snapshot.unwrap_or(0)));
        new >= self.interval || (new > 0 && grown > LOG_BYTES_BETWEEN_SNAPSHOTS)
    }

    /// The last entry that goes, of a log that begins behind `purged`.
    fn purge_upto(self, snapshot: Option<u64>, purged: Option<u64>) -> Option<u64> {
        let upto = snapshot?.checked_sub(self.entries_kept)?;
        purged.is_none_or(|purged| purged < upto).then_some(upto)
    }
}

/// How many older snapshots the settings ask for; the operator's number is the bound.
pub(crate) fn old_snapshots(state: &State) -> usize {
    let wanted = state.cluster.as_ref().and_then(|cluster| cluster.spec.raft.keep_old_snapshots);
    usize::try_from(wanted.unwrap_or(0)).unwrap_or(usize::MAX)
}

/// Makes snapshots and purges the log.
pub(crate) struct Compactor {
    /// Bytes of the log after the last snapshot, as small as they were seen since: purging follows a little later.
    base: u64,
    /// The snapshot of which that holds.
    snapshot: Option<u64>,
}

impl Compactor {
    pub(crate) fn new() -> Self {
        Self { base: 0, snapshot: None }
    }

    /// One look. Errors are none of its business: Raft is stopping then, which the caller sees by itself.
    pub(crate) async fn step(
        &mut self,
        options: &RaftOptions,
        raft: &Raft,
        log: &LogStore,
        machine: &Machine,
        now: &Metrics,
    ) {
        let retention = machine.read(|state| Retention::of(options, state));
        let index = |log_id: Option<crate::types::LogId>| log_id.map(|log_id| log_id.index);
        let (applied, snapshot, purged) = (index(now.last_applied), index(now.snapshot), index(now.purged));
        let bytes = log.bytes();
        self.base = if self.snapshot == snapshot { self.base.min(bytes) } else { bytes };
        self.snapshot = snapshot;
        // One that is being built already is not begun again.
        if retention.is_due(applied, snapshot, bytes - self.base) {
            let _ = raft.trigger().snapshot().await;
        }
        if let Some(upto) = retention.purge_upto(snapshot, purged) {
            let _ = raft.trigger().purge_log(upto).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use skep_seal::Key;
    use skep_state::Cluster;

    use super::*;

    const SMALL: u64 = 1 << 20;

    #[test]
    fn the_settings_decide_and_the_options_where_they_are_silent() {
        let options = RaftOptions::new("/", "node", Key::from_bytes([0; 32]));
        let mut state = State::default();
        let default = Retention { interval: 10_000, entries_kept: 500 };
        assert_eq!(Retention::of(&options, &state), default);
        state.cluster = Some(Cluster::default());
        assert_eq!((Retention::of(&options, &state), old_snapshots(&state)), (default, 0));
        let raft = &mut state.cluster.as_mut().unwrap().spec.raft;
        (raft.snapshot_interval, raft.log_entries_for_slow_followers) = (20, 7);
        raft.keep_old_snapshots = Some(3);
        let said = Retention { interval: 20, entries_kept: 7 };
        assert_eq!((Retention::of(&options, &state), old_snapshots(&state)), (said, 3));
    }

    #[test]
    fn a_snapshot_is_due_by_entries_or_by_bytes() {
        let retention = Retention { interval: 100, entries_kept: 10 };
        assert!(!retention.is_due(Some(99), None, SMALL) && retention.is_due(Some(100), None, SMALL));
        assert!(
            !retention.is_due(Some(299), Some(200), SMALL) && retention.is_due(Some(300), Some(200), SMALL)
        );
        let much = LOG_BYTES_BETWEEN_SNAPSHOTS + 1;
        assert!(retention.is_due(Some(201), Some(200), much));
        assert!(!retention.is_due(Some(200), Some(200), much), "nothing new to put into it");
    }

    #[test]
    fn entries_behind_the_snapshot_stay() {
        let retention = Retention { interval: 100, entries_kept: 10 };
        assert_eq!(retention.purge_upto(None, None), None);
        assert_eq!(retention.purge_upto(Some(9), None), None);
        assert_eq!(retention.purge_upto(Some(100), None), Some(90), "91 to 100 are ten");
        assert_eq!(retention.purge_upto(Some(100), Some(90)), None);
    }
}
