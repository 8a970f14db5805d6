//! Which address a node listens on and which it tells others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use serde::{Deserialize, Serialize};

use crate::NodeError;

/// The port of the mesh, UDP.
pub const DEFAULT_PORT: u16 = 2377;

/// An address of this host and the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    /// As `eth0`.
    pub interface: String,
    /// The address.
    pub ip: IpAddr,
}

/// Where the address that a node tells others comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// The node chose it.
    #[default]
    Chosen,
    /// The operator gave this address of the host.
    Address(IpAddr),
    /// The operator gave an address that is not the host's, such as that of a NAT in front of it.
    Foreign,
    /// The operator named an interface.
    Interface(String),
}

impl Origin {
    /// Of what was given for the address (empty: nothing), which turned out to be `ip`.
    pub(crate) fn of(given: &str, ip: IpAddr, local: &[LocalAddress]) -> Self {
        let interface = given.split(':').next().unwrap_or_default();
        if given.is_empty() {
            Self::Chosen
        } else if local.iter().any(|address| address.interface == interface) {
            Self::Interface(interface.to_owned())
        } else if local.iter().any(|address| address.ip == ip) {
            Self::Address(ip)
        } else {
            Self::Foreign
        }
    }
}

/// The addresses of this host's interfaces, those of loopback and of skep's own links left out.
pub(crate) fn local_addresses() -> Result<Vec<LocalAddress>, NodeError> {
    let interfaces =
        nix::ifaddrs::getifaddrs().map_err(NodeError::internal("cannot list this host's addresses"))?;
    Ok(interfaces
        .filter(|entry| !entry.interface_name.starts_with("sk"))
        .filter_map(|entry| {
            let address = entry.address?;
            let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(address), _) => IpAddr::V4(address.ip()),
                (_, Some(address)) => IpAddr::V6(address.ip()),
                _ => return None,
            };
            (!ip.is_loopback()).then_some(LocalAddress { interface: entry.interface_name, ip })
        })
        .collect())
}

/// `IP`, `IP:port`, `:port`, an interface's name, or either with a port: the address to listen on.
pub(crate) fn listen_address(
    text: &str,
    default: SocketAddr,
    local: &[LocalAddress],
) -> Result<SocketAddr, NodeError> {
    if text.is_empty() {
        return Ok(default);
    }
    let (host, port) = split_port(text)?;
    let ip = if host.is_empty() { default.ip() } else { find_ip(&host, local)? };
    Ok(SocketAddr::new(ip, port.unwrap_or_else(|| default.port())))
}

/// The address to tell others: what was asked for, else the listen address, else the host's only one.
pub(crate) fn advertise_address(
    text: &str,
    listen: SocketAddr,
    local: &[LocalAddress],
) -> Result<SocketAddr, NodeError> {
    if !text.is_empty() {
        let (host, port) = split_port(text)?;
        let ip = find_ip(&host, local)?;
        if ip.is_unspecified() {
            return Err(NodeError::Invalid(format!(
                "advertise address must be a non-zero IP address, not {text:?}"
            )));
        }
        return Ok(SocketAddr::new(ip, port.unwrap_or_else(|| listen.port())));
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    let mut candidates: Vec<&LocalAddress> = local.iter().filter(|address| address.ip.is_ipv4()).collect();
    if candidates.is_empty() {
        candidates = local.iter().filter(|address| !is_link_local(address.ip)).collect();
    }
    match candidates.as_slice() {
        [only] => Ok(SocketAddr::new(only.ip, listen.port())),
        // A host without any network can still be a swarm of one.
        [] => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port())),
        [first, second, ..] => {
            let found = if first.interface == second.interface {
                format!(
                    "multiple addresses on interface {} ({} and {})",
                    first.interface, first.ip, second.ip
                )
            } else {
                format!(
                    "multiple addresses on different interfaces ({} on {} and {} on {})",
                    first.ip, first.interface, second.ip, second.interface
                )
            };
            Err(NodeError::Invalid(format!(
                "could not choose an IP address to advertise since this system has {found} - specify one with --advertise-addr"
            )))
        }
    }
}

/// Docker's `--data-path-addr`: checked as Docker does, and not used, as data goes the way of everything else.
pub(crate) fn check_data_path(text: &str, local: &[LocalAddress]) -> Result<(), NodeError> {
    if text.is_empty() {
        return Ok(());
    }
    match find_ip(text, local) {
        Ok(ip) if !ip.is_unspecified() => Ok(()),
        _ => Err(NodeError::Invalid(
            "data path address must be a non-zero IP address or network interface (without a port number)"
                .to_owned(),
        )),
    }
}

/// `HOST` or `HOST:port` of a manager, all addresses that it stands for.
pub(crate) fn remote_addresses(text: &str) -> Result<Vec<SocketAddr>, NodeError> {
    let (host, port) = split_port(text)?;
    let port = port.unwrap_or(DEFAULT_PORT);
    if host.is_empty() {
        return Err(NodeError::Invalid(format!(
            "{text:?} names no host: give a manager's address as HOST:{port}"
        )));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    (host.as_str(), port).to_socket_addrs().map(Iterator::collect).map_err(|source| {
        NodeError::Invalid(format!("cannot find the address of {host:?}: {source}; give an IP address"))
    })
}

fn find_ip(host: &str, local: &[LocalAddress]) -> Result<IpAddr, NodeError> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let of_interface: Vec<IpAddr> = local
        .iter()
        .filter(|address| address.interface == host && !is_link_local(address.ip))
        .map(|address| address.ip)
        .collect();
    of_interface.iter().find(|ip| ip.is_ipv4()).or_else(|| of_interface.first()).copied().ok_or_else(|| {
        NodeError::Invalid(format!("{host:?} is neither an IP address nor an interface with one"))
    })
}

/// Splits `host:port`; IPv6 addresses with a port stand in brackets.
fn split_port(text: &str) -> Result<(String, Option<u16>), NodeError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), Some(address.port())));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    match text.rsplit_once(':') {
        None => Ok((text.to_owned(), None)),
        Some((host, port)) => {
            let port = port
                .parse()
                .map_err(|_| NodeError::Invalid(format!("invalid port {port:?} in address {text:?}")))?;
            Ok((host.to_owned(), Some(port)))
        }
    }
}

pub(crate) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(entries: &[(&str, &str)]) -> Vec<LocalAddress> {
        entries
            .iter()
            .map(|(interface, ip)| LocalAddress {
                interface: (*interface).to_owned(),
                ip: ip.parse().unwrap(),
            })
            .collect()
    }

    const LISTEN: &str = "0.0.0.0:2377";

    fn advertise(text: &str, entries: &[(&str, &str)]) -> Result<String, String> {
        advertise_address(text, LISTEN.parse().unwrap(), &local(entries))
            .map(|address| address.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_only_address_is_chosen_and_several_are_refused() {
        assert_eq!(advertise("", &[("eth0", "10.77.0.1"), ("eth0", "fe80::1")]).unwrap(), "10.77.0.1:2377");
        let refused = advertise("", &[("eth0", "10.77.0.1"), ("eth1", "10.78.0.1")]).unwrap_err();
        assert!(refused.contains("could not choose an IP address to advertise"), "{refused}");
        assert_eq!(advertise("", &[]).unwrap(), "127.0.0.1:2377");
    }

    #[test]
    fn addresses_may_be_given_as_ip_port_or_interface() {
        let entries = [("eth0", "10.77.0.1"), ("eth1", "10.78.0.1")];
        assert_eq!(advertise("eth1", &entries).unwrap(), "10.78.0.1:2377");
        assert_eq!(advertise("eth1:4000", &entries).unwrap(), "10.78.0.1:4000");
        assert_eq!(advertise("10.9.9.9", &entries).unwrap(), "10.9.9.9:2377");
        assert_eq!(advertise("[fd00::1]:99", &entries).unwrap(), "[fd00::1]:99");
        assert!(advertise("0.0.0.0", &entries).is_err());
        assert!(advertise("wlan9", &entries).unwrap_err().contains("wlan9"));
        assert!(advertise("10.9.9.9:port", &entries).unwrap_err().contains("port"));
    }

    #[test]
    fn remote_addresses_take_the_default_port() {
        assert_eq!(remote_addresses("10.77.0.1").unwrap(), ["10.77.0.1:2377".parse().unwrap()]);
        assert!(remote_addresses(":2377").is_err());
    }
}
