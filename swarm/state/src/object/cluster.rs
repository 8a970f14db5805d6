//! The swarm itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Meta;
use crate::Timestamp;
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
    /// The CA certificate that join tokens name and that every node trusts, PEM.
    pub ca_cert: String,
    /// The CA key, PEM; empty with an external CA. Never leaves the managers.
    pub ca_key: String,
    /// A change to another CA that is under way.
    pub rotation: Option<RootRotation>,
    /// The `force_rotate` counter of the settings that was acted on last.
    pub last_forced_rotation: u64,
    /// The secrets that admit nodes.
    pub join_tokens: JoinTokens,
    /// Pools for networks, as `10.0.0.0/8`.
    pub default_addr_pool: Vec<String>,
    /// Prefix length of networks taken from the pools.
    pub subnet_size: u32,
    /// The data path's port as the operator gave it; 0 when not given.
    pub data_path_port: u32,
    /// The key that managers need after a restart, `SWMKEY-1-…`; empty while they are not locked.
    pub unlock_key: String,
    /// Counts the times that this swarm was made anew out of what was left of it (`swarm recover`): managers of an
    /// earlier epoch have no say.
    pub epoch: u64,
    /// Nodes that were removed, by ID, with the end of the life of the last certificate that they got.
    pub removed: BTreeMap<String, Timestamp>,
}

/// A change of the swarm's CA. Until it ends every node trusts the old CA; certificates are issued by the new one and
/// shown together with its certificate signed by the old one, so that either sort of node accepts them. It ends when
/// every node has a certificate of the new CA.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootRotation {
    /// The new CA's certificate, PEM.
    pub ca_cert: String,
    /// Its key, PEM; empty with an external CA.
    pub ca_key: String,
    /// The new CA's name and key in a certificate that the old CA signed, PEM.
    pub cross_signed: String,
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
