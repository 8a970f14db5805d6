//! Settings of the whole swarm (moby `api/types/swarm/swarm.go`). Durations are in nanoseconds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{StringMap, is_zero};

/// The settings of a swarm.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ClusterSpec {
    /// Always `default`.
    pub name: String,
    /// Labels.
    pub labels: StringMap,
    /// Task history.
    pub orchestration: OrchestrationConfig,
    /// Raft.
    pub raft: RaftConfig,
    /// Agents' sessions.
    pub dispatcher: DispatcherConfig,
    /// Certificates.
    #[serde(rename = "CAConfig")]
    pub ca_config: CaConfig,
    /// Defaults for tasks.
    pub task_defaults: Value,
    /// Encryption at rest.
    pub encryption_config: EncryptionConfig,
}

/// Task history.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OrchestrationConfig {
    /// Ended tasks kept for each slot; below 0 keeps all; 5 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_history_retention_limit: Option<i64>,
}

/// Raft.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RaftConfig {
    /// Log entries between snapshots.
    #[serde(skip_serializing_if = "is_zero")]
    pub snapshot_interval: u64,
    /// Older snapshots to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_old_snapshots: Option<u64>,
    /// Entries kept behind a snapshot for slow followers.
    #[serde(skip_serializing_if = "is_zero")]
    pub log_entries_for_slow_followers: u64,
    /// Docker's election time; shown, not used.
    pub election_tick: i64,
    /// Docker's heartbeat time; shown, not used.
    pub heartbeat_tick: i64,
}

/// Agents' sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DispatcherConfig {
    /// Time between heartbeats.
    #[serde(skip_serializing_if = "is_zero")]
    pub heartbeat_period: u64,
}

/// Certificates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaConfig {
    /// Life of a node's certificate.
    #[serde(skip_serializing_if = "is_zero")]
    pub node_cert_expiry: u64,
    /// Outside authorities.
    #[serde(rename = "ExternalCAs", skip_serializing_if = "Vec::is_empty")]
    pub external_cas: Vec<ExternalCa>,
    /// A CA certificate to change to.
    #[serde(rename = "SigningCACert", skip_serializing_if = "is_zero")]
    pub signing_ca_cert: String,
    /// Its key.
    #[serde(rename = "SigningCAKey", skip_serializing_if = "is_zero")]
    pub signing_ca_key: String,
    /// Counted up to force a rotation.
    #[serde(skip_serializing_if = "is_zero")]
    pub force_rotate: u64,
}

/// An outside authority.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExternalCa {
    /// `cfssl`.
    #[serde(rename = "Protocol")]
    pub protocol: String,
    /// Where it answers.
    #[serde(rename = "URL")]
    pub url: String,
    /// Options.
    #[serde(rename = "Options")]
    pub options: StringMap,
    /// Its CA certificate.
    #[serde(rename = "CACert")]
    pub ca_cert: String,
}

/// Encryption at rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EncryptionConfig {
    /// Managers need an unlock key after a restart.
    pub auto_lock_managers: bool,
}
