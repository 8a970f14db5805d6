//! How a service is reached.

use serde::{Deserialize, Serialize};

use super::is_zero;

/// Ports and name resolution of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointSpec {
    /// Virtual address or every task's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ResolutionMode>,
    /// Ports to publish.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
}

/// What a service's name resolves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResolutionMode {
    /// One virtual address for the service.
    #[default]
    Vip,
    /// The addresses of all its tasks.
    Dnsrr,
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortConfig {
    /// A name for the port; of no effect.
    #[serde(skip_serializing_if = "is_zero")]
    pub name: String,
    /// Transport protocol.
    pub protocol: PortProtocol,
    /// Port inside the container.
    #[serde(skip_serializing_if = "is_zero")]
    pub target_port: u16,
    /// Port on the nodes; 0 asks for one from 30000 to 32767.
    #[serde(skip_serializing_if = "is_zero")]
    pub published_port: u16,
    /// On every node, or only where a task runs.
    pub publish_mode: PublishMode,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Where a published port answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node.
    #[default]
    Ingress,
    /// On the nodes that run a task of the service.
    Host,
}
