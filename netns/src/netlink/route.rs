//! Routes.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::{Ignore, Netlink, NetlinkError, ROUTE_PROTOCOL, Request};

/// The table that is asked last and holds everybody's routes.
pub const TABLE_MAIN: u32 = 254;
/// The kernel's own table of the host's addresses.
pub const TABLE_LOCAL: u32 = 255;

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Ends the search in this table, as if the route were not there.
    Throw,
    /// Any other kind; listed, never made here.
    Other(u8),
}

/// A route. The ones made here carry [`ROUTE_PROTOCOL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to: a network or, with prefix 0, everything of the family.
    pub destination: IpAddr,
    /// The length of the prefix in bits.
    pub prefix: u8,
    /// Out of which link; none for [`RouteKind::Throw`].
    pub link: Option<u32>,
    /// Through which router.
    pub gateway: Option<IpAddr>,
    /// Whether to believe that the router is on the link although no address says so.
    pub onlink: bool,
    /// Whether the destination is directly on the link (scope link), as it is without a router.
    pub scope_link: bool,
    /// The source address for the host's own packets.
    pub source: Option<IpAddr>,
    /// The table.
    pub table: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
}

impl Route {
    /// A network directly on a link, in the main table.
    #[must_use]
    pub const fn on_link(destination: IpAddr, prefix: u8, link: u32) -> Self {
        Self {
            destination,
            prefix,
            link: Some(link),
            gateway: None,
            onlink: false,
            scope_link: true,
            source: None,
            table: TABLE_MAIN,
            kind: RouteKind::Unicast,
            protocol: ROUTE_PROTOCOL,
        }
    }

    /// The default route through a router that no address of the link covers.
    #[must_use]
    pub const fn default_through(gateway: IpAddr, link: u32) -> Self {
        let everything = match gateway {
            IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        Self { gateway: Some(gateway), onlink: true, scope_link: false, ..Self::on_link(everything, 0, link) }
    }

    /// The same route in another table.
    #[must_use]
    pub const fn in_table(self, table: u32) -> Self {
        Self { table, ..self }
    }

    /// A route that sends the search on to the next rule.
    #[must_use]
    pub const fn throw(destination: IpAddr, prefix: u8, table: u32) -> Self {
        Self {
            link: None,
            scope_link: false,
            kind: RouteKind::Throw,
            ..Self::on_link(destination, prefix, 0).in_table(table)
        }
    }
}

impl Netlink {
    /// Adds a route, or replaces the one to the same destination in the same table.
    pub fn set_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        self.one(set(route)).map(drop)
    }

    /// Deletes a route; it is no error if it is gone already.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut request = set(route);
        request.what = format!("delete the route to {}/{}", route.destination, route.prefix);
        if let RouteNetlinkMessage::NewRoute(message) = request.message {
            request.message = RouteNetlinkMessage::DelRoute(message);
        }
        request.flags = 0;
        self.one(request).ignore(&[Errno::ESRCH, Errno::ENODEV])
    }

    /// All routes of all tables.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let answers = self.dump("list the routes", RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(answers.iter().filter_map(parse).collect())
    }
}

/// Adds or replaces a route.
pub(crate) fn set(route: &Route) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination);
    message.header.destination_prefix_length = route.prefix;
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.protocol = RouteProtocol::from(route.protocol);
    message.header.scope = if route.scope_link { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Throw => RouteType::Throw,
        RouteKind::Other(kind) => RouteType::from(kind),
    };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Table(route.table));
    if route.prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.into()));
    }
    message.attributes.extend(route.link.map(RouteAttribute::Oif));
    message.attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    Request {
        what: format!("set the route to {}/{}", route.destination, route.prefix),
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

fn parse(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    let everything = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut route = Route {
        destination: everything,
        prefix: header.destination_prefix_length,
        link: None,
        gateway: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        scope_link: header.scope == RouteScope::Link,
        source: None,
        table: u32::from(header.table),
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Throw => RouteKind::Throw,
            other => RouteKind::Other(other.into()),
        },
        protocol: header.protocol.into(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => route.destination = ip(to)?,
            RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            RouteAttribute::Oif(link) => route.link = Some(*link),
            RouteAttribute::Table(table) => route.table = *table,
            _ => {}
        }
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The address family of an address.
pub(crate) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
