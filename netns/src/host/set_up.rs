//! Setting a host's network up, adopting one that is there, and taking it down.
//!
//! ```text
//!            set_up                     (daemon dies)                set_up
//! nothing ----------> set up, TUN open -------------> set up, TUN closed ---> set up, TUN open
//!    ^  \ fails half way: what was done stays,             |
//!    |   \ and the next set_up or tear_down takes over     |
//!    +------------------- tear_down -----------------------+
//! ```
//!
//! Every step says how things shall be, not how to get there from nothing, so it may be done again at any time. The rules
//! of nftables are replaced in one transaction; links, routes and published ports that are there stay untouched.

use nix::errno::Errno;

use super::types::{LINK_NAME_MAX, NetworkError, ipv4};
use super::{
    Handles, HostNetwork, HostNetworkConfig, LOCAL_RULE_PRIORITY, MARK, MARK_RULE_PRIORITY, MARK_TABLE,
};
use crate::namespace::Namespace;
use crate::netlink::{
    DeviceSettings, Ignore, Link, Netlink, NetlinkError, ROUTE_PROTOCOL, Route, Rule, TABLE_LOCAL,
    no_ipv6_of_its_own, set_our_device_up,
};
use crate::nft::{self, Nftables};
use crate::sysctl;
use crate::tun::Tun;

const FORWARDING: &str = "ipv4/ip_forward";
/// `RTPROT_KERNEL`: how the kernel's own rules are signed.
const KERNEL_PROTOCOL: u8 = 2;

const MARK_RULE: Rule = Rule {
    priority: MARK_RULE_PRIORITY,
    mark: Some((MARK, MARK)),
    table: MARK_TABLE,
    protocol: ROUTE_PROTOCOL,
};
const MOVED_LOCAL_RULE: Rule =
    Rule { priority: LOCAL_RULE_PRIORITY, mark: None, table: TABLE_LOCAL, protocol: ROUTE_PROTOCOL };
const FIRST_LOCAL_RULE: Rule =
    Rule { priority: 0, mark: None, table: TABLE_LOCAL, protocol: KERNEL_PROTOCOL };

impl HostNetwork {
    /// Sets the network up in the calling thread's namespace, or adopts the one that a daemon before us left, without
    /// disturbing containers or connections. Returns the network and its TUN device.
    pub fn set_up(config: HostNetworkConfig) -> Result<(Self, Tun), NetworkError> {
        Self::set_up_in(Namespace::current()?, config)
    }

    /// The same in another namespace.
    pub fn set_up_in(namespace: Namespace, config: HostNetworkConfig) -> Result<(Self, Tun), NetworkError> {
        check(&config)?;
        let mut route = Netlink::new_in(&namespace)?;
        let mut nft = Nftables::new_in(&namespace)?;

        // First of all, because it is refused while another daemon is there, whose rules must stay as they are.
        let tun = Tun::open_in(&namespace, &config.tun_name)?;
        let tun_link = route.link_index(&config.tun_name)?;
        let forwarding = sysctl::read(&namespace, FORWARDING)?;
        let layout =
            nft::Layout { tun: &config.tun_name, host_prefix: &config.host_prefix, subnets: &config.subnets };
        nft::install(&mut nft, layout, &forwarding)?;
        if forwarding != "1" {
            sysctl::write(&namespace, &[(FORWARDING, "1")])?;
        }

        // Kernels without IPv6 refuse this, and need it not.
        let _ = route.transact(vec![no_ipv6_of_its_own(tun_link)]);
        let settings = DeviceSettings { mark_counts_for_source: true, accept_local: true };
        route.one(set_our_device_up(
            tun_link,
            format!("set {} up", config.tun_name),
            settings,
            Some(config.mtu),
        ))?;

        set_routes(&mut route, &config, tun_link)?;
        set_rules(&mut route)?;
        Ok((Self { config, namespace, handles: Handles { route, nft }.into() }, tun))
    }

    /// Removes every trace: containers' links, the TUN device, routes, rules and the nftables table, and gives
    /// `ip_forward` its value back. Goes on after errors and reports all of them.
    pub fn tear_down(self) -> Result<(), NetworkError> {
        Self::tear_down_in(&self.namespace, &self.config)
    }

    /// The same for a network that nobody holds, for instance after a crash. Harmless where there is none.
    pub fn tear_down_in(namespace: &Namespace, config: &HostNetworkConfig) -> Result<(), NetworkError> {
        check(config)?;
        let mut route = Netlink::new_in(namespace)?;
        let mut nft = Nftables::new_in(namespace)?;
        let mut failed: Vec<NetworkError> = Vec::new();

        match route.links() {
            Ok(links) => {
                for link in links.iter().filter(|link| is_ours(link, &config.host_prefix)) {
                    failed.extend(route.delete_link(&link.name).err().map(Into::into));
                }
            }
            Err(error) => failed.push(error.into()),
        }
        failed.extend(route.delete_link(&config.tun_name).err().map(Into::into));
        failed.extend(restore_rules(&mut route).err().map(Into::into));
        match route.routes() {
            Ok(routes) => {
                for left in routes.iter().filter(|route| route.table == MARK_TABLE) {
                    failed.extend(route.delete_route(left).err().map(Into::into));
                }
            }
            Err(error) => failed.push(error.into()),
        }
        match nft::remembered_forwarding(&mut nft) {
            Ok(Some(before)) if before != "1" => {
                failed.extend(sysctl::write(namespace, &[(FORWARDING, &before)]).err().map(Into::into));
            }
            Ok(_) => {}
            Err(error) => failed.push(error.into()),
        }
        failed.extend(nft::remove(&mut nft).err().map(Into::into));
        if failed.is_empty() { Ok(()) } else { Err(NetworkError::Several(failed)) }
    }
}

/// Whether a link is the host end of a container's veth.
pub(super) fn is_ours(link: &Link, host_prefix: &str) -> bool {
    link.name.starts_with(host_prefix) && link.kind.as_deref() == Some("veth")
}

fn check(config: &HostNetworkConfig) -> Result<(), NetworkError> {
    for subnet in &config.subnets {
        ipv4(subnet.network())?;
    }
    // The prefix must leave room for a name, and must not be the start of other links' names by accident.
    let prefix = &config.host_prefix;
    if prefix.len() < 2 || prefix.len() >= LINK_NAME_MAX || config.tun_name.starts_with(prefix) {
        return Err(NetworkError::LinkName(prefix.clone(), config.tun_name.clone()));
    }
    Ok(())
}

fn set_routes(route: &mut Netlink, config: &HostNetworkConfig, tun: u32) -> Result<(), NetlinkError> {
    let mut wanted =
        vec![Route::on_link(std::net::Ipv4Addr::UNSPECIFIED.into(), 0, tun).in_table(MARK_TABLE)];
    for subnet in &config.subnets {
        wanted.push(Route::on_link(subnet.network(), subnet.prefix(), tun));
        wanted.push(Route::throw(subnet.network(), subnet.prefix(), MARK_TABLE));
    }
    for wish in &wanted {
        route.set_route(wish)?;
    }
    // Subnets of an earlier configuration. Containers' own routes are /32s to other links.
    let same =
        |a: &Route, b: &Route| (a.destination, a.prefix, a.table) == (b.destination, b.prefix, b.table);
    let old = route.routes()?.into_iter().filter(|there| {
        there.protocol == ROUTE_PROTOCOL
            && (there.table == MARK_TABLE || there.link == Some(tun))
            && !wanted.iter().any(|wish| same(wish, there))
    });
    for gone in old.collect::<Vec<_>>() {
        route.delete_route(&gone)?;
    }
    Ok(())
}

/// Puts our rule before the one for local addresses. There is a rule for local addresses at every moment.
fn set_rules(route: &mut Netlink) -> Result<(), NetlinkError> {
    let local = |rule: &&Rule| rule.table == TABLE_LOCAL && rule.mark.is_none();
    let rules = route.rules()?;
    if !rules.iter().filter(local).any(|rule| rule.priority > MARK_RULE_PRIORITY) {
        route.add_rule(&MOVED_LOCAL_RULE)?;
    }
    if !rules.contains(&MARK_RULE) {
        route.add_rule(&MARK_RULE)?;
    }
    for rule in rules.iter().filter(local).filter(|rule| rule.priority < MARK_RULE_PRIORITY) {
        route.delete_rule(rule)?;
    }
    Ok(())
}

fn restore_rules(route: &mut Netlink) -> Result<(), NetlinkError> {
    // Not ours to move back if somebody else had moved it before us.
    if route.rules()?.contains(&MOVED_LOCAL_RULE) {
        route.add_rule(&FIRST_LOCAL_RULE)?;
        route.delete_rule(&MOVED_LOCAL_RULE)?;
    }
    route.delete_rule(&MARK_RULE).ignore(&[Errno::ENOENT])
}
