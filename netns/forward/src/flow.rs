//! Which peer a client's flow came in from, so that replies find their way back.
//!
//! Ingress does no source NAT: a container sees the client's own address and answers to it, and only the node that the
//! client called can give the answer its right source address. So each packet from a client teaches which node that is.
//!
//! ```text
//!                  any packet from the client                reply, then ACK without FIN, SYN, RST
//!   (unknown) ───────────────────────────────▶ transient ─────────────────────────────────────────▶ established
//!       ▲                                        │   ▲                                                  │
//!       └──── idle TRANSIENT_IDLE_MS, ───────────┘   └──────────── FIN or RST, either side ─────────────┤
//!       ▲     or oldest and table full                                                                  │
//!       └──── idle ESTABLISHED_IDLE_MS, or oldest, table full and nothing transient left ───────────────┘
//! ```
//!
//! Two lists in order of last use, because one would let a flood of short connections push out a quiet database
//! session: `transient` (UDP, ICMP, TCP being opened or closed) is emptied first. Failure edge: a reply to a flow that
//! was pushed out is dropped until the client speaks again.

use std::collections::HashMap;

use crate::Peer;
use crate::flow_key::{FlowKey, Seen};

/// Idle time after which an established TCP flow is forgotten. RFC 5382 REQ-5 asks for 2 h 4 min at least; TCP's default
/// keepalive of 2 h refreshes it.
pub const ESTABLISHED_IDLE_MS: u64 = 125 * 60 * 1000;
/// Idle time after which any other flow is forgotten: 5 minutes as RFC 4787 REQ-5 recommends for UDP.
pub const TRANSIENT_IDLE_MS: u64 = 5 * 60 * 1000;

const NONE: u32 = u32::MAX;

/// The bounded table.
#[derive(Debug)]
pub struct FlowTable {
    capacity: usize,
    index: HashMap<FlowKey, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    lists: [List; 2],
}

#[derive(Debug)]
struct Slot {
    key: FlowKey,
    peer: Peer,
    used_ms: u64,
    replied: bool,
    class: Class,
    older: u32,
    newer: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Transient = 0,
    Established = 1,
}

#[derive(Debug, Clone, Copy)]
struct List {
    oldest: u32,
    newest: u32,
}

impl Class {
    const fn idle_ms(self) -> u64 {
        match self {
            Self::Transient => TRANSIENT_IDLE_MS,
            Self::Established => ESTABLISHED_IDLE_MS,
        }
    }
}

impl FlowTable {
    /// A table for this many flows, one at least. Memory is taken as flows come.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.clamp(1, NONE as usize),
            index: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            lists: [List { oldest: NONE, newest: NONE }; 2],
        }
    }

    /// A packet of the client came in from `peer`. The last peer wins: a client that calls another node from the same
    /// port has given the old connection up.
    pub fn learn(&mut self, key: FlowKey, peer: Peer, seen: Seen, now_ms: u64) {
        let Some(&at) = self.index.get(&key) else {
            self.insert(key, peer, now_ms);
            return;
        };
        let slot = &mut self.slots[at as usize];
        if slot.peer != peer || slot.is_idle(now_ms) || seen != Seen::Running {
            slot.replied = false;
        }
        slot.peer = peer;
        let class = if seen == Seen::Running && slot.replied { Class::Established } else { Class::Transient };
        self.touch(at, class, now_ms);
    }

    /// A reply goes out: the peer that it belongs to, if the flow is known and not too old.
    pub fn find(&mut self, key: &FlowKey, seen: Seen, now_ms: u64) -> Option<Peer> {
        let at = *self.index.get(key)?;
        let slot = &mut self.slots[at as usize];
        if slot.is_idle(now_ms) {
            self.remove(at);
            return None;
        }
        let (peer, class) = (slot.peer, slot.class);
        match seen {
            Seen::Closing => {
                slot.replied = false;
                self.touch(at, Class::Transient, now_ms);
            }
            Seen::Opening | Seen::Running => {
                slot.replied = true;
                self.touch(at, class, now_ms);
            }
            Seen::Other => self.touch(at, class, now_ms),
        }
        Some(peer)
    }

    /// Forgets all flows of a peer.
    pub fn forget_peer(&mut self, peer: Peer) {
        let gone: Vec<u32> =
            self.index.values().copied().filter(|at| self.slots[*at as usize].peer == peer).collect();
        for at in gone {
            self.remove(at);
        }
    }

    /// Forgets the flows that are too old.
    pub fn expire(&mut self, now_ms: u64) {
        for class in [Class::Transient, Class::Established] {
            loop {
                let at = self.lists[class as usize].oldest;
                if at == NONE || !self.slots[at as usize].is_idle(now_ms) {
                    break;
                }
                self.remove(at);
            }
        }
    }

    /// How many flows are remembered.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn insert(&mut self, key: FlowKey, peer: Peer, now_ms: u64) {
        if self.index.len() >= self.capacity {
            let [transient, established] = self.lists;
            let victim = if transient.oldest == NONE { established.oldest } else { transient.oldest };
            self.remove(victim);
        }
        let slot = Slot {
            key,
            peer,
            used_ms: now_ms,
            replied: false,
            class: Class::Transient,
            older: NONE,
            newer: NONE,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.index.insert(key, at);
        self.link(at);
    }

    fn touch(&mut self, at: u32, class: Class, now_ms: u64) {
        self.unlink(at);
        let slot = &mut self.slots[at as usize];
        slot.used_ms = slot.used_ms.max(now_ms);
        slot.class = class;
        self.link(at);
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        self.index.remove(&self.slots[at as usize].key);
        self.free.push(at);
    }

    /// Puts a slot at the newest end of its class's list.
    fn link(&mut self, at: u32) {
        let list = &mut self.lists[self.slots[at as usize].class as usize];
        let older = list.newest;
        list.newest = at;
        if older == NONE {
            list.oldest = at;
        } else {
            self.slots[older as usize].newer = at;
        }
        let slot = &mut self.slots[at as usize];
        slot.older = older;
        slot.newer = NONE;
    }

    fn unlink(&mut self, at: u32) {
        let Slot { class, older, newer, .. } = self.slots[at as usize];
        let list = &mut self.lists[class as usize];
        if older == NONE {
            list.oldest = newer;
        } else {
            self.slots[older as usize].newer = newer;
        }
        if newer == NONE {
            list.newest = older;
        } else {
            self.slots[newer as usize].older = older;
        }
    }
}

impl Slot {
    fn is_idle(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.used_ms) > self.class.idle_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(client_port: u16) -> FlowKey {
        FlowKey::ports(6, ("10.255.0.2".parse().unwrap(), 80), ("192.0.2.1".parse().unwrap(), client_port))
    }

    /// Opens a TCP flow the way a client does.
    fn establish(table: &mut FlowTable, key: FlowKey, peer: Peer, now_ms: u64) {
        table.learn(key, peer, Seen::Opening, now_ms);
        assert_eq!(table.find(&key, Seen::Opening, now_ms), Some(peer));
        table.learn(key, peer, Seen::Running, now_ms);
    }

    #[test]
    fn an_established_flow_survives_a_flood_of_short_ones() {
        let mut table = FlowTable::new(100);
        establish(&mut table, key(1), 7, 0);
        for port in 1000..6000 {
            table.learn(key(port), 3, Seen::Opening, 1);
        }
        assert_eq!(table.len(), 100);
        assert_eq!(table.find(&key(1), Seen::Running, 2), Some(7));
        assert_eq!(table.find(&key(1000), Seen::Running, 2), None);
        assert_eq!(table.find(&key(5999), Seen::Running, 2), Some(3));
    }

    #[test]
    fn a_full_table_of_established_flows_drops_the_one_longest_unused() {
        let mut table = FlowTable::new(3);
        for port in 1..=3 {
            establish(&mut table, key(port), 7, u64::from(port));
        }
        assert_eq!(table.find(&key(1), Seen::Running, 10), Some(7));
        table.learn(key(4), 7, Seen::Opening, 11);
        assert_eq!(table.find(&key(2), Seen::Running, 12), None);
        assert_eq!(table.find(&key(1), Seen::Running, 12), Some(7));
    }

    #[test]
    fn idle_flows_are_forgotten_each_class_at_its_own_time() {
        let mut table = FlowTable::new(10);
        establish(&mut table, key(1), 7, 0);
        table.learn(key(2), 7, Seen::Opening, 0);
        assert_eq!(table.find(&key(2), Seen::Opening, TRANSIENT_IDLE_MS), Some(7));
        table.expire(2 * TRANSIENT_IDLE_MS);
        assert_eq!(table.len(), 2);
        table.expire(2 * TRANSIENT_IDLE_MS + 1);
        assert_eq!(table.len(), 1);
        assert_eq!(table.find(&key(1), Seen::Running, ESTABLISHED_IDLE_MS), Some(7));
        assert_eq!(table.find(&key(1), Seen::Running, 2 * ESTABLISHED_IDLE_MS + 1), None);
        assert!(table.is_empty());
    }

    #[test]
    fn a_closed_flow_is_transient_and_a_moved_one_goes_to_the_new_peer() {
        let mut table = FlowTable::new(10);
        establish(&mut table, key(1), 7, 0);
        assert_eq!(table.find(&key(1), Seen::Closing, 1), Some(7));
        assert_eq!(table.find(&key(1), Seen::Running, 2 + TRANSIENT_IDLE_MS), None);
        establish(&mut table, key(1), 7, 0);
        table.learn(key(1), 8, Seen::Opening, 1);
        assert_eq!(table.find(&key(1), Seen::Running, 1), Some(8));
        table.forget_peer(8);
        assert!(table.is_empty());
    }

    proptest! {
        /// The lists and the index never disagree, whatever happens.
        #[test]
        fn stays_consistent_and_bounded(
            capacity in 1usize..20,
            steps in proptest::collection::vec((0u8..5, 0u16..40, 0u32..3, 0u8..4, 0u64..400_000), 0..300),
        ) {
            let mut table = FlowTable::new(capacity);
            let mut now_ms = 0;
            for (what, port, peer, seen, later) in steps {
                now_ms += later;
                let seen = [Seen::Opening, Seen::Running, Seen::Closing, Seen::Other][usize::from(seen)];
                match what {
                    0 | 1 => table.learn(key(port), peer, seen, now_ms),
                    2 => {
                        let _ = table.find(&key(port), seen, now_ms);
                    }
                    3 => table.expire(now_ms),
                    _ => table.forget_peer(peer),
                }
                prop_assert!(table.len() <= capacity);
                prop_assert!(table.slots.len() <= capacity);
                let mut linked = 0;
                for class in [Class::Transient, Class::Established] {
                    let (mut at, mut before) = (table.lists[class as usize].oldest, NONE);
                    while at != NONE {
                        let slot = &table.slots[at as usize];
                        prop_assert_eq!(slot.older, before);
                        prop_assert_eq!(slot.class, class);
                        prop_assert_eq!(table.index.get(&slot.key), Some(&at));
                        linked += 1;
                        before = at;
                        at = slot.newer;
                    }
                    prop_assert_eq!(table.lists[class as usize].newest, before);
                }
                prop_assert_eq!(linked, table.len());
            }
        }
    }
}
