//! Which process of a node is the one to talk to.
//!
//! Every process of a node draws a random incarnation. One that was never seen is a restart: it replaces the former
//! process. But a process that was replaced is dead, so when it calls again while its successor lives, two processes
//! run with one identity (a cloned machine, a restored disk image). Were each call taken for a restart, the two would
//! evict each other for ever.
//!
//! ```text
//!             unknown incarnation                  a replaced one, the current one has no connection
//! current n ------------------------> current m    ------------------------------------------------> it is current
//!                (n is replaced)                   a replaced one, the current one lives: refused
//! ```

use std::collections::VecDeque;

/// Replaced processes that are remembered. More clones than this at once, and evictions go on.
const MAX_REPLACED: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Incarnations {
    replaced: VecDeque<u64>,
    /// The last one refused, so that it is logged once.
    refused: Option<u64>,
}

impl Incarnations {
    /// Whether a process must be refused, given whether another one of the same node is connected.
    pub(crate) fn refuses(&self, incarnation: u64, another_lives: bool) -> bool {
        another_lives && self.replaced.contains(&incarnation)
    }

    /// `former` gave way to `now`.
    pub(crate) fn replace(&mut self, former: u64, now: u64) {
        self.replaced.retain(|known| *known != now && *known != former);
        if self.replaced.len() >= MAX_REPLACED {
            self.replaced.pop_front();
        }
        self.replaced.push_back(former);
    }

    /// True the first time that this process is refused in a row.
    pub(crate) fn note_refused(&mut self, incarnation: u64) -> bool {
        self.refused.replace(incarnation) != Some(incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_process_stays_out_while_its_successor_lives() {
        let mut seen = Incarnations::default();
        assert!(!seen.refuses(1, true), "a restart");
        seen.replace(1, 2);
        assert!(seen.refuses(1, true));
        assert!(!seen.refuses(1, false));
        assert!(!seen.refuses(3, true), "another restart");
        seen.replace(2, 1);
        assert!(seen.refuses(2, true) && !seen.refuses(1, true));
    }

    #[test]
    fn memory_is_bounded_and_logged_once() {
        let mut seen = Incarnations::default();
        for number in 0..100 {
            seen.replace(number, number + 1);
        }
        assert_eq!(seen.replaced.len(), MAX_REPLACED);
        assert_eq!([1, 1, 2, 2].map(|number| seen.note_refused(number)), [true, false, true, false]);
    }
}
