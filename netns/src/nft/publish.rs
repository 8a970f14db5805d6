//! The rules of published ports.
//!
//! One transaction empties the two chains and fills them again: the kernel switches from the old rules to the new ones
//! between two packets, and a connection that is established already has its translation in conntrack.
//!
//! A port with three backends has three rules, not one rule with a map from numbers to backends. With a map, a packet
//! that meets the old rule just before the switch looks into the old map just after it, when the kernel takes the map's
//! elements for deleted: the rule does not match, and the connection is refused. The test
//! `replacing_the_ports_fails_no_connection` caught it (kernel 6.18).

use super::ruleset::{PUBLISH, REFUSE};
use super::{Batch, Nftables, expr};
use crate::host::{Protocol, PublishedPort};
use crate::netlink::NetlinkError;

/// Replaces all published ports.
pub(crate) fn publish(nft: &mut Nftables, ports: &[PublishedPort]) -> Result<(), NetlinkError> {
    nft.commit("write the published ports to nftables", transaction(ports))
}

fn transaction(ports: &[PublishedPort]) -> Batch {
    let mut batch = Batch::default();
    batch.flush(PUBLISH);
    batch.flush(REFUSE);
    for port in ports {
        let wanted = [expr::protocol(port.protocol.number()), expr::to_port(port.port)].concat();
        let backends: Vec<([u8; 4], u16)> = port
            .backends
            .iter()
            .filter_map(|(address, port)| match address {
                std::net::IpAddr::V4(address) => Some((address.octets(), *port)),
                std::net::IpAddr::V6(_) => None,
            })
            .collect();
        if backends.is_empty() {
            let refuse = match port.protocol {
                Protocol::Tcp => expr::reset(),
                Protocol::Udp => expr::unreachable(expr::ICMP_PORT_UNREACHABLE),
            };
            batch.rule(REFUSE, &[&wanted, &refuse]);
        }
        // The first of three takes every third connection, the second every second of the rest, the last all.
        for (left, (address, port)) in (1..=backends.len()).rev().zip(&backends) {
            let its_turn =
                if left > 1 { expr::every(u32::try_from(left).unwrap_or(u32::MAX)) } else { vec![] };
            batch.rule(PUBLISH, &[&wanted, &its_turn, &expr::only(*address, *port), &expr::to_destination()]);
        }
    }
    batch
}
