//! Bounds-checked reading of IP and transport headers.
//!
//! Everything here may come from a hostile container or peer: each field is checked against the bytes that are there,
//! once, in [`Packet::parse`]; the rest of the crate relies on that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::counters::DropReason;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;
/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;

/// TCP flag FIN.
pub const FIN: u8 = 0x01;
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST.
pub const RST: u8 = 0x04;
/// TCP flag PSH.
pub const PSH: u8 = 0x08;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;
/// TCP flag CWR.
pub const CWR: u8 = 0x80;

/// The longest packet that is carried: what IPv4 can describe. No interface has a greater MTU.
pub const MAX_PACKET: usize = 65_535;
/// Extension headers that are read before a packet counts as malformed. Real packets have one or two; a chain of
/// hundreds of empty ones only costs time.
pub const MAX_EXTENSIONS: usize = 8;

/// An address range, such as an overlay's subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// Any address in the range.
    pub address: IpAddr,
    /// Leading bits that count. More than the address has means all of them.
    pub prefix: u8,
}

impl Subnet {
    /// Whether the address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = u32::from(self.prefix);
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let differing = net.to_bits() ^ address.to_bits();
                differing.checked_shr(32 - prefix.min(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let differing = net.to_bits() ^ address.to_bits();
                differing.checked_shr(128 - prefix.min(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What an IP fragment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpFragment {
    /// The packet's identification.
    pub id: u32,
    /// Whether it is the first fragment: the one with the ports.
    pub first: bool,
}

/// An IP packet whose headers were found to fit its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// The packet, cut to the length that its IP header gives.
    pub bytes: &'a [u8],
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The transport protocol: after the extension headers, for IPv6.
    pub protocol: u8,
    /// Where the transport header begins.
    pub transport_at: usize,
    /// Set when the packet is an IP fragment.
    pub fragment: Option<IpFragment>,
    /// An IPv6 routing header is there: the address in the pseudo-header is not the one in the IP header.
    pub routing_header: bool,
}

impl<'a> Packet<'a> {
    /// Reads the headers of a whole packet.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] when they do not fit the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let mut packet = Self::parse_start(bytes).ok_or(DropReason::Malformed)?;
        let len = match packet.source {
            IpAddr::V4(_) => usize::from(be16(bytes, 2)),
            IpAddr::V6(_) => usize::from(be16(bytes, 4)) + IPV6_LEN,
        };
        packet.bytes = bytes.get(..len).ok_or(DropReason::Malformed)?;
        if packet.transport_at > len || len > MAX_PACKET {
            return Err(DropReason::Malformed);
        }
        Ok(packet)
    }

    /// Reads the headers of the start of a packet, as ICMP errors quote it: its length is not checked.
    pub fn parse_start(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; IPV4_LEN] = bytes.first_chunk()?;
        let transport_at = usize::from(header[0] & 0x0f) * 4;
        if transport_at < IPV4_LEN || transport_at > bytes.len() {
            return None;
        }
        let fragment = be16(header, 6);
        Some(Self {
            bytes,
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol: header[9],
            transport_at,
            fragment: (fragment & 0x3fff != 0)
                .then(|| IpFragment { id: u32::from(be16(header, 4)), first: fragment & 0x1fff == 0 }),
            routing_header: false,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; IPV6_LEN] = bytes.first_chunk()?;
        let address =
            |at: usize| -> Option<IpAddr> { Some(Ipv6Addr::from(*header[at..].first_chunk::<16>()?).into()) };
        let mut packet = Self {
            bytes,
            source: address(8)?,
            destination: address(24)?,
            protocol: header[6],
            transport_at: IPV6_LEN,
            fragment: None,
            routing_header: false,
        };
        for _ in 0..=MAX_EXTENSIONS {
            let rest = bytes.get(packet.transport_at..)?;
            match packet.protocol {
                // hop-by-hop, routing, destination options (RFC 8200 section 4)
                0 | 43 | 60 => {
                    packet.routing_header |= packet.protocol == 43;
                    packet.protocol = *rest.first()?;
                    packet.transport_at += (usize::from(*rest.get(1)?) + 1) * 8;
                }
                44 => {
                    let extension: &[u8; 8] = rest.first_chunk()?;
                    let place = be16(extension, 2);
                    let first = place & 0xfff8 == 0;
                    packet.protocol = extension[0];
                    packet.transport_at += 8;
                    // An "atomic" fragment (RFC 6946) is a whole packet.
                    if place & 0xfff9 != 0 {
                        let id = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
                        packet.fragment = Some(IpFragment { id, first });
                    }
                    if !first {
                        return Some(packet);
                    }
                }
                _ => return Some(packet),
            }
        }
        None
    }

    /// The transport header and everything after it.
    pub fn transport(&self) -> &'a [u8] {
        &self.bytes[self.transport_at..]
    }

    /// Whether it is IPv4.
    pub fn is_v4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// The length of the TCP header, options included, when the whole header is there and the packet is no fragment.
    pub fn tcp_header_len(&self) -> Option<usize> {
        if self.protocol != TCP || self.fragment.is_some() {
            return None;
        }
        let transport = self.transport();
        let len = usize::from(transport.get(12)? >> 4) * 4;
        (len >= TCP_LEN && len <= transport.len()).then_some(len)
    }
}

/// An address that never crosses from node to node.
pub fn is_martian(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_loopback() || v4.is_unspecified() || v4.is_broadcast(),
        // An IPv4 address in IPv6 clothes would be told apart from itself by the tables.
        IpAddr::V6(v6) => {
            v6.is_multicast()
                || v6.is_loopback()
                || v6.is_unspecified()
                || v6.to_ipv4_mapped().is_some()
                || v6.is_unicast_link_local()
        }
    }
}

/// A big-endian number at a place that the caller knows to be there.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A big-endian number at a place that the caller knows to be there.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a big-endian number at a place that the caller knows to be there.
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn subnets_hold_their_own() {
        let subnet = Subnet { address: "10.255.3.4".parse().unwrap(), prefix: 16 };
        assert!(subnet.contains("10.255.255.255".parse().unwrap()));
        assert!(!subnet.contains("10.254.255.255".parse().unwrap()));
        assert!(!subnet.contains("fd00::1".parse().unwrap()));
        let all = Subnet { address: "::".parse().unwrap(), prefix: 0 };
        assert!(all.contains("fd00::1".parse().unwrap()));
        let one = Subnet { address: "fd00::1".parse().unwrap(), prefix: 128 };
        assert!(one.contains("fd00::1".parse().unwrap()) && !one.contains("fd00::2".parse().unwrap()));
    }

    #[test]
    fn extension_headers_are_walked() {
        let mut bytes = vec![0u8; 40];
        bytes[0] = 0x60;
        bytes[6] = 0;
        bytes.extend([44, 0, 0, 0, 0, 0, 0, 0]); // hop-by-hop, then fragment
        bytes.extend([17, 0, 0, 1, 0, 0, 0, 9]); // first fragment, more to come
        bytes.extend([0; 8]);
        bytes[5] = 24;
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.protocol, packet.transport_at), (UDP, 56));
        assert_eq!(packet.fragment, Some(IpFragment { id: 9, first: true }));
    }

    #[test]
    fn an_endless_chain_of_extensions_is_malformed() {
        let mut bytes = vec![0u8; 40 + 8 * 200];
        bytes[0] = 0x60;
        put16(&mut bytes, 4, 8 * 200);
        assert_eq!(Packet::parse(&bytes).unwrap_err(), DropReason::Malformed);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 4u8..7) {
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 0x0f;
            }
            if let Ok(packet) = Packet::parse(&bytes) {
                prop_assert!(packet.transport_at <= packet.bytes.len());
                let _ = packet.tcp_header_len();
            }
        }
    }
}
