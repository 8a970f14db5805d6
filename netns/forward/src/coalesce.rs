//! Many packets of one flow into one large frame for the TUN.
//!
//! The kernel takes such a frame through its stack once instead of forty times. Joined are TCP packets that differ in
//! nothing but what a network card would number itself: the rules are those of the kernel's own GRO (`tcp_gro_receive`,
//! `inet_gro_receive`), a little stricter. Every checksum is verified before its packet disappears in a frame whose
//! checksum the kernel does not look at again.
//!
//! ```text
//!   packet ─▶ plain data? ──no──▶ flush what is open between the two addresses, write it as it is
//!                │ yes
//!                ├─ continues an open run ─▶ append ── PSH, or shorter than the others ──▶ flush
//!                └─ does not, or does not fit ─▶ flush the flow's run, open a new one (the oldest gives way)
//!   end of the batch ─▶ flush all
//! ```

use crate::packet::{
    ACK, IPV4_LEN, IPV6_LEN, MAX_PACKET, PSH, Packet, TCP, TCP_LEN, UDP, UDP_LEN, be16, be32, put16,
};
use crate::split::{fill_ipv4_checksum, ipv4_checksum_is_right, transport_checksum_is_right, transport_sum};
use crate::vnet::{self, VnetHeader, VnetLayout};

/// Flows whose packets are joined at the same time. More are rarely in one batch, and the search is linear.
pub const MAX_OPEN: usize = 8;
/// Datagrams that are joined at most: the kernel's `UDP_MAX_SEGMENTS` before 6.9.
pub const MAX_UDP_SEGMENTS: usize = 64;

/// Joins packets. Nothing stays inside after [`Self::flush`].
#[derive(Debug)]
pub(crate) struct Coalescer {
    layout: VnetLayout,
    udp: bool,
    /// Oldest first.
    open: Vec<Run>,
    spare: Vec<Vec<u8>>,
}

/// Packets of one flow, joined.
#[derive(Debug)]
struct Run {
    /// Room for the virtio-net header, then the first packet's headers, then all payloads.
    frame: Vec<u8>,
    plain: Plain,
    /// Payload bytes of each packet but the last.
    size: usize,
    packets: usize,
    next_sequence: u32,
    next_id: u16,
    push: bool,
}

/// A packet that may be joined with others.
#[derive(Debug, Clone, Copy)]
struct Plain {
    is_v4: bool,
    is_tcp: bool,
    transport_at: usize,
    /// Bytes of all headers.
    headers: usize,
}

impl Coalescer {
    pub(crate) fn new(layout: VnetLayout, udp: bool) -> Self {
        Self { layout, udp, open: Vec::with_capacity(MAX_OPEN), spare: Vec::new() }
    }

    /// Takes a packet and writes the frames that it completes. Says whether it was joined with one before it.
    pub(crate) fn push(&mut self, packet: &Packet<'_>, write: &mut dyn FnMut(&[u8])) -> bool {
        let Some(plain) = Plain::of(packet, self.udp) else {
            self.flush_before(packet, write);
            self.write_alone(packet, write);
            return false;
        };
        if let Some(at) = self.open.iter().position(|run| run.is_same_flow(self.layout.len(), &plain, packet))
        {
            if self.open[at].continues(self.layout.len(), &plain, packet) {
                if self.open[at].append(&plain, packet) {
                    self.flush_one(at, write);
                }
                return true;
            }
            self.flush_one(at, write);
        }
        if plain.is_tcp && packet.bytes[plain.transport_at + 13] & PSH != 0 {
            self.write_alone(packet, write);
            return false;
        }
        if self.open.len() == MAX_OPEN {
            self.flush_one(0, write);
        }
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.resize(self.layout.len(), 0);
        frame.extend_from_slice(packet.bytes);
        self.open.push(Run::start(frame, plain, packet));
        false
    }

    /// Writes everything that is still open.
    pub(crate) fn flush(&mut self, write: &mut dyn FnMut(&[u8])) {
        while !self.open.is_empty() {
            self.flush_one(0, write);
        }
    }

    /// Keeps the order when a packet comes that is not joined: within its flow where it shows its ports, else between
    /// its two hosts.
    fn flush_before(&mut self, packet: &Packet<'_>, write: &mut dyn FnMut(&[u8])) {
        let addresses = addresses(packet.is_v4());
        let at = packet.transport_at;
        let has_ports = packet.fragment.is_none() && matches!(packet.protocol, TCP | UDP);
        let ports = packet.bytes.get(at..at + 4).filter(|_| has_ports);
        let vnet_len = self.layout.len();
        let concerns = |run: &Run| {
            let (mine, mine_at) = (&run.frame[vnet_len..], run.plain.transport_at);
            run.plain.is_v4 == packet.is_v4()
                && mine[addresses.clone()] == packet.bytes[addresses.clone()]
                && ports.is_none_or(|ports| mine[mine_at..mine_at + 4] == *ports)
        };
        while let Some(at) = self.open.iter().position(&concerns) {
            self.flush_one(at, write);
        }
    }

    fn flush_one(&mut self, at: usize, write: &mut dyn FnMut(&[u8])) {
        let mut run = self.open.remove(at);
        run.seal(self.layout);
        write(&run.frame);
        self.spare.push(run.frame);
    }

    fn write_alone(&mut self, packet: &Packet<'_>, write: &mut dyn FnMut(&[u8])) {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.resize(self.layout.len(), 0);
        frame.extend_from_slice(packet.bytes);
        write(&frame);
        self.spare.push(frame);
    }
}

impl Plain {
    /// Whether a packet is plain data with right checksums, and where its parts are.
    fn of(packet: &Packet<'_>, udp: bool) -> Option<Self> {
        let (bytes, is_v4) = (packet.bytes, packet.is_v4());
        let ip_len = if is_v4 { IPV4_LEN } else { IPV6_LEN };
        // No IP options or extension headers, no fragments; of the flags DF alone.
        if packet.transport_at != ip_len || packet.fragment.is_some() || (is_v4 && bytes[6] & 0x80 != 0) {
            return None;
        }
        let is_tcp = packet.protocol == TCP;
        let transport_len = match packet.protocol {
            TCP => packet.tcp_header_len().filter(|_| {
                let tcp = packet.transport();
                tcp[13] & !PSH == ACK && tcp[18..20] == [0, 0]
            })?,
            UDP if udp && packet.transport().len() >= UDP_LEN => {
                let len = usize::from(be16(packet.transport(), 4));
                (len == packet.transport().len()).then_some(UDP_LEN)?
            }
            _ => return None,
        };
        let headers = ip_len + transport_len;
        let is_right = bytes.len() > headers
            && (!is_v4 || ipv4_checksum_is_right(&bytes[..IPV4_LEN]))
            && transport_checksum_is_right(packet);
        is_right.then_some(Self { is_v4, is_tcp, transport_at: ip_len, headers })
    }
}

impl Run {
    fn start(frame: Vec<u8>, plain: Plain, packet: &Packet<'_>) -> Self {
        let size = packet.bytes.len() - plain.headers;
        let sequence = if plain.is_tcp { be32(packet.bytes, plain.transport_at + 4) } else { 0 };
        Self {
            frame,
            plain,
            size,
            packets: 1,
            next_sequence: sequence.wrapping_add(size as u32),
            next_id: be16(packet.bytes, 4).wrapping_add(1),
            push: false,
        }
    }

    fn is_same_flow(&self, vnet_len: usize, plain: &Plain, packet: &Packet<'_>) -> bool {
        let mine = &self.frame[vnet_len..];
        let (addresses, ports) = (addresses(plain.is_v4), plain.transport_at..plain.transport_at + 4);
        self.plain.is_v4 == plain.is_v4
            && self.plain.is_tcp == plain.is_tcp
            && mine[addresses.clone()] == packet.bytes[addresses]
            && mine[ports.clone()] == packet.bytes[ports]
    }

    /// Whether a packet of the same flow may be appended.
    fn continues(&self, vnet_len: usize, plain: &Plain, packet: &Packet<'_>) -> bool {
        let (mine, other, at) = (&self.frame[vnet_len..], packet.bytes, plain.transport_at);
        let same = |range: std::ops::Range<usize>| mine[range.clone()] == other[range];
        let payload = other.len() - plain.headers;
        if self.plain.headers != plain.headers || payload > self.size || mine.len() + payload > MAX_PACKET {
            return false;
        }
        let same_ip = if plain.is_v4 {
            // Type of service, flags, time to live. The identification of an unfragmentable packet means nothing
            // (RFC 6864); others must count up as the kernel will when it splits the frame again.
            let counts = other[6] & 0x40 != 0 || be16(other, 4) == self.next_id;
            same(0..2) && same(6..9) && counts
        } else {
            same(0..4) && same(7..8)
        };
        let same_transport = if plain.is_tcp {
            // Acknowledgement and header length; window and, past the checksum, urgent pointer and options.
            be32(other, at + 4) == self.next_sequence
                && same(at + 8..at + 13)
                && same(at + 14..at + 16)
                && same(at + 18..at + TCP_LEN)
                && same(at + TCP_LEN..plain.headers)
        } else {
            self.packets < MAX_UDP_SEGMENTS
        };
        same_ip && same_transport
    }

    /// Appends a packet's payload. Says whether nothing may follow it.
    fn append(&mut self, plain: &Plain, packet: &Packet<'_>) -> bool {
        let payload = &packet.bytes[plain.headers..];
        self.frame.extend_from_slice(payload);
        self.packets += 1;
        self.next_sequence = self.next_sequence.wrapping_add(payload.len() as u32);
        self.next_id = self.next_id.wrapping_add(1);
        self.push = plain.is_tcp && packet.bytes[plain.transport_at + 13] & PSH != 0;
        self.push || payload.len() < self.size
    }

    /// Makes headers for all payloads. A single packet stays as it came, checksum and all.
    fn seal(&mut self, layout: VnetLayout) {
        if self.packets == 1 {
            return;
        }
        let Plain { is_v4, is_tcp, transport_at, headers } = self.plain;
        let (head, bytes) = self.frame.split_at_mut(layout.len());
        let len = bytes.len();
        if is_v4 {
            put16(bytes, 2, len as u16);
            fill_ipv4_checksum(&mut bytes[..IPV4_LEN]);
        } else {
            put16(bytes, 4, (len - IPV6_LEN) as u16);
        }
        if is_tcp && self.push {
            bytes[transport_at + 13] |= PSH;
        }
        if !is_tcp {
            put16(bytes, transport_at + 4, (len - transport_at) as u16);
        }
        let csum_offset = if is_tcp { 16 } else { 6 };
        if let Some(packet) = Packet::parse_start(bytes) {
            let partial = transport_sum(&packet, len - transport_at).fold();
            put16(bytes, transport_at + csum_offset, partial);
        }
        let header = VnetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type: match (is_tcp, is_v4) {
                (true, true) => vnet::GSO_TCPV4,
                (true, false) => vnet::GSO_TCPV6,
                (false, _) => vnet::GSO_UDP_L4,
            },
            hdr_len: headers as u16,
            gso_size: self.size as u16,
            csum_start: transport_at as u16,
            csum_offset: csum_offset as u16,
        };
        header.write(layout, head);
    }
}

/// Where the two addresses stand in an IP header.
fn addresses(is_v4: bool) -> std::ops::Range<usize> {
    if is_v4 { 12..20 } else { 8..40 }
}
