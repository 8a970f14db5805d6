//! What makes two packets belong to one flow of a client.

use std::net::IpAddr;

use crate::packet::{self, Packet, be16};

/// A client's flow with a container, the same for both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    kind: Kind,
    protocol: u8,
    container: IpAddr,
    client: IpAddr,
    container_port: u16,
    client_port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Ports,
    /// The later fragments of one reply, which have no ports: the two ports hold the IP identification.
    Fragments,
}

/// What a packet says about the life of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A SYN.
    Opening,
    /// TCP without SYN, FIN and RST.
    Running,
    /// A FIN or RST.
    Closing,
    /// A protocol without a life of its own.
    Other,
}

/// How a packet relates to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It belongs to the flow.
    Member(FlowKey, Seen),
    /// It is the first of several fragments: the second key is that of the others.
    FirstFragment(FlowKey, FlowKey),
    /// It speaks about the flow without being part of it: an ICMP error, or a later fragment.
    About(FlowKey),
    /// Nothing can be told.
    Unknown,
}

impl FlowKey {
    /// The flow of a protocol with ports (or with identifiers in their place).
    pub fn ports(protocol: u8, container: (IpAddr, u16), client: (IpAddr, u16)) -> Self {
        Self {
            kind: Kind::Ports,
            protocol,
            container: container.0,
            client: client.0,
            container_port: container.1,
            client_port: client.1,
        }
    }

    fn fragments(container: IpAddr, client: IpAddr, id: u32) -> Self {
        Self {
            kind: Kind::Fragments,
            protocol: 0,
            container,
            client,
            container_port: (id >> 16) as u16,
            client_port: id as u16,
        }
    }
}

/// The flow of a packet from a client to a container.
pub fn of_request(packet: &Packet<'_>) -> Relation {
    let ports = match read_ports(packet) {
        Ports::Known(source, destination) => (source, destination),
        // A client's later fragments and errors from routers on its way teach nothing.
        Ports::LaterFragment | Ports::Error | Ports::Unreadable => return Relation::Unknown,
    };
    let key = FlowKey::ports(packet.protocol, (packet.destination, ports.1), (packet.source, ports.0));
    Relation::Member(key, seen(packet))
}

/// The flow of a packet from a container to a client.
pub fn of_reply(packet: &Packet<'_>) -> Relation {
    let (container, client) = (packet.source, packet.destination);
    match (read_ports(packet), packet.fragment) {
        (Ports::Known(source, destination), fragment) => {
            let key = FlowKey::ports(packet.protocol, (container, source), (client, destination));
            match fragment {
                Some(fragment) => {
                    Relation::FirstFragment(key, FlowKey::fragments(container, client, fragment.id))
                }
                None => Relation::Member(key, seen(packet)),
            }
        }
        (Ports::LaterFragment, Some(fragment)) => {
            Relation::About(FlowKey::fragments(container, client, fragment.id))
        }
        (Ports::Error, _) => quoted(packet).map_or(Relation::Unknown, Relation::About),
        _ => Relation::Unknown,
    }
}

enum Ports {
    /// Source and destination.
    Known(u16, u16),
    LaterFragment,
    Error,
    Unreadable,
}

fn read_ports(packet: &Packet<'_>) -> Ports {
    if packet.fragment.is_some_and(|fragment| !fragment.first) {
        return Ports::LaterFragment;
    }
    let transport = packet.transport();
    let start = |len: usize| transport.get(..len);
    match packet.protocol {
        // TCP, UDP, DCCP, SCTP and UDP-Lite all begin with the two ports.
        packet::TCP | packet::UDP | 33 | 132 | 136 => {
            start(4).map_or(Ports::Unreadable, |bytes| Ports::Known(be16(bytes, 0), be16(bytes, 2)))
        }
        packet::ICMP | packet::ICMPV6 => match transport.first() {
            None => Ports::Unreadable,
            Some(kind) if is_icmp_error(packet.protocol, *kind) => Ports::Error,
            // An echo and its reply share their identifier.
            Some(0 | 8 | 128 | 129) => {
                start(6).map_or(Ports::Unreadable, |bytes| Ports::Known(be16(bytes, 4), be16(bytes, 4)))
            }
            Some(_) => Ports::Known(0, 0),
        },
        _ => Ports::Known(0, 0),
    }
}

/// RFC 792 and RFC 4443: messages that quote the packet that caused them.
fn is_icmp_error(protocol: u8, kind: u8) -> bool {
    if protocol == packet::ICMPV6 { kind < 128 } else { matches!(kind, 3 | 4 | 5 | 11 | 12) }
}

/// The flow of the client's packet that an ICMP error to this client quotes.
fn quoted(error: &Packet<'_>) -> Option<FlowKey> {
    let inner = Packet::parse_start(error.transport().get(8..)?)?;
    if inner.source != error.destination {
        return None;
    }
    match of_request(&inner) {
        Relation::Member(key, _) => Some(key),
        _ => None,
    }
}

fn seen(packet: &Packet<'_>) -> Seen {
    if packet.protocol != packet::TCP {
        return Seen::Other;
    }
    match packet.transport().get(13) {
        Some(flags) if flags & (packet::FIN | packet::RST) != 0 => Seen::Closing,
        Some(flags) if flags & packet::SYN != 0 => Seen::Opening,
        Some(_) => Seen::Running,
        None => Seen::Other,
    }
}
