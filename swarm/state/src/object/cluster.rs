//! The swarm itself.

use serde::{Deserialize, Serialize};

use super::Meta;
use crate::spec::ClusterSpec;

/// The swarm: settings, authority, tokens.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Cluster {
    /// Identity (the cluster ID in every certificate) and version.
    #[serde(flatten)]
    pub meta: Meta,
    /// Settings.
    pub spec: ClusterSpec,
    /// The CA certificate, PEM.
    pub ca_cert: String,
    /// The CA key, PEM. Never leaves the managers.
    pub ca_key: String,
    /// The secrets that admit nodes.
    pub join_tokens: JoinTokens,
    /// Pools for networks, as `10.0.0.0/8`.
    pub default_addr_pool: Vec<String>,
    /// Prefix length of networks taken from the pools.
    pub subnet_size: u32,
}

/// The tokens that admit nodes, `SWMTKN-1-…`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JoinTokens {
    /// Admits a worker.
    pub worker: String,
    /// Admits a manager.
    pub manager: String,
}
