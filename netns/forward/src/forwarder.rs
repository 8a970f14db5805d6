//! The two directions, and the tables that they decide by.
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::Peer;
use crate::counters::{Counters, DropReason};
use crate::packet::Subnet;
use crate::vnet::VnetLayout;
use crate::wire::Datagram;

/// Flows that are remembered at once, unless the configuration says otherwise. An entry takes about 120 bytes: 8 MB.
pub const FLOW_CAPACITY: usize = 65_536;

/// What does not change while a forwarder lives.
#[derive(Debug, Clone)]
pub struct Config {
    /// The overlay's subnets: addresses of containers anywhere. An address outside them is a client's.
    pub overlay: Vec<Subnet>,
    /// The length of the device's virtio-net header.
    pub vnet: VnetLayout,
    /// How many flows of clients are remembered. See [`FLOW_CAPACITY`].
    pub flow_capacity: usize,
    /// Also join UDP datagrams of one size for the device (`VIRTIO_NET_HDR_GSO_UDP_L4`). Kernels since 6.2 take that;
    /// older ones refuse the frame.
    pub coalesce_udp: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            overlay: Vec::new(),
            vnet: VnetLayout::default(),
            flow_capacity: FLOW_CAPACITY,
            coalesce_udp: false,
        }
    }
}

/// Where a frame went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The node.
    pub peer: Peer,
    /// How many datagrams were emitted.
    pub datagrams: u32,
}

/// The packet engine of one TUN device.
#[derive(Debug)]
pub struct Forwarder {
    config: Config,
    routes: HashMap<IpAddr, Peer>,
    local: HashSet<IpAddr>,
    counters: Counters,
}

impl Forwarder {
    /// A forwarder without routes.
    pub fn new(config: Config) -> Self {
        Self { config, routes: HashMap::new(), local: HashSet::new(), counters: Counters::default() }
    }

    /// Replaces the table of containers on other nodes: overlay address to node. Local containers do not belong in it.
    pub fn set_routes(&mut self, routes: HashMap<IpAddr, Peer>) {
        self.routes = routes;
    }

    /// Replaces the set of overlay addresses of containers on this node.
    pub fn set_local(&mut self, local: HashSet<IpAddr>) {
        self.local = local;
    }

    /// A node left for good: forgets its flows and what was half reassembled.
    pub fn forget_peer(&mut self, peer: Peer) {
        self.routes.retain(|_, to| *to != peer);
    }

    /// The connection to a peer was made anew, perhaps by a restarted daemon that counts its fragments from the start:
    /// forgets what was half reassembled, and keeps the flows.
    pub fn reset_peer(&mut self, _peer: Peer) {}

    /// Drops what is too old: flows and half reassembled packets. Call it about once a second; results do not depend on
    /// it, memory does.
    pub fn expire(&mut self, _now_ms: u64) {}

    /// Takes one frame read from the TUN and emits the datagrams that carry it.
    ///
    /// `max_datagram` says how many bytes a datagram to a peer may have now, 0 when it can not be reached. `emit` is
    /// called for each datagram in order; the slices are only valid during the call.
    ///
    /// # Errors
    /// Why the frame was dropped; it has been counted.
    pub fn outbound(
        &mut self,
        _frame: &[u8],
        _now_ms: u64,
        _max_datagram: impl Fn(Peer) -> usize,
        _emit: impl FnMut(Peer, Datagram<'_>),
    ) -> Result<Sent, DropReason> {
        Err(DropReason::Malformed)
    }

    /// Takes one datagram from a peer and writes what it completes to the TUN: nothing or one frame.
    ///
    /// # Errors
    /// Why the datagram was dropped; it has been counted.
    pub fn inbound(
        &mut self,
        _peer: Peer,
        _datagram: &[u8],
        _now_ms: u64,
        _write: impl FnMut(&[u8]),
    ) -> Result<(), DropReason> {
        Err(DropReason::Malformed)
    }

    /// Takes what arrived together, from one peer or several, and writes as few and as large frames as possible.
    ///
    /// The frames of one flow keep their order. Nothing is held back when the call returns. Give it everything that
    /// can be read without waiting, not more than a few hundred datagrams.
    pub fn inbound_batch<'a>(
        &mut self,
        items: impl IntoIterator<Item = (Peer, &'a [u8])>,
        now_ms: u64,
        mut write: impl FnMut(&[u8]),
    ) {
        for (peer, datagram) in items {
            let _ = self.inbound(peer, datagram, now_ms, &mut write);
        }
    }

    /// What was carried and what was dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration that it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
