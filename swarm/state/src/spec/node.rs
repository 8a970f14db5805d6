//! What an operator sets on a node.

use serde::{Deserialize, Serialize};

use super::{StringMap, is_zero};

/// Name, labels, role and availability of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeSpec {
    /// A name for display; the hostname is used where it is empty.
    #[serde(skip_serializing_if = "is_zero")]
    pub name: String,
    /// Labels for placement constraints (`node.labels.*`).
    pub labels: StringMap,
    /// The role that the node shall have.
    pub role: NodeRole,
    /// Whether the scheduler may use the node.
    pub availability: Availability,
}

/// Whether a node may run the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Runs tasks only.
    #[default]
    Worker,
    /// Takes part in Raft, and runs tasks too.
    Manager,
}

/// Whether the scheduler may use a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Gets new tasks.
    #[default]
    Active,
    /// Keeps its tasks, gets no new ones.
    Pause,
    /// Loses its tasks and gets none.
    Drain,
}
