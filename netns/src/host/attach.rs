//! Connecting containers.
//!
//! Three system calls do the work of eleven requests: make the pair, set the host's end, set the container's end. MAC
//! addresses are chosen here, so that both permanent neighbours can be written without asking.

use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;

use super::set_up::is_ours;
use super::types::{AttachedContainer, Attachment, LINK_NAME_MAX, NetworkError, ipv4};
use super::{Handles, HostNetwork};
use crate::namespace::Namespace;
use crate::netlink::{
    DeviceSettings, Mac, Netlink, NetlinkError, ROUTE_PROTOCOL, Route, TABLE_MAIN, VethPair, add_address,
    get_link, link_up, new_veth, no_ipv6_of_its_own, parse_link, set_neighbour, set_our_device_up, set_route,
};
use crate::nft;

/// Every container's gateway: link-local, on no link, known only as a permanent neighbour.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Every veth's host end: each is alone with one container, so they may be the same.
const HOST_MAC: Mac = [0xee; 6];

impl HostNetwork {
    /// Connects a container: a veth pair, its address with a default route inside, a route to it outside. Undone if
    /// any step fails. The container's namespace may have other links, but not one of this name, nor a default route.
    pub fn attach(&self, container: &Namespace, attachment: &Attachment) -> Result<(), NetworkError> {
        let address = self.check(attachment)?;
        let mut inside = Netlink::new_in(container)?;
        let handles = &mut *self.lock();
        create(&mut handles.route, container, attachment, address)?;
        let result = connect(handles, &mut inside, attachment, address);
        if result.is_err() {
            let _ = nft::set_hairpin(&mut handles.nft, address, false);
            if let Err(error) = handles.route.delete_link(&attachment.host_ifname) {
                tracing::warn!(%error, link = attachment.host_ifname, "cannot undo a failed attachment");
            }
        }
        Ok(result?)
    }

    /// Disconnects a container. No error if it is not there, or if its namespace is gone already (a veth goes with
    /// either end).
    pub fn detach(&self, host_ifname: &str) -> Result<(), NetworkError> {
        self.check_name(host_ifname)?;
        let address =
            self.attachments()?.into_iter().find(|a| a.host_ifname == host_ifname).and_then(|a| a.address);
        // The kernel takes its time to let a link go (some 20 ms); others must not wait for that.
        Netlink::new_in(&self.namespace)?.delete_link(host_ifname)?;
        if let Some(IpAddr::V4(address)) = address {
            nft::set_hairpin(&mut self.lock().nft, address, false).or_else(|error| match error.errno() {
                Some(Errno::ENOENT) => Ok(()),
                _ => Err(error),
            })?;
        }
        Ok(())
    }

    /// The containers that are attached now, by whatever daemon.
    pub fn attachments(&self) -> Result<Vec<AttachedContainer>, NetworkError> {
        let handles = &mut *self.lock();
        let routes = handles.route.routes()?;
        let links = handles.route.links()?;
        let ours = links.into_iter().filter(|link| is_ours(link, &self.config.host_prefix));
        Ok(ours
            .map(|link| {
                let to_it = |route: &&Route| {
                    route.link == Some(link.index)
                        && route.table == TABLE_MAIN
                        && route.protocol == ROUTE_PROTOCOL
                        && route.prefix == 32
                };
                let address = routes.iter().find(to_it).map(|route| route.destination);
                AttachedContainer { host_ifname: link.name, address }
            })
            .collect())
    }

    fn check(&self, attachment: &Attachment) -> Result<Ipv4Addr, NetworkError> {
        self.check_name(&attachment.host_ifname)?;
        let address = ipv4(attachment.address)?;
        if !self.config.subnets.iter().any(|subnet| subnet.contains(attachment.address)) {
            return Err(NetworkError::Outside(attachment.address));
        }
        Ok(address)
    }

    fn check_name(&self, name: &str) -> Result<(), NetworkError> {
        let prefix = &self.config.host_prefix;
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if name.len() <= LINK_NAME_MAX && name.len() > prefix.len() && name.starts_with(prefix) && plain {
            Ok(())
        } else {
            Err(NetworkError::LinkName(name.to_owned(), prefix.clone()))
        }
    }
}

fn create(
    route: &mut Netlink,
    container: &Namespace,
    attachment: &Attachment,
    address: Ipv4Addr,
) -> Result<(), NetlinkError> {
    let pair = VethPair {
        name: &attachment.host_ifname,
        mac: Some(HOST_MAC),
        peer_name: &attachment.container_ifname,
        peer_mac: Some(container_mac(address)),
        peer_namespace: Some(container),
        mtu: attachment.mtu,
    };
    route.one(new_veth(&pair)).map(drop)
}

fn connect(
    handles: &mut Handles,
    inside: &mut Netlink,
    attachment: &Attachment,
    address: Ipv4Addr,
) -> Result<(), NetlinkError> {
    let host_end = index_of(&mut handles.route, &attachment.host_ifname)?;
    // Kernels without IPv6 refuse this, and need it not.
    let _ = handles.route.transact(vec![no_ipv6_of_its_own(host_end)]);
    let what = format!("set {} up", attachment.host_ifname);
    handles.route.transact(vec![
        set_our_device_up(host_end, what, DeviceSettings::default(), None),
        set_neighbour(host_end, address.into(), container_mac(address)),
        set_route(&Route::on_link(address.into(), 32, host_end)),
    ])?;

    let container_end = index_of(inside, &attachment.container_ifname)?;
    let loopback = index_of(inside, "lo")?;
    inside.transact(vec![
        link_up(loopback, true),
        link_up(container_end, true),
        add_address(container_end, address.into(), 32),
        set_neighbour(container_end, GATEWAY.into(), HOST_MAC),
        set_route(&Route::default_through(GATEWAY.into(), container_end)),
    ])?;
    // The container's end came up last and works at once; without this, the first packets to it could be lost.
    handles.route.wait_operational(&attachment.host_ifname)?;
    nft::set_hairpin(&mut handles.nft, address, true)
}

fn index_of(route: &mut Netlink, name: &str) -> Result<u32, NetlinkError> {
    let answers = route.one(get_link(name))?;
    answers
        .iter()
        .find_map(parse_link)
        .map(|link| link.index)
        .ok_or_else(|| NetlinkError::NoLink(name.to_owned()))
}

/// A locally administered MAC address that says which container it is.
const fn container_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x53, a, b, c, d]
}
