//! The swarm's clock: this host's, moved by what the managers say when this host's is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The time that certificates are judged by: this host's clock and an offset. Clones share the offset.
#[derive(Debug, Clone, Default)]
pub struct SwarmClock {
    skew: i64,
    offset: Arc<AtomicI64>,
}

impl SwarmClock {
    /// This host's clock as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// A clock that takes this host's for wrong by so many seconds: they are added to it before anything else.
    pub fn with_skew(seconds: i64) -> Self {
        Self { skew: seconds, ..Self::default() }
    }

    /// This host's time, without the offset.
    pub fn host_time(&self) -> SystemTime {
        moved(SystemTime::now(), self.skew)
    }

    /// The time. Before 1970 it is 1970.
    pub fn now(&self) -> SystemTime {
        moved(self.host_time(), self.offset())
    }

    /// Moves the clock: `seconds` are added to this host's time, at once and for all clones.
    pub fn set_offset(&self, seconds: i64) {
        self.offset.store(seconds, Ordering::Relaxed);
    }

    /// What is added to this host's time, in seconds.
    pub fn offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }
}

fn moved(time: SystemTime, seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 { time.checked_sub(distance) } else { time.checked_add(distance) };
    moved.unwrap_or(time).max(SystemTime::UNIX_EPOCH)
}

impl TimeProvider for SwarmClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_move_together_and_never_overflow() {
        let clock = SwarmClock::new();
        let other = clock.clone();
        clock.set_offset(-7200);
        let behind = SystemTime::now().duration_since(other.now()).unwrap().as_secs();
        assert!((7199..=7201).contains(&behind), "{behind}");
        clock.set_offset(i64::MIN);
        assert!(other.current_time().is_some());
        clock.set_offset(i64::MAX);
        assert!(other.current_time().is_some());
    }
}
