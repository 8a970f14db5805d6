//! What callers say to [`HostNetwork`](super::HostNetwork) and hear from it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::namespace::NamespaceError;
use crate::netlink::NetlinkError;
use crate::sysctl::SysctlError;
use crate::tun::TunError;

/// How many ports one host publishes at most; a port number is 16 bits, times two protocols.
pub const PUBLISHED_PORTS_MAX: usize = 2048;
/// How many backends one port has at most: each is a rule that a new connection may have to pass.
pub const BACKENDS_MAX: usize = 256;
/// How many backends all ports together have at most, for the size of the transaction: each is some 400 bytes.
pub const BACKENDS_TOTAL_MAX: usize = 8192;
/// The longest name that the kernel takes for a link, in bytes.
pub(crate) const LINK_NAME_MAX: usize = 15;

/// A network address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    network: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// A subnet; `None` when the prefix is too long for the family. Bits of the host part are cleared.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let network = match address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                (prefix <= 32).then(|| IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & !host)))
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                (prefix <= 128).then(|| IpAddr::V6((address.to_bits() & !host).into()))
            }
        }?;
        Some(Self { network, prefix })
    }

    /// The first address.
    #[must_use]
    pub const fn network(&self) -> IpAddr {
        self.network
    }

    /// The length of the prefix in bits.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4()
            && Self::new(address, self.prefix).is_some_and(|subnet| subnet.network == self.network)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NetworkError::Subnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (address, prefix) = (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        Self::new(address, prefix).ok_or_else(wrong)
    }
}

/// How a node's network is set up. The same values must be given again after a restart.
#[derive(Debug, Clone)]
pub struct HostNetworkConfig {
    /// Name of the TUN device.
    pub tun_name: String,
    /// The networks whose addresses belong to containers, here and on other nodes. IPv4 for now.
    pub subnets: Vec<Subnet>,
    /// The largest packet through the TUN, in bytes. Attachments should have the same: a container's MSS follows it.
    pub mtu: u32,
    /// How the names of all host ends of veth pairs start; nothing else on the host may be named so.
    pub host_prefix: String,
}

impl Default for HostNetworkConfig {
    fn default() -> Self {
        Self { tun_name: "skep0".to_owned(), subnets: Vec::new(), mtu: 1400, host_prefix: "skv".to_owned() }
    }
}

/// A container's connection to the network.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Name of the host end: starts with the prefix of the configuration, at most 15 bytes, unique on the host.
    pub host_ifname: String,
    /// The container's address, inside one of the subnets.
    pub address: IpAddr,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Name of the link inside the container, usually `eth0`.
    pub container_ifname: String,
}

/// A container that is attached now, read from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedContainer {
    /// Name of the host end.
    pub host_ifname: String,
    /// The container's address; none if the attachment was interrupted half way and should be detached.
    pub address: Option<IpAddr>,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number in an IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the host, not 0.
    pub port: u16,
    /// Addresses and ports of containers, here or on other nodes. None: new connections are refused.
    pub backends: Vec<(IpAddr, u16)>,
}

/// Why the host's network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A namespace could not be used.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refused a request.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting could not be changed.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The TUN device could not be opened.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// Not a subnet.
    #[error("{0:?} is not a subnet such as 10.255.0.0/16")]
    Subnet(String),
    /// IPv6 is not there yet.
    #[error("{0} is not an IPv4 address: the overlay is IPv4 only")]
    NotIpv4(IpAddr),
    /// Outside of the configured subnets.
    #[error("the address {0} lies in none of the overlay's subnets")]
    Outside(IpAddr),
    /// A link name that cannot be.
    #[error(
        "{0:?} is not a possible name of a host link: it must start with {1:?} and have at most 15 bytes"
    )]
    LinkName(String, String),
    /// Too many of something.
    #[error("{count} {what}, but at most {max} are possible")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many were asked for.
        count: usize,
        /// How many are possible.
        max: usize,
    },
    /// A port 0.
    #[error("port 0 cannot be published or be a backend's port")]
    PortZero,
    /// One port twice.
    #[error("port {0}/{1} is published twice")]
    PublishedTwice(u16, Protocol),
    /// Several things failed while the network was taken down; the rest was done.
    #[error("the network is not wholly taken down: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Self>),
}

/// An IPv4 address, or a clear refusal.
pub(crate) const fn ipv4(address: IpAddr) -> Result<Ipv4Addr, NetworkError> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err(NetworkError::NotIpv4(address)),
    }
}

/// Refuses a set of ports that cannot be published.
pub(crate) fn check_ports(ports: &[PublishedPort]) -> Result<(), NetworkError> {
    limit("published ports", ports.len(), PUBLISHED_PORTS_MAX)?;
    let all = ports.iter().map(|port| port.backends.len()).sum();
    limit("backends of all ports", all, BACKENDS_TOTAL_MAX)?;
    let mut seen = std::collections::HashSet::new();
    for port in ports {
        limit("backends of one port", port.backends.len(), BACKENDS_MAX)?;
        if port.port == 0 || port.backends.iter().any(|(_, port)| *port == 0) {
            return Err(NetworkError::PortZero);
        }
        if !seen.insert((port.protocol, port.port)) {
            return Err(NetworkError::PublishedTwice(port.port, port.protocol));
        }
        for (address, _) in &port.backends {
            ipv4(*address)?;
        }
    }
    Ok(())
}

const fn limit(what: &'static str, count: usize, max: usize) -> Result<(), NetworkError> {
    if count > max { Err(NetworkError::TooMany { what, count, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_parse_and_contain() {
        let subnet: Subnet = "10.255.3.4/16".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.255.0.0/16");
        assert!(subnet.contains("10.255.255.255".parse().unwrap()));
        assert!(!subnet.contains("10.254.255.255".parse().unwrap()));
        assert!(!subnet.contains("::1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Subnet>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert_eq!("1.2.3.4/32".parse::<Subnet>().unwrap().network().to_string(), "1.2.3.4");
        for wrong in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/-1", ""] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn impossible_ports_are_refused() {
        let port = |port, backends| PublishedPort { protocol: Protocol::Tcp, port, backends };
        let backend = ("10.255.0.1".parse().unwrap(), 80);
        assert!(check_ports(&[port(80, vec![backend]), port(81, vec![])]).is_ok());
        assert!(matches!(check_ports(&[port(0, vec![])]), Err(NetworkError::PortZero)));
        assert!(matches!(check_ports(&[port(1, vec![(backend.0, 0)])]), Err(NetworkError::PortZero)));
        assert!(matches!(
            check_ports(&[port(80, vec![]), port(80, vec![backend])]),
            Err(NetworkError::PublishedTwice(80, Protocol::Tcp))
        ));
        let six = ("fd00::1".parse().unwrap(), 80);
        assert!(matches!(check_ports(&[port(80, vec![six])]), Err(NetworkError::NotIpv4(_))));
    }
}
