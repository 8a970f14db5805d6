//! Made-up addresses: what the endpoint calls a peer that it reaches through a relay.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use parking_lot::RwLock;

use crate::class::Class;

/// Pairs of a peer and a relay that an endpoint remembers; three bytes would allow more.
const MAX_ROUTES: usize = 1 << 20;

/// A way to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// Who is at the other end.
    pub(crate) peer: String,
    /// The manager between.
    pub(crate) via: String,
}

/// Routes and the addresses that stand for them. An address keeps its meaning for the life of the process, so that a
/// late packet is never taken for somebody else's.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    routes: Vec<Route>,
    numbers: HashMap<Route, u32>,
}

/// Whether an address is one of ours: in "this network" (RFC 791, 3.2), which no host on a wire has.
pub(crate) fn is_made_up(address: SocketAddr) -> bool {
    matches!(address.ip().to_canonical(), std::net::IpAddr::V4(v4) if v4.octets()[0] == 0 && !v4.is_unspecified())
}

impl Routes {
    /// The address that stands for a route; nothing when there are too many.
    pub(crate) fn address(&self, route: &Route, class: Class) -> Option<SocketAddr> {
        let known = self.known.read().numbers.get(route).copied();
        let number = known.or_else(|| self.known.write().add(route))?;
        // The lowest address is the unspecified one.
        Some(SocketAddr::from((Ipv4Addr::from_bits(number + 1), port(class))))
    }

    /// What an address stands for, if for anything.
    pub(crate) fn route(&self, address: SocketAddr) -> Option<(Route, Class)> {
        let std::net::IpAddr::V4(v4) = address.ip().to_canonical() else { return None };
        let number = usize::try_from(v4.to_bits().checked_sub(1)?).ok()?;
        let class = Class::ALL.into_iter().find(|class| port(*class) == address.port())?;
        Some((self.known.read().routes.get(number)?.clone(), class))
    }
}

impl Known {
    fn add(&mut self, route: &Route) -> Option<u32> {
        if let Some(number) = self.numbers.get(route) {
            return Some(*number);
        }
        let number = u32::try_from(self.routes.len()).ok().filter(|_| self.routes.len() < MAX_ROUTES)?;
        self.routes.push(route.clone());
        self.numbers.insert(route.clone(), number);
        Some(number)
    }
}

/// Ports tell the classes apart: there must be something in an address for each.
fn port(class: Class) -> u16 {
    u16::from(class.mark())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_for_routes() {
        let routes = Routes::default();
        let route = |peer: &str| Route { peer: peer.to_owned(), via: "m".to_owned() };
        let a = routes.address(&route("a"), Class::Control).unwrap();
        let b = routes.address(&route("b"), Class::Bulk).unwrap();
        assert!(is_made_up(a) && is_made_up(b) && a.ip() != b.ip());
        assert_eq!(routes.address(&route("a"), Class::Control), Some(a));
        assert_eq!(routes.route(a), Some((route("a"), Class::Control)));
        assert_eq!(routes.route(b), Some((route("b"), Class::Bulk)));
        let mapped: SocketAddr = format!("[::ffff:{}]:{}", a.ip(), a.port()).parse().unwrap();
        assert!(is_made_up(mapped));
        assert_eq!(routes.route(mapped), Some((route("a"), Class::Control)));
        let free: SocketAddr = "0.0.0.99:67".parse().unwrap();
        assert_eq!(routes.route(free), None);
        for real in ["0.0.0.0:1", "10.0.0.1:67", "[::]:67", "[::1]:67"] {
            assert!(!is_made_up(real.parse().unwrap()), "{real}");
            assert_eq!(routes.route(real.parse().unwrap()), None, "{real}");
        }
    }
}
