//! The swarm, and the requests that make, join and change it (moby `api/types/swarm/swarm.go`).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::json;
use skep_state::spec::{Availability, ClusterSpec};
use skep_state::{Cluster, JoinTokens, Meta};

use crate::tls::{Authorities, TlsInfo};

/// Docker's settings of a new swarm (moby `daemon/cluster/convert/swarm.go`, swarmkit `manager/state/raft`);
/// durations in nanoseconds.
const TASK_HISTORY: i64 = 5;
const SNAPSHOT_INTERVAL: u64 = 10_000;
const SLOW_FOLLOWER_ENTRIES: u64 = 500;
const ELECTION_TICK: i64 = 10;
const HEARTBEAT_TICK: i64 = 1;
const HEARTBEAT_PERIOD: u64 = 5_000_000_000;
const CERT_EXPIRY: u64 = 90 * 24 * 3_600 * 1_000_000_000;
const SUBNET_SIZE: u32 = 24;
/// A smaller subnet has too few addresses for a network.
const SUBNET_SIZE_MAX: u32 = 29;
const DATA_PATH_PORTS: RangeInclusive<u32> = 1024..=49151;

/// The swarm with its join tokens.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Swarm {
    #[serde(flatten)]
    info: ClusterInfo,
    join_tokens: Tokens,
}

/// The swarm without them, as `info` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ClusterInfo {
    #[serde(flatten)]
    meta: Meta,
    spec: ClusterSpec,
    #[serde(rename = "TLSInfo")]
    tls_info: TlsInfo,
    root_rotation_in_progress: bool,
    default_addr_pool: Vec<String>,
    subnet_size: u32,
    data_path_port: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tokens {
    worker: String,
    manager: String,
}

/// Body of `POST /swarm/init`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct InitRequest {
    pub(crate) listen_addr: String,
    pub(crate) advertise_addr: String,
    pub(crate) data_path_addr: String,
    pub(crate) data_path_port: u32,
    pub(crate) force_new_cluster: bool,
    pub(crate) spec: ClusterSpec,
    pub(crate) auto_lock_managers: bool,
    pub(crate) availability: String,
    pub(crate) default_addr_pool: Vec<String>,
    pub(crate) subnet_size: u32,
}

/// Body of `POST /swarm/join`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct JoinRequest {
    pub(crate) listen_addr: String,
    pub(crate) advertise_addr: String,
    pub(crate) data_path_addr: String,
    pub(crate) remote_addrs: Vec<String>,
    pub(crate) join_token: String,
    pub(crate) availability: String,
}

/// Body of `POST /swarm/unlock`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UnlockRequest {
    pub(crate) unlock_key: String,
}

/// Body of `POST /skep/swarm/recover`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RecoverRequest {
    pub(crate) unlock_key: String,
    pub(crate) listen_addr: String,
    pub(crate) advertise_addr: String,
}

/// Body of `POST /skep/swarm/address`, and the answer to `GET`.
#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Addresses {
    pub(crate) listen_addr: String,
    pub(crate) advertise_addr: String,
}

/// An availability as text; empty means active.
pub(crate) fn availability(text: &str) -> Option<Availability> {
    match text.to_lowercase().as_str() {
        "" | "active" => Some(Availability::Active),
        "pause" => Some(Availability::Pause),
        "drain" => Some(Availability::Drain),
        _ => None,
    }
}

/// The spec of a new swarm, with Docker's defaults where the request says nothing.
pub(crate) fn with_defaults(mut spec: ClusterSpec) -> ClusterSpec {
    let or = |number: &mut u64, default: u64| {
        if *number == 0 {
            *number = default;
        }
    };
    if spec.name.is_empty() {
        spec.name = "default".to_owned();
    }
    spec.orchestration.task_history_retention_limit.get_or_insert(TASK_HISTORY);
    or(&mut spec.raft.snapshot_interval, SNAPSHOT_INTERVAL);
    or(&mut spec.raft.log_entries_for_slow_followers, SLOW_FOLLOWER_ENTRIES);
    spec.raft.keep_old_snapshots.get_or_insert(0);
    if spec.raft.election_tick == 0 {
        spec.raft.election_tick = ELECTION_TICK;
    }
    if spec.raft.heartbeat_tick == 0 {
        spec.raft.heartbeat_tick = HEARTBEAT_TICK;
    }
    or(&mut spec.dispatcher.heartbeat_period, HEARTBEAT_PERIOD);
    or(&mut spec.ca_config.node_cert_expiry, CERT_EXPIRY);
    if spec.task_defaults.is_null() {
        spec.task_defaults = json!({});
    }
    spec
}

impl Swarm {
    /// The swarm as a manager shows it.
    pub(crate) fn new(cluster: &Cluster, mesh_port: u16) -> Self {
        let JoinTokens { worker, manager } = cluster.join_tokens.clone();
        Self { info: ClusterInfo::new(cluster, mesh_port), join_tokens: Tokens { worker, manager } }
    }
}

impl ClusterInfo {
    /// The swarm as `info` shows it.
    pub(crate) fn new(cluster: &Cluster, mesh_port: u16) -> Self {
        let mut spec = cluster.spec.clone();
        // The key is a secret. The certificate is not, but a client that sends back what it read would then ask for a
        // certificate without a key (swarmkit `redactClusters`).
        spec.ca_config.signing_ca_key.clear();
        spec.ca_config.signing_ca_cert.clear();
        if spec.task_defaults.is_null() {
            spec.task_defaults = json!({});
        }
        Self {
            meta: cluster.meta.clone(),
            spec,
            tls_info: Authorities::of(cluster).wanted().clone(),
            root_rotation_in_progress: cluster.rotation.is_some(),
            default_addr_pool: cluster.default_addr_pool.clone(),
            subnet_size: cluster.subnet_size,
            data_path_port: match cluster.data_path_port {
                0 => mesh_port.into(),
                given => given,
            },
        }
    }
}

impl InitRequest {
    /// Checks what only `init` may set, in dockerd's words (`daemon/cluster/listen_addr.go`).
    pub(crate) fn check(&self) -> Result<(), String> {
        let port = self.data_path_port;
        if port != 0 && !DATA_PATH_PORTS.contains(&port) {
            return Err(format!("Datapath port number is not in valid range (1024-49151) : {port}"));
        }
        let size = if self.subnet_size == 0 { SUBNET_SIZE } else { self.subnet_size };
        if self.default_addr_pool.is_empty() {
            return Ok(());
        }
        if size > SUBNET_SIZE_MAX {
            return Err(format!("subnet size is out of range: {size}"));
        }
        for pool in &self.default_addr_pool {
            let parts = pool.trim().split_once('/');
            let parsed = parts.and_then(|(ip, bits)| {
                let ip: IpAddr = ip.parse().ok()?;
                let bits: u32 = bits.parse().ok()?;
                (bits <= if ip.is_ipv4() { 32 } else { 128 }).then_some(bits)
            });
            let Some(bits) = parsed else {
                return Err(format!("invalid base pool {pool}: invalid CIDR address: {pool}"));
            };
            if size < bits {
                return Err(format!("invalid CIDR: {pool:?}. Subnet size is too small for pool: {size}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_swarm_has_dockers_settings() {
        let body = include_bytes!("../../tests/fixtures/cli-requests-1.50/swarm-init-force--swarm-init.json");
        let request: InitRequest = skep_state::lenient::from_slice(body).unwrap();
        assert!(request.force_new_cluster);
        let shown = include_str!("../../tests/fixtures/daemon-responses-1.41/info--info.json");
        let shown: serde_json::Value = serde_json::from_str(shown).unwrap();
        let ours = serde_json::to_value(with_defaults(request.spec)).unwrap();
        assert_eq!(ours, shown["Swarm"]["Cluster"]["Spec"]);
    }

    #[test]
    fn pools_and_the_data_path_are_checked_in_dockers_words() {
        let check = |port, size, pool: &str| {
            InitRequest {
                data_path_port: port,
                subnet_size: size,
                default_addr_pool: vec![pool.to_owned()],
                ..InitRequest::default()
            }
            .check()
        };
        assert_eq!(check(0, 0, "10.20.0.0/16"), Ok(()));
        assert_eq!(check(49151, 29, " 10.20.0.0/29 "), Ok(()));
        for (refused, said) in [
            (check(80, 24, "10.0.0.0/8"), "Datapath port number is not in valid range (1024-49151) : 80"),
            (
                check(49152, 24, "10.0.0.0/8"),
                "Datapath port number is not in valid range (1024-49151) : 49152",
            ),
            (check(0, 30, "10.0.0.0/8"), "subnet size is out of range: 30"),
            (
                check(0, 8, "10.0.0.0/16"),
                "invalid CIDR: \"10.0.0.0/16\". Subnet size is too small for pool: 8",
            ),
            (check(0, 24, "10.0.0.0/33"), "invalid base pool 10.0.0.0/33: invalid CIDR address: 10.0.0.0/33"),
        ] {
            assert_eq!(refused.unwrap_err(), said);
        }
    }

    #[test]
    fn requests_of_the_command_line_decode() {
        let body = include_bytes!("../../tests/fixtures/cli-requests-1.50/swarm-init--swarm-init.json");
        let request: InitRequest = skep_state::lenient::from_slice(body).unwrap();
        assert_eq!(
            (request.advertise_addr.as_str(), request.subnet_size, request.auto_lock_managers),
            ("127.0.0.1", 24, true)
        );
        assert_eq!(request.default_addr_pool, ["10.20.0.0/16"]);
        let body = include_bytes!("../../tests/fixtures/cli-requests-1.50/swarm-join--swarm-join.json");
        let request: JoinRequest = skep_state::lenient::from_slice(body).unwrap();
        assert_eq!((request.remote_addrs.len(), request.join_token.as_str()), (1, "SWMTKN-1-w"));
        assert_eq!(availability(&request.availability), Some(Availability::Drain));
        assert_eq!(availability("gone"), None);
    }
}
