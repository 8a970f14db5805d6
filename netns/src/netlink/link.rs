//! Links: veth pairs, bridges, names, states.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use nix::errno::Errno;

use super::{Ignore, Mac, Netlink, NetlinkError, Request};
use crate::namespace::Namespace;

/// How often, and how far apart, a link is asked whether it works.
const OPERATIONAL_ATTEMPTS: u32 = 1000;
const OPERATIONAL_PAUSE: Duration = Duration::from_micros(500);

// linux/if_link.h
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;
// linux/ip.h
const IPV4_DEVCONF_FORWARDING: u16 = 1;
const IPV4_DEVCONF_SEND_REDIRECTS: u16 = 6;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;
const IPV4_DEVCONF_ACCEPT_LOCAL: u16 = 23;
const IPV4_DEVCONF_SRC_VMARK: u16 = 24;
const IPV4_DEVCONF_ROUTE_LOCALNET: u16 = 26;

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is: `veth`, `bridge`, `tun`; none for loopback and hardware.
    pub kind: Option<String>,
    /// Its MAC address, if it has one.
    pub mac: Option<Mac>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Whether it was set up (`IFF_UP`).
    pub up: bool,
    /// Whether packets can leave by it: up, with a carrier, and the kernel has taken note of the carrier.
    pub operational: bool,
    /// The bridge it belongs to.
    pub master: Option<u32>,
}

/// A veth pair to make. The named end appears in the handle's namespace, the peer where it is told.
#[derive(Debug, Clone, Copy)]
pub struct VethPair<'a> {
    /// Name of the near end.
    pub name: &'a str,
    /// MAC address of the near end; the kernel chooses one if there is none.
    pub mac: Option<Mac>,
    /// Name of the far end.
    pub peer_name: &'a str,
    /// MAC address of the far end.
    pub peer_mac: Option<Mac>,
    /// Where the far end goes; the handle's own namespace if there is none.
    pub peer_namespace: Option<&'a Namespace>,
    /// MTU of both ends in bytes.
    pub mtu: u32,
}

impl Netlink {
    /// Makes a veth pair, both ends down, and returns the number of the near end.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<u32, NetlinkError> {
        let answers = self.transact(vec![new_veth(pair), get(pair.name)])?;
        answers
            .iter()
            .find_map(parse)
            .map(|link| link.index)
            .ok_or_else(|| NetlinkError::NoLink(pair.name.to_owned()))
    }

    /// Makes a bridge, down, and returns its number.
    pub fn create_bridge(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        let request = Request {
            what: format!("create the bridge {name}"),
            message: RouteNetlinkMessage::NewLink(message),
            flags: NLM_F_CREATE | NLM_F_EXCL,
        };
        let answers = self.transact(vec![request, get(name)])?;
        answers
            .iter()
            .find_map(parse)
            .map(|link| link.index)
            .ok_or_else(|| NetlinkError::NoLink(name.to_owned()))
    }

    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.dump("list the links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.iter().filter_map(parse).collect())
    }

    /// The link of that name, or none.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.one(get(name)) {
            Ok(answers) => Ok(answers.iter().find_map(parse)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of the link of that name; an error if there is none.
    pub fn link_index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        self.find_link(name)?.map(|link| link.index).ok_or_else(|| NetlinkError::NoLink(name.to_owned()))
    }

    /// Deletes a link; it is no error if it is gone already. A veth takes its peer with it.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.one(Request {
            what: format!("delete the link {name}"),
            message: RouteNetlinkMessage::DelLink(message),
            flags: 0,
        })
        .ignore(&[Errno::ENODEV])
    }

    /// Sets a link up or down.
    pub fn set_link_up(&mut self, index: u32, up: bool) -> Result<(), NetlinkError> {
        self.one(set_up(index, up)).map(drop)
    }

    /// Waits until packets can leave by a link whose peer has come up.
    ///
    /// Of the two ends of a veth pair, the one that comes up first gets its carrier from the other, and the kernel
    /// takes note of that later, in a work queue; until then it drops what is sent there. Since Linux 6.8 the question
    /// itself settles it; before, a busy machine takes some milliseconds. Gives up quietly after half a second.
    pub(crate) fn wait_operational(&mut self, name: &str) -> Result<(), NetlinkError> {
        for _ in 0..OPERATIONAL_ATTEMPTS {
            if self.find_link(name)?.ok_or_else(|| NetlinkError::NoLink(name.to_owned()))?.operational {
                return Ok(());
            }
            std::thread::sleep(OPERATIONAL_PAUSE);
        }
        tracing::warn!(link = name, "the link has no carrier yet");
        Ok(())
    }

    /// Sets the loopback of the namespace up.
    pub fn set_loopback_up(&mut self) -> Result<(), NetlinkError> {
        let index = self.link_index("lo")?;
        self.set_link_up(index, true)
    }

    /// Gives a link another name; it must be down.
    pub fn rename_link(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        self.set(index, format!("rename link {index} to {name}"), LinkAttribute::IfName(name.to_owned()))
    }

    /// Sets the MAC address.
    pub fn set_mac(&mut self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        self.set(index, format!("set the MAC address of link {index}"), LinkAttribute::Address(mac.to_vec()))
    }

    /// Sets the largest packet, in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.set(index, format!("set the MTU of link {index} to {mtu}"), LinkAttribute::Mtu(mtu))
    }

    /// Makes a link a port of a bridge, or of none.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<(), NetlinkError> {
        self.set(
            index,
            format!("set the bridge of link {index}"),
            LinkAttribute::Controller(master.unwrap_or(0)),
        )
    }

    /// Moves a link into another namespace; it comes out down there.
    pub fn move_link(&mut self, index: u32, namespace: &Namespace) -> Result<(), NetlinkError> {
        let fd = namespace.as_fd().as_raw_fd();
        self.set(index, format!("move link {index} to another namespace"), LinkAttribute::NetNsFd(fd))
    }

    fn set(&mut self, index: u32, what: String, attribute: LinkAttribute) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.one(Request { what, message: RouteNetlinkMessage::SetLink(message), flags: 0 }).map(drop)
    }
}

/// IPv4 settings of one device, set over netlink: a write to `/proc/sys` costs an open, a write and a close each.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeviceSettings {
    /// Look a packet's mark up when its source address is checked (`src_valid_mark`).
    pub(crate) mark_counts_for_source: bool,
    /// Accept packets whose source is an address of this host (`accept_local`).
    pub(crate) accept_local: bool,
}

/// Sets a device of ours up, with the settings that all of them share: forwarding, no reverse path filter (nftables
/// does that, in a way that does not depend on the host's settings), 127/8 routable (for published ports on
/// localhost; nftables drops what comes from outside), no redirects, no IPv6 addresses of the kernel's own choice.
pub(crate) fn set_our_device_up(
    index: u32,
    what: String,
    settings: DeviceSettings,
    mtu: Option<u32>,
) -> Request {
    let values = [
        (IPV4_DEVCONF_FORWARDING, 1),
        (IPV4_DEVCONF_SEND_REDIRECTS, 0),
        (IPV4_DEVCONF_RP_FILTER, 0),
        (IPV4_DEVCONF_ROUTE_LOCALNET, 1),
        (IPV4_DEVCONF_ACCEPT_LOCAL, u32::from(settings.accept_local)),
        (IPV4_DEVCONF_SRC_VMARK, u32::from(settings.mark_counts_for_source)),
    ];
    let conf: Vec<u8> =
        values.iter().flat_map(|(kind, value)| attribute(*kind, &value.to_ne_bytes())).collect();
    let inet = attribute(AF_INET | NLA_F_NESTED, &attribute(IFLA_INET_CONF | NLA_F_NESTED, &conf));
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    if let Some(mtu) = mtu {
        message.attributes.push(LinkAttribute::Mtu(mtu));
    }
    message.attributes.push(LinkAttribute::Other(DefaultNla::new(IFLA_AF_SPEC | NLA_F_NESTED, inet)));
    Request { what, message: RouteNetlinkMessage::SetLink(message), flags: 0 }
}

/// Keeps the kernel from giving a link IPv6 addresses of its own; refused by kernels without IPv6.
pub(crate) fn no_ipv6_of_its_own(index: u32) -> Request {
    let mode = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
    let inet6 = attribute(AF_INET6 | NLA_F_NESTED, &mode);
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Other(DefaultNla::new(IFLA_AF_SPEC | NLA_F_NESTED, inet6)));
    Request {
        what: format!("keep link {index} from making IPv6 addresses"),
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
    }
}

/// Sets a link up or down.
pub(crate) fn set_up(index: u32, up: bool) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    message.header.change_mask = LinkFlags::Up;
    Request {
        what: format!("set link {index} {}", if up { "up" } else { "down" }),
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
    }
}

/// Makes a veth pair.
pub(crate) fn new_veth(pair: &VethPair<'_>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(pair.peer_name.to_owned()));
    peer.attributes.push(LinkAttribute::Mtu(pair.mtu));
    peer.attributes.extend(pair.peer_mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    peer.attributes.extend(pair.peer_namespace.map(|ns| LinkAttribute::NetNsFd(ns.as_fd().as_raw_fd())));
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(pair.name.to_owned()));
    message.attributes.push(LinkAttribute::Mtu(pair.mtu));
    message.attributes.extend(pair.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    Request {
        what: format!("create the veth pair {} and {}", pair.name, pair.peer_name),
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// Asks for one link by name.
pub(crate) fn get(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Request {
        what: format!("find the link {name}"),
        message: RouteNetlinkMessage::GetLink(message),
        flags: 0,
    }
}

/// A link from the kernel's description of it.
pub(crate) fn parse(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        operational: false,
        master: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::OperState(state) => link.operational = *state == State::Up,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

/// One attribute in wire form, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
