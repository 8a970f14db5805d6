//! Published ports: numbers for those that have none, and no number twice.

use std::collections::BTreeSet;

use skep_state::spec::{PortConfig, PortProtocol, PublishMode, ServiceSpec};
use skep_state::{Service, State};

use super::Refusal;

/// The first port that is given to a service that asks for any (swarmkit `allocator/networkallocator`).
pub const DYNAMIC_PORT_FIRST: u16 = 30_000;
/// The last one.
pub const DYNAMIC_PORT_LAST: u16 = 32_767;

/// The ports of a service with their numbers: those asked for, and free ones where 0 was asked for.
///
/// `existing` is the service as it is, when it is being updated: a port that had been given a number keeps it. A port
/// in host mode without a number stays without one: the node that runs the task picks it.
pub fn allocate_ports(
    state: &State,
    existing: Option<&Service>,
    spec: &ServiceSpec,
) -> Result<Vec<PortConfig>, Refusal> {
    let others = || {
        state
            .services
            .values()
            .filter(|other| existing.is_none_or(|existing| existing.meta.id != other.meta.id))
            .flat_map(|other| other.ports.iter().map(move |port| (other, port)))
    };
    for port in spec.ports() {
        let taken = others().find(|(_, taken)| clash(port, taken));
        if let Some((service, taken)) = taken {
            let how = match taken.publish_mode {
                PublishMode::Ingress => "as an ingress port",
                PublishMode::Host => "as a host-published port",
            };
            return Err(Refusal::invalid(format!(
                "port '{}' is already in use by service '{}' ({}) {how}",
                port.published_port, service.spec.name, service.meta.id
            )));
        }
    }

    let mut used: BTreeSet<(PortProtocol, u16)> = others()
        .map(|(_, port)| port)
        .chain(spec.ports())
        .map(|port| (port.protocol, port.published_port))
        .collect();
    let mut kept: Vec<&PortConfig> = existing.map_or_else(Vec::new, |service| service.ports.iter().collect());
    spec.ports()
        .iter()
        .map(|port| {
            let mut port = port.clone();
            if port.published_port == 0 && port.publish_mode == PublishMode::Ingress {
                let before = kept.iter().position(|before| {
                    before.protocol == port.protocol
                        && before.target_port == port.target_port
                        && before.publish_mode == port.publish_mode
                        && before.name == port.name
                        && !used.contains(&(before.protocol, before.published_port))
                });
                port.published_port = match before {
                    Some(position) => kept.swap_remove(position).published_port,
                    None => (DYNAMIC_PORT_FIRST..=DYNAMIC_PORT_LAST)
                        .find(|number| !used.contains(&(port.protocol, *number)))
                        .ok_or_else(|| {
                            Refusal::precondition(format!(
                                "no free port from {DYNAMIC_PORT_FIRST} to {DYNAMIC_PORT_LAST} is left to publish port {}",
                                port.target_port
                            ))
                        })?,
                };
                used.insert((port.protocol, port.published_port));
            }
            Ok(port)
        })
        .collect()
}

/// Whether two services cannot both have these ports. Two host-mode ports may be equal: the scheduler keeps the tasks
/// apart.
fn clash(port: &PortConfig, taken: &PortConfig) -> bool {
    port.published_port != 0
        && port.published_port == taken.published_port
        && port.protocol == taken.protocol
        && (port.publish_mode == PublishMode::Ingress || taken.publish_mode == PublishMode::Ingress)
}

#[cfg(test)]
mod tests {
    use skep_state::spec::EndpointSpec;

    use super::*;

    fn port(target: u16, published: u16, mode: PublishMode) -> PortConfig {
        PortConfig {
            target_port: target,
            published_port: published,
            publish_mode: mode,
            ..PortConfig::default()
        }
    }

    fn spec(ports: Vec<PortConfig>) -> ServiceSpec {
        ServiceSpec { endpoint_spec: Some(EndpointSpec { mode: None, ports }), ..ServiceSpec::default() }
    }

    fn with(id: &str, ports: Vec<PortConfig>) -> State {
        let mut service = Service { spec: spec(ports.clone()), ports, ..Service::default() };
        service.meta.id = id.to_owned();
        service.spec.name = "web".to_owned();
        State { services: [(id.to_owned(), service)].into(), ..State::default() }
    }

    #[test]
    fn a_taken_port_is_refused_with_the_name_of_its_service() {
        let state = with("id1", vec![port(80, 8080, PublishMode::Ingress)]);
        let refused =
            allocate_ports(&state, None, &spec(vec![port(90, 8080, PublishMode::Host)])).unwrap_err();
        assert_eq!(
            refused.message,
            "rpc error: code = InvalidArgument desc = port '8080' is already in use by service 'web' (id1) as an ingress port"
        );
        let own = state.services.get("id1");
        assert!(allocate_ports(&state, own, &spec(vec![port(80, 8080, PublishMode::Ingress)])).is_ok());
        let mut udp = port(53, 8080, PublishMode::Ingress);
        udp.protocol = PortProtocol::Udp;
        assert!(allocate_ports(&state, None, &spec(vec![udp])).is_ok(), "another protocol is another port");
        let state = with("id1", vec![port(80, 8080, PublishMode::Host)]);
        assert!(allocate_ports(&state, None, &spec(vec![port(90, 8080, PublishMode::Host)])).is_ok());
    }

    #[test]
    fn a_port_without_a_number_gets_a_free_one_and_keeps_it() {
        let state = with("id1", vec![port(80, DYNAMIC_PORT_FIRST, PublishMode::Ingress)]);
        let asked = spec(vec![
            port(80, 0, PublishMode::Ingress),
            port(81, DYNAMIC_PORT_FIRST + 1, PublishMode::Ingress),
        ]);
        let given = allocate_ports(&state, None, &asked).unwrap();
        assert_eq!(given[0].published_port, DYNAMIC_PORT_FIRST + 2);

        let state = with("id1", vec![port(80, 31_000, PublishMode::Ingress)]);
        let asked = spec(vec![port(81, 0, PublishMode::Ingress), port(80, 0, PublishMode::Ingress)]);
        let given = allocate_ports(&state, state.services.get("id1"), &asked).unwrap();
        assert_eq!((given[0].published_port, given[1].published_port), (DYNAMIC_PORT_FIRST, 31_000));
        let host = spec(vec![port(80, 0, PublishMode::Host)]);
        assert_eq!(allocate_ports(&state, None, &host).unwrap()[0].published_port, 0);
    }

    #[test]
    fn the_range_may_run_out() {
        let all = (DYNAMIC_PORT_FIRST..=DYNAMIC_PORT_LAST)
            .map(|number| port(80, number, PublishMode::Ingress))
            .collect();
        let refused = allocate_ports(&with("id1", all), None, &spec(vec![port(80, 0, PublishMode::Ingress)]))
            .unwrap_err();
        assert!(refused.message.contains("no free port"), "{refused}");
    }
}
