//! nftables expressions (`linux/netfilter/nf_tables.h`), written as small functions that read like a rule.
//!
//! `netlink-packet-netfilter` knows meta, cmp, payload, bitwise, lookup and immediate. The rest is encoded here:
//! ct, fib, numgen, nat, masq and reject, whose numbers are all big endian.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, Lookup, Meta, MetaKey, Operator, Payload, Register,
    Verdict, VerdictAttribute,
};

use super::AnonymousSet;

// Types of nft's own (src/datatype.h there); the kernel only stores them, so that `nft list` shows values well.
pub(crate) const TYPE_IPV4: u32 = 7;
const TYPE_BITS: u32 = 6;
pub(crate) const TYPE_IPV4_IPV4: u32 = TYPE_IPV4 << TYPE_BITS | TYPE_IPV4;

const PAYLOAD_NETWORK: u32 = 1;
const PAYLOAD_TRANSPORT: u32 = 2;
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const PORT_DESTINATION: u32 = 2;

const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_MARK: u32 = 3;
const CT_STATE_NEW: u32 = 8;

const FIB_RESULT_OIF: u32 = 1;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_IIF: u32 = 8;
const RTN_LOCAL: u32 = 2;

const NAT_DESTINATION: u32 = 1;
const NFPROTO_IPV4: u32 = 2;

const REJECT_ICMP: u32 = 0;
const REJECT_TCP_RESET: u32 = 1;
pub(crate) const ICMP_HOST_UNREACHABLE: u8 = 1;
pub(crate) const ICMP_PORT_UNREACHABLE: u8 = 3;

const LOOKUP_INVERTED: u32 = 1;
const NF_DROP: u32 = 0;

/// The direction of a packet in its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Direction {
    Original = 0,
    Reply = 1,
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Source,
    Destination,
}

impl End {
    const fn offset(self) -> u32 {
        match self {
            Self::Source => IPV4_SOURCE,
            Self::Destination => IPV4_DESTINATION,
        }
    }
}

fn load_meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

fn compare(operator: Operator, value: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
}

fn load_payload(base: u32, offset: u32, length: u32, register: Register) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(register),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn link_name(key: MetaKey, name: &str, wanted: bool) -> Vec<Expressions> {
    let mut padded = [0; libc::IFNAMSIZ];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    vec![load_meta(key), compare(if wanted { Operator::Equal } else { Operator::NotEqual }, &padded)]
}

/// Came in by the link of that name.
pub(crate) fn from_link(name: &str) -> Vec<Expressions> {
    link_name(MetaKey::Iifname, name, true)
}

/// Came in by another link.
pub(crate) fn not_from_link(name: &str) -> Vec<Expressions> {
    link_name(MetaKey::Iifname, name, false)
}

/// Goes out by the link of that name.
pub(crate) fn to_link(name: &str) -> Vec<Expressions> {
    link_name(MetaKey::Oifname, name, true)
}

/// Goes out by another link.
pub(crate) fn not_to_link(name: &str) -> Vec<Expressions> {
    link_name(MetaKey::Oifname, name, false)
}

/// Came in by a link whose name starts so.
pub(crate) fn from_links(prefix: &str) -> Vec<Expressions> {
    vec![load_meta(MetaKey::Iifname), compare(Operator::Equal, prefix.as_bytes())]
}

/// Came in by a link whose name starts otherwise.
pub(crate) fn not_from_links(prefix: &str) -> Vec<Expressions> {
    vec![load_meta(MetaKey::Iifname), compare(Operator::NotEqual, prefix.as_bytes())]
}

/// An address in 127/8.
pub(crate) fn loopback(end: End) -> Vec<Expressions> {
    vec![load_payload(PAYLOAD_NETWORK, end.offset(), 1, Register::Reg1), compare(Operator::Equal, &[127])]
}

/// An address in (or not in) a set.
pub(crate) fn address_in(end: End, set: AnonymousSet, wanted: bool) -> Vec<Expressions> {
    let mut lookup = vec![
        Lookup::Set(AnonymousSet::NAME.to_owned()),
        Lookup::SourceRegister(Register::Reg1),
        Lookup::SetId(set.id),
    ];
    if !wanted {
        lookup.push(Lookup::Flags(LOOKUP_INVERTED));
    }
    vec![load_payload(PAYLOAD_NETWORK, end.offset(), 4, Register::Reg1), Expressions::Lookup(lookup)]
}

/// Source and destination address together in a named set.
pub(crate) fn addresses_in(set: &str) -> Vec<Expressions> {
    vec![
        load_payload(PAYLOAD_NETWORK, IPV4_SOURCE, 4, Register::Reg32_00),
        load_payload(PAYLOAD_NETWORK, IPV4_DESTINATION, 4, Register::Reg32_01),
        Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(Register::Reg32_00)]),
    ]
}

/// A packet of this protocol.
pub(crate) fn protocol(number: u8) -> Vec<Expressions> {
    vec![load_meta(MetaKey::L4Proto), compare(Operator::Equal, &[number])]
}

/// A packet of another protocol.
pub(crate) fn not_protocol(number: u8) -> Vec<Expressions> {
    vec![load_meta(MetaKey::L4Proto), compare(Operator::NotEqual, &[number])]
}

/// To this port; after [`protocol`].
pub(crate) fn to_port(port: u16) -> Vec<Expressions> {
    vec![
        load_payload(PAYLOAD_TRANSPORT, PORT_DESTINATION, 2, Register::Reg1),
        compare(Operator::Equal, &port.to_be_bytes()),
    ]
}

fn load_ct(key: u32) -> Expressions {
    other("ct", vec![number(1, Register::Reg1.into()), number(2, key)])
}

fn bits(mask: u32, xor: u32) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(DataAttribute::Value(mask.to_ne_bytes().to_vec())),
        Bitwise::Xor(DataAttribute::Value(xor.to_ne_bytes().to_vec())),
    ])
}

/// The first packets of a connection.
pub(crate) fn new_connection() -> Vec<Expressions> {
    vec![load_ct(CT_STATE), bits(CT_STATE_NEW, 0), compare(Operator::NotEqual, &[0; 4])]
}

/// Packets that go this way in their connection.
pub(crate) fn direction(direction: Direction) -> Vec<Expressions> {
    vec![load_ct(CT_DIRECTION), compare(Operator::Equal, &[direction as u8])]
}

/// Connections that carry the bit.
pub(crate) fn connection_marked(bit: u32) -> Vec<Expressions> {
    vec![load_ct(CT_MARK), bits(bit, 0), compare(Operator::NotEqual, &[0; 4])]
}

/// Gives the connection the bit.
pub(crate) fn mark_connection(bit: u32) -> Vec<Expressions> {
    let set = other("ct", vec![number(2, CT_MARK), number(4, Register::Reg1.into())]);
    vec![load_ct(CT_MARK), bits(!bit, bit), set]
}

/// Gives the packet the bit.
pub(crate) fn mark_packet(bit: u32) -> Vec<Expressions> {
    let set = Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::SourceRegister(Register::Reg1)]);
    vec![load_meta(MetaKey::Mark), bits(!bit, bit), set]
}

fn fib(result: u32, flags: u32) -> Expressions {
    other("fib", vec![number(1, Register::Reg1.into()), number(2, result), number(3, flags)])
}

/// To an address of this host.
pub(crate) fn to_this_host() -> Vec<Expressions> {
    vec![fib(FIB_RESULT_ADDRTYPE, FIB_DESTINATION), compare(Operator::Equal, &RTN_LOCAL.to_ne_bytes())]
}

/// The way back to the source does not lead through the link by which the packet came.
pub(crate) fn forged_source() -> Vec<Expressions> {
    vec![fib(FIB_RESULT_OIF, FIB_SOURCE | FIB_IIF), compare(Operator::Equal, &[0; 4])]
}

/// One connection of so many, in turn.
pub(crate) fn every(count: u32) -> Vec<Expressions> {
    const INCREMENTAL: u32 = 0;
    let next = other(
        "numgen",
        vec![number(1, Register::Reg1.into()), number(2, count), number(3, INCREMENTAL), number(4, 0)],
    );
    vec![next, compare(Operator::Equal, &0u32.to_ne_bytes())]
}

/// Leaves this address and port for [`to_destination`].
pub(crate) fn only(address: [u8; 4], port: u16) -> Vec<Expressions> {
    let set = |register, value: &[u8]| {
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(register),
            Immediate::Data(DataAttribute::Value(value.to_vec())),
        ])
    };
    vec![set(Register::Reg1, &address), set(Register::Reg32_01, &port.to_be_bytes())]
}

/// Changes the destination to what [`only`] left.
pub(crate) fn to_destination() -> Vec<Expressions> {
    vec![other(
        "nat",
        vec![
            number(1, NAT_DESTINATION),
            number(2, NFPROTO_IPV4),
            number(3, Register::Reg1.into()),
            number(5, Register::Reg32_01.into()),
        ],
    )]
}

/// Changes the source to an address of the link by which the packet leaves.
pub(crate) fn masquerade() -> Vec<Expressions> {
    vec![other("masq", vec![])]
}

/// Refuses with a TCP reset.
pub(crate) fn reset() -> Vec<Expressions> {
    vec![other("reject", vec![number(1, REJECT_TCP_RESET), DefaultNla::new(2, vec![0])])]
}

/// Refuses with an ICMP message of type "destination unreachable".
pub(crate) fn unreachable(code: u8) -> Vec<Expressions> {
    vec![other("reject", vec![number(1, REJECT_ICMP), DefaultNla::new(2, vec![code])])]
}

fn verdict(attributes: Vec<VerdictAttribute>) -> Vec<Expressions> {
    vec![Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])]
}

/// Lets the packet disappear.
pub(crate) fn drop_packet() -> Vec<Expressions> {
    verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_DROP))])
}

/// Goes through another chain, then on.
pub(crate) fn jump(chain: &str) -> Vec<Expressions> {
    verdict(vec![VerdictAttribute::Code(Verdict::Jump), VerdictAttribute::Chain(chain.to_owned())])
}

fn other(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}
