//! Packets made and checked the slow, plain way, sharing no code with the crate.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use skep_forward::{Config, Datagram, Forwarder, Peer, Subnet};

pub const VNET: usize = 10;
pub const A: Peer = 1;
pub const B: Peer = 2;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;
pub const CWR: u8 = 128;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The container on node A and the one on node B.
pub fn ends(v6: bool) -> (IpAddr, IpAddr) {
    if v6 { (ip("fd5e::a"), ip("fd5e::b")) } else { (ip("10.255.0.10"), ip("10.255.0.11")) }
}

pub fn client(v6: bool) -> IpAddr {
    if v6 { ip("2001:db8::9") } else { ip("192.0.2.9") }
}

/// The forwarder of a node: `here` are its containers, `there` those of the other node.
fn node(here: [IpAddr; 2], there: [IpAddr; 2], other: Peer) -> Forwarder {
    let config = Config {
        overlay: vec![
            Subnet { address: ip("10.255.0.0"), prefix: 16 },
            Subnet { address: ip("fd5e::"), prefix: 64 },
        ],
        coalesce_udp: true,
        flow_capacity: 100,
        ..Config::default()
    };
    let mut forwarder = Forwarder::new(config);
    forwarder.set_local(HashSet::from(here));
    forwarder.set_routes(HashMap::from(there.map(|address| (address, other))));
    forwarder
}

/// Node A (peer 1) and node B (peer 2).
pub fn pair() -> (Forwarder, Forwarder) {
    let ((a4, b4), (a6, b6)) = (ends(false), ends(true));
    (node([a4, a6], [b4, b6], B), node([b4, b6], [a4, a6], A))
}

pub fn plain_sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = sum % 0x10000 + sum / 0x10000;
    }
    sum as u16
}

fn pseudo(packet: &[u8], protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = if packet[0] >> 4 == 4 { packet[12..20].to_vec() } else { packet[8..40].to_vec() };
    bytes.extend((len as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

pub fn ip_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 }
}

pub fn protocol(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[9] } else { packet[6] }
}

pub fn headers_len(packet: &[u8]) -> usize {
    let ip = ip_len(packet);
    ip + if protocol(packet) == 6 { usize::from(packet[ip + 12] >> 4) * 4 } else { 8 }
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn sequence(packet: &[u8]) -> u32 {
    let at = ip_len(packet) + 4;
    u32::from_be_bytes(packet[at..at + 4].try_into().unwrap())
}

/// A packet's description; the rest is fixed.
#[derive(Debug, Clone)]
pub struct Spec {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ports: (u16, u16),
    pub udp: bool,
    pub id: u16,
    pub df: bool,
    pub sequence: u32,
    pub ack: u32,
    pub flags: u8,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Spec {
    pub fn new(v6: bool, udp: bool, payload: Vec<u8>) -> Self {
        let (source, destination) = ends(v6);
        let options = Vec::new();
        let (ports, id, df, sequence, ack, flags) = ((4000, 80), 77, true, 1_000_000, 5, ACK);
        Self { source, destination, ports, udp, id, df, sequence, ack, flags, options, payload }
    }

    /// The packet with all checksums right.
    pub fn build(&self) -> Vec<u8> {
        let mut packet = self.build_unsummed();
        complete(&mut packet);
        packet
    }

    fn build_unsummed(&self) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.ports.0.to_be_bytes());
        transport.extend(self.ports.1.to_be_bytes());
        if self.udp {
            transport.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            transport.extend([0, 0]);
        } else {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend(self.ack.to_be_bytes());
            transport.extend([((20 + self.options.len()) as u8 / 4) << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
            transport.extend(&self.options);
        }
        transport.extend(&self.payload);
        let protocol = if self.udp { 17 } else { 6 };
        let mut packet = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.extend([0x45, 0x02]);
                packet.extend(((20 + transport.len()) as u16).to_be_bytes());
                packet.extend(self.id.to_be_bytes());
                packet.extend([if self.df { 0x40 } else { 0 }, 0, 63, protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                let sum = !plain_sum(&[&packet]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend([0x60, 0x12, 0x34, 0x56]);
                packet.extend((transport.len() as u16).to_be_bytes());
                packet.extend([protocol, 63]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            _ => unreachable!(),
        }
        packet.extend(transport);
        packet
    }

    /// The TUN frame that a kernel would give: partial checksum, and `gso_size` unless 0.
    pub fn frame(&self, gso_size: u16) -> Vec<u8> {
        let mut packet = self.build_unsummed();
        let (ip, field) = (ip_len(&packet), if self.udp { 6 } else { 16 });
        let partial = plain_sum(&[&pseudo(&packet, protocol(&packet), packet.len() - ip)]);
        packet[ip + field..ip + field + 2].copy_from_slice(&partial.to_be_bytes());
        let kind = match (gso_size, self.udp, self.source.is_ipv4()) {
            (0, ..) => 0,
            (_, true, _) => 5,
            (_, false, true) => 1,
            (_, false, false) => 4,
        };
        let ecn = if kind != 0 && !self.udp && self.flags & CWR != 0 { 0x80 } else { 0 };
        let mut frame = vec![1, kind | ecn];
        for number in [headers_len(&packet) as u16, gso_size, ip as u16, field as u16] {
            frame.extend(number.to_ne_bytes());
        }
        frame.extend(packet);
        frame
    }
}

/// Fills the transport checksum in.
pub fn complete(packet: &mut [u8]) {
    let (ip, protocol) = (ip_len(packet), protocol(packet));
    let at = ip + if protocol == 6 { 16 } else { 6 };
    packet[at..at + 2].fill(0);
    let sum = !plain_sum(&[&pseudo(packet, protocol, packet.len() - ip), &packet[ip..]]);
    packet[at..at + 2].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
}

/// Panics unless lengths and checksums of a TCP or UDP packet are right.
pub fn check(packet: &[u8]) {
    let (ip, protocol) = (ip_len(packet), protocol(packet));
    if packet[0] >> 4 == 4 {
        assert_eq!(usize::from(u16_at(packet, 2)), packet.len(), "IPv4 length");
        assert_eq!(plain_sum(&[&packet[..ip]]), 0xffff, "IPv4 checksum");
    } else {
        assert_eq!(usize::from(u16_at(packet, 4)), packet.len() - 40, "IPv6 length");
    }
    if protocol == 17 {
        assert_eq!(usize::from(u16_at(packet, ip + 4)), packet.len() - ip, "UDP length");
        assert_ne!(u16_at(packet, ip + 6), 0, "UDP checksum left out");
    }
    assert_eq!(plain_sum(&[&pseudo(packet, protocol, packet.len() - ip), &packet[ip..]]), 0xffff, "checksum");
}

/// What a kernel makes of a frame that is written to the TUN: the packets on its wire, each checked.
pub fn expand(frame: &[u8]) -> Vec<Vec<u8>> {
    let packet = &frame[VNET..];
    let number = |at: usize| usize::from(u16::from_ne_bytes([frame[at], frame[at + 1]]));
    if frame[0] == 0 {
        assert_eq!(frame[..VNET], [0; VNET]);
        return vec![packet.to_vec()];
    }
    let (ip, headers) = (ip_len(packet), headers_len(packet));
    let (is_v4, is_tcp) = (packet[0] >> 4 == 4, protocol(packet) == 6);
    assert_eq!(frame[0], 1);
    assert_eq!(
        frame[1],
        if !is_tcp {
            5
        } else if is_v4 {
            1
        } else {
            4
        }
    );
    assert_eq!((number(2), number(6), number(8)), (headers, ip, if is_tcp { 16 } else { 6 }));
    let size = number(4);
    assert!(size > 0 && packet.len() - headers > size, "a large frame holds two packets or more");
    // The large packet itself: its length, and the pseudo-header's sum in the checksum's place.
    if is_v4 {
        assert_eq!(usize::from(u16_at(packet, 2)), packet.len());
        assert_eq!(plain_sum(&[&packet[..ip]]), 0xffff);
    } else {
        assert_eq!(usize::from(u16_at(packet, 4)), packet.len() - 40);
    }
    let partial = plain_sum(&[&pseudo(packet, protocol(packet), packet.len() - ip)]);
    assert_eq!(u16_at(packet, ip + number(8)), partial);
    let pieces: Vec<&[u8]> = packet[headers..].chunks(size).collect();
    let mut packets = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let mut one = packet[..headers].to_vec();
        if is_v4 {
            one[2..4].copy_from_slice(&((headers + piece.len()) as u16).to_be_bytes());
            let id = u16_at(packet, 4).wrapping_add(index as u16);
            one[4..6].copy_from_slice(&id.to_be_bytes());
            one[10..12].fill(0);
            let sum = !plain_sum(&[&one[..ip]]);
            one[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            one[4..6].copy_from_slice(&((headers - 40 + piece.len()) as u16).to_be_bytes());
        }
        if is_tcp {
            let sequence = sequence(packet).wrapping_add((index * size) as u32);
            one[ip + 4..ip + 8].copy_from_slice(&sequence.to_be_bytes());
            if index + 1 < pieces.len() {
                one[ip + 13] &= !(FIN | PSH);
            }
            if index > 0 {
                one[ip + 13] &= !CWR;
            }
        } else {
            one[ip + 4..ip + 6].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
        }
        one.extend_from_slice(piece);
        complete(&mut one);
        packets.push(one);
    }
    packets
}

pub fn bytes_of(datagram: Datagram<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    datagram.append_to(&mut bytes);
    bytes
}

/// A datagram with one whole packet.
pub fn wrap(packet: &[u8]) -> Vec<u8> {
    [&[0x10], packet].concat()
}

/// Sends a frame and gives the datagrams.
pub fn send(forwarder: &mut Forwarder, frame: &[u8], limit: usize) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let sent = forwarder
        .outbound(frame, 0, |_| limit, |_, datagram| datagrams.push(bytes_of(datagram)))
        .expect("the frame is carried");
    assert_eq!(sent.datagrams as usize, datagrams.len());
    assert!(datagrams.iter().all(|datagram| datagram.len() <= limit));
    datagrams
}

/// Receives a batch and gives the frames.
pub fn receive(forwarder: &mut Forwarder, peer: Peer, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let items = datagrams.iter().map(|datagram| (peer, datagram.as_slice()));
    forwarder.inbound_batch(items, 0, |frame| frames.push(frame.to_vec()));
    frames
}
