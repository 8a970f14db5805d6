//! When a connection counts as dead: silence, judged by our own clock and only while we were listening.
//!
//! ```text
//!            packet                       tick, silent too long
//! listening --------> listening           listening ------------> dead (closed, redialled)
//!    | tick, but the last tick is long ago: *we* stood still (stopped, VM paused), so packets may wait in the socket
//!    +--> listening, silence counted from now
//! ```

use std::time::{Duration, Instant};

/// How often both sides of a control connection send a heartbeat.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(200);
/// Silence on a control connection that is not yet alarming, beside a few round trips.
pub(crate) const CONTROL_SILENCE: Duration = Duration::from_millis(1200);
/// The same for connections whose keep-alive is slower.
pub(crate) const OTHER_SILENCE: Duration = Duration::from_secs(5);
/// Round trips added to the bound: a lost heartbeat is repeated within a few.
const ROUND_TRIPS: u32 = 4;
/// A tick that comes later than this finds a node that had stopped itself.
const STOOD_STILL: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Liveness {
    silent_since: Instant,
    last_tick: Instant,
    packets: u64,
}

impl Liveness {
    pub(crate) fn new(now: Instant) -> Self {
        Self { silent_since: now, last_tick: now, packets: 0 }
    }

    /// Takes the connection's count of received packets; true if there are new ones.
    pub(crate) fn tick(&mut self, now: Instant, packets: u64) -> bool {
        let heard = packets != self.packets;
        if heard || now.duration_since(self.last_tick) > STOOD_STILL {
            self.silent_since = now;
        }
        self.packets = packets;
        self.last_tick = now;
        heard
    }

    pub(crate) fn silence(&self, now: Instant) -> Duration {
        now.duration_since(self.silent_since)
    }

    pub(crate) fn is_dead(&self, now: Instant, bound: Duration, rtt: Duration) -> bool {
        self.silence(now) > bound + rtt * ROUND_TRIPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(1);

    #[test]
    fn silence_kills_after_the_bound_only() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert!(liveness.tick(start + HEARTBEAT, 1));
        for ticks in 2..=7 {
            let now = start + HEARTBEAT * ticks;
            assert!(!liveness.tick(now, 1));
            assert!(!liveness.is_dead(now, CONTROL_SILENCE, RTT), "at tick {ticks}");
        }
        let now = start + HEARTBEAT * 8;
        liveness.tick(now, 1);
        assert!(liveness.is_dead(now, CONTROL_SILENCE, RTT));
        assert!(
            !liveness.is_dead(now, CONTROL_SILENCE, Duration::from_millis(200)),
            "a slow path gets longer"
        );
    }

    #[test]
    fn our_own_pause_is_not_the_peers_silence() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let now = start + Duration::from_secs(10);
        liveness.tick(now, 0);
        assert!(!liveness.is_dead(now, CONTROL_SILENCE, RTT));
    }
}
