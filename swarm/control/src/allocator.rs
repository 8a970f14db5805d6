//! Addresses: every task gets one from the ingress network and keeps it until its end is reported.
//!
//! ```text
//! new --address given--> pending --> (scheduler)
//!  `--network exhausted--> pending without address, the reason in `status.err`, until one is free
//! ```
//!
//! A freed address is used again as late as possible (the search goes on from the newest task's address and wraps),
//! so that connections and caches that still know it find nobody rather than somebody else.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use skep_state::{Network, NetworkAttachment, Task, TaskState};

use crate::draft::{Draft, TaskRef};

/// Gives addresses to new tasks.
pub(crate) fn run(draft: &mut Draft<'_>) {
    let waiting: Vec<TaskRef> = draft
        .tasks()
        .filter(|(_, task)| task.desired_state <= TaskState::Running)
        .filter(|(_, task)| task.status.state == TaskState::New || lacks_address(draft, task))
        .map(|(task, _)| task)
        .collect();
    if waiting.is_empty() {
        return;
    }
    let mut pool = draft.state.ingress().map(|network| Pool::of(draft, network));
    for task in waiting {
        let given = match &mut pool {
            // No ingress network: the swarm publishes nothing and tasks have no address in it.
            None => Ok(None),
            Some(pool) => pool.take().map(Some),
        };
        let now = draft.now;
        let done = draft.edit(task, |task| {
            if task.status.state == TaskState::New {
                task.status.state = TaskState::Pending;
                task.status.timestamp = now;
            }
            "pending task scheduling".clone_into(&mut task.status.message);
            match given {
                Ok(attachment) => {
                    task.networks.extend(attachment);
                    task.status.err.clear();
                }
                Err(reason) => task.status.err = reason,
            }
        });
        if !done {
            return;
        }
    }
}

/// Whether a task still waits for its address.
pub(crate) fn lacks_address(draft: &Draft<'_>, task: &Task) -> bool {
    task.status.state == TaskState::Pending
        && draft
            .state
            .ingress()
            .is_some_and(|ingress| task.networks.iter().all(|network| network.network_id != ingress.meta.id))
}

/// The addresses of a network.
struct Pool {
    network_id: String,
    /// Why nothing can be given.
    exhausted: String,
    prefix: u32,
    /// First and last address that may be given.
    range: Option<(u32, u32)>,
    taken: BTreeSet<u32>,
    next: u32,
}

impl Pool {
    fn of(draft: &Draft<'_>, network: &Network) -> Self {
        let subnet = network.ipam.first().map_or(DEFAULT_SUBNET, |ipam| ipam.subnet.as_str());
        let parsed = parse(subnet);
        let (first, last, prefix) = parsed.unwrap_or((0, 0, 32));
        let mut taken = BTreeSet::new();
        let gateways = network.ipam.iter().filter_map(|ipam| address(&ipam.gateway));
        taken.extend(gateways);
        let mut newest = None;
        for (task_ref, task) in draft.tasks() {
            let attached = task.networks.iter().filter(|attached| attached.network_id == network.meta.id);
            for address in attached.flat_map(|attached| &attached.addresses).filter_map(|text| address(text))
            {
                newest = newest.max(Some((draft.created_at(task_ref), address)));
                if !task.status.state.is_terminal() {
                    taken.insert(address);
                }
            }
        }
        let exhausted = match parsed {
            Some(_) => format!("no available IP addresses on network {} ({subnet})", network.name),
            None => format!("network {} has no usable subnet ({subnet})", network.name),
        };
        Self {
            network_id: network.meta.id.clone(),
            exhausted,
            prefix,
            range: parsed.map(|_| (first, last)),
            taken,
            next: newest.map_or(first, |(_, address)| address.saturating_add(1)),
        }
    }

    fn take(&mut self) -> Result<NetworkAttachment, String> {
        let Some((first, last)) = self.range else { return Err(self.exhausted.clone()) };
        let next = if (first..=last).contains(&self.next) { self.next } else { first };
        let free = (next..=last)
            .chain(first..next)
            .find(|address| !self.taken.contains(address))
            .ok_or_else(|| self.exhausted.clone())?;
        self.taken.insert(free);
        self.next = free.saturating_add(1);
        Ok(NetworkAttachment {
            network_id: self.network_id.clone(),
            addresses: vec![format!("{}/{}", Ipv4Addr::from_bits(free), self.prefix)],
        })
    }
}

/// The subnet of an ingress network that names none.
const DEFAULT_SUBNET: &str = "10.255.0.0/16";

/// First and last address to give, and the prefix length. The network's own address, the first host address (the
/// gateway that `inspect` shows) and the broadcast address are not given.
fn parse(subnet: &str) -> Option<(u32, u32, u32)> {
    let (base, prefix) = subnet.split_once('/')?;
    let base: Ipv4Addr = base.parse().ok()?;
    let prefix: u32 = prefix.parse().ok()?;
    // A /30 has four addresses and three are reserved; anything smaller, or the whole Internet, is no subnet.
    if !(8..=30).contains(&prefix) {
        return None;
    }
    let size = 1_u32 << (32 - prefix);
    let base = base.to_bits() & !(size - 1);
    Some((base + 2, base + size - 2, prefix))
}

fn address(text: &str) -> Option<u32> {
    text.split('/').next()?.parse().ok().map(Ipv4Addr::to_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_gateway_and_broadcast_are_kept_back() {
        let show = |(first, last, prefix)| (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last), prefix);
        let expected = ("10.255.0.2".parse().unwrap(), "10.255.255.254".parse().unwrap(), 16);
        assert_eq!(parse("10.255.0.0/16").map(show), Some(expected));
        assert_eq!(parse("10.0.0.0/31"), None);
        assert_eq!(parse("rubbish"), None);
    }

    #[test]
    fn addresses_go_round() {
        let mut pool = Pool {
            network_id: "n".to_owned(),
            exhausted: "full".to_owned(),
            prefix: 29,
            range: Some((2, 6)),
            taken: BTreeSet::from([3]),
            next: 5,
        };
        let given: Vec<_> =
            std::iter::from_fn(|| pool.take().ok()).map(|given| given.addresses[0].clone()).collect();
        assert_eq!(given, ["0.0.0.5/29", "0.0.0.6/29", "0.0.0.2/29", "0.0.0.4/29"]);
        assert_eq!(pool.take(), Err("full".to_owned()));
    }
}
