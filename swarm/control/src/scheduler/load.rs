//! What each node carries.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep_state::spec::{GenericResource, PortProtocol, PublishMode, Resources, TaskSpec};
use skep_state::{Node, Service, TaskState};

use super::filter::Wanted;
use crate::draft::Draft;

/// Failures of a service version on a node are remembered for this long (swarmkit `manager/scheduler/nodeinfo.go`).
const FAILURES_WITHIN: Duration = Duration::from_secs(5 * 60);

/// A node and what is placed on it.
pub(super) struct Load<'a> {
    pub(super) node: &'a Node,
    /// Tasks that shall run there.
    pub(super) tasks: usize,
    pub(super) by_service: BTreeMap<String, usize>,
    /// What the tasks that have not ended reserve.
    pub(super) reserved: Amounts,
    pub(super) has: Amounts,
    pub(super) host_ports: BTreeSet<(PortProtocol, u16)>,
    /// Recent failures by service and spec version.
    pub(super) failures: BTreeMap<(String, u64), usize>,
}

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    pub(super) nano_cpus: i64,
    pub(super) memory_bytes: i64,
    /// By kind; a named resource counts one.
    pub(super) generic: BTreeMap<String, i64>,
}

impl Load<'_> {
    /// Counts a task that was just placed here.
    pub(super) fn add(&mut self, wanted: &Wanted) {
        self.tasks += 1;
        *self.by_service.entry(wanted.service_id.clone()).or_default() += 1;
        self.reserved.add(&wanted.reserves);
        self.host_ports.extend(&wanted.host_ports);
    }
}

impl Amounts {
    pub(super) fn of(resources: &Resources) -> Self {
        let mut generic = BTreeMap::new();
        for GenericResource { named_resource_spec, discrete_resource_spec } in &resources.generic_resources {
            if let Some(named) = named_resource_spec {
                *generic.entry(named.kind.clone()).or_default() += 1;
            }
            if let Some(discrete) = discrete_resource_spec {
                *generic.entry(discrete.kind.clone()).or_default() += discrete.value;
            }
        }
        Self { nano_cpus: resources.nano_cpus, memory_bytes: resources.memory_bytes, generic }
    }

    /// What a task spec reserves.
    pub(super) fn reserved_by(spec: &TaskSpec) -> Self {
        let reservations = spec.resources.as_ref().and_then(|resources| resources.reservations.as_ref());
        reservations.map(Self::of).unwrap_or_default()
    }

    fn add(&mut self, other: &Self) {
        self.nano_cpus = self.nano_cpus.saturating_add(other.nano_cpus);
        self.memory_bytes = self.memory_bytes.saturating_add(other.memory_bytes);
        for (kind, count) in &other.generic {
            *self.generic.entry(kind.clone()).or_default() += count;
        }
    }
}

/// The host ports that a service takes on each node that runs a task of it.
pub(super) fn host_ports(service: Option<&Service>) -> Vec<(PortProtocol, u16)> {
    service
        .map_or(&[][..], |service| &service.ports)
        .iter()
        .filter(|port| port.publish_mode == PublishMode::Host && port.published_port != 0)
        .map(|port| (port.protocol, port.published_port))
        .collect()
}

/// Reads the load of every node, in order of node ID.
pub(super) fn read<'a>(draft: &Draft<'a>) -> Vec<Load<'a>> {
    let mut loads: Vec<Load<'a>> = draft
        .state
        .nodes
        .values()
        .map(|node| Load {
            node,
            tasks: 0,
            by_service: BTreeMap::new(),
            reserved: Amounts::default(),
            has: Amounts::of(&node.description.resources),
            host_ports: BTreeSet::new(),
            failures: BTreeMap::new(),
        })
        .collect();
    let places: BTreeMap<&str, usize> =
        draft.state.nodes.keys().enumerate().map(|(index, id)| (id.as_str(), index)).collect();
    for (_, task) in draft.tasks() {
        let Some(load) = places.get(task.node_id.as_str()).and_then(|&place| loads.get_mut(place)) else {
            continue;
        };
        let state = task.status.state;
        let failed = matches!(state, TaskState::Failed | TaskState::Rejected);
        if failed && draft.now.since(task.status.timestamp) < FAILURES_WITHIN {
            *load.failures.entry((task.service_id.clone(), task.spec_version)).or_default() += 1;
        }
        if state < TaskState::Assigned || state.is_terminal() {
            continue;
        }
        if task.desired_state <= TaskState::Running {
            load.tasks += 1;
            match load.by_service.get_mut(&task.service_id) {
                Some(count) => *count += 1,
                None => drop(load.by_service.insert(task.service_id.clone(), 1)),
            }
        }
        // What is still stopping holds its memory and its ports.
        if task.spec.resources.is_some() {
            load.reserved.add(&Amounts::reserved_by(&task.spec));
        }
        load.host_ports.extend(host_ports(draft.service(&task.service_id)));
    }
    loads
}
