//! A small synchronous route-netlink client (rtnetlink(7)).
//!
//! Every call takes microseconds, so nothing is asynchronous. Several requests can go to the kernel in one system call;
//! the kernel works them off in order and answers each, and a failure does not stop the later ones.

mod address;
mod channel;
mod link;
mod neighbour;
mod route;
mod rule;

pub use address::InterfaceAddress;
pub use channel::NetlinkError;
pub use link::{Link, VethPair};
pub use neighbour::Neighbour;
pub use route::{Route, RouteKind, TABLE_LOCAL, TABLE_MAIN};
pub use rule::Rule;

pub(crate) use address::add as add_address;
pub(crate) use channel::{Channel, Ignore};
pub(crate) use link::{
    DeviceSettings, get as get_link, new_veth, no_ipv6_of_its_own, parse as parse_link, set_our_device_up,
    set_up as link_up,
};
pub(crate) use neighbour::set as set_neighbour;
pub(crate) use route::set as set_route;

use netlink_packet_route::RouteNetlinkMessage;

use crate::namespace::Namespace;

/// The number by which our routes and rules are known as ours (`rtm_protocol`): free in `/etc/iproute2/rt_protos`.
pub const ROUTE_PROTOCOL: u8 = 83;

/// A MAC address.
pub type Mac = [u8; 6];

/// One request with what it is for, which appears in the error when the kernel refuses.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) what: String,
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
}

/// A route-netlink handle of one namespace.
#[derive(Debug)]
pub struct Netlink {
    channel: Channel,
}

impl Netlink {
    /// A handle of the given namespace; the calling thread stays where it is.
    pub fn new_in(namespace: &Namespace) -> Result<Self, NetlinkError> {
        Ok(Self { channel: Channel::open(namespace, netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// A handle of the calling thread's namespace.
    pub fn new() -> Result<Self, NetlinkError> {
        Self::new_in(&Namespace::current()?)
    }

    /// Sends all requests at once and waits for every answer. Reports the first refusal, after the kernel has seen all.
    pub(crate) fn transact(
        &mut self,
        requests: Vec<Request>,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.channel.transact(requests.into_iter().map(|r| (r.what, r.message, r.flags)).collect())
    }

    pub(crate) fn one(&mut self, request: Request) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.transact(vec![request])
    }

    pub(crate) fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.channel.dump(what, message)
    }
}
