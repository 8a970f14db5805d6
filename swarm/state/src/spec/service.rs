//! What a service is.

use serde::{Deserialize, Serialize};

use super::{EndpointSpec, NetworkAttachmentConfig, StringMap, TaskSpec, is_zero};

/// The definition of a service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceSpec {
    /// Unique in the swarm; a DNS label.
    pub name: String,
    /// Labels of the service.
    pub labels: StringMap,
    /// What each of its tasks runs.
    pub task_template: TaskSpec,
    /// How many tasks.
    pub mode: ServiceMode,
    /// How updates proceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_config: Option<UpdateConfig>,
    /// How rollbacks proceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_config: Option<UpdateConfig>,
    /// Networks (deprecated place; `TaskTemplate.Networks` is the newer one).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachmentConfig>,
    /// Ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_spec: Option<EndpointSpec>,
}

impl ServiceSpec {
    /// Tasks wanted: `Some` for replicated services (1 when not given), `None` for the other modes.
    pub fn replicas(&self) -> Option<u64> {
        self.mode.replicated.as_ref().map(|replicated| replicated.replicas.unwrap_or(1))
    }

    /// The published ports of the service.
    pub fn ports(&self) -> &[super::PortConfig] {
        self.endpoint_spec.as_ref().map_or(&[], |endpoint| &endpoint.ports)
    }
}

/// Exactly one of the modes; none given means replicated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceMode {
    /// A number of tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated: Option<ReplicatedService>,
    /// One task on every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalService>,
    /// A number of tasks that run to completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicated_job: Option<ReplicatedJob>,
    /// One task on every node, run to completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_job: Option<GlobalJob>,
}

/// A number of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReplicatedService {
    /// How many; 1 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u64>,
}

/// One task on every node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GlobalService {}

/// Tasks that run to completion.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReplicatedJob {
    /// How many at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u64>,
    /// How many in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_completions: Option<u64>,
}

/// One task on every node, run to completion.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GlobalJob {}

/// How an update (or a rollback) goes through the tasks of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateConfig {
    /// Tasks at once; 0 means all.
    pub parallelism: u64,
    /// Pause between batches, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub delay: u64,
    /// What to do when an updated task fails.
    #[serde(skip_serializing_if = "is_zero")]
    pub failure_action: FailureAction,
    /// How long an updated task is watched for failure, in nanoseconds; 0 means the default of 5 s.
    #[serde(skip_serializing_if = "is_zero")]
    pub monitor: u64,
    /// The share of tasks that may fail.
    pub max_failure_ratio: f64,
    /// Which goes first.
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 0,
            delay: 0,
            failure_action: FailureAction::Pause,
            monitor: 0,
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What to do when an updated task fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// Stop the update where it is.
    #[default]
    #[serde(alias = "")]
    Pause,
    /// Go on.
    Continue,
    /// Go back to the previous spec.
    Rollback,
}

/// Whether the old task stops before the new one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// Stop the old task, then start the new one.
    #[default]
    #[serde(alias = "")]
    StopFirst,
    /// Start the new task, then stop the old one.
    StartFirst,
}
