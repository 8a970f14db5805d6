//! Pauses between dial attempts: doubling, with jitter, so that a swarm does not dial a returning node in step.

use std::time::Duration;

/// First pause.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause before another dial to a peer that was there a while ago and is silent now: a healed network or a
/// restarted node must be found within half a second. A dial to nowhere costs well under a millisecond of CPU.
const LONGEST_SOON: Duration = Duration::from_millis(400);
/// Longest pause otherwise.
const LONGEST: Duration = Duration::from_secs(2);
/// Pause after the word that another process has our identity, which only people can mend.
const DUPLICATE: Duration = Duration::from_secs(15);

/// How soon another attempt makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pace {
    /// The peer was there lately.
    Soon,
    /// It was never there, not for long, or it answered and refused.
    Steady,
    /// It serves another process with our identity, or we do so with it.
    Duplicate,
}

#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The pause to make now; `random` from 0 to 1 picks from the upper half of it.
    pub(crate) fn step(&mut self, pace: Pace, random: f64) -> Duration {
        let longest = match pace {
            Pace::Soon => LONGEST_SOON,
            Pace::Steady => LONGEST,
            Pace::Duplicate => DUPLICATE,
        };
        let now = if pace == Pace::Duplicate { DUPLICATE } else { self.next.min(longest) };
        self.next = (self.next * 2).min(LONGEST);
        now.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_bound_and_starts_over() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.step(Pace::Steady, 1.0).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.step(Pace::Steady, 0.0), LONGEST / 2);
        backoff.reset();
        assert_eq!(backoff.step(Pace::Steady, 1.0), FIRST);
    }

    #[test]
    fn the_pace_sets_the_bound() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.step(Pace::Duplicate, 1.0), DUPLICATE);
        let last = (0..8).map(|_| backoff.step(Pace::Soon, 1.0)).last();
        assert_eq!(last, Some(LONGEST_SOON));
        assert_eq!(backoff.step(Pace::Steady, 1.0), LONGEST);
    }
}
