//! The rules that stay the same while ports and containers come and go.
//!
//! ```text
//! hook         priority  chain     does
//! prerouting   -300      guard     drops what must not come in, before anything is translated
//! prerouting   -150      mark_in   marks connections that come by the TUN, and the replies to them
//! prerouting   -100      nat_in    to a local address: jump publish
//! output       -150      mark_out  marks our own answers (resets, ICMP) to such connections
//! output       -100      nat_out   to a local address: jump publish
//! input           0      input     new connections: jump refuse
//! forward         0      forward   refuses what came by the TUN and would leave by the TUN
//! postrouting   100      nat_post  masquerades what leaves the overlay
//! ```
//!
//! The chains `publish` and `refuse` are filled by [`super::publish`].

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_netfilter::nftables::InetHookNumber;

use super::expr::{self, Direction, End};
use super::{BaseChain, Batch, Nftables};
use crate::host::{MARK, Subnet};
use crate::netlink::NetlinkError;

pub(super) const PUBLISH: &str = "publish";
pub(super) const REFUSE: &str = "refuse";
/// Pairs (container, container): a connection of a container to itself, through a published port.
const HAIRPIN: &str = "hairpin";
const TCP: u8 = libc::IPPROTO_TCP as u8;
/// `NFTNL_UDATA_TABLE_COMMENT`: nft shows user data of this type as the table's comment.
const COMMENT: u8 = 0;
const FORWARDING_WAS: &str = "ip_forward was ";

/// The names and networks that the rules are about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout<'a> {
    pub(crate) tun: &'a str,
    pub(crate) host_prefix: &'a str,
    pub(crate) subnets: &'a [Subnet],
}

const fn base(kind: &'static str, hook: InetHookNumber, priority: i32) -> Option<BaseChain> {
    Some(BaseChain { kind, hook, priority })
}

/// Puts the table there, or brings the one that is there up to date in one transaction, leaving published ports alone.
/// `forwarding` is the value of `ip_forward` to remember; it is kept only when the table is new.
pub(crate) fn install(nft: &mut Nftables, layout: Layout<'_>, forwarding: &str) -> Result<(), NetlinkError> {
    nft.commit("write the nftables table skep", transaction(layout, forwarding))
}

/// Deletes the table, if it is there, with everything in it.
pub(crate) fn remove(nft: &mut Nftables) -> Result<(), NetlinkError> {
    if nft.table_data()?.is_none() {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.delete_table();
    nft.commit("delete the nftables table skep", batch)
}

/// What `ip_forward` was before the table was made, if the table knows.
pub(crate) fn remembered_forwarding(nft: &mut Nftables) -> Result<Option<String>, NetlinkError> {
    let data = nft.table_data()?.unwrap_or_default();
    let text = String::from_utf8_lossy(data.get(2..).unwrap_or_default()).into_owned();
    Ok(text.trim_end_matches('\0').strip_prefix(FORWARDING_WAS).map(str::to_owned))
}

/// Says that a container with this address is here, or is gone.
pub(crate) fn set_hairpin(nft: &mut Nftables, address: Ipv4Addr, present: bool) -> Result<(), NetlinkError> {
    let pair = [address.octets(), address.octets()].concat();
    let mut batch = Batch::default();
    batch.element(HAIRPIN, &pair, present);
    nft.commit(&format!("write {address} to the nftables set {HAIRPIN}"), batch)
}

fn transaction(layout: Layout<'_>, forwarding: &str) -> Batch {
    use InetHookNumber::{Forward, LocalIn, LocalOut, PostRouting, PreRouting};
    let comment = format!("{FORWARDING_WAS}{forwarding}\0");
    let mut user_data = vec![COMMENT, u8::try_from(comment.len()).unwrap_or(u8::MAX)];
    user_data.extend(comment.bytes());

    let mut batch = Batch::default();
    batch.table(user_data);
    batch.named_set(HAIRPIN, (expr::TYPE_IPV4_IPV4, 8));
    batch.chain(PUBLISH, None);
    batch.chain(REFUSE, None);
    let chains = [
        ("guard", base("filter", PreRouting, -300)),
        ("mark_in", base("filter", PreRouting, -150)),
        ("nat_in", base("nat", PreRouting, -100)),
        ("mark_out", base("route", LocalOut, -150)),
        ("nat_out", base("nat", LocalOut, -100)),
        ("input", base("filter", LocalIn, 0)),
        ("forward", base("filter", Forward, 0)),
        ("nat_post", base("nat", PostRouting, 100)),
    ];
    for (name, base) in chains {
        batch.chain(name, base);
        batch.flush(name);
    }
    guard(&mut batch, layout);
    mark(&mut batch, layout);
    translate(&mut batch, layout);

    batch.rule("input", &[&expr::new_connection(), &expr::jump(REFUSE)]);
    // A daemon elsewhere believes that a container is here which is not: sending it round again would only end with
    // its time to live. A reset makes the client call again, and reach a container that is there.
    let stray = [expr::from_link(layout.tun), expr::to_link(layout.tun)].concat();
    batch.rule("forward", &[&stray, &expr::protocol(TCP), &expr::reset()]);
    batch.rule(
        "forward",
        &[&stray, &expr::not_protocol(TCP), &expr::unreachable(expr::ICMP_HOST_UNREACHABLE)],
    );
    batch
}

fn guard(batch: &mut Batch, layout: Layout<'_>) {
    // Our links let the kernel route 127/8 so that 127.0.0.1:PORT works from the host. Without these two, a container
    // or a neighbour could reach services that listen on localhost only (CVE-2020-8558).
    for end in [End::Destination, End::Source] {
        batch.rule("guard", &[&expr::not_from_link("lo"), &expr::loopback(end), &expr::drop_packet()]);
    }
    // A container has one address. (rp_filter would do, if the host's own setting could not weaken it.)
    batch.rule(
        "guard",
        &[&expr::from_links(layout.host_prefix), &expr::forged_source(), &expr::drop_packet()],
    );
    // The overlay is reached by published ports, by the TUN or from a container; not by routing into it from outside.
    let overlay = overlay(batch, layout.subnets);
    batch.rule(
        "guard",
        &[
            &expr::not_from_link("lo"),
            &expr::not_from_link(layout.tun),
            &expr::not_from_links(layout.host_prefix),
            &expr::address_in(End::Destination, overlay, true),
            &expr::drop_packet(),
        ],
    );
}

fn mark(batch: &mut Batch, layout: Layout<'_>) {
    let from_tun = expr::from_link(layout.tun);
    // Other nodes may open connections to containers, not to this host or past it.
    let outside = overlay(batch, layout.subnets);
    batch.rule(
        "mark_in",
        &[
            &from_tun,
            &expr::new_connection(),
            &expr::address_in(End::Destination, outside, false),
            &expr::drop_packet(),
        ],
    );
    let inside = overlay(batch, layout.subnets);
    batch.rule(
        "mark_in",
        &[
            &from_tun,
            &expr::direction(Direction::Original),
            &expr::address_in(End::Destination, inside, true),
            &expr::mark_connection(MARK),
            &expr::mark_packet(MARK),
        ],
    );
    let reply =
        [expr::direction(Direction::Reply), expr::connection_marked(MARK), expr::mark_packet(MARK)].concat();
    batch.rule("mark_in", &[&expr::from_links(layout.host_prefix), &reply]);
    batch.rule("mark_out", &[&reply]);
}

fn translate(batch: &mut Batch, layout: Layout<'_>) {
    batch.rule("nat_in", &[&expr::not_from_link(layout.tun), &expr::to_this_host(), &expr::jump(PUBLISH)]);
    batch.rule("nat_out", &[&expr::to_this_host(), &expr::jump(PUBLISH)]);

    batch.rule("nat_post", &[&expr::not_to_link("lo"), &expr::loopback(End::Source), &expr::masquerade()]);
    batch.rule("nat_post", &[&expr::addresses_in(HAIRPIN), &expr::masquerade()]);
    let (inside, outside) = (overlay(batch, layout.subnets), overlay(batch, layout.subnets));
    batch.rule(
        "nat_post",
        &[
            &expr::not_to_link(layout.tun),
            &expr::address_in(End::Source, inside, true),
            &expr::address_in(End::Destination, outside, false),
            &expr::masquerade(),
        ],
    );
}

/// A fresh set of the overlay's addresses: an anonymous set belongs to one rule, and is replaced with it.
fn overlay(batch: &mut Batch, subnets: &[Subnet]) -> super::AnonymousSet {
    batch.ranges(&ranges(subnets))
}

/// The subnets as ranges that neither overlap nor touch, in order, as an interval set wants them.
fn ranges(subnets: &[Subnet]) -> Vec<([u8; 4], Option<[u8; 4]>)> {
    let mut ends: Vec<(u64, u64)> = subnets
        .iter()
        .filter_map(|subnet| match subnet.network() {
            IpAddr::V4(network) => {
                let start = u64::from(network.to_bits());
                Some((start, start + (1u64 << (32 - subnet.prefix()))))
            }
            IpAddr::V6(_) => None,
        })
        .collect();
    ends.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ends {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    let octets = |bits: u64| u32::try_from(bits).ok().map(u32::to_be_bytes);
    merged.into_iter().filter_map(|(start, end)| Some((octets(start)?, octets(end)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Vec<([u8; 4], Option<[u8; 4]>)> {
        ranges(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn subnets_become_ranges_in_order_without_overlap() {
        assert_eq!(of(&["10.255.0.0/16"]), [([10, 255, 0, 0], Some([11, 0, 0, 0]))]);
        assert_eq!(
            of(&["10.2.0.0/16", "10.0.0.0/16", "10.1.0.0/16", "10.0.3.0/24"]),
            [([10, 0, 0, 0], Some([10, 3, 0, 0]))]
        );
        assert_eq!(of(&["255.0.0.0/8"]), [([255, 0, 0, 0], None)]);
        assert_eq!(of(&["0.0.0.0/0"]), [([0, 0, 0, 0], None)]);
        assert!(of(&[]).is_empty());
    }
}
