//! What one node may cost a manager: how often it may open a session, how often its faults are spoken of.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Sessions that a node may open at once, then …
const SESSIONS: u32 = 3;
/// … as many again in this time (swarmkit `dispatcher.go`, `rateLimitCount` and `defaultRateLimitPeriod`): each costs a
/// whole view of the swarm and a commit.
const SESSIONS_PERIOD: Duration = Duration::from_secs(8);

/// The same fault is spoken of at most this often: a node must not fill the managers' log.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// Token buckets of the nodes. Those that are full are not held, so there are no more than nodes that came lately.
#[derive(Debug, Default)]
pub(crate) struct Registrations {
    nodes: BTreeMap<String, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Time that counts as spent; one session costs a third of the period.
    spent: Duration,
    at: Instant,
}

impl Registrations {
    /// Whether a node may open a session now. One that may not is not charged for having asked.
    pub(crate) fn admit(&mut self, node_id: &str, now: Instant) -> bool {
        self.nodes.retain(|_, bucket| {
            bucket.spent = bucket.spent.saturating_sub(now.saturating_duration_since(bucket.at));
            bucket.at = now;
            !bucket.spent.is_zero()
        });
        let bucket =
            self.nodes.entry(node_id.to_owned()).or_insert(Bucket { spent: Duration::ZERO, at: now });
        let after = bucket.spent + SESSIONS_PERIOD / SESSIONS;
        let admitted = after <= SESSIONS_PERIOD;
        if admitted {
            bucket.spent = after;
        }
        admitted
    }
}

/// The refusal of a session, in Docker's words.
pub(crate) fn too_many_sessions(node_id: &str) -> String {
    format!("node {node_id} exceeded rate limit count of registrations")
}

/// Speaks of a fault now and then.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    /// Whether it may be spoken of now.
    pub(crate) fn may_speak(&mut self, now: Instant) -> bool {
        let may = self.last.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINT_PERIOD);
        if may {
            self.last = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_registers_three_times_in_eight_seconds() {
        let (mut registrations, start) = (Registrations::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert!((0..3).all(|millis| registrations.admit("a", at(millis))));
        assert!(!registrations.admit("a", at(3)) && !registrations.admit("a", at(2_000)));
        assert!(registrations.admit("b", at(2_000)), "each node has its own");
        assert!(registrations.admit("a", at(2_670)), "a third of the period later");
        assert!(!registrations.admit("a", at(2_700)));
        assert!((0..3).all(|millis| registrations.admit("a", at(20_000 + millis))));
        assert!(!registrations.admit("a", at(20_010)));
        assert_eq!(registrations.nodes.len(), 1, "who has not come lately is forgotten");
    }

    #[test]
    fn a_fault_is_spoken_of_now_and_then() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let spoken = (0..25).filter(|&second| complaints.may_speak(start + Duration::from_secs(second)));
        assert_eq!(spoken.collect::<Vec<_>>(), [0, 10, 20]);
    }
}
