//! What is in a host's network.

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::AsRawFd;

use skep_netns::{Namespace, Netlink};

/// `NLM_F_REQUEST | NLM_F_DUMP`, linux/netlink.h.
const DUMP: u16 = 0x301;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE`, linux/netfilter/nfnetlink.h and nf_tables.h.
const GET_TABLE: u16 = 10 << 8 | 1;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NFTA_TABLE_NAME`.
const TABLE_NAME: u16 = 1;

/// Links, policy rules and nftables tables, for comparing before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Names of links.
    pub links: Vec<String>,
    /// Policy rules.
    pub rules: Vec<String>,
    /// Names of nftables tables.
    pub tables: Vec<String>,
    /// Routes, those that the kernel makes for addresses left out.
    pub routes: Vec<String>,
}

/// What is in a network namespace.
pub(crate) fn snapshot(namespace: &Namespace) -> Snapshot {
    let mut netlink = Netlink::new_in(namespace).unwrap();
    let mut links: Vec<String> = netlink.links().unwrap().into_iter().map(|link| link.name).collect();
    links.sort();
    let rules = netlink.rules().unwrap().iter().map(|rule| format!("{rule:?}")).collect();
    let routes = netlink.routes().unwrap();
    // IPv6 makes routes of its own some time after a link is up.
    let routes = routes.iter().filter(|route| route.destination.is_ipv4()).map(|route| format!("{route:?}"));
    Snapshot { links, rules, tables: tables(namespace), routes: routes.collect() }
}

/// The names of the nftables tables, of all families.
pub(crate) fn tables(namespace: &Namespace) -> Vec<String> {
    let list = || {
        let netlink = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .unwrap();
        let mut request = Vec::new();
        request.extend(20_u32.to_ne_bytes());
        request.extend(GET_TABLE.to_ne_bytes());
        request.extend(DUMP.to_ne_bytes());
        request.extend([0; 12]);
        send(netlink.as_raw_fd(), &request, MsgFlags::empty()).unwrap();
        let mut names = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
            let mut rest = &buffer[..length];
            while rest.len() >= 16 {
                let size = number_32(rest) as usize;
                if number_16(&rest[4..]) == DONE {
                    return names;
                }
                // A header of 16 bytes, then the four of netfilter, then attributes.
                names.extend(attribute(&rest[20..size], TABLE_NAME));
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    };
    namespace.run(list).unwrap()
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<String> {
    while attributes.len() >= 4 {
        let size = usize::from(number_16(attributes));
        if number_16(&attributes[2..]) == wanted {
            return Some(String::from_utf8_lossy(&attributes[4..size]).trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(size.next_multiple_of(4)..)?;
    }
    None
}

fn number_16(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

fn number_32(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
