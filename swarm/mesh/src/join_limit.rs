//! How much joining goes on at once and how often: over all callers, and for each address.
//!
//! ```text
//! address proven (Retry) --> enter: a place of the address? --> handshake --> admit: a turn? --> Handler::join
//!                              | no: refused                                   | no: BUSY        | taken in: the
//!                              |                                               |                 |   turn is given
//! leave, however it ends <-----+-----------------------------------------------+-----------------+   back
//! ```
//! An address that guesses tokens or hangs about spends its own places and turns first; one behind which many nodes
//! join (NAT) spends none, since those are taken in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Turns that are there at once, then ...
const BURST: u32 = 32;
/// ... one more every so often. Guessing a 128-bit secret at this rate takes for ever; a rack that boots does not.
const EVERY: Duration = Duration::from_millis(100);
/// The same for one address: a quarter of it, so that four must conspire to keep others out.
const SOURCE_BURST: u32 = 8;
/// See `SOURCE_BURST`.
const SOURCE_EVERY: Duration = Duration::from_millis(400);
/// Joins in progress from one address, of `mesh::MAX_JOINS`.
const SOURCE_PLACES: u32 = 8;
/// Addresses remembered. Each has proven that packets reach it, so filling this takes as many hosts.
const MAX_SOURCES: usize = 1024;
/// Who has one IPv6 address has its /64.
const V6_NETWORK: u128 = !0 << 64;

#[derive(Debug)]
pub(crate) struct JoinLimit {
    all: Bucket,
    sources: HashMap<IpAddr, Source>,
}

#[derive(Debug)]
struct Source {
    places_taken: u32,
    turns: Bucket,
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    left: u32,
    burst: u32,
    every: Duration,
    refilled: Instant,
}

impl JoinLimit {
    pub(crate) fn new(now: Instant) -> Self {
        Self { all: Bucket::new(BURST, EVERY, now), sources: HashMap::new() }
    }

    /// Takes a place for a caller; `leave` must follow if true.
    pub(crate) fn enter(&mut self, address: IpAddr, now: Instant) -> bool {
        let key = key(address);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&key) {
            self.make_room(now);
        }
        let source = self.sources.entry(key).or_insert_with(|| Source::new(now));
        let entered = source.places_taken < SOURCE_PLACES;
        source.places_taken += u32::from(entered);
        entered
    }

    pub(crate) fn leave(&mut self, address: IpAddr) {
        if let Some(source) = self.sources.get_mut(&key(address)) {
            source.places_taken = source.places_taken.saturating_sub(1);
        }
    }

    /// Takes a turn for a caller that has entered.
    pub(crate) fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let Some(source) = self.sources.get_mut(&key(address)) else { return false };
        // Either both or none: what an address asks beyond its own turns costs the others nothing, and what all ask
        // beyond theirs costs the address nothing.
        let admitted = source.turns.has(now) && self.all.take(now);
        if admitted {
            source.turns.take(now);
        }
        admitted
    }

    /// The node was taken in: the address gets its turn back.
    pub(crate) fn give_back(&mut self, address: IpAddr) {
        if let Some(source) = self.sources.get_mut(&key(address)) {
            source.turns.give_back();
        }
    }

    fn make_room(&mut self, now: Instant) {
        self.sources.retain(|_, source| source.places_taken > 0 || !source.turns.is_full(now));
        if self.sources.len() >= MAX_SOURCES {
            let idle = self.sources.iter().filter(|(_, source)| source.places_taken == 0);
            let oldest = idle.min_by_key(|(_, source)| source.turns.refilled).map(|(key, _)| *key);
            oldest.map(|key| self.sources.remove(&key));
        }
    }
}

impl Source {
    fn new(now: Instant) -> Self {
        Self { places_taken: 0, turns: Bucket::new(SOURCE_BURST, SOURCE_EVERY, now) }
    }
}

impl Bucket {
    fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self { left: burst, burst, every, refilled: now }
    }

    fn refill(&mut self, now: Instant) {
        let due = now.saturating_duration_since(self.refilled).as_millis() / self.every.as_millis();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if due > 0 {
            self.left = self.left.saturating_add(due).min(self.burst);
            self.refilled = now;
        }
    }

    fn has(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left > 0
    }

    fn take(&mut self, now: Instant) -> bool {
        let taken = self.has(now);
        self.left -= u32::from(taken);
        taken
    }

    fn give_back(&mut self) {
        self.left = (self.left + 1).min(self.burst);
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.left == self.burst
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & V6_NETWORK).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn host(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    /// How many of 100 tries are admitted.
    fn admitted(limit: &mut JoinLimit, address: IpAddr, now: Instant) -> usize {
        assert!(limit.enter(address, now));
        let admitted = (0..100).filter(|_| limit.admit(address, now)).count();
        limit.leave(address);
        admitted
    }

    #[test]
    fn one_address_does_not_use_up_the_turns_of_others() {
        let start = Instant::now();
        let mut limit = JoinLimit::new(start);
        assert_eq!(admitted(&mut limit, host(1), start), SOURCE_BURST as usize);
        assert_eq!(admitted(&mut limit, host(1), start), 0);
        assert_eq!(admitted(&mut limit, host(2), start), SOURCE_BURST as usize);
        assert_eq!(admitted(&mut limit, host(1), start + SOURCE_EVERY * 3), 3);
    }

    #[test]
    fn all_together_are_limited() {
        let start = Instant::now();
        let mut limit = JoinLimit::new(start);
        let all =
            |limit: &mut JoinLimit, now| -> usize { (0..50).map(|n| admitted(limit, host(n), now)).sum() };
        assert_eq!(all(&mut limit, start), BURST as usize);
        assert_eq!(all(&mut limit, start + EVERY * 3), 3);
    }

    #[test]
    fn nodes_that_are_taken_in_cost_their_address_nothing() {
        let start = Instant::now();
        let mut limit = JoinLimit::new(start);
        assert!(limit.enter(host(1), start));
        for _ in 0..BURST {
            assert!(limit.admit(host(1), start));
            limit.give_back(host(1));
        }
    }

    #[test]
    fn places_are_limited_by_address_and_ipv6_network() {
        let now = Instant::now();
        let mut limit = JoinLimit::new(now);
        let v6 = |text: &str| -> IpAddr { text.parse().unwrap() };
        let entered = (0..100).filter(|_| limit.enter(v6("2001:db8::1"), now)).count();
        assert_eq!(entered, SOURCE_PLACES as usize);
        assert!(!limit.enter(v6("2001:db8::2"), now));
        assert!(limit.enter(v6("2001:db8:0:1::1"), now) && limit.enter(host(1), now));
        limit.leave(v6("2001:db8::3"));
        assert!(limit.enter(v6("2001:db8::1"), now));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_is_here() {
        let start = Instant::now();
        let mut limit = JoinLimit::new(start);
        assert!(limit.enter(host(0), start));
        for number in 1..5000 {
            let now = start + Duration::from_micros(u64::from(number));
            assert!(limit.enter(host(number), now));
            limit.admit(host(number), now);
            limit.leave(host(number));
        }
        assert!(limit.sources.len() <= MAX_SOURCES);
        assert_eq!(limit.sources[&host(0)].places_taken, 1);
    }
}
