//! What the swarm keeps. Field names are Docker's, so that an object encodes to what `docker inspect` shows; fields
//! that only skep knows are gathered under names that the API layer leaves out.

mod cluster;
mod config;
mod network;
mod node;
mod service;
mod task;

pub use cluster::{Cluster, JoinTokens, RootRotation};
pub use config::{Config, ConfigSpec, Secret};
pub use network::{IpamConfig, Network};
pub use node::{Certificate, EngineDescription, Node, NodeDescription, NodeState, NodeStatus, Raft};
pub use service::{Service, UpdateState, UpdateStatus};
pub use task::{ContainerStatus, NetworkAttachment, Task, TaskState, TaskStatus};

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What every object has: identity, version, times. [`crate::State::apply`] fills versions and times.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Meta {
    /// 25 base-36 digits.
    #[serde(rename = "ID")]
    pub id: String,
    /// The Raft index of the last change.
    pub version: Version,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A version of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Version {
    /// Raft index of the change that made it; 0 before the first commit.
    pub index: u64,
}
