//! Permanent neighbours: with them nobody has to ask for a MAC address.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::route::family;
use super::{Mac, Netlink, NetlinkError, Request};

/// A neighbour that the kernel knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The number of the link.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, once known.
    pub mac: Option<Mac>,
    /// Whether somebody set it for good.
    pub permanent: bool,
}

impl Netlink {
    /// Sets the MAC address of a neighbour for good.
    pub fn set_neighbour(&mut self, link: u32, address: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
        self.one(set(link, address, mac)).map(drop)
    }

    /// All neighbours with an IP address.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, NetlinkError> {
        let answers =
            self.dump("list the neighbours", RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(answers.iter().filter_map(parse).collect())
    }
}

/// Sets the MAC address of a neighbour for good.
pub(crate) fn set(link: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    Request {
        what: format!("set the neighbour {address} of link {link}"),
        message: RouteNetlinkMessage::NewNeighbour(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

fn parse(message: &RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(IpAddr::V4(*found))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some(IpAddr::V6(*found))
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let permanent = message.header.state == NeighbourState::Permanent;
    Some(Neighbour { link: message.header.ifindex, address: address?, mac, permanent })
}
