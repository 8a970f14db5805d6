//! Numbers for published ports that were asked for without one.

use std::collections::BTreeSet;

use skep_state::spec::{PortConfig, PortProtocol, PublishMode, ServiceSpec};
use skep_state::{Service, State};

use crate::draft::Draft;

/// Ports that are given out (swarmkit `manager/allocator/portallocator.go`).
const DYNAMIC: std::ops::RangeInclusive<u16> = 30000..=32767;

/// Fills in the ingress ports that a service still lacks. (Requests do it themselves; this is for what a rollback
/// brings back.) When none is free the port stays without a number.
pub(crate) fn run(draft: &mut Draft<'_>) {
    let lacking: Vec<String> = draft
        .state
        .services
        .values()
        .filter(|service| service.ports.iter().any(lacks_number))
        .map(|service| service.meta.id.clone())
        .collect();
    for id in lacking {
        let mut taken = taken(draft);
        let done = draft.edit_service(&id, |service| {
            for port in service.ports.iter_mut().filter(|port| lacks_number(port)) {
                if let Some(number) =
                    DYNAMIC.clone().find(|&number| !taken.contains(&(port.protocol, number)))
                {
                    port.published_port = number;
                    taken.insert((port.protocol, number));
                }
            }
        });
        if !done {
            return;
        }
    }
}

/// The ports of a service that goes back to `spec`: numbers it has now stay where the spec asks for none. When
/// another service has taken one of them meanwhile the ports stay as they are, or no commit would ever pass.
pub(crate) fn for_spec(state: &State, service: &Service, spec: &ServiceSpec) -> Vec<PortConfig> {
    let mut spare = service.ports.clone();
    let ports: Vec<PortConfig> = spec
        .ports()
        .iter()
        .map(|wanted| {
            let mut port = wanted.clone();
            let same = spare.iter().position(|had| {
                had.protocol == port.protocol
                    && had.target_port == port.target_port
                    && had.publish_mode == port.publish_mode
            });
            if lacks_number(&port)
                && let Some(same) = same
            {
                port.published_port = spare.swap_remove(same).published_port;
            }
            port
        })
        .collect();
    let collides = state.services.values().filter(|other| other.meta.id != service.meta.id).any(|other| {
        other.ports.iter().any(|theirs| {
            ports.iter().any(|port| {
                port.published_port != 0
                    && port.published_port == theirs.published_port
                    && port.protocol == theirs.protocol
            })
        })
    });
    if collides { service.ports.clone() } else { ports }
}

fn lacks_number(port: &PortConfig) -> bool {
    port.published_port == 0 && port.publish_mode == PublishMode::Ingress
}

fn taken(draft: &Draft<'_>) -> BTreeSet<(PortProtocol, u16)> {
    draft
        .state
        .services
        .keys()
        .filter_map(|id| draft.service(id))
        .flat_map(|service| &service.ports)
        .map(|port| (port.protocol, port.published_port))
        .collect()
}
