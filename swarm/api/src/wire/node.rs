//! A node (moby `api/types/swarm/node.go`).

use serde::Serialize;
use skep_node::{ManagerStatus, PeerPath, Reachability};
use skep_state::object::NodeStatus;
use skep_state::spec::{NodeSpec, Platform, Resources, StringMap};
use skep_state::{Meta, NodeDescription};

use crate::tls::TlsInfo;

/// What every node can do, as the scheduler of Docker's swarm would read it.
const PLUGINS: [Plugin; 3] = [
    Plugin { r#type: "Log", name: "json-file" },
    Plugin { r#type: "Network", name: "overlay" },
    Plugin { r#type: "Volume", name: "local" },
];

/// A node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Node {
    #[serde(flatten)]
    meta: Meta,
    spec: NodeSpec,
    description: Description,
    status: NodeStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    manager_status: Option<Manager>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    hostname: String,
    platform: Platform,
    resources: Resources,
    engine: EngineDescription,
    #[serde(rename = "TLSInfo")]
    tls_info: TlsInfo,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EngineDescription {
    engine_version: String,
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    labels: StringMap,
    plugins: &'static [Plugin],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    r#type: &'static str,
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Manager {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leader: bool,
    reachability: &'static str,
    addr: String,
}

/// How a node is reached: `direct`, `relayed` (and through whom), `none`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Path {
    path: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<String>,
}

impl From<PeerPath> for Path {
    fn from(path: PeerPath) -> Self {
        match path {
            PeerPath::Direct => Self { path: "direct", via: None },
            PeerPath::Relayed { via } => Self { path: "relayed", via: Some(via) },
            PeerPath::None => Self { path: "none", via: None },
        }
    }
}

impl Node {
    /// The node as clients see it. `manager` is its place in Raft, `tls` the swarm's authority.
    pub(crate) fn new(node: &skep_state::Node, manager: Option<ManagerStatus>, tls: &TlsInfo) -> Self {
        let NodeDescription { hostname, platform, resources, engine } = node.description.clone();
        Self {
            meta: node.meta.clone(),
            spec: node.spec.clone(),
            description: Description {
                hostname,
                platform,
                resources,
                engine: EngineDescription {
                    engine_version: engine.engine_version,
                    labels: engine.labels,
                    plugins: &PLUGINS,
                },
                tls_info: tls.clone(),
            },
            status: node.status.clone(),
            manager_status: manager.map(Manager::from),
        }
    }
}

impl From<ManagerStatus> for Manager {
    fn from(status: ManagerStatus) -> Self {
        let reachability = match status.reachability {
            Reachability::Unknown => "unknown",
            Reachability::Unreachable => "unreachable",
            Reachability::Reachable => "reachable",
        };
        Self { leader: status.leader, reachability, addr: status.addr }
    }
}
