//! `GET /info` (moby `api/types/system/info.go`).

use serde::Serialize;
use serde_json::{Value, json};
use skep_node::{LocalState, NodeError, NodeInfo, SwarmInfo};
use skep_state::Timestamp;

use super::ClusterInfo;
use crate::host::Host;

/// What a node says of itself. Fields that no node of ours could fill otherwise are in `fixed`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Info {
    #[serde(rename = "ID")]
    id: String,
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    system_time: Timestamp,
    cgroup_driver: &'static str,
    cgroup_version: String,
    kernel_version: &'static str,
    operating_system: &'static str,
    #[serde(rename = "OSVersion")]
    os_version: &'static str,
    #[serde(rename = "OSType")]
    os_type: &'static str,
    architecture: &'static str,
    #[serde(rename = "NCPU")]
    ncpu: usize,
    mem_total: u64,
    docker_root_dir: String,
    name: String,
    server_version: String,
    swarm: Swarm,
    warnings: Option<Vec<String>>,
    #[serde(flatten)]
    fixed: Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Swarm {
    #[serde(rename = "NodeID")]
    node_id: String,
    node_addr: String,
    local_node_state: &'static str,
    control_available: bool,
    error: String,
    remote_managers: Option<Vec<Peer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    managers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Peer {
    #[serde(rename = "NodeID")]
    node_id: String,
    addr: String,
}

/// What only a manager can say.
#[derive(Debug)]
pub(crate) struct ManagerView {
    pub(crate) nodes: usize,
    pub(crate) managers: usize,
    pub(crate) cluster: Option<ClusterInfo>,
}

impl Info {
    /// Of a node with so many images, at this moment.
    pub(crate) fn new(
        node: NodeInfo,
        swarm: SwarmInfo,
        manager: Option<ManagerView>,
        images: usize,
        now: Timestamp,
    ) -> Self {
        let host = Host::get();
        Self {
            // Docker's daemon ID is not the node's; a host that is in no swarm is known by its name.
            id: if swarm.node_id.is_empty() { node.hostname.clone() } else { swarm.node_id.clone() },
            containers: node.containers.running + node.containers.stopped,
            containers_running: node.containers.running,
            containers_paused: 0,
            containers_stopped: node.containers.stopped,
            images,
            system_time: now,
            cgroup_driver: "cgroupfs",
            cgroup_version: node.cgroup_version.to_string(),
            kernel_version: &host.kernel,
            operating_system: &host.os_name,
            os_version: &host.os_version,
            os_type: "linux",
            architecture: std::env::consts::ARCH,
            ncpu: node.cpus,
            mem_total: node.memory_bytes,
            docker_root_dir: node.root.display().to_string(),
            name: node.hostname,
            server_version: node.version,
            swarm: Swarm::new(swarm, manager),
            warnings: None,
            fixed: fixed(),
        }
    }

    /// With what the operator should know: of this node, then of its swarm.
    pub(crate) fn with_warnings(self, warnings: &[String]) -> Self {
        let warnings: Vec<String> = warnings.iter().chain(&self.swarm.warnings).cloned().collect();
        Self { warnings: (!warnings.is_empty()).then_some(warnings), ..self }
    }
}

impl Swarm {
    fn new(swarm: SwarmInfo, manager: Option<ManagerView>) -> Self {
        let peers = swarm.remote_managers.into_iter().map(|(node_id, addr)| Peer { node_id, addr });
        let peers: Vec<Peer> = peers.collect();
        Self {
            node_id: swarm.node_id,
            node_addr: swarm.node_addr,
            local_node_state: local_state(swarm.local_state),
            control_available: swarm.control_available,
            // As dockerd, which keeps the reason of a locked manager in the same place as that of a failed one.
            error: match swarm.local_state {
                LocalState::Locked if swarm.error.is_empty() => NodeError::Locked.to_string(),
                _ => swarm.error,
            },
            remote_managers: (!peers.is_empty()).then_some(peers),
            nodes: manager.as_ref().map(|view| view.nodes),
            managers: manager.as_ref().map(|view| view.managers),
            warnings: manager
                .as_ref()
                .filter(|view| view.managers == 2)
                .map(|_| TWO_MANAGERS.to_owned())
                .into_iter()
                .collect(),
            cluster: manager.and_then(|view| view.cluster),
        }
    }
}

/// Docker's warning (moby `daemon/cluster/swarm.go`): two managers need both for a majority, so either can stop all.
const TWO_MANAGERS: &str =
    "WARNING: Running Swarm in a two-manager configuration. This configuration provides
         no fault tolerance, and poses a high risk to lose control over the cluster.";

/// Docker's word for it.
pub(crate) fn local_state(state: LocalState) -> &'static str {
    match state {
        LocalState::Inactive => "inactive",
        LocalState::Pending => "pending",
        LocalState::Active => "active",
        LocalState::Error => "error",
        LocalState::Locked => "locked",
    }
}

/// What is the same on every node of ours, or has no meaning here and must be there all the same.
fn fixed() -> Value {
    let none = || json!({ "ID": "", "Expected": "" });
    json!({
        "Driver": "overlay2",
        "DriverStatus": [["Supports d_type", "true"]],
        "Plugins": { "Volume": ["local"], "Network": ["host", "null", "overlay"], "Authorization": null,
                     "Log": ["json-file"] },
        "MemoryLimit": true, "SwapLimit": true, "CpuCfsPeriod": true, "CpuCfsQuota": true, "CPUShares": true,
        "CPUSet": true, "PidsLimit": true, "OomKillDisable": false, "IPv4Forwarding": true,
        "Debug": false, "NFd": 0, "NGoroutines": 0, "NEventsListener": 0,
        "LoggingDriver": "json-file",
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": { "InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": [] },
        "GenericResources": null,
        "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
        "Labels": [],
        "ExperimentalBuild": false,
        "Runtimes": { "skep": { "path": "skep" } }, "DefaultRuntime": "skep",
        "LiveRestoreEnabled": true,
        "Isolation": "", "InitBinary": "",
        "ContainerdCommit": none(), "RuncCommit": none(), "InitCommit": none(),
        "SecurityOptions": [],
        "CDISpecDirs": []
    })
}
