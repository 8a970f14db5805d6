//! Addresses of links.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use nix::errno::Errno;

use super::route::family;
use super::{Ignore, Netlink, NetlinkError, Request};

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The number of the link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix in bits.
    pub prefix: u8,
}

impl Netlink {
    /// Gives a link an address; it is no error if it has it already.
    pub fn add_address(&mut self, link: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        self.one(add(link, address, prefix)).map(drop)
    }

    /// Takes an address from a link; it is no error if it is gone already.
    pub fn delete_address(&mut self, link: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let mut request = add(link, address, prefix);
        request.what = format!("take {address}/{prefix} from link {link}");
        if let RouteNetlinkMessage::NewAddress(message) = request.message {
            request.message = RouteNetlinkMessage::DelAddress(message);
        }
        request.flags = 0;
        self.one(request).ignore(&[Errno::EADDRNOTAVAIL, Errno::ENODEV])
    }

    /// All addresses of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let answers =
            self.dump("list the addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers.iter().filter_map(parse).collect())
    }
}

/// Gives a link an address.
pub(crate) fn add(link: u32, address: IpAddr, prefix: u8) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.index = link;
    message.header.prefix_len = prefix;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    Request {
        what: format!("give link {link} the address {address}/{prefix}"),
        message: RouteNetlinkMessage::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

fn parse(message: &RouteNetlinkMessage) -> Option<InterfaceAddress> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut plain) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => plain = Some(*address),
            _ => {}
        }
    }
    // IPv6 has no "local"; with a point-to-point IPv4 link "address" is the other end.
    Some(InterfaceAddress {
        link: message.header.index,
        address: local.or(plain)?,
        prefix: message.header.prefix_len,
    })
}
