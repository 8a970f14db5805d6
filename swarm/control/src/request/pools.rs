//! The address pools of a swarm: from where networks without a subnet of their own get one.

use std::net::{IpAddr, Ipv4Addr};

use skep_state::object::IpamConfig;

use super::Refusal;

/// The network of published ports where the operator gives no pool: a /16, where Docker's /24 runs out after some 250
/// tasks.
const INGRESS_SUBNET: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 255, 0, 0), 16);

/// Prefix lengths of usable subnets: of a smaller one three addresses of four are reserved, a larger one is no network of
/// one swarm. As the allocator of addresses has it.
const PREFIXES: std::ops::RangeInclusive<u32> = 8..=30;

/// The range of the ingress network: the first subnet with the prefix length `size` of the first pool that has one. Pools
/// that overlap are refused. IPv6 pools are left aside, as the ingress network is IPv4.
pub fn ingress_range(pools: &[String], size: u32) -> Result<IpamConfig, Refusal> {
    let parsed: Vec<(Ipv4Addr, u32)> =
        pools.iter().filter_map(|pool| parse(pool).transpose()).collect::<Result<_, _>>()?;
    for (number, (base, prefix)) in parsed.iter().enumerate() {
        for (other, other_prefix) in parsed.iter().skip(number + 1) {
            let common = *prefix.min(other_prefix);
            if network(*base, common) == network(*other, common) {
                return Err(Refusal::invalid(format!(
                    "default address pools {base}/{prefix} and {other}/{other_prefix} overlap"
                )));
            }
        }
    }
    let (base, prefix) = if parsed.is_empty() {
        INGRESS_SUBNET
    } else {
        if !PREFIXES.contains(&size) {
            return Err(Refusal::invalid(format!("subnet size is out of range: {size}")));
        }
        let roomy = parsed.iter().find(|(_, prefix)| *prefix <= size);
        let (base, _) = roomy.ok_or_else(|| {
            Refusal::invalid(format!("no default address pool has room for a subnet of size {size}"))
        })?;
        (*base, size)
    };
    let gateway = Ipv4Addr::from_bits(base.to_bits() + 1);
    Ok(IpamConfig { subnet: format!("{base}/{prefix}"), gateway: gateway.to_string() })
}

/// A pool's network; `None` for IPv6.
fn parse(pool: &str) -> Result<Option<(Ipv4Addr, u32)>, Refusal> {
    let pool = pool.trim();
    let bad = || Refusal::invalid(format!("invalid base pool {pool}: invalid CIDR address: {pool}"));
    let (base, prefix) = pool.split_once('/').ok_or_else(bad)?;
    let (base, prefix): (IpAddr, u32) =
        (base.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?);
    match base {
        IpAddr::V4(base) if prefix <= 32 => Ok(Some((network(base, prefix), prefix))),
        IpAddr::V6(_) if prefix <= 128 => Ok(None),
        _ => Err(bad()),
    }
}

/// An address with its host part cleared.
fn network(address: Ipv4Addr, prefix: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() & u32::MAX.checked_shl(32 - prefix).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(pools: &[&str], size: u32) -> Result<(String, String), String> {
        let pools: Vec<String> = pools.iter().map(|&pool| pool.to_owned()).collect();
        ingress_range(&pools, size).map(|ipam| (ipam.subnet, ipam.gateway)).map_err(|refusal| refusal.message)
    }

    #[test]
    fn the_ingress_network_is_taken_from_the_first_pool_with_room() {
        let is = |subnet: &str, gateway: &str| Ok((subnet.to_owned(), gateway.to_owned()));
        assert_eq!(range(&[], 24), is("10.255.0.0/16", "10.255.0.1"));
        assert_eq!(range(&["172.30.0.0/16"], 24), is("172.30.0.0/24", "172.30.0.1"));
        assert_eq!(
            range(&[" 172.30.9.0/16 "], 20),
            is("172.30.0.0/20", "172.30.0.1"),
            "host bits do not count"
        );
        assert_eq!(range(&["10.1.0.0/28", "10.2.0.0/16"], 26), is("10.2.0.0/26", "10.2.0.1"));
        assert_eq!(range(&["fd00::/48"], 24), is("10.255.0.0/16", "10.255.0.1"));
        assert_eq!(range(&["fd00::/48", "10.9.0.0/24"], 24), is("10.9.0.0/24", "10.9.0.1"));
    }

    #[test]
    fn pools_that_cannot_be_used_are_refused() {
        for pools in
            [["10.0.0.0/8", "10.20.0.0/16"], ["10.20.0.0/16", "10.0.0.0/8"], ["10.1.0.0/16", "10.1.0.0/16"]]
        {
            assert!(range(&pools, 24).unwrap_err().ends_with("overlap"), "{pools:?}");
        }
        assert!(range(&["10.0.0.0/0", "172.16.0.0/12"], 24).unwrap_err().ends_with("overlap"));
        assert!(range(&["10.20.0.0/16", "10.21.0.0/16"], 24).is_ok());
        assert!(range(&["10.20.0.0/28"], 24).unwrap_err().contains("has room"));
        assert!(range(&["10.0.0.0/4"], 6).unwrap_err().contains("out of range"));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129"] {
            assert!(range(&[bad], 24).unwrap_err().contains("invalid CIDR"), "{bad}");
        }
    }
}
