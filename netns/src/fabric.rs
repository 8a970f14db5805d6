//! Hosts and a switch on one machine, for the playground and for tests.
//!
//! A fabric is a namespace with a bridge in it; a host is any namespace with a leg to that bridge. Nothing here owns
//! anything: a namespace lives for as long as a process or a descriptor holds it, so a caller that exits leaves a holder
//! process behind and finds the fabric again with [`Namespace::from_pid`]. When the last holder of the switch goes, the
//! kernel takes the bridge and every leg with it.

use std::net::IpAddr;

use crate::namespace::{Namespace, NamespaceError};
use crate::netlink::{Netlink, NetlinkError, VethPair};

/// The name of the bridge inside the switch's namespace.
pub const BRIDGE: &str = "switch";
/// The largest packet on the fabric, in bytes, as on an Ethernet.
pub const MTU: u32 = 1500;

/// Why the fabric could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// A namespace could not be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refused a request.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// One leg: from the switch to a host.
#[derive(Debug, Clone, Copy)]
pub struct Leg<'a> {
    /// Name of the switch's end, unique on the switch; at most 15 bytes.
    pub port: &'a str,
    /// Name of the host's end; at most 15 bytes.
    pub ifname: &'a str,
    /// The host's address.
    pub address: IpAddr,
    /// The length of the fabric's prefix in bits.
    pub prefix: u8,
}

/// Makes a namespace with a switch in it.
pub fn create() -> Result<Namespace, FabricError> {
    let fabric = Namespace::create()?;
    create_in(&fabric)?;
    Ok(fabric)
}

/// Makes the switch in a namespace that is there already, for instance a holder process's; harmless if it has one.
pub fn create_in(fabric: &Namespace) -> Result<(), FabricError> {
    let mut netlink = Netlink::new_in(fabric)?;
    netlink.set_loopback_up()?;
    let bridge = match netlink.find_link(BRIDGE)? {
        Some(link) => link.index,
        None => netlink.create_bridge(BRIDGE)?,
    };
    Ok(netlink.set_link_up(bridge, true)?)
}

/// Gives a host a leg to the switch, up, with its address; the host's loopback is set up too. Undone if a step fails.
///
/// The host may be the caller's own namespace ([`Namespace::current`]): choose a name that is free there.
pub fn connect(fabric: &Namespace, host: &Namespace, leg: &Leg<'_>) -> Result<(), FabricError> {
    let mut switch = Netlink::new_in(fabric)?;
    let bridge = switch.link_index(BRIDGE)?;
    let pair = VethPair {
        name: leg.port,
        mac: None,
        peer_name: leg.ifname,
        peer_mac: None,
        peer_namespace: Some(host),
        mtu: MTU,
    };
    let port = switch.create_veth(&pair)?;
    let result = plug_in(&mut switch, bridge, port, host, leg);
    if result.is_err() {
        let _ = switch.delete_link(leg.port); // the first error says more
    }
    result
}

fn plug_in(
    switch: &mut Netlink,
    bridge: u32,
    port: u32,
    host: &Namespace,
    leg: &Leg<'_>,
) -> Result<(), FabricError> {
    switch.set_master(port, Some(bridge))?;
    switch.set_link_up(port, true)?;
    let mut inside = Netlink::new_in(host)?;
    inside.set_loopback_up()?;
    let link = inside.link_index(leg.ifname)?;
    inside.add_address(link, leg.address, leg.prefix)?;
    inside.set_link_up(link, true)?;
    Ok(switch.wait_operational(leg.port)?)
}

/// Cuts a host's leg, or heals it. The host's end keeps its address and routes; it merely loses its carrier.
pub fn set_link(fabric: &Namespace, port: &str, up: bool) -> Result<(), FabricError> {
    let mut switch = Netlink::new_in(fabric)?;
    let link = switch.link_index(port)?;
    Ok(switch.set_link_up(link, up)?)
}

/// Takes a leg away, both ends; harmless if it is gone.
pub fn disconnect(fabric: &Namespace, port: &str) -> Result<(), FabricError> {
    Ok(Netlink::new_in(fabric)?.delete_link(port)?)
}

/// The ports of the switch with their state (`true`: up), in the order in which they were made.
pub fn ports(fabric: &Namespace) -> Result<Vec<(String, bool)>, FabricError> {
    let links = Netlink::new_in(fabric)?.links()?;
    let bridge = links.iter().find(|link| link.name == BRIDGE).map(|link| link.index);
    Ok(links
        .into_iter()
        .filter(|link| bridge.is_some() && link.master == bridge)
        .map(|link| (link.name, link.up))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn host(fabric: &Namespace, number: u8) -> Namespace {
        let host = Namespace::create().unwrap();
        let (port, address) = (format!("h{number}"), format!("10.77.0.{number}").parse().unwrap());
        connect(fabric, &host, &Leg { port: &port, ifname: "eth0", address, prefix: 24 }).unwrap();
        host
    }

    fn call(from: &Namespace) -> std::io::Result<TcpStream> {
        from.run(|| {
            TcpStream::connect_timeout(&"10.77.0.2:7000".parse().unwrap(), Duration::from_millis(300))
        })
        .unwrap()
    }

    #[test]
    fn hosts_reach_each_other_unless_cut() {
        let fabric = create().unwrap();
        create_in(&fabric).unwrap();
        let (one, two) = (host(&fabric, 1), host(&fabric, 2));
        let listener = two.run(|| TcpListener::bind("10.77.0.2:7000")).unwrap().unwrap();
        let mut near = call(&one).unwrap();
        let (mut far, client) = listener.accept().unwrap();
        assert_eq!(client.ip().to_string(), "10.77.0.1");
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();

        set_link(&fabric, "h1", false).unwrap();
        assert_eq!(ports(&fabric).unwrap(), [("h1".to_owned(), false), ("h2".to_owned(), true)]);
        assert!(call(&one).is_err());
        set_link(&fabric, "h1", true).unwrap();
        // The bridge takes a moment to forward on a port that came up.
        let mut attempts = 0;
        while let Err(error) = call(&one) {
            attempts += 1;
            assert!(attempts < 100, "healed, but still {error}");
        }
        disconnect(&fabric, "h1").unwrap();
        disconnect(&fabric, "h1").unwrap();
        assert!(Netlink::new_in(&one).unwrap().find_link("eth0").unwrap().is_none());
    }

    #[test]
    fn a_leg_that_cannot_be_plugged_in_is_undone() {
        let fabric = create().unwrap();
        let host = Namespace::create().unwrap();
        let wrong = Leg { port: "p", ifname: "eth0", address: "10.77.0.1".parse().unwrap(), prefix: 33 };
        assert!(connect(&fabric, &host, &wrong).is_err());
        assert!(ports(&fabric).unwrap().is_empty());
        assert!(Netlink::new_in(&host).unwrap().find_link("eth0").unwrap().is_none());
    }
}
