//! What was carried, and what was dropped and why.

use thiserror::Error;

/// Why a frame or a datagram was not carried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[repr(u8)]
pub enum DropReason {
    /// The TUN frame is shorter than its virtio-net header says, or the header contradicts the packet.
    #[error("bad virtio-net header")]
    BadVnetHeader,
    /// A segmentation type that was never negotiated (UFO, or one newer than this code).
    #[error("unknown segmentation type")]
    UnknownGso,
    /// Not IPv4 or IPv6, or headers that do not fit the bytes.
    #[error("malformed packet")]
    Malformed,
    /// To or from a multicast, loopback, broadcast or unspecified address: none of them crosses nodes.
    #[error("multicast, loopback or unspecified address")]
    Martian,
    /// An overlay address that no peer runs.
    #[error("no route to overlay address")]
    NoRoute,
    /// A reply whose flow did not come in from any peer, or came too long ago.
    #[error("reply to an unknown flow")]
    NoFlow,
    /// The peer's path takes no datagrams now, or only such as are below [`crate::wire::MIN_DATAGRAM`].
    #[error("path to the peer takes no datagrams")]
    NoPath,
    /// A datagram of another version, of an unknown kind, or cut short.
    #[error("bad datagram")]
    BadDatagram,
    /// A fragment that contradicts itself or the fragments before it.
    #[error("bad fragment")]
    BadFragment,
    /// A partly reassembled packet whose missing fragments did not come in time.
    #[error("reassembly timed out")]
    ReassemblyTimeout,
    /// A partly reassembled packet that gave way to newer ones: the peer's share of memory was full.
    #[error("reassembly memory of the peer is full")]
    ReassemblyFull,
    /// From a peer: the source is an overlay address that this peer does not run.
    #[error("source address is not the peer's")]
    Spoofed,
    /// From a peer: neither to a local container nor the reply of one of the peer's containers.
    #[error("destination is not ours")]
    NotForUs,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 13] = [
        Self::BadVnetHeader,
        Self::UnknownGso,
        Self::Malformed,
        Self::Martian,
        Self::NoRoute,
        Self::NoFlow,
        Self::NoPath,
        Self::BadDatagram,
        Self::BadFragment,
        Self::ReassemblyTimeout,
        Self::ReassemblyFull,
        Self::Spoofed,
        Self::NotForUs,
    ];
}

/// Totals since the forwarder was made. They only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames read from the TUN, dropped ones included.
    pub frames_in: u64,
    /// Bytes of those frames, virtio-net header included.
    pub frame_bytes_in: u64,
    /// Datagrams handed to the caller for peers.
    pub datagrams_out: u64,
    /// Bytes of those datagrams.
    pub datagram_bytes_out: u64,
    /// Those of the datagrams that carry a fragment: a high share means that containers' MTU is above the path's.
    pub fragments_out: u64,
    /// Datagrams from peers, dropped ones included.
    pub datagrams_in: u64,
    /// Bytes of those datagrams.
    pub datagram_bytes_in: u64,
    /// Frames handed to the caller for the TUN.
    pub frames_out: u64,
    /// Bytes of those frames, virtio-net header included.
    pub frame_bytes_out: u64,
    /// Packets that were appended to another one instead of making a frame of their own.
    pub coalesced: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Counters {
    /// How many frames, datagrams or half reassembled packets were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Everything that was dropped.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    pub(crate) fn drop_one(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let mut counters = Counters::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.drop_one(reason);
        }
        assert!(DropReason::ALL.into_iter().all(|reason| counters.dropped(reason) == 1));
        assert_eq!(counters.dropped_total(), DropReason::ALL.len() as u64);
    }
}
