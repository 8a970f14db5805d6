//! One large frame into packets that fit the path, with every checksum filled in.
//!
//! The kernel hands over "super segments": up to 64 KB of one TCP flow (TSO) or of one burst of UDP datagrams (USO)
//! under one set of headers, and checksums that hold the pseudo-header's sum only. Here they become what a network card
//! would have sent. TCP is a byte stream, so its segments are also made shorter than asked where the path is narrower
//! (and so is a single TCP packet that does not fit): that costs nothing, while our own fragments would lose a whole
//! packet with each lost piece. UDP datagrams keep their borders; those that do not fit are fragmented by
//! [`crate::wire`].

use std::net::IpAddr;

use crate::checksum::Sum;
use crate::counters::DropReason;
use crate::packet::{
    ACK, CWR, FIN, IPV4_LEN, IPV6_LEN, PSH, Packet, TCP, TCP_LEN, UDP, UDP_LEN, be16, be32, put16,
};
use crate::vnet::{self, VnetHeader};

/// TCP payload below which segments are not made shorter to fit the path; the packet is fragmented instead. Only
/// absurdly long headers on an absurdly narrow path get there.
pub const MIN_SEGMENT: usize = 256;

/// Where the packets go: rewritten headers, then the rest.
pub(crate) type Emit<'a> = dyn FnMut(&[u8], &[u8]) + 'a;

/// Splits frames, with a reused buffer for headers.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    head: Vec<u8>,
}

impl Splitter {
    /// Emits the packets of a frame. `limit` is the longest packet that needs no fragmentation.
    ///
    /// # Errors
    /// [`DropReason::BadVnetHeader`] when the header contradicts the packet, [`DropReason::UnknownGso`] for a type that
    /// was not negotiated. Nothing has been emitted then.
    pub(crate) fn split(
        &mut self,
        header: &VnetHeader,
        packet: &Packet<'_>,
        limit: usize,
        emit: &mut Emit<'_>,
    ) -> Result<(), DropReason> {
        let size = usize::from(header.gso_size);
        match (header.gso_type & !vnet::GSO_ECN, packet.is_v4()) {
            (vnet::GSO_NONE, _) => match narrow_tcp(header, packet, limit) {
                Some((headers, size)) => {
                    self.tcp(packet, headers, size, emit);
                    Ok(())
                }
                None => self.whole(header, packet, emit),
            },
            (vnet::GSO_TCPV4, true) | (vnet::GSO_TCPV6, false) => {
                let tcp_len = packet.tcp_header_len().ok_or(DropReason::BadVnetHeader)?;
                if size == 0 || packet.routing_header {
                    return Err(DropReason::BadVnetHeader);
                }
                let headers = packet.transport_at + tcp_len;
                let fits = limit.saturating_sub(headers);
                self.tcp(packet, headers, if fits >= MIN_SEGMENT { size.min(fits) } else { size }, emit);
                Ok(())
            }
            (vnet::GSO_UDP_L4, _) => {
                let is_udp = packet.protocol == UDP
                    && packet.fragment.is_none()
                    && packet.transport().len() >= UDP_LEN;
                if size == 0 || !is_udp || packet.routing_header {
                    return Err(DropReason::BadVnetHeader);
                }
                self.udp(packet, size, emit);
                Ok(())
            }
            (vnet::GSO_TCPV4 | vnet::GSO_TCPV6, _) => Err(DropReason::BadVnetHeader),
            _ => Err(DropReason::UnknownGso),
        }
    }

    /// The packet as it is, its checksum completed.
    fn whole(
        &mut self,
        header: &VnetHeader,
        packet: &Packet<'_>,
        emit: &mut Emit<'_>,
    ) -> Result<(), DropReason> {
        if header.flags & vnet::NEEDS_CSUM == 0 {
            emit(&[], packet.bytes);
            return Ok(());
        }
        let start = usize::from(header.csum_start);
        let field = start + usize::from(header.csum_offset);
        if field + 2 > packet.bytes.len() {
            return Err(DropReason::BadVnetHeader);
        }
        // The field holds the pseudo-header's sum and is summed with the rest.
        let sum = Sum::new().bytes(&packet.bytes[start..]).finish();
        self.head.clear();
        self.head.extend_from_slice(&packet.bytes[..field + 2]);
        put16(&mut self.head, field, never_zero(sum));
        emit(&self.head, &packet.bytes[field + 2..]);
        Ok(())
    }

    fn tcp(&mut self, packet: &Packet<'_>, headers: usize, size: usize, emit: &mut Emit<'_>) {
        let payload = &packet.bytes[headers..];
        let at = packet.transport_at;
        let flags = packet.bytes[at + 13];
        let sequence = be32(packet.bytes, at + 4);
        let last = payload.len().div_ceil(size).max(1) - 1;
        for index in 0..=last {
            let start = index * size;
            let piece = &payload[start..payload.len().min(start + size)];
            self.start_segment(packet, headers, index, piece.len());
            let segment = &mut self.head[at..];
            segment[4..8].copy_from_slice(&sequence.wrapping_add(start as u32).to_be_bytes());
            let not_last = if index < last { FIN | PSH } else { 0 };
            let not_first = if index > 0 { CWR } else { 0 };
            segment[13] = flags & !(not_last | not_first);
            fill_checksum(packet, segment, 16, piece);
            emit(&self.head, piece);
        }
    }

    fn udp(&mut self, packet: &Packet<'_>, size: usize, emit: &mut Emit<'_>) {
        let headers = packet.transport_at + UDP_LEN;
        let payload = &packet.bytes[headers..];
        let last = payload.len().div_ceil(size).max(1) - 1;
        for index in 0..=last {
            let start = index * size;
            let piece = &payload[start..payload.len().min(start + size)];
            self.start_segment(packet, headers, index, piece.len());
            let segment = &mut self.head[packet.transport_at..];
            put16(segment, 4, (UDP_LEN + piece.len()) as u16);
            fill_checksum(packet, segment, 6, piece);
            emit(&self.head, piece);
        }
    }

    /// Copies the headers and makes the IP header that of segment `index`, with `payload` bytes after the headers.
    fn start_segment(&mut self, packet: &Packet<'_>, headers: usize, index: usize, payload: usize) {
        self.head.clear();
        self.head.extend_from_slice(&packet.bytes[..headers]);
        if packet.is_v4() {
            put16(&mut self.head, 2, (headers + payload) as u16);
            let id = be16(&self.head, 4).wrapping_add(index as u16);
            put16(&mut self.head, 4, id);
            fill_ipv4_checksum(&mut self.head[..packet.transport_at]);
        } else {
            put16(&mut self.head, 4, (headers - IPV6_LEN + payload) as u16);
        }
    }
}

/// Whether a single packet can be split as TCP because it does not fit: its headers' length and the payload of each
/// segment, all about equal so that the other side can join them again.
fn narrow_tcp(header: &VnetHeader, packet: &Packet<'_>, limit: usize) -> Option<(usize, usize)> {
    if packet.bytes.len() <= limit || packet.routing_header {
        return None;
    }
    let tcp_len = packet.tcp_header_len()?;
    let headers = packet.transport_at + tcp_len;
    let fits = limit.checked_sub(headers).filter(|fits| *fits >= MIN_SEGMENT)?;
    let tcp = packet.transport();
    // An urgent pointer counts from its segment's start, and the signatures of RFC 2385 and RFC 5925 cover the segment:
    // only plain data is split, with no options or timestamps alone.
    let plain = tcp[13] & !(ACK | PSH | FIN) == 0 && matches!(&tcp[TCP_LEN..tcp_len], [] | [1, 1, 8, 10, ..]);
    // A wrong checksum must stay wrong: it is computed anew only if it is still to be filled in, or was right.
    let is_partial = header.flags & vnet::NEEDS_CSUM != 0;
    let is_tcp_sum = usize::from(header.csum_start) == packet.transport_at && header.csum_offset == 16;
    let may_fill = if is_partial { is_tcp_sum } else { transport_checksum_is_right(packet) };
    if !plain || tcp_len > TCP_LEN + 12 || !may_fill {
        return None;
    }
    let payload = packet.bytes.len() - headers;
    Some((headers, payload.div_ceil(payload.div_ceil(fits))))
}

/// Whether the checksum of an unfragmented TCP or UDP packet is there and right.
pub(crate) fn transport_checksum_is_right(packet: &Packet<'_>) -> bool {
    let transport = packet.transport();
    let field = if packet.protocol == TCP { 16 } else { 6 };
    // Zero means "none" in UDP, and TCP senders use the other zero as well (RFC 1624).
    let is_there = packet.protocol == TCP || transport.get(field..field + 2).is_some_and(|sum| sum != [0, 0]);
    is_there && transport_sum(packet, transport.len()).bytes(transport).fold() == 0xffff
}

/// Whether an IPv4 header's checksum is right.
pub(crate) fn ipv4_checksum_is_right(header: &[u8]) -> bool {
    Sum::new().bytes(header).fold() == 0xffff
}

/// Computes an IPv4 header's checksum anew.
pub(crate) fn fill_ipv4_checksum(header: &mut [u8]) {
    put16(header, 10, 0);
    let sum = Sum::new().bytes(header).finish();
    put16(header, 10, sum);
}

/// The pseudo-header's sum for a transport part of this length.
pub(crate) fn transport_sum(packet: &Packet<'_>, len: usize) -> Sum {
    pseudo(packet.source, packet.destination, packet.protocol, len)
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Sum {
    Sum::new().pseudo(source, destination, protocol, len)
}

fn fill_checksum(packet: &Packet<'_>, transport_header: &mut [u8], field: usize, payload: &[u8]) {
    put16(transport_header, field, 0);
    let sum =
        transport_sum(packet, transport_header.len() + payload.len()).bytes(transport_header).bytes(payload);
    put16(transport_header, field, never_zero(sum.finish()));
}

/// Zero means "no checksum" in UDP; all ones is the same number.
fn never_zero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

const _: () = assert!(MIN_SEGMENT + IPV4_LEN + 60 < crate::wire::MIN_DATAGRAM);
