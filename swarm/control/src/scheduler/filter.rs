//! What a node must satisfy (swarmkit `manager/scheduler/filter.go`), and the words for nodes that do not.

use skep_state::spec::{Availability, Placement, PortProtocol, TaskSpec};
use skep_state::{Node, NodeState, Service, Task};

use super::load::{Amounts, Load, host_ports};
use super::tasks_of_service;
use crate::constraint;

/// One condition on nodes.
pub(super) struct Filter {
    /// Whether a node passes for a task.
    passes: fn(&Wanted, &Load<'_>) -> bool,
    /// Whether the answer stays the same while a tick places tasks; those are asked once for a service.
    fixed: bool,
    /// What to say of `n` nodes that do not pass.
    explain: fn(n: usize) -> String,
}

/// All filters. A node is counted for the first that it does not pass.
pub(super) const FILTERS: [Filter; 6] = [
    Filter {
        passes: |_, load| {
            load.node.status.state == NodeState::Ready && load.node.spec.availability == Availability::Active
        },
        fixed: true,
        explain: |n| format!("{} not available for new tasks", nodes(n)),
    },
    Filter {
        passes: |wanted, load| wanted.resources_suffice(load),
        fixed: false,
        explain: |n| format!("insufficient resources on {}", nodes(n)),
    },
    Filter {
        passes: |wanted, load| constraint::all_match(&wanted.placement().constraints, load.node),
        fixed: true,
        explain: |n| format!("scheduling constraints not satisfied on {}", nodes(n)),
    },
    Filter {
        passes: |wanted, load| platform_suits(&wanted.spec, load.node),
        fixed: true,
        explain: |n| format!("unsupported platform on {}", nodes(n)),
    },
    Filter {
        passes: |wanted, load| wanted.host_ports.iter().all(|port| !load.host_ports.contains(port)),
        fixed: false,
        explain: |n| format!("host-mode port already in use on {}", nodes(n)),
    },
    Filter {
        passes: |wanted, load| {
            let most = wanted.placement().max_replicas;
            most == 0 || (tasks_of_service(load, &wanted.service_id) as u64) < most
        },
        fixed: false,
        explain: |_| "max replicas per node limit exceed".to_owned(),
    },
];

/// What the tasks of one service and spec need.
pub(super) struct Wanted {
    pub(super) service_id: String,
    pub(super) spec_version: u64,
    pub(super) reserves: Amounts,
    pub(super) host_ports: Vec<(PortProtocol, u16)>,
    spec: TaskSpec,
    /// For each node the fixed filters that it does not pass, as a bit mask.
    refused: Vec<u8>,
}

impl Wanted {
    pub(super) fn of(task: &Task, service: Option<&Service>, loads: &[Load<'_>]) -> Self {
        let mut wanted = Self {
            service_id: task.service_id.clone(),
            spec_version: task.spec_version,
            reserves: Amounts::reserved_by(&task.spec),
            host_ports: host_ports(service),
            spec: task.spec.clone(),
            refused: Vec::new(),
        };
        wanted.refused = loads
            .iter()
            .map(|load| {
                let fixed = FILTERS.iter().enumerate().filter(|(_, filter)| filter.fixed);
                fixed
                    .filter(|(_, filter)| !(filter.passes)(&wanted, load))
                    .fold(0, |mask, (index, _)| mask | 1 << index)
            })
            .collect();
        wanted
    }

    /// Whether it was made from this spec.
    pub(super) fn is_for(&self, spec: &TaskSpec) -> bool {
        self.spec == *spec
    }

    pub(super) fn placement(&self) -> &Placement {
        const NONE: &Placement = &Placement {
            constraints: Vec::new(),
            preferences: Vec::new(),
            max_replicas: 0,
            platforms: Vec::new(),
        };
        self.spec.placement.as_ref().unwrap_or(NONE)
    }

    /// The first filter that the node at `index` does not pass.
    pub(super) fn first_refusal(&self, index: usize, load: &Load<'_>) -> Option<usize> {
        let refused = self.refused.get(index).copied().unwrap_or(0);
        FILTERS.iter().enumerate().position(|(number, filter)| {
            if filter.fixed { refused & 1 << number != 0 } else { !(filter.passes)(self, load) }
        })
    }

    fn resources_suffice(&self, load: &Load<'_>) -> bool {
        let fits =
            |wanted: i64, has: i64, reserved: i64| wanted <= 0 || wanted <= has.saturating_sub(reserved);
        let (wanted, has, reserved) = (&self.reserves, &load.has, &load.reserved);
        fits(wanted.nano_cpus, has.nano_cpus, reserved.nano_cpus)
            && fits(wanted.memory_bytes, has.memory_bytes, reserved.memory_bytes)
            && wanted.generic.iter().all(|(kind, &count)| {
                let of = |amounts: &Amounts| amounts.generic.get(kind).copied().unwrap_or(0);
                fits(count, of(has), of(reserved))
            })
    }
}

/// Whether the image of a task runs on a node: any of the task's platforms matches; what is not named matches.
pub(crate) fn platform_suits(spec: &TaskSpec, node: &Node) -> bool {
    let platforms = spec.placement.as_ref().map_or(&[][..], |placement| &placement.platforms);
    let has = &node.description.platform;
    let same = |wanted: &str, has: &str| wanted.is_empty() || has.is_empty() || wanted == has;
    platforms.is_empty()
        || platforms.iter().any(|wanted| {
            same(&wanted.os, &has.os)
                && same(
                    constraint::normal_arch(&wanted.architecture),
                    constraint::normal_arch(&has.architecture),
                )
        })
}

/// Docker's words for a task that no node suits, most frequent reason first.
pub(super) fn explain(refusals: &[usize; FILTERS.len()]) -> String {
    let mut reasons: Vec<(usize, &Filter)> =
        refusals.iter().copied().zip(&FILTERS).filter(|(count, _)| *count > 0).collect();
    reasons.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    if reasons.is_empty() {
        return "no suitable node".to_owned();
    }
    let reasons: Vec<String> = reasons.into_iter().map(|(count, filter)| (filter.explain)(count)).collect();
    format!("no suitable node ({})", reasons.join("; "))
}

fn nodes(count: usize) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_in_dockers_words() {
        assert_eq!(
            explain(&[0, 1, 5, 0, 0, 0]),
            "no suitable node (scheduling constraints not satisfied on 5 nodes; insufficient resources on 1 node)"
        );
        assert_eq!(explain(&[1, 0, 0, 0, 0, 0]), "no suitable node (1 node not available for new tasks)");
        assert_eq!(explain(&[0; 6]), "no suitable node");
    }
}
