//! A task (moby `api/types/swarm/task.go`).

use serde::Serialize;
use serde_json::{Value, json};
use skep_state::spec::{PublishMode, StringMap, TaskSpec};
use skep_state::{Meta, State, TaskState, TaskStatus};

use super::network::TaskNetwork;
use super::service::{Iteration, is_job, read_task_spec};

/// A task.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Task {
    #[serde(flatten)]
    meta: Meta,
    labels: StringMap,
    spec: TaskSpec,
    #[serde(rename = "ServiceID", skip_serializing_if = "String::is_empty")]
    service_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u64>,
    #[serde(rename = "NodeID", skip_serializing_if = "String::is_empty")]
    node_id: String,
    status: Status,
    desired_state: TaskState,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks_attachments: Vec<Attachment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_iteration: Option<Iteration>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    #[serde(flatten)]
    status: TaskStatus,
    port_status: Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Attachment {
    network: TaskNetwork,
    addresses: Vec<String>,
}

impl Task {
    /// The task as clients see it; `state` has its service and its networks.
    pub(crate) fn new(task: &skep_state::Task, state: &State) -> Self {
        let attachments = task.networks.iter().filter_map(|attachment| {
            let network = state.networks.get(&attachment.network_id)?;
            Some(Attachment { network: TaskNetwork::from(network), addresses: attachment.addresses.clone() })
        });
        let service = state.services.get(&task.service_id);
        let job = service.is_some_and(|service| is_job(&service.spec.mode));
        Self {
            meta: task.meta.clone(),
            labels: StringMap::new(),
            spec: read_task_spec(&task.spec),
            service_id: task.service_id.clone(),
            slot: (task.slot > 0).then_some(task.slot),
            node_id: task.node_id.clone(),
            status: Status { status: task.status.clone(), port_status: port_status(task, service) },
            desired_state: task.desired_state,
            networks_attachments: attachments.collect(),
            job_iteration: job.then_some(Iteration { index: task.spec_version }),
        }
    }
}

/// The ports that the task holds on its node: those in host mode, while it runs.
fn port_status(task: &skep_state::Task, service: Option<&skep_state::Service>) -> Value {
    let ports = service.map_or(&[][..], |service| &service.ports);
    let held: Vec<_> = ports.iter().filter(|port| port.publish_mode == PublishMode::Host).collect();
    if held.is_empty() || task.status.state != TaskState::Running {
        return json!({});
    }
    json!({ "Ports": held })
}
