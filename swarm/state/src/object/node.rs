//! A node of the swarm.

use serde::{Deserialize, Serialize};

use super::Meta;
use crate::Timestamp;
use crate::spec::{NodeRole, NodeSpec, Platform, Resources};

/// A node: what the operator wants of it, what it says of itself, what the managers know.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// Identity and version.
    #[serde(flatten)]
    pub meta: Meta,
    /// What the operator wants.
    pub spec: NodeSpec,
    /// What the node says of itself.
    pub description: NodeDescription,
    /// Whether it is up, and where.
    pub status: NodeStatus,
    /// The role in its certificate; differs from `spec.role` while a role change is under way.
    pub role: NodeRole,
    /// Its place in Raft, while it is a manager.
    pub raft: Option<Raft>,
    /// Addresses (`ip:port`) at which its mesh port may be reached, best first. Hints: a peer is its certificate.
    pub addresses: Vec<String>,
    /// A number from 1, unique among the nodes: what the data plane writes into packets and marks in place of the ID.
    pub index: u16,
    /// The certificate that it got last.
    pub certificate: Certificate,
    /// Admitted, and never heard of: it may never have got the answer. Cleared by its first session.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub awaited: bool,
}

/// What the managers remember of a node's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Certificate {
    /// SHA-256 of the node's public key (`SubjectPublicKeyInfo`), hex: a node is its key.
    pub key_digest: String,
    /// SHA-256 of the certificate of the CA that issued it, hex.
    pub issuer_digest: String,
    /// End of its life.
    pub not_after: Timestamp,
}

/// A manager's place in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Raft {
    /// Its Raft ID.
    pub id: u64,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeDescription {
    /// Host name.
    pub hostname: String,
    /// Platform.
    pub platform: Platform,
    /// CPUs and memory.
    pub resources: Resources,
    /// Software.
    pub engine: EngineDescription,
}

/// A node's software.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EngineDescription {
    /// Version of skep.
    pub engine_version: String,
    /// Labels for placement constraints (`engine.labels.*`).
    #[serde(skip_serializing_if = "crate::spec::StringMap::is_empty")]
    pub labels: crate::spec::StringMap,
}

/// Whether a node is up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeStatus {
    /// Up or down.
    pub state: NodeState,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The address at which the managers see it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub addr: String,
}

/// Up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Not heard of since the leader changed.
    #[default]
    Unknown,
    /// Not heard of for too long.
    Down,
    /// Up.
    Ready,
    /// Left the swarm.
    Disconnected,
}
