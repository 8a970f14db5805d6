//! A router before hosts that can only dial out: what they send leaves with the router's address, and nothing comes in
//! that they have not asked for.
//!
//! ```text
//! switch 10.77.S.0/24 ── wan0 10.77.S.(100+N) [router N] lan0 192.168.77.1 ── eth0 192.168.77.2 [host N]
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use skep_netns::netlink::{Route, VethPair};
use skep_netns::{Namespace, Netlink, fabric, sysctl};

use super::playground::Playground;

/// The router's address on the host's side.
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 77, 1));

/// The host's own address, the same behind every router.
pub(crate) const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

// linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h.
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = 10 << 8;
const NEW_CHAIN: u16 = 10 << 8 | 3;
const NEW_RULE: u16 = 10 << 8 | 6;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const NESTED: u16 = 0x8000;
const FAMILY_IPV4: u8 = 2;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SOURCE_NAT: u32 = 100;

/// Routers live as long as this does.
#[derive(Debug)]
pub(crate) struct Router {
    _namespace: Namespace,
    /// Its address on the playground's network.
    pub address: Ipv4Addr,
}

impl Router {
    /// Takes a host from the switch and puts it behind a router of its own.
    #[track_caller]
    pub(crate) fn before(playground: &Playground, number: u8) -> Self {
        let switch = playground.switch();
        let host = playground.network(number);
        fabric::disconnect(&switch, &format!("node{number}")).unwrap();

        let namespace = Namespace::create().unwrap();
        let address = playground.address(100 + number);
        let port = format!("router{number}");
        let leg = fabric::Leg { port: &port, ifname: "wan0", address: address.into(), prefix: 24 };
        fabric::connect(&switch, &namespace, &leg).unwrap();

        let mut router = Netlink::new_in(&namespace).unwrap();
        let pair = VethPair {
            name: "lan0",
            mac: None,
            peer_name: "eth0",
            peer_mac: None,
            peer_namespace: Some(&host),
            mtu: fabric::MTU,
        };
        let lan = router.create_veth(&pair).unwrap();
        router.add_address(lan, ROUTER, 24).unwrap();
        router.set_link_up(lan, true).unwrap();
        let mut inside = Netlink::new_in(&host).unwrap();
        let eth = inside.link_index("eth0").unwrap();
        inside.add_address(eth, INSIDE.into(), 24).unwrap();
        inside.set_link_up(eth, true).unwrap();
        inside.set_route(&Route::default_through(ROUTER, eth)).unwrap();

        sysctl::write(&namespace, &[("ipv4/ip_forward", "1")]).unwrap();
        namespace.run(masquerade).unwrap();
        Self { _namespace: namespace, address }
    }
}

/// `table ip nat { chain out { type nat hook postrouting priority 100; masquerade } }`
fn masquerade() {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
            .unwrap();
    let hook = [number(1, HOOK_POSTROUTING), number(2, PRIORITY_SOURCE_NAT)].concat();
    let chain = [string(1, "nat"), string(3, "out"), attribute(4 | NESTED, &hook), string(7, "nat")];
    let expression = attribute(1 | NESTED, &string(1, "masq"));
    let rule = [string(1, "nat"), string(2, "out"), attribute(4 | NESTED, &expression)];
    let batch = [
        message(BATCH_BEGIN, REQUEST, 0, 10, &[]),
        message(NEW_TABLE, REQUEST | CREATE | ACK, FAMILY_IPV4, 0, &string(1, "nat")),
        message(NEW_CHAIN, REQUEST | CREATE | ACK, FAMILY_IPV4, 0, &chain.concat()),
        message(NEW_RULE, REQUEST | CREATE | ACK, FAMILY_IPV4, 0, &rule.concat()),
        message(BATCH_END, REQUEST, 0, 10, &[]),
    ];
    send(netlink.as_raw_fd(), &batch.concat(), MsgFlags::empty()).unwrap();
    let mut buffer = [0; 4096];
    let mut acknowledged = 0;
    while acknowledged < 3 {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        let mut rest = &buffer[..length];
        while rest.len() >= 20 {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let code = i32::from_ne_bytes([rest[16], rest[17], rest[18], rest[19]]);
            assert_eq!(code, 0, "nftables: {}", std::io::Error::from_raw_os_error(-code));
            acknowledged += 1;
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn string(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}
