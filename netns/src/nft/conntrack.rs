//! Forgetting connections.
//!
//! conntrack remembers a UDP client's backend for as long as the client keeps sending from one socket, even when the
//! backend is gone. Deleting the entries makes the next packet choose again.

use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use nix::errno::Errno;

use super::Nftables;
use crate::netlink::{Ignore, NetlinkError};

/// Deletes the connections of this protocol whose answers come from this address (and port, if one is given), and
/// returns how many there were.
pub(crate) fn forget_backend(
    nft: &mut Nftables,
    protocol: u8,
    address: IpAddr,
    port: Option<u16>,
) -> Result<usize, NetlinkError> {
    let list = nft.channel.dump("list the connections", message(ConntrackMessage::Get(vec![])))?;
    let mut count = 0;
    for entry in list {
        let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = entry.inner else {
            continue;
        };
        if !attributes.iter().any(|attribute| answers_come_from(attribute, protocol, address, port)) {
            continue;
        }
        let original: Vec<_> =
            attributes.into_iter().filter(|a| matches!(a, ConntrackAttribute::CtaTupleOrig(_))).collect();
        let request =
            (format!("forget a connection to {address}"), message(ConntrackMessage::Delete(original)), 0);
        nft.channel.transact(vec![request]).ignore(&[Errno::ENOENT])?;
        count += 1;
    }
    Ok(count)
}

fn answers_come_from(
    attribute: &ConntrackAttribute,
    protocol: u8,
    address: IpAddr,
    port: Option<u16>,
) -> bool {
    let ConntrackAttribute::CtaTupleReply(tuples) = attribute else { return false };
    let (mut same_address, mut same_protocol, mut same_port) = (false, false, port.is_none());
    for tuple in tuples {
        match tuple {
            Tuple::Ip(parts) => same_address |= parts.contains(&IPTuple::SourceAddress(address)),
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(found) => same_protocol |= u8::from(*found) == protocol,
                        ProtoTuple::SourcePort(found) => same_port |= Some(*found) == port,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    same_address && same_protocol && same_port
}

fn message(message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), message)
}
