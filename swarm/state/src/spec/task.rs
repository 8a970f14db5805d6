//! What one task runs, and where it may run.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ContainerSpec, StringMap, is_zero};

/// The template of a service's tasks.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskSpec {
    /// The container to run.
    pub container_spec: ContainerSpec,
    /// Limits and reservations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// When to run again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Where it may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Networks to attach to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachmentConfig>,
    /// Where output goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_driver: Option<TaskLogDriver>,
    /// Counted up to restart tasks though nothing else changed.
    pub force_update: u64,
    /// `container` or empty.
    #[serde(skip_serializing_if = "is_zero")]
    pub runtime: String,
    /// A plugin to run; kept, not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin_spec: Option<Value>,
    /// A network attachment to make; kept, not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_attachment_spec: Option<Value>,
}

/// Limits and reservations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ResourceRequirements {
    /// What it may use at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limit>,
    /// What must be free on the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservations: Option<Resources>,
    /// Memory and swap together, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<i64>,
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swappiness: Option<i64>,
}

/// Upper bounds of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Limit {
    /// Billionths of a CPU; 0 means none.
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    pub nano_cpus: i64,
    /// Bytes of memory; 0 means none.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_bytes: i64,
    /// Processes; 0 means none.
    #[serde(skip_serializing_if = "is_zero")]
    pub pids: i64,
}

/// Amounts that a node has or a task reserves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Resources {
    /// Billionths of a CPU.
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    pub nano_cpus: i64,
    /// Bytes of memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_bytes: i64,
    /// Counted or named things.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub generic_resources: Vec<GenericResource>,
}

/// A counted or a named thing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GenericResource {
    /// One by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_resource_spec: Option<NamedGenericResource>,
    /// A number of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discrete_resource_spec: Option<DiscreteGenericResource>,
}

/// A named thing, as `GPU=UUID1`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NamedGenericResource {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub value: String,
}

/// A number of things, as `SSD=3`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DiscreteGenericResource {
    /// Their kind.
    pub kind: String,
    /// How many.
    pub value: i64,
}

/// When a task is replaced after it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RestartPolicy {
    /// After which endings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<RestartCondition>,
    /// How long to wait first, in nanoseconds; 5 s when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<u64>,
    /// How often within the window; 0 or absent means without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u64>,
    /// The window in which attempts are counted, in nanoseconds; absent or 0 means for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
}

/// After which endings a task is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Never.
    None,
    /// After a failure.
    OnFailure,
    /// Always.
    #[default]
    #[serde(alias = "")]
    Any,
}

/// Where a task may run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Placement {
    /// Expressions that must all hold, as `node.role==manager`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// What to spread over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<PlacementPreference>,
    /// Tasks of the service on one node at most; 0 means no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_replicas: u64,
    /// Platforms that the image runs on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
}

/// One level of spreading.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PlacementPreference {
    /// Spread over a label's values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<SpreadOver>,
}

/// Spread over a label's values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SpreadOver {
    /// As `node.labels.rack`.
    pub spread_descriptor: String,
}

/// A platform.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Platform {
    /// As `x86_64`.
    #[serde(skip_serializing_if = "is_zero")]
    pub architecture: String,
    /// As `linux`.
    #[serde(rename = "OS", skip_serializing_if = "is_zero")]
    pub os: String,
}

/// A network that tasks shall be attached to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkAttachmentConfig {
    /// ID or name of the network.
    #[serde(skip_serializing_if = "is_zero")]
    pub target: String,
    /// Further names in the network's DNS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Driver options.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub driver_opts: StringMap,
}

/// Where a task's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskLogDriver {
    /// As `json-file`.
    #[serde(skip_serializing_if = "is_zero")]
    pub name: String,
    /// Options of the driver.
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub options: StringMap,
}
