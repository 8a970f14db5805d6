//! One host's network, built over netlink: no `ip`, no `nft`, no cluster.
//!
//! This crate knows network namespaces, links, addresses, routes, nftables and one TUN device. It does not know nodes,
//! services or tasks: whoever uses it says which address a container has and which backends a published port has.
//!
//! | module | what it is for |
//! |---|---|
//! | [`namespace`] | network namespaces as descriptors; a warm pool of them |
//! | [`netlink`] | a synchronous route-netlink client: links, addresses, routes, neighbours, rules |
//! | [`sysctl`] | `/proc/sys/net` of a namespace |
//! | [`tun`] | the TUN device with its virtio-net header |
//! | [`host`] | [`HostNetwork`]: what a node does to its host, from the TUN to published ports |
//! | [`fabric`] | hosts and a switch on one machine, for the playground and for tests |
//!
//! Everything here blocks, for microseconds each; call the few slow things ([`HostNetwork::tear_down`],
//! [`HostNetwork::set_up`]) from a blocking thread if a runtime must not wait milliseconds.

pub mod fabric;
pub mod host;
pub mod namespace;
pub mod netlink;
mod nft;
pub mod sysctl;
pub mod tun;

pub use host::{
    AttachedContainer, Attachment, HostNetwork, HostNetworkConfig, NetworkError, Protocol, PublishedPort,
    Subnet,
};
pub use namespace::{Namespace, NamespaceError, NamespacePool};
pub use netlink::{Netlink, NetlinkError};
pub use tun::{Tun, TunError};
