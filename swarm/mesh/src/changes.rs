//! Which peers are up, as told to [`Handler::peer_changed`](crate::Handler::peer_changed).
//!
//! Connections come and go on many tasks; the handler must all the same hear `true` and `false` in turn, and the end of
//! one process before the start of its successor. So the connections set what *is*, and one deliverer per node brings
//! what was *reported* after it, one step at a time:
//!
//! ```text
//!            is: up (session n)                   is: down, or up in another session
//! reported: down ----------------> reported: up n ----------------------------------> reported: down
//! ```
//! A session is the time from the first control connection to a process until the last one to it is gone. A session
//! that begins and ends while the handler is still busy with an earlier report is not reported at all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::identity::PeerIdentity;

/// One entry per node that is up, or whose last report is under way: bounded by the peers.
#[derive(Default)]
pub(crate) struct Changes {
    nodes: Mutex<HashMap<String, Node>>,
}

#[derive(Default)]
struct Node {
    is: Option<Session>,
    reported: Option<Session>,
    delivering: bool,
}

#[derive(Clone)]
struct Session {
    number: u64,
    peer: Arc<PeerIdentity>,
}

/// Gives the delivery up, also when a handler panics.
struct Delivery<'a> {
    changes: &'a Changes,
    node_id: &'a str,
}

impl Changes {
    /// A session begins; `number` is never used twice.
    pub(crate) fn up(&self, number: u64, peer: &Arc<PeerIdentity>) {
        let mut nodes = self.nodes.lock();
        nodes.entry(peer.node_id.clone()).or_default().is = Some(Session { number, peer: peer.clone() });
    }

    /// A session ends. Nothing happens if another one has begun since.
    pub(crate) fn down(&self, node_id: &str, number: u64) {
        if let Some(node) = self.nodes.lock().get_mut(node_id) {
            node.is.take_if(|session| session.number == number);
        }
    }

    /// Reports what is not yet reported. Returns at once if another task is at it: that one reports this too. No lock
    /// is held while `report` runs.
    pub(crate) fn deliver(&self, node_id: &str, mut report: impl FnMut(&PeerIdentity, bool)) {
        match self.nodes.lock().get_mut(node_id) {
            Some(node) if !node.delivering => node.delivering = true,
            _ => return,
        }
        let delivery = Delivery { changes: self, node_id };
        while let Some((peer, connected)) = delivery.next() {
            report(&peer, connected);
        }
    }
}

impl Delivery<'_> {
    /// The next report; when there is none, the delivery has ended in the same step, so that none is left behind.
    fn next(&self) -> Option<(Arc<PeerIdentity>, bool)> {
        let mut nodes = self.changes.nodes.lock();
        let node = nodes.get_mut(self.node_id)?;
        let is = node.is.as_ref().map(|session| session.number);
        if let Some(ended) = node.reported.take_if(|session| is != Some(session.number)) {
            return Some((ended.peer, false));
        }
        if node.reported.is_none()
            && let Some(session) = &node.is
        {
            node.reported = Some(session.clone());
            return Some((session.peer.clone(), true));
        }
        node.delivering = false;
        if is.is_none() {
            nodes.remove(self.node_id);
        }
        None
    }
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(node) = self.changes.nodes.lock().get_mut(self.node_id)
        {
            node.delivering = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::identity::Role;

    fn peer() -> Arc<PeerIdentity> {
        Arc::new(PeerIdentity {
            node_id: "n".into(),
            cluster_id: "c".into(),
            role: Role::Worker,
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        })
    }

    fn delivered(changes: &Changes) -> Vec<bool> {
        let mut reports = Vec::new();
        changes.deliver("n", |_, connected| reports.push(connected));
        reports
    }

    #[test]
    fn down_comes_before_the_next_up() {
        let changes = Changes::default();
        assert!(delivered(&changes).is_empty());
        changes.up(1, &peer());
        assert_eq!(delivered(&changes), [true]);
        assert!(delivered(&changes).is_empty());
        changes.up(2, &peer());
        // The end of a session that is over already changes nothing.
        changes.down("n", 1);
        assert_eq!(delivered(&changes), [false, true]);
        changes.down("n", 2);
        assert_eq!(delivered(&changes), [false]);
        assert!(changes.nodes.lock().is_empty());
    }

    #[test]
    fn what_happens_during_a_report_is_reported_after_it_in_turn() {
        let changes = Changes::default();
        changes.up(1, &peer());
        let mut reports = Vec::new();
        changes.deliver("n", |_, connected| {
            reports.push(connected);
            if reports.len() == 1 {
                for number in 2..50 {
                    changes.down("n", number - 1);
                    changes.up(number, &peer());
                    changes.deliver("n", |_, _| panic!("two reports at once"));
                }
            }
        });
        assert_eq!(reports, [true, false, true]);
    }

    #[test]
    fn a_handler_that_panics_is_called_again() {
        let changes = Changes::default();
        changes.up(1, &peer());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            changes.deliver("n", |_, _| panic!("on purpose"));
        }));
        assert!(panicked.is_err());
        changes.down("n", 1);
        assert_eq!(delivered(&changes), [false]);
    }
}
