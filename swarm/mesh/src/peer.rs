//! One peer: its addresses and, per class, its connections and which of them is the current one.
//!
//! Both sides may dial at once. Neither connection is refused; both sides by themselves prefer a direct one to a relayed
//! one, then the one that the smaller node id dialled, then the newer, and the other one drains (see `link`). A connection from another process of the
//! same node (its incarnation differs) replaces all that were there: the former process is gone (see `incarnations`
//! for when it is not).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quinn::SendDatagramError;
use tokio::sync::{Notify, watch};

use crate::changes::Changes;
use crate::class::Class;
use crate::incarnations::Incarnations;
use crate::link::{CloseCode, Link};
use crate::relay::is_made_up;

/// Connections of one class to one peer: the current one and a few that drain.
const MAX_LINKS: usize = 4;
/// Addresses remembered of one peer.
pub(crate) const MAX_ADDRESSES: usize = 16;
/// Datagrams held while a data connection is made.
const MAX_QUEUED_DATAGRAMS: usize = 256;
/// The same in bytes.
const MAX_QUEUED_BYTES: usize = 512 << 10;

pub(crate) struct Peer {
    pub(crate) node_id: String,
    /// Whether our id is the smaller one, so that connections that we dialled are preferred.
    we_are_smaller: bool,
    pub(crate) slots: [Slot; Class::COUNT],
    removed: AtomicBool,
    /// Whether it had to be reached through a relay, and has not been dialled directly since.
    needs_relay: AtomicBool,
    /// Wakes whoever looks for a direct way: there are other addresses to try.
    pub(crate) readdressed: Notify,
    state: Mutex<State>,
    incarnations: Mutex<Incarnations>,
    /// Number of the session (see `changes`) that control connections make; 0 for none. Changes only under the lock of
    /// the control slot's links.
    session: AtomicU64,
    last_heard: AtomicU64,
    epoch: Instant,
}

/// The connections of one class.
pub(crate) struct Slot {
    pub(crate) current: watch::Sender<Option<Arc<Link>>>,
    pub(crate) links: Mutex<Vec<Arc<Link>>>,
    /// Wakes the dialler: somebody needs a connection, or something changed.
    pub(crate) demand: Notify,
    pub(crate) dialler_runs: AtomicBool,
    last_demand: AtomicU64,
    queued: Mutex<Queued>,
}

#[derive(Default)]
struct State {
    addresses: Vec<SocketAddr>,
    learned: Option<SocketAddr>,
    keep: bool,
    configured: bool,
    last_error: Option<String>,
}

#[derive(Default)]
struct Queued {
    datagrams: VecDeque<Bytes>,
    bytes: usize,
}

impl Peer {
    pub(crate) fn new(node_id: String, own_id: &str, epoch: Instant) -> Arc<Self> {
        Arc::new(Self {
            we_are_smaller: own_id < node_id.as_str(),
            node_id,
            slots: Class::ALL.map(|_| Slot::new()),
            removed: AtomicBool::new(false),
            needs_relay: AtomicBool::new(false),
            readdressed: Notify::new(),
            state: Mutex::default(),
            incarnations: Mutex::default(),
            session: AtomicU64::new(0),
            last_heard: AtomicU64::new(0),
            epoch,
        })
    }

    pub(crate) fn slot(&self, class: Class) -> &Slot {
        &self.slots[class.index()]
    }

    pub(crate) fn configure(&self, mut addresses: Vec<SocketAddr>, keep: bool) {
        addresses.retain(|address| !is_made_up(*address));
        addresses.truncate(MAX_ADDRESSES);
        let mut state = self.state.lock();
        if state.addresses != addresses {
            self.readdressed.notify_one();
        }
        state.addresses = addresses;
        state.keep = keep;
        state.configured = true;
    }

    pub(crate) fn learn(&self, address: SocketAddr) {
        if !is_made_up(address) {
            self.state.lock().learned = Some(address);
        }
    }

    /// Where to dial: what was configured, then where it is connected, then where it last called from.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let links = self.slot(Class::Control).links.lock().clone();
        let direct = links.iter().filter(|link| !link.is_closed() && link.via.is_none());
        let connected = direct.map(|link| link.remote()).filter(|address| !is_made_up(*address));
        let state = self.state.lock();
        let mut addresses = state.addresses.clone();
        for address in connected.chain(state.learned) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    pub(crate) fn needs_relay(&self) -> bool {
        self.needs_relay.load(Ordering::Acquire)
    }

    pub(crate) fn keep(&self) -> bool {
        self.state.lock().keep
    }

    pub(crate) fn is_configured(&self) -> bool {
        self.state.lock().configured
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    pub(crate) fn set_error(&self, error: Option<String>) {
        self.state.lock().last_error = error;
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.state.lock().last_error.clone()
    }

    pub(crate) fn heard(&self, now: Instant) {
        self.last_heard.fetch_max(since(self.epoch, now), Ordering::AcqRel);
    }

    pub(crate) fn last_heard(&self) -> Option<Instant> {
        match self.last_heard.load(Ordering::Acquire) {
            0 => None,
            micros => Some(self.epoch + Duration::from_micros(micros)),
        }
    }

    /// Takes a new connection in; an error says why it must be closed instead. The caller delivers `changes` after it.
    pub(crate) fn install(&self, link: &Arc<Link>, now: Instant, changes: &Changes) -> Result<(), CloseCode> {
        let mut all = self.lock_links();
        if self.is_removed() {
            return Err(CloseCode::Removed);
        }
        let mut incarnations = self.incarnations.lock();
        if incarnations.refuses(link.incarnation, another_lives(&all, link.incarnation)) {
            return Err(CloseCode::Duplicate);
        }
        for links in &mut all {
            for former in links.extract_if(.., |other| other.incarnation != link.incarnation) {
                incarnations.replace(former.incarnation, link.incarnation);
                former.close(CloseCode::Restarted);
            }
        }
        drop(incarnations);
        // Before anybody can see the connection: a peer that is connected has been heard.
        self.heard(now);
        self.end_session_without(&all[Class::Control.index()], changes);
        let links = &mut all[link.class.index()];
        links.push(link.clone());
        if link.class == Class::Control && self.session.load(Ordering::Acquire) == 0 {
            self.session.store(link.sequence, Ordering::Release);
            changes.up(link.sequence, &link.peer);
        }
        if link.via.is_some() || link.dialled {
            self.needs_relay.store(link.via.is_some(), Ordering::Release);
        }
        // What we dialled to where the peer was leads nowhere; its end of it is gone already. Relays follow.
        let left = |former: &Link| former.dialled && former.via.is_none() && former.moves < link.moves;
        for former in links.iter().filter(|former| left(former)) {
            former.close(CloseCode::Moved);
        }
        let slot = self.slot(link.class);
        if links.len() > MAX_LINKS {
            let current = slot.current();
            let worst =
                links.iter().position(|other| current.as_ref().is_none_or(|c| c.sequence != other.sequence));
            if let Some(worst) = worst {
                links.remove(worst).close(CloseCode::TooMany);
            }
        }
        for (slot, links) in self.slots.iter().zip(&all) {
            self.settle(slot, links, now);
        }
        drop(all);
        if !link.class.has_streams() {
            slot.flush();
        }
        slot.demand.notify_one();
        Ok(())
    }

    /// Takes a connection out. The caller delivers `changes` after it.
    pub(crate) fn uninstall(&self, link: &Link, now: Instant, changes: &Changes) {
        let slot = self.slot(link.class);
        let mut links = slot.links.lock();
        links.retain(|other| other.sequence != link.sequence);
        if link.class == Class::Control {
            self.end_session_without(&links, changes);
        }
        self.settle(slot, &links, now);
        slot.demand.notify_one();
    }

    /// Uses some connections no more, since their other end cannot follow us to our new address. Whether there were any.
    pub(crate) fn strand(&self, class: Class, now: Instant, which: impl Fn(&Link) -> bool) -> bool {
        let slot = self.slot(class);
        let links = slot.links.lock();
        let mut any = false;
        for link in links.iter().filter(|link| link.is_usable() && which(link)) {
            link.stranded.store(true, Ordering::Release);
            any = true;
        }
        if any {
            self.settle(slot, &links, now);
        }
        any
    }

    /// Closes everything, for good. The caller delivers `changes` after it.
    pub(crate) fn remove(&self, now: Instant, changes: &Changes) {
        let mut all = self.lock_links();
        self.removed.store(true, Ordering::Release);
        for (slot, links) in self.slots.iter().zip(&mut all) {
            slot.drop_queued();
            links.drain(..).for_each(|link| link.close(CloseCode::Removed));
            self.settle(slot, links, now);
            slot.demand.notify_one();
        }
        self.end_session_without(&all[Class::Control.index()], changes);
    }

    /// Ends this peer if it has no connection.
    pub(crate) fn remove_if_unused(&self) -> bool {
        let all = self.lock_links();
        let unused = !self.is_configured() && all.iter().all(|links| links.is_empty());
        if unused {
            self.removed.store(true, Ordering::Release);
            self.slots.iter().for_each(|slot| slot.demand.notify_one());
        }
        unused
    }

    /// Whether a process of the peer must be refused because another one with the same identity lives.
    pub(crate) fn refuses(&self, incarnation: u64) -> bool {
        let all = self.lock_links();
        self.incarnations.lock().refuses(incarnation, another_lives(&all, incarnation))
    }

    /// Says once, in the log, that two processes share this peer's identity.
    pub(crate) fn warn_of_duplicate(&self, refused: SocketAddr, incarnation: u64) {
        if !self.incarnations.lock().note_refused(incarnation) {
            return;
        }
        let served = Class::ALL.into_iter().find_map(|class| self.slot(class).current());
        let served = served.map(|link| crate::socket::canonical(link.connection.remote_address()));
        tracing::error!(
            node_id = self.node_id,
            %refused,
            ?served,
            "two running processes use the identity of one node (a cloned machine?): the later one is served, the \
             other is refused; let one of them join as a node of its own"
        );
    }

    /// All classes' connections, always locked in the same order.
    fn lock_links(&self) -> [MutexGuard<'_, Vec<Arc<Link>>>; Class::COUNT] {
        self.slots.each_ref().map(|slot| slot.links.lock())
    }

    /// Ends the session if no control connection lives.
    fn end_session_without(&self, control: &[Arc<Link>], changes: &Changes) {
        if control.iter().all(|link| link.is_closed()) {
            match self.session.swap(0, Ordering::AcqRel) {
                0 => {}
                session => changes.down(&self.node_id, session),
            }
        }
    }

    /// Chooses the current connection and marks the others as draining.
    fn settle(&self, slot: &Slot, links: &[Arc<Link>], now: Instant) {
        let best = links
            .iter()
            .filter(|link| link.is_usable())
            .max_by_key(|link| rank(link.via.is_none(), self.we_are_smaller == link.dialled, link.order))
            .cloned();
        for link in links.iter() {
            let mut draining = link.draining_since.lock();
            match best.as_ref().is_some_and(|best| best.sequence == link.sequence) {
                true => *draining = None,
                false => *draining = draining.or(Some(now)),
            }
        }
        slot.current.send_if_modified(|current| {
            let same = current.as_ref().map(|link| link.sequence) == best.as_ref().map(|link| link.sequence);
            *current = best;
            !same
        });
    }
}

/// What makes a connection better than another one of the same class to the same process: no relay in between, then who
/// dialled, then that the one who dialled both dialled it later. The same at both ends.
fn rank(direct: bool, smaller_dialled: bool, order: u64) -> impl Ord {
    (direct, smaller_dialled, order)
}

fn another_lives(all: &[MutexGuard<'_, Vec<Arc<Link>>>; Class::COUNT], incarnation: u64) -> bool {
    all.iter().flat_map(|links| links.iter()).any(|link| link.incarnation != incarnation && !link.is_closed())
}

impl Slot {
    fn new() -> Self {
        Self {
            current: watch::Sender::new(None),
            links: Mutex::default(),
            demand: Notify::new(),
            dialler_runs: AtomicBool::new(false),
            last_demand: AtomicU64::new(0),
            queued: Mutex::default(),
        }
    }

    pub(crate) fn current(&self) -> Option<Arc<Link>> {
        self.current.borrow().clone()
    }

    pub(crate) fn note_demand(&self, epoch: Instant, now: Instant) {
        self.last_demand.store(since(epoch, now), Ordering::Release);
        self.demand.notify_one();
    }

    pub(crate) fn wanted_within(&self, epoch: Instant, now: Instant, window: Duration) -> bool {
        match self.last_demand.load(Ordering::Acquire) {
            0 => false,
            micros => now.saturating_duration_since(epoch + Duration::from_micros(micros)) < window,
        }
    }

    /// Holds a datagram until a connection is up; false if there is no room.
    pub(crate) fn queue(&self, datagram: Bytes) -> bool {
        let mut queued = self.queued.lock();
        if queued.datagrams.len() >= MAX_QUEUED_DATAGRAMS || queued.bytes + datagram.len() > MAX_QUEUED_BYTES
        {
            return false;
        }
        queued.bytes += datagram.len();
        queued.datagrams.push_back(datagram);
        true
    }

    /// Sends what was held.
    pub(crate) fn flush(&self) {
        let Some(link) = self.current() else { return };
        let queued = std::mem::take(&mut *self.queued.lock());
        for datagram in queued.datagrams {
            // One that is too large for the path is gone; if the connection is, the next one gets them.
            if let Err(SendDatagramError::ConnectionLost(_)) = link.connection.send_datagram(datagram.clone())
            {
                self.queue(datagram);
            }
        }
    }

    pub(crate) fn drop_queued(&self) {
        *self.queued.lock() = Queued::default();
    }
}

/// Microseconds, at least 1: 0 stands for never.
fn since(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_micros()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_ones_come_first() {
        // A direct one that the smaller side dialled comes first, whatever else is newer.
        let best = || rank(true, true, 2);
        assert!(
            [rank(false, true, 9), rank(false, false, 9), rank(true, false, 9)]
                .iter()
                .all(|rank| *rank < best())
        );
        assert!(rank(true, false, 2) > rank(true, false, 1), "of two by the same side the newer");
    }

    #[test]
    fn queue_is_bounded() {
        let slot = Slot::new();
        let datagram = Bytes::from_static(&[0; 1000]);
        let taken = (0..MAX_QUEUED_DATAGRAMS + 10).filter(|_| slot.queue(datagram.clone())).count();
        assert_eq!(taken, MAX_QUEUED_DATAGRAMS);
        slot.drop_queued();
        assert!(!slot.queue(Bytes::from(vec![0; MAX_QUEUED_BYTES + 1])));
        assert!(slot.queue(datagram));
    }
}
