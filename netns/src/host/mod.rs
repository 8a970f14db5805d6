//! What a node does to its host.
//!
//! Pure layer 3: a container has a veth whose host end is reached by a /32 route; an overlay subnet is routed to one TUN
//! device, whose packets the daemon carries to other nodes. There is no bridge, no ARP and no source NAT for ingress.
//!
//! # The ways of a packet
//!
//! `C` is a client, `E` the node that it calls, `T` the node where container `c` runs; `E` and `T` may be one.
//!
//! ```text
//! C -> E:port   E: prerouting turns the destination into c (output hook if C is E itself)
//!               E: local c -> its veth;  remote c -> TUN -> daemon ==QUIC==> T's daemon -> T's TUN
//!               T: prerouting marks the connection and the packet (see below), then routes it to c's veth
//! c -> C        T: prerouting sees the marked connection, marks the packet; rule MARK_RULE_PRIORITY sends it to
//!                  MARK_TABLE, whose default route is the TUN: back to the daemon, which knows the peer it came from
//!               E: TUN -> conntrack turns the source back into E:port -> C (or local delivery)
//! ```
//!
//! The mark matters because T may know a better way to C than through E: C may be on T's network, C may even be an
//! address of T itself. So the rule must come before the kernel's rule for local addresses, which is why that one moves
//! from 0 to [`LOCAL_RULE_PRIORITY`]. Destinations inside the overlay are thrown back from the table: a marked packet to
//! a container takes the usual way. The same mark, on arrival at T, makes the kernel's check of the source address
//! (`rp_filter`, with `src_valid_mark`) look into the same table and find that C is rightly behind the TUN.
//!
//! At E nothing is marked: only the original direction of a connection that came in by the TUN is.
//!
//! | client | what the container sees |
//! |---|---|
//! | outside, a third node, `T` through `E`, `E` itself | the address that the client used |
//! | `E` itself through 127.0.0.1 | an address of `E` (a loopback address cannot leave its host) |
//! | a container, through its own node | the container's overlay address |
//! | a container, through another node | the address of its node (its way out is masqueraded) |
//! | a container that reaches itself through its own node | an address of its node |

//!
//! # Things it does not do
//!
//! It opens no port of another firewall: where the host's own rules drop forwarded packets, containers are cut off. It
//! reserves no published port: a process of the host may still listen there, and is then not reached. It lets containers
//! of different networks reach each other. A UDP datagram larger than the TUN's MTU with "don't fragment" is answered
//! with ICMP, as on any path with a smaller MTU.

mod attach;
mod set_up;
mod types;

#[cfg(test)]
mod tests;

pub use types::{
    AttachedContainer, Attachment, BACKENDS_MAX, BACKENDS_TOTAL_MAX, HostNetworkConfig, NetworkError,
    PUBLISHED_PORTS_MAX, Protocol, PublishedPort, Subnet,
};

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::nft::{self, Nftables};

/// The bit of connection marks and packet marks that is ours; the others are left alone. Not used by Kubernetes
/// (0x4000, 0x8000), CNI's portmap (0x2000), Cilium (0x0f00), Tailscale (0xff0000) or Calico (0xffff0000).
pub const MARK: u32 = 0x1000;
/// Where the rule for marked packets sits.
pub const MARK_RULE_PRIORITY: u32 = 50;
/// Where the kernel's rule for local addresses sits while we are there (Cilium puts it there too).
pub const LOCAL_RULE_PRIORITY: u32 = 100;
/// The routing table for marked packets.
pub const MARK_TABLE: u32 = 29547;

/// The node's part of its host's network. Made by [`HostNetwork::set_up`]; dropping it changes nothing on the host, so
/// that containers outlive the daemon.
#[derive(Debug)]
pub struct HostNetwork {
    config: HostNetworkConfig,
    namespace: Namespace,
    handles: Mutex<Handles>,
}

#[derive(Debug)]
struct Handles {
    route: Netlink,
    nft: Nftables,
}

impl HostNetwork {
    /// Replaces the whole set of published ports in one nftables transaction: every new connection meets either the old
    /// set or the new one, and established connections stay where they are.
    ///
    /// A port applies to every local address of the host, including 127.0.0.1 from the host itself, and goes before a
    /// process of the host that listens there. New connections are spread over the backends in turn. A port without
    /// backends is refused at once (TCP reset, ICMP port unreachable): a client or a load balancer in front can go
    /// elsewhere without waiting for a timeout. Established UDP flows (a client that keeps sending from one socket)
    /// stay with their backend, as long as conntrack remembers them; see [`HostNetwork::forget_backend`].
    pub fn publish(&self, ports: &[PublishedPort]) -> Result<(), NetworkError> {
        types::check_ports(ports)?;
        Ok(nft::publish(&mut self.lock().nft, ports)?)
    }

    /// Makes the kernel forget the connections of one backend (all of its ports, or one), and returns how many it was.
    ///
    /// For a container that is gone for good: a UDP client that keeps sending from one socket would otherwise keep its
    /// old backend, and a TCP client would wait for a timeout instead of seeing a reset.
    pub fn forget_backend(
        &self,
        protocol: Protocol,
        address: std::net::IpAddr,
        port: Option<u16>,
    ) -> Result<usize, NetworkError> {
        types::ipv4(address)?;
        Ok(nft::forget_backend(&mut self.lock().nft, protocol.number(), address, port)?)
    }

    /// The namespace whose network this is.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn lock(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
