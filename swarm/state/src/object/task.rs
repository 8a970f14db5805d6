//! A task: one container, on one node, once.
//!
//! ```text
//! new -> pending -> assigned -> accepted -> preparing -> ready -> starting -> running -> complete | failed
//!  |        |           |           |            |          |         |          `-----> shutdown
//!  |        |           |           `------------+----------+---------+----------------> rejected | failed
//!  `--------+-----------+-- the service goes, the node goes ----------> shutdown | orphaned | remove
//! ```
//!
//! A state only moves forward (the numbers grow), and a task never changes node.

use serde::{Deserialize, Serialize};

use super::Meta;
use crate::Timestamp;
use crate::spec::TaskSpec;

/// One container, on one node, once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Task {
    /// Identity and version.
    #[serde(flatten)]
    pub meta: Meta,
    /// What it runs.
    pub spec: TaskSpec,
    /// The service's `spec_version` that it was made from.
    pub spec_version: u64,
    /// Its service.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// The service's name when the task was made.
    pub service_name: String,
    /// Its place in a replicated service, from 1; 0 in a global one.
    #[serde(skip_serializing_if = "crate::spec::is_zero")]
    pub slot: u64,
    /// The node that runs it; empty before it is assigned.
    #[serde(rename = "NodeID", skip_serializing_if = "String::is_empty")]
    pub node_id: String,
    /// What is.
    pub status: TaskStatus,
    /// What shall be.
    pub desired_state: TaskState,
    /// Not to be started before this moment (the restart delay).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_after: Option<Timestamp>,
    /// When it came to run, by its node's clock (as `status.timestamp` is): the updater measures from here how long
    /// it ran before it failed. Absent when it never ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Timestamp>,
    /// TCP ports that it shall listen on before it counts as running: those that its service published when it was made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listens: Vec<u16>,
    /// Its addresses.
    #[serde(rename = "NetworksAttachments", skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachment>,
}

impl Task {
    /// The name of a replicated service's task: `web.2`; of a global one: `web.<node ID>`.
    pub fn name(&self) -> String {
        if self.slot > 0 {
            format!("{}.{}", self.service_name, self.slot)
        } else {
            format!("{}.{}", self.service_name, self.node_id)
        }
    }

    /// Its first address, without the prefix length.
    pub fn address(&self) -> Option<std::net::IpAddr> {
        self.networks
            .iter()
            .flat_map(|network| &network.addresses)
            .find_map(|address| address.split('/').next().and_then(|address| address.parse().ok()))
    }
}

/// One of a task's networks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAttachment {
    /// The network's ID.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// Addresses with prefix lengths, as `10.255.0.8/16`.
    pub addresses: Vec<String>,
}

/// What a task is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskStatus {
    /// When it came to this state.
    pub timestamp: Timestamp,
    /// The state.
    pub state: TaskState,
    /// In words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What went wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub err: String,
    /// Its container, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_status: Option<ContainerStatus>,
}

/// A task's container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerStatus {
    /// Container ID, 64 hex digits.
    #[serde(rename = "ContainerID")]
    pub container_id: String,
    /// Process ID on its node.
    #[serde(rename = "PID")]
    pub pid: i32,
    /// Exit code, once it has ended.
    pub exit_code: i32,
}

/// A task's state. The numbers leave gaps and only grow (swarmkit `api/types.proto`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Made by the orchestrator.
    #[default]
    New = 0,
    /// Its resources are allocated.
    Pending = 64,
    /// The scheduler gave it a node.
    Assigned = 192,
    /// The node has taken it.
    Accepted = 256,
    /// Image and file system are being made ready.
    Preparing = 320,
    /// Could start at once.
    Ready = 384,
    /// Is being started.
    Starting = 448,
    /// Runs.
    Running = 512,
    /// Ended with exit code 0.
    Complete = 576,
    /// Was stopped.
    Shutdown = 640,
    /// Ended with another exit code, or could not be run.
    Failed = 704,
    /// The node could not take it.
    Rejected = 768,
    /// Its node was down too long.
    Orphaned = 832,
    /// To be forgotten.
    Remove = 896,
}

impl TaskState {
    /// Whether a task in this state will do nothing any more.
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }
}
