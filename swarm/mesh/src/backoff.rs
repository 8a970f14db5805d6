//! Pauses between dial attempts: doubling, with jitter, so that a swarm does not dial a returning node in step.

use std::time::Duration;

/// First pause.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(2);

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
    pub(crate) fn step(&mut self, random: f64) -> Duration {
        let pause = self.next.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_bound_and_starts_over() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.step(1.0).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.step(0.0), LONGEST / 2);
        backoff.reset();
        assert_eq!(backoff.step(1.0), FIRST);
    }
}
