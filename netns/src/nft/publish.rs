//! The rules of published ports.
//!
//! One transaction empties the two chains and fills them again: the kernel switches from the old rules to the new ones
//! between two packets, and a connection that is established already has its translation in conntrack.

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
        match backends.as_slice() {
            [] => {
                let refuse = match port.protocol {
                    Protocol::Tcp => expr::reset(),
                    Protocol::Udp => expr::unreachable(expr::ICMP_PORT_UNREACHABLE),
                };
                batch.rule(REFUSE, &[&wanted, &refuse]);
            }
            [(address, port)] => {
                batch.rule(PUBLISH, &[&wanted, &expr::only(*address, *port), &expr::to_destination()]);
            }
            many => {
                let values = many.iter().map(|(address, port)| {
                    let mut value = address.to_vec();
                    value.extend(port.to_be_bytes());
                    value.extend([0, 0]); // a register is 32 bits
                    value
                });
                let map = batch.numbered((expr::TYPE_IPV4_PORT, 8), values);
                let count = u32::try_from(many.len()).unwrap_or(u32::MAX);
                batch.rule(PUBLISH, &[&wanted, &expr::next_of(count, map), &expr::to_destination()]);
            }
        }
    }
    batch
}
