//! Which address this node tells the others while it runs: hosts are renumbered, moved, and get their network late.
//!
//! ```text
//!   look at the host's addresses: when the kernel says so, and once a second
//!     │ as before ───────────────────────────────────────────────> nothing
//!     │ others: the mesh redials what does not answer any more
//!     v
//!   is the address that is told still right?
//!     │ given by hand and not this host's (a NAT's) ─────────────> it stays
//!     │ still there ─────────────────────────────────────────────> it stays
//!     │ gone: another on the same interface at once, on another one after a while, none: it stays for now
//!     v
//!   on disk, then to the leader by the session, then to everybody in the list of nodes
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_mesh::Mesh;

use crate::address::{self, LocalAddress, Origin};
use crate::address_monitor::AddressMonitor;
use crate::member::{Member, Record};
use crate::{Node, NodeError};

/// How often the host's addresses are looked at when the kernel says nothing.
const LOOK: Duration = Duration::from_secs(1);

/// An address on another interface is taken after this: an address may be away for a moment only.
const SETTLED: Duration = Duration::from_secs(2);

/// A node's addresses as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Own {
    listen: SocketAddr,
    advertise: SocketAddr,
    interface: String,
}

/// The addresses that fit to what the host has now.
fn own(member: &Member, local: &[LocalAddress]) -> Own {
    let here = |ip: IpAddr| local.iter().find(|address| address.ip == ip);
    let pick = |interface: &str, like: IpAddr| {
        let fit = |address: &&LocalAddress| !address::is_link_local(address.ip);
        let same = |address: &&LocalAddress| address.ip.is_ipv4() == like.is_ipv4();
        let on = |address: &&LocalAddress| address.interface == interface;
        let found = local.iter().filter(fit).find(|address| on(address) && same(address));
        let found = found.or_else(|| local.iter().filter(fit).find(on));
        if let Origin::Interface(_) = member.origin {
            return found;
        }
        found.or_else(|| local.iter().filter(fit).find(same)).or_else(|| local.iter().find(fit))
    };
    let told = member.advertise.ip();
    let listens_on = member.listen.ip();
    let chosen = match &member.origin {
        Origin::Foreign => None,
        // Back again, perhaps.
        Origin::Address(given) if here(*given).is_some() => here(*given),
        Origin::Interface(name) => {
            pick(name, told).filter(|_| here(told).is_none_or(|at| at.interface != *name))
        }
        // On purpose: a swarm on one machine.
        Origin::Chosen if listens_on.is_loopback() => None,
        Origin::Chosen | Origin::Address(_) if here(told).is_some() => None,
        Origin::Chosen | Origin::Address(_) => pick(&member.interface, told),
    };
    let advertise = chosen.map_or(told, |address| address.ip);
    let gone = !listens_on.is_unspecified() && !listens_on.is_loopback() && here(listens_on).is_none();
    let listen = match pick(&member.interface, listens_on) {
        Some(address) if gone && listens_on == told => {
            here(advertise).map_or(address.ip, |address| address.ip)
        }
        Some(address) if gone => address.ip,
        _ => listens_on,
    };
    Own {
        listen: SocketAddr::new(listen, member.listen.port()),
        advertise: SocketAddr::new(advertise, member.advertise.port()),
        interface: here(advertise).map_or_else(|| member.interface.clone(), |at| at.interface.clone()),
    }
}

/// Follows the host's addresses until cancelled.
pub(crate) async fn follow(mesh: Mesh, record: Arc<Record>) {
    let told =
        |error| tracing::warn!(%error, "the kernel cannot tell of changed addresses; looking once a second");
    let mut monitor = AddressMonitor::new().map_err(told).ok();
    let mut known: Option<Vec<LocalAddress>> = None;
    let mut waiting: Option<(Own, Instant)> = None;
    loop {
        match address::local_addresses() {
            Ok(local) => {
                look(&mesh, &record, &local, &mut waiting).await;
                if known.as_ref().is_some_and(|known| *known != local) {
                    mesh.addresses_changed();
                }
                known = Some(local);
            }
            Err(error) => tracing::warn!(%error, "cannot look at this host's addresses"),
        }
        let changed = async {
            match &monitor {
                Some(monitor) => monitor.changed().await,
                None => std::future::pending().await,
            }
        };
        if let Ok(Err(error)) = tokio::time::timeout(LOOK, changed).await {
            tracing::warn!(%error, "the kernel no longer tells of changed addresses; looking once a second");
            monitor = None;
        }
    }
}

async fn look(mesh: &Mesh, record: &Record, local: &[LocalAddress], waiting: &mut Option<(Own, Instant)>) {
    let member = record.get();
    let own = own(&member, local);
    let as_is = Own { listen: member.listen, advertise: member.advertise, interface: own.interface.clone() };
    let since = match waiting.take() {
        Some((before, since)) if before == own => since,
        _ => Instant::now(),
    };
    let moved = own != as_is;
    if moved && own.interface != member.interface && since.elapsed() < SETTLED {
        *waiting = Some((own, since));
        return;
    }
    if !moved && own.interface == member.interface {
        return;
    }
    if moved {
        tracing::info!(from = %member.advertise, to = %own.advertise, listen = %own.listen, "this node's address changed");
    }
    if let Err(error) = take(mesh, record, &own).await {
        tracing::warn!(%error, "cannot take the new address; trying again");
    }
}

async fn take(mesh: &Mesh, record: &Record, own: &Own) -> Result<(), NodeError> {
    // As when the last time only the record could not be written.
    let there = mesh.local_addr().is_ok_and(|at| at == own.listen);
    if record.get().listen != own.listen && !there {
        mesh.rebind(own.listen)
            .await
            .map_err(NodeError::internal(format!("cannot listen on {} (UDP)", own.listen)))?;
    }
    let kept = record.update(|member| {
        (member.listen, member.advertise) = (own.listen, own.advertise);
        member.interface.clone_from(&own.interface);
    });
    kept.map_err(NodeError::internal("cannot save this node's address"))
}

impl Node {
    /// Where this node listens, and which address it tells the others.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr), NodeError> {
        let member = self.membership().ok_or(NodeError::NotPartOfSwarm)?.record.get();
        Ok((member.listen, member.advertise))
    }

    /// `swarm address`: see [`Node::set_address`].
    pub async fn swarm_address(&self, listen: &str, advertise: &str) -> Result<(), NodeError> {
        let _changing = self.inner.changing.lock().await;
        self.set_address(listen, advertise).await
    }

    /// Changes where this node listens and which address it tells the others, while it runs, in the form of `init` and
    /// `join`; empty means as it is. Connections survive or are made anew.
    pub(crate) async fn set_address(&self, listen: &str, advertise: &str) -> Result<(), NodeError> {
        let membership = self.membership().ok_or(NodeError::NotPartOfSwarm)?;
        let local = address::local_addresses()?;
        let member = membership.record.get();
        let listen = address::listen_address(listen, member.listen, &local)?;
        let (told, origin) = if advertise.is_empty() && listen.ip().is_unspecified() {
            // Only the port may be another one; one that a NAT has stays.
            let port = if member.origin == Origin::Foreign { member.advertise.port() } else { listen.port() };
            (SocketAddr::new(member.advertise.ip(), port), member.origin.clone())
        } else {
            let told = address::advertise_address(advertise, listen, &local)?;
            (told, Origin::of(advertise, told.ip(), &local))
        };
        let at = local.iter().find(|address| address.ip == told.ip());
        let interface = at.map_or(String::new(), |at| at.interface.clone());
        let own = Own { listen, advertise: told, interface };
        take(&membership.mesh, &membership.record, &own).await?;
        let kept = membership.record.update(|member| member.origin = origin);
        kept.map_err(NodeError::internal("cannot save this node's address"))?;
        membership.mesh.addresses_changed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use skep_state::spec::NodeRole;

    use super::*;

    fn host(entries: &[(&str, &str)]) -> Vec<LocalAddress> {
        let entry = |(interface, ip): &(&str, &str)| LocalAddress {
            interface: (*interface).to_owned(),
            ip: ip.parse().unwrap(),
        };
        entries.iter().map(entry).collect()
    }

    fn member(listen: &str, advertise: &str, given: &str, local: &[LocalAddress]) -> Member {
        let advertise: SocketAddr = advertise.parse().unwrap();
        Member {
            listen: listen.parse().unwrap(),
            advertise,
            origin: Origin::of(given, advertise.ip(), local),
            interface: "eth0".to_owned(),
            role: NodeRole::Worker,
            managers: Vec::new(),
            subnets: Vec::new(),
            epoch: Vec::new(),
        }
    }

    fn after(given: &str, now: &[(&str, &str)]) -> String {
        let before = host(&[("eth0", "10.77.0.1"), ("eth1", "10.78.0.1")]);
        let member = member("0.0.0.0:2377", "10.77.0.1:2377", given, &before);
        own(&member, &host(now)).advertise.to_string()
    }

    #[test]
    fn an_address_that_is_still_there_stays() {
        let more = [("eth0", "10.77.0.9"), ("eth0", "10.77.0.1"), ("eth1", "10.78.0.1")];
        for given in ["", "10.77.0.1", "eth0"] {
            assert_eq!(after(given, &more), "10.77.0.1:2377", "{given}");
        }
    }

    #[test]
    fn a_renumbered_host_tells_its_new_address() {
        for given in ["", "10.77.0.1", "eth0", "eth0:2377"] {
            assert_eq!(
                after(given, &[("eth1", "10.78.0.1"), ("eth0", "10.77.0.5")]),
                "10.77.0.5:2377",
                "{given}"
            );
        }
    }

    #[test]
    fn the_same_interface_comes_first_and_link_local_addresses_never() {
        assert_eq!(after("", &[("eth1", "10.78.0.1"), ("eth0", "fe80::1")]), "10.78.0.1:2377");
        assert_eq!(after("", &[("eth1", "10.78.0.1"), ("eth0", "fd00::1")]), "[fd00::1]:2377");
        assert_eq!(after("eth0", &[("eth1", "10.78.0.1")]), "10.77.0.1:2377", "an interface was named");
    }

    #[test]
    fn without_any_address_the_old_one_stays() {
        assert_eq!(after("", &[]), "10.77.0.1:2377");
    }

    #[test]
    fn an_address_of_a_nat_stays_whatever_the_host_has() {
        let local = host(&[("eth0", "192.168.0.2")]);
        let member = member("0.0.0.0:2377", "203.0.113.1:2377", "203.0.113.1", &local);
        assert_eq!(member.origin, Origin::Foreign);
        assert_eq!(own(&member, &host(&[("eth0", "192.168.0.7")])).advertise, member.advertise);
    }

    #[test]
    fn a_given_address_that_comes_back_is_told_again() {
        let local = host(&[("eth0", "10.77.0.1")]);
        let mut member = member("0.0.0.0:2377", "10.77.0.1:2377", "10.77.0.1", &local);
        member.advertise = own(&member, &host(&[("eth0", "10.77.0.5")])).advertise;
        assert_eq!(member.advertise.to_string(), "10.77.0.5:2377");
        let both = host(&[("eth0", "10.77.0.5"), ("eth0", "10.77.0.1")]);
        assert_eq!(own(&member, &both).advertise.to_string(), "10.77.0.1:2377");
    }

    #[test]
    fn a_listen_address_that_is_gone_moves_along() {
        let local = host(&[("eth0", "10.77.0.1")]);
        let member = member("10.77.0.1:4000", "10.77.0.1:4000", "", &local);
        let moved = own(&member, &host(&[("eth0", "10.77.0.5")]));
        assert_eq!(
            (moved.listen.to_string(), moved.advertise.to_string()),
            ("10.77.0.5:4000".into(), "10.77.0.5:4000".into())
        );
        assert_eq!(own(&member, &local).listen, member.listen);
    }

    #[test]
    fn a_swarm_of_one_machine_stays_on_it_and_one_without_network_gets_it_late() {
        let local = host(&[("eth0", "10.77.0.1")]);
        let inside = member("127.0.0.2:2377", "127.0.0.2:2377", "", &[]);
        assert_eq!(own(&inside, &local).advertise, inside.advertise);
        let early = member("0.0.0.0:2377", "127.0.0.1:2377", "", &[]);
        assert_eq!(own(&early, &local).advertise.to_string(), "10.77.0.1:2377");
    }
}
