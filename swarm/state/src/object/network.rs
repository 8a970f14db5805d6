//! A network that spans the nodes.

use serde::{Deserialize, Serialize};

use super::Meta;
use crate::spec::StringMap;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Network {
    /// Identity and version.
    #[serde(flatten)]
    pub meta: Meta,
    /// Unique in the swarm.
    pub name: String,
    /// Labels.
    pub labels: StringMap,
    /// `overlay`.
    pub driver: String,
    /// Address ranges.
    pub ipam: Vec<IpamConfig>,
    /// Carries published ports.
    pub ingress: bool,
    /// Plain containers may join.
    pub attachable: bool,
    /// No way out.
    pub internal: bool,
}

/// One address range of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamConfig {
    /// As `10.255.0.0/16`.
    pub subnet: String,
    /// The gateway that `inspect` shows; the real one is link-local.
    pub gateway: String,
}
