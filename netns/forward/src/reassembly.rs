//! Fragments back into packets, bounded in memory and time.
//!
//! ```text
//!   first fragment ──▶ partial ──── last missing piece ────▶ the packet
//!                        │  │
//!                        │  └── TIMEOUT_MS since the first piece ──▶ dropped (ReassemblyTimeout)
//!                        └──── newer ones need the room ──────────▶ dropped (ReassemblyFull)
//! ```
//!
//! A piece that contradicts the earlier ones of its packet is dropped alone; one that is there already is ignored, so
//! what a packet's bytes are is decided by the first copy of each piece.

use std::collections::{HashMap, VecDeque};

use crate::Peer;
use crate::counters::{Counters, DropReason};
use crate::wire::Fragment;

/// How long a packet may wait for its missing pieces. All pieces leave at once, so more than a path's round trip means
/// that one was lost; the inner flow has retransmitted by then.
pub const TIMEOUT_MS: u64 = 2_000;
/// Bytes of partial packets that one peer may occupy: eight of the largest.
pub const MAX_BYTES_PER_PEER: usize = 512 * 1024;
/// Partial packets that one peer may have: they are searched one after the other.
pub const MAX_PARTIALS_PER_PEER: usize = 64;
/// Packet buffers kept for reuse.
const SPARE_BUFFERS: usize = 4;

/// The partial packets of all peers.
#[derive(Debug, Default)]
pub struct Reassembler {
    peers: HashMap<Peer, Partials>,
    spare: Vec<Vec<u8>>,
}

/// Oldest first.
#[derive(Debug, Default)]
struct Partials {
    queue: VecDeque<Partial>,
    bytes: usize,
}

#[derive(Debug)]
struct Partial {
    id: u32,
    chunk: u16,
    since_ms: u64,
    /// One bit for each piece that is there ([`crate::wire::MAX_FRAGMENTS`] of them).
    have: u128,
    packet: Vec<u8>,
}

impl Reassembler {
    /// Takes a fragment; gives the packet that it completes. Give the buffer back with [`Self::recycle`].
    ///
    /// # Errors
    /// [`DropReason::BadFragment`] when it contradicts earlier ones. Partial packets that time out or make room are
    /// counted here.
    pub fn push(
        &mut self,
        peer: Peer,
        fragment: &Fragment<'_>,
        now_ms: u64,
        counters: &mut Counters,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let partials = self.peers.entry(peer).or_default();
        partials.expire(now_ms, counters, &mut self.spare);
        let at = match partials.queue.iter().rposition(|partial| partial.id == fragment.id) {
            Some(at) => at,
            None => partials.start(fragment, now_ms, counters, &mut self.spare),
        };
        let partial = &mut partials.queue[at];
        if partial.packet.len() != usize::from(fragment.total) || partial.chunk != fragment.chunk {
            return Err(DropReason::BadFragment);
        }
        let bit = 1u128 << fragment.index;
        if partial.have & bit != 0 {
            return Ok(None);
        }
        partial.have |= bit;
        partial.packet[fragment.offset()..][..fragment.piece.len()].copy_from_slice(fragment.piece);
        if partial.have.count_ones() as usize != fragment.count() {
            return Ok(None);
        }
        Ok(partials.queue.remove(at).map(|done| {
            partials.bytes -= done.packet.len();
            done.packet
        }))
    }

    /// Takes a packet's buffer back for the next one.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        recycle(&mut self.spare, buffer);
    }

    /// Drops what waited too long.
    pub fn expire(&mut self, now_ms: u64, counters: &mut Counters) {
        self.peers.retain(|_, partials| {
            partials.expire(now_ms, counters, &mut self.spare);
            !partials.queue.is_empty()
        });
    }

    /// Drops what a peer sent.
    pub fn forget_peer(&mut self, peer: Peer) {
        self.peers.remove(&peer);
    }
}

impl Partials {
    fn start(
        &mut self,
        fragment: &Fragment<'_>,
        now_ms: u64,
        counters: &mut Counters,
        spare: &mut Vec<Vec<u8>>,
    ) -> usize {
        let total = usize::from(fragment.total);
        while self.queue.len() >= MAX_PARTIALS_PER_PEER || self.bytes + total > MAX_BYTES_PER_PEER {
            if !self.drop_oldest(spare) {
                break;
            }
            counters.drop_one(DropReason::ReassemblyFull);
        }
        let mut packet = spare.pop().unwrap_or_default();
        packet.clear();
        packet.resize(total, 0);
        self.bytes += total;
        self.queue.push_back(Partial {
            id: fragment.id,
            chunk: fragment.chunk,
            since_ms: now_ms,
            have: 0,
            packet,
        });
        self.queue.len() - 1
    }

    fn expire(&mut self, now_ms: u64, counters: &mut Counters, spare: &mut Vec<Vec<u8>>) {
        while self.queue.front().is_some_and(|oldest| now_ms.saturating_sub(oldest.since_ms) > TIMEOUT_MS) {
            self.drop_oldest(spare);
            counters.drop_one(DropReason::ReassemblyTimeout);
        }
    }

    fn drop_oldest(&mut self, spare: &mut Vec<Vec<u8>>) -> bool {
        self.queue.pop_front().is_some_and(|oldest| {
            self.bytes -= oldest.packet.len();
            recycle(spare, oldest.packet);
            true
        })
    }
}

fn recycle(spare: &mut Vec<Vec<u8>>, buffer: Vec<u8>) {
    if spare.len() < SPARE_BUFFERS {
        spare.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MIN_DATAGRAM, Message, Writer};
    use proptest::prelude::*;

    fn pieces(writer: &mut Writer, packet: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        writer.send(packet, &[], limit, &mut |datagram| {
            let mut bytes = Vec::new();
            datagram.append_to(&mut bytes);
            datagrams.push(bytes);
        });
        datagrams
    }

    fn packet(number: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + number * 7 + i / 256) as u8).collect()
    }

    fn push(
        reassembler: &mut Reassembler,
        datagram: &[u8],
        now_ms: u64,
        counters: &mut Counters,
    ) -> Option<Vec<u8>> {
        match Message::parse(datagram) {
            Ok(Message::Fragment(fragment)) => {
                reassembler.push(1, &fragment, now_ms, counters).ok().flatten()
            }
            _ => None,
        }
    }

    #[test]
    fn a_contradicting_piece_changes_nothing() {
        let (mut reassembler, mut counters) = (Reassembler::default(), Counters::default());
        let good = packet(1, 3000);
        let datagrams = pieces(&mut Writer::default(), &good, 1200);
        let liar = Fragment { id: 0, total: 2000, chunk: 1000, index: 1, piece: &[9; 1000] };
        assert_eq!(push(&mut reassembler, &datagrams[0], 0, &mut counters), None);
        assert_eq!(reassembler.push(1, &liar, 0, &mut counters), Err(DropReason::BadFragment));
        assert_eq!(push(&mut reassembler, &datagrams[1], 0, &mut counters), None);
        assert_eq!(push(&mut reassembler, &datagrams[2], 0, &mut counters), Some(good));
    }

    #[test]
    fn memory_and_time_are_bounded() {
        let (mut reassembler, mut counters) = (Reassembler::default(), Counters::default());
        let mut writer = Writer::default();
        for number in 0..1000 {
            let datagrams = pieces(&mut writer, &packet(number, 60_000), 1200);
            assert_eq!(push(&mut reassembler, &datagrams[5], 0, &mut counters), None);
            let partials = &reassembler.peers[&1];
            assert!(partials.bytes <= MAX_BYTES_PER_PEER);
            assert_eq!(
                partials.bytes,
                partials.queue.iter().map(|partial| partial.packet.len()).sum::<usize>()
            );
        }
        let kept = MAX_BYTES_PER_PEER / 60_000;
        assert_eq!(counters.dropped(DropReason::ReassemblyFull), 1000 - kept as u64);
        reassembler.expire(TIMEOUT_MS, &mut counters);
        assert_eq!(counters.dropped(DropReason::ReassemblyTimeout), 0);
        reassembler.expire(TIMEOUT_MS + 1, &mut counters);
        assert_eq!(counters.dropped(DropReason::ReassemblyTimeout), kept as u64);
        assert!(reassembler.peers.is_empty());
    }

    proptest! {
        /// Reordered, lost, repeated and mixed with garbage: each packet comes out whole and once, or not at all.
        #[test]
        fn any_order_any_loss(
            lens in proptest::collection::vec(1300usize..8000, 1..6),
            limit in MIN_DATAGRAM..1200,
            order in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..10), 0..400),
            garbage in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let (mut reassembler, mut counters) = (Reassembler::default(), Counters::default());
            let mut writer = Writer::default();
            let packets: Vec<Vec<u8>> = lens.iter().enumerate().map(|(n, len)| packet(n, *len)).collect();
            let mut line: Vec<(usize, Vec<u8>)> = Vec::new();
            for (number, packet) in packets.iter().enumerate() {
                line.extend(pieces(&mut writer, packet, limit).into_iter().map(|datagram| (number, datagram)));
            }
            let mut lost = vec![false; packets.len()];
            for (at, what) in order {
                let (at, len) = (at.index(line.len()), line.len());
                match what {
                    0 => {
                        lost[line[at].0] = true;
                        line.remove(at);
                        if line.is_empty() {
                            break;
                        }
                    }
                    // Repeated at once: a copy that comes after the whole packet would begin it anew.
                    1 => line.insert(at, line[at].clone()),
                    _ => line.swap(at, (at * 7 + 3) % len),
                }
            }
            let mut got = vec![0u32; packets.len()];
            for (step, (number, datagram)) in line.iter().enumerate() {
                if let Some(bytes) = garbage.get(step) {
                    let mut bytes = bytes.clone();
                    bytes.insert(0, crate::wire::FRAGMENT);
                    let _ = push(&mut reassembler, &bytes, 0, &mut counters);
                }
                if let Some(whole) = push(&mut reassembler, datagram, 0, &mut counters) {
                    prop_assert_eq!(&whole, &packets[*number]);
                    got[*number] += 1;
                    reassembler.recycle(whole);
                }
            }
            for (number, times) in got.into_iter().enumerate() {
                prop_assert!(times >= u32::from(!lost[number]));
            }
        }
    }
}
