//! The two directions, and the tables that they decide by.
//!
//! ```text
//!  outbound, a frame from the TUN                          inbound, a datagram from peer P
//!    destination in the overlay?                             source in the overlay?
//!     ├ yes ─▶ routes[destination] ──none──▶ NoRoute           ├ yes ─▶ routes[source] is P? ──no──▶ Spoofed
//!     └ no ──▶ the flow's peer ──────none──▶ NoFlow            │         ├ destination local ────────▶ TUN
//!    path of the peer ──too narrow, gone──▶ NoPath             │         ├ destination a client ─────▶ TUN
//!    split, fragment ─▶ datagrams                              │         └ other ──▶ NotForUs
//!                                                              └ no ──▶ destination local? ──no──▶ NotForUs
//!                                                                        └ yes: learn flow -> P ──────▶ TUN
//! ```
//!
//! A frame is carried whole or dropped whole, and each drop is counted under its reason. A packet from a peer is never
//! sent on to another peer, so nothing can go in circles.
//!
//! A daemon that was restarted has an empty flow table while connections go on. A TCP segment in the middle of one that
//! it does not know goes to every peer: the one through which the client came translates it (its kernel knows the
//! connection), the others drop it, and the client's answer teaches the flow. Without that a download whose client has
//! nothing to say would hang until it times out.
//!
//! What this does not check, and the caller's firewall must: that a reply to a client (source in the overlay,
//! destination outside) belongs to a connection that came in here. Connection tracking knows it, also after a restart
//! of the daemon: accept `ct state established,related` only, from the TUN to anywhere but a container.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::Peer;
use crate::coalesce::Coalescer;
use crate::counters::{Counters, DropReason};
use crate::flow::FlowTable;
use crate::flow_key::{Relation, Seen, of_reply, of_request};
use crate::packet::{ACK, Packet, RST, SYN, Subnet, TCP, is_martian};
use crate::reassembly::Reassembler;
use crate::split::Splitter;
use crate::vnet::{VnetHeader, VnetLayout};
use crate::wire::{Datagram, MIN_DATAGRAM, Message, PACKET_HEADER, Writer};

/// Flows that are remembered at once, unless the configuration says otherwise. An entry takes about 120 bytes: 8 MB.
pub const FLOW_CAPACITY: usize = 65_536;

/// Where the flags are in a TCP header (RFC 9293, 3.1).
const TCP_FLAGS_AT: usize = 13;

/// How many peers are asked about an unknown connection at most: each gets a copy of a segment or two.
pub const ASKED_PEERS: usize = 64;

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
    peers: Vec<Peer>,
    flows: FlowTable,
    splitter: Splitter,
    writer: Writer,
    reassembler: Reassembler,
    coalescer: Coalescer,
    counters: Counters,
}

/// Whether this is a TCP segment of a connection that was made before.
fn is_mid_connection(packet: &Packet<'_>) -> bool {
    let flags = packet.bytes.get(packet.transport_at + TCP_FLAGS_AT).copied();
    packet.protocol == TCP
        && packet.fragment.is_none()
        && flags.is_some_and(|flags| flags & ACK != 0 && flags & (SYN | RST) == 0)
}

impl Forwarder {
    /// A forwarder without routes.
    pub fn new(config: Config) -> Self {
        Self {
            flows: FlowTable::new(config.flow_capacity),
            coalescer: Coalescer::new(config.vnet, config.coalesce_udp),
            config,
            routes: HashMap::new(),
            local: HashSet::new(),
            peers: Vec::new(),
            splitter: Splitter::default(),
            writer: Writer::default(),
            reassembler: Reassembler::default(),
            counters: Counters::default(),
        }
    }

    /// Replaces the table of containers on other nodes: overlay address to node. Local containers do not belong in it.
    pub fn set_routes(&mut self, routes: HashMap<IpAddr, Peer>) {
        self.routes = routes;
    }

    /// Replaces the set of overlay addresses of containers on this node.
    pub fn set_local(&mut self, local: HashSet<IpAddr>) {
        self.local = local;
    }

    /// Replaces the list of all other nodes: whom to ask about a connection that nothing is known of. More than
    /// [`ASKED_PEERS`] are not asked.
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = Peer>) {
        self.peers = peers.into_iter().collect();
    }

    /// A node left for good: forgets its routes, its flows and what was half reassembled.
    pub fn forget_peer(&mut self, peer: Peer) {
        self.routes.retain(|_, to| *to != peer);
        self.flows.forget_peer(peer);
        self.reassembler.forget_peer(peer);
    }

    /// The connection to a peer was made anew, perhaps by a restarted daemon that counts its fragments from the start:
    /// forgets what was half reassembled, and keeps the flows.
    pub fn reset_peer(&mut self, peer: Peer) {
        self.reassembler.forget_peer(peer);
    }

    /// Drops what is too old: flows and half reassembled packets. Call it about once a second; what is forwarded does
    /// not depend on it, memory does.
    pub fn expire(&mut self, now_ms: u64) {
        self.flows.expire(now_ms);
        self.reassembler.expire(now_ms, &mut self.counters);
    }

    /// Takes one frame read from the TUN and emits the datagrams that carry it.
    ///
    /// `max_datagram` says how many bytes a datagram to a peer may have now, 0 when it can not be reached. `emit` is
    /// called for each datagram in order; the slices are only valid during the call.
    ///
    /// # Errors
    /// Why the frame was dropped, whole; it has been counted.
    pub fn outbound(
        &mut self,
        frame: &[u8],
        now_ms: u64,
        max_datagram: impl Fn(Peer) -> usize,
        mut emit: impl FnMut(Peer, Datagram<'_>),
    ) -> Result<Sent, DropReason> {
        self.counters.frames_in += 1;
        self.counters.frame_bytes_in += frame.len() as u64;
        self.send(frame, now_ms, &max_datagram, &mut emit)
            .inspect_err(|reason| self.counters.drop_one(*reason))
    }

    /// Takes one datagram from a peer and writes what it completes to the TUN: nothing or one frame.
    ///
    /// # Errors
    /// Why the datagram was dropped; it has been counted.
    pub fn inbound(
        &mut self,
        peer: Peer,
        datagram: &[u8],
        now_ms: u64,
        mut write: impl FnMut(&[u8]),
    ) -> Result<(), DropReason> {
        let result = self.receive(peer, datagram, now_ms, &mut write);
        self.flush(&mut write);
        result
    }

    /// Takes what arrived together, from one peer or several, and writes as few and as large frames as possible.
    ///
    /// The frames of one flow keep their order. Nothing is held back when the call returns. Give it everything that
    /// can be read without waiting, but not more than a few hundred datagrams: the first waits for the last.
    pub fn inbound_batch<'a>(
        &mut self,
        items: impl IntoIterator<Item = (Peer, &'a [u8])>,
        now_ms: u64,
        mut write: impl FnMut(&[u8]),
    ) {
        for (peer, datagram) in items {
            // Counted; one bad datagram says nothing about the others.
            let _ = self.receive(peer, datagram, now_ms, &mut write);
        }
        self.flush(&mut write);
    }

    /// What was carried and what was dropped.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration that it was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn send(
        &mut self,
        frame: &[u8],
        now_ms: u64,
        max_datagram: &dyn Fn(Peer) -> usize,
        emit: &mut dyn FnMut(Peer, Datagram<'_>),
    ) -> Result<Sent, DropReason> {
        let (header, bytes) = VnetHeader::parse(self.config.vnet, frame)?;
        let packet = Packet::parse(bytes)?;
        if is_martian(packet.source) || is_martian(packet.destination) {
            return Err(DropReason::Martian);
        }
        if self.config.is_overlay(packet.destination) {
            let peer = *self.routes.get(&packet.destination).ok_or(DropReason::NoRoute)?;
            return self.send_to(peer, &header, &packet, max_datagram, emit);
        }
        if let Some(peer) = self.ingress_of(&packet, now_ms) {
            return self.send_to(peer, &header, &packet, max_datagram, emit);
        }
        if !is_mid_connection(&packet) || self.peers.len() > ASKED_PEERS {
            return Err(DropReason::NoFlow);
        }
        let mut sent = Err(DropReason::NoFlow);
        for peer in self.peers.clone() {
            let one = self.send_to(peer, &header, &packet, max_datagram, emit);
            sent = sent.or(one);
        }
        sent
    }

    /// Splits a frame for one peer.
    fn send_to(
        &mut self,
        peer: Peer,
        header: &VnetHeader,
        packet: &Packet<'_>,
        max_datagram: &dyn Fn(Peer) -> usize,
        emit: &mut dyn FnMut(Peer, Datagram<'_>),
    ) -> Result<Sent, DropReason> {
        let limit = max_datagram(peer);
        if limit < MIN_DATAGRAM {
            return Err(DropReason::NoPath);
        }
        let Self { splitter, writer, counters, .. } = self;
        let mut datagrams = 0;
        splitter.split(header, packet, limit - PACKET_HEADER, &mut |head, body| {
            let written = writer.send(head, body, limit, &mut |datagram| emit(peer, datagram));
            datagrams += written.datagrams;
            counters.datagrams_out += u64::from(written.datagrams);
            counters.datagram_bytes_out += written.bytes;
            counters.fragments_out += u64::from(written.fragments);
        })?;
        Ok(Sent { peer, datagrams })
    }

    /// The node through which the client came that this packet answers.
    fn ingress_of(&mut self, packet: &Packet<'_>, now_ms: u64) -> Option<Peer> {
        match of_reply(packet) {
            Relation::Member(key, seen) => self.flows.find(&key, seen, now_ms),
            Relation::FirstFragment(key, others) => {
                let peer = self.flows.find(&key, Seen::Other, now_ms)?;
                self.flows.learn(others, peer, Seen::Other, now_ms);
                Some(peer)
            }
            Relation::About(key) => self.flows.find(&key, Seen::Other, now_ms),
            Relation::Unknown => None,
        }
    }

    fn receive(
        &mut self,
        peer: Peer,
        datagram: &[u8],
        now_ms: u64,
        write: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DropReason> {
        self.counters.datagrams_in += 1;
        self.counters.datagram_bytes_in += datagram.len() as u64;
        let result = match Message::parse(datagram) {
            Ok(Message::Packet(bytes)) => self.deliver(peer, bytes, now_ms, write),
            Ok(Message::Fragment(fragment)) => {
                match self.reassembler.push(peer, &fragment, now_ms, &mut self.counters) {
                    Ok(Some(bytes)) => {
                        let result = self.deliver(peer, &bytes, now_ms, write);
                        self.reassembler.recycle(bytes);
                        result
                    }
                    Ok(None) => Ok(()),
                    Err(reason) => Err(reason),
                }
            }
            Err(reason) => Err(reason),
        };
        result.inspect_err(|reason| self.counters.drop_one(*reason))
    }

    fn deliver(
        &mut self,
        peer: Peer,
        bytes: &[u8],
        now_ms: u64,
        write: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DropReason> {
        let packet = Packet::parse(bytes)?;
        if packet.bytes.len() != bytes.len() {
            return Err(DropReason::Malformed);
        }
        self.admit(peer, &packet, now_ms)?;
        let Self { coalescer, counters, .. } = self;
        let joined = coalescer.push(&packet, &mut |frame| write_counted(counters, frame, write));
        self.counters.coalesced += u64::from(joined);
        Ok(())
    }

    /// Whether this peer may send this packet here. Learns the flow of a client's packet.
    fn admit(&mut self, peer: Peer, packet: &Packet<'_>, now_ms: u64) -> Result<(), DropReason> {
        if is_martian(packet.source) || is_martian(packet.destination) {
            return Err(DropReason::Martian);
        }
        let from_container = self.config.is_overlay(packet.source);
        if from_container && self.routes.get(&packet.source) != Some(&peer) {
            return Err(DropReason::Spoofed);
        }
        if !self.config.is_overlay(packet.destination) {
            return if from_container { Ok(()) } else { Err(DropReason::NotForUs) };
        }
        if !self.local.contains(&packet.destination) {
            return Err(DropReason::NotForUs);
        }
        if !from_container && let Relation::Member(key, seen) = of_request(packet) {
            self.flows.learn(key, peer, seen, now_ms);
        }
        Ok(())
    }

    fn flush(&mut self, write: &mut dyn FnMut(&[u8])) {
        let Self { coalescer, counters, .. } = self;
        coalescer.flush(&mut |frame| write_counted(counters, frame, write));
    }
}

impl Config {
    fn is_overlay(&self, address: IpAddr) -> bool {
        self.overlay.iter().any(|subnet| subnet.contains(address))
    }
}

fn write_counted(counters: &mut Counters, frame: &[u8], write: &mut dyn FnMut(&[u8])) {
    counters.frames_out += 1;
    counters.frame_bytes_out += frame.len() as u64;
    write(frame);
}
