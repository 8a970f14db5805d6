//! When to start the daemon again. Pure: time comes in.
//!
//! ```text
//!            hello                    connection closed
//!   Idle ------------> Alive -------------------------------> Due(at) <---------+
//!    ^                  |  ^                                    | at reached    | ended before hello
//!    |     goodbye      |  |              hello                 v               |
//!    +------------------+  +-------------------------------- Starting ----------+
//! ```
//! The wait starts at 50 ms, doubles with every short life and starts over after a life of 10 s. A goodbye leads to
//! `Idle` from everywhere.

use std::time::{Duration, Instant};

const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A daemon that lived this long did not die of its start.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// The state machine.
#[derive(Debug)]
pub(super) struct Respawn {
    state: State,
    wait: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Alive { since: Instant },
    Due { at: Instant },
    Starting { since: Instant },
}

impl Respawn {
    pub(super) fn new() -> Self {
        Self { state: State::Idle, wait: WAIT_MIN }
    }

    /// A daemon said hello.
    pub(super) fn hello(&mut self, now: Instant) {
        self.state = State::Alive { since: now };
    }

    /// The daemon ends on purpose, or nothing is to be respawned any more.
    pub(super) fn goodbye(&mut self) {
        self.state = State::Idle;
        self.wait = WAIT_MIN;
    }

    /// The daemon's connection closed.
    pub(super) fn lost(&mut self, now: Instant) {
        if let State::Alive { since } = self.state {
            self.ended(since, now);
        }
    }

    /// The command was run.
    pub(super) fn started(&mut self, now: Instant) {
        self.state = State::Starting { since: now };
    }

    /// The process that was run ended.
    pub(super) fn exited(&mut self, now: Instant) {
        if let State::Starting { since } = self.state {
            self.ended(since, now);
        }
    }

    /// It is due but cannot be yet, or the command could not be run.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.ended(now, now);
    }

    /// Is it time to run the command?
    pub(super) fn due(&self, now: Instant) -> bool {
        matches!(self.state, State::Due { at } if at <= now)
    }

    /// When to ask again.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.state {
            State::Due { at } => Some(at),
            _ => None,
        }
    }

    fn ended(&mut self, since: Instant, now: Instant) {
        if now.saturating_duration_since(since) >= LONG_LIFE {
            self.wait = WAIT_MIN;
        }
        self.state = State::Due { at: now + self.wait };
        self.wait = (self.wait * 2).min(WAIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_start_over_after_a_long_life() {
        let mut now = Instant::now();
        let mut respawn = Respawn::new();
        respawn.lost(now);
        assert_eq!(respawn.next(), None, "a daemon that never was is not started");
        respawn.hello(now);
        respawn.lost(now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let at = respawn.next().unwrap();
            waits.push((at - now).as_millis());
            assert!(!respawn.due(at - Duration::from_millis(1)) && respawn.due(at));
            now = at;
            respawn.started(now);
            respawn.exited(now);
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        respawn.started(now);
        respawn.hello(now);
        now += LONG_LIFE;
        respawn.lost(now);
        assert_eq!(respawn.next(), Some(now + WAIT_MIN));
    }

    #[test]
    fn a_goodbye_ends_it_all() {
        let now = Instant::now();
        let mut respawn = Respawn::new();
        respawn.hello(now);
        respawn.goodbye();
        respawn.lost(now);
        assert_eq!(respawn.next(), None);
    }
}
