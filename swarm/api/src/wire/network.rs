//! A network, as `GET /networks` shows it (moby `api/types/network`) and as a task carries it (`api/types/swarm`).

use serde::Serialize;
use serde_json::{Value, json};
use skep_state::object::IpamConfig;
use skep_state::spec::StringMap;
use skep_state::{Meta, Timestamp};

/// A network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Network {
    name: String,
    id: String,
    created: Timestamp,
    scope: &'static str,
    driver: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: Value,
    config_only: bool,
    containers: Option<Value>,
    options: Option<StringMap>,
    labels: Option<StringMap>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: &'static str,
    options: Option<StringMap>,
    config: Vec<IpamConfig>,
}

impl From<&skep_state::Network> for Network {
    fn from(network: &skep_state::Network) -> Self {
        let labels = &network.labels;
        Self {
            name: network.name.clone(),
            id: network.meta.id.clone(),
            created: network.meta.created_at,
            scope: "swarm",
            driver: network.driver.clone(),
            enable_ipv4: network.ipam.iter().any(|range| !range.subnet.contains("::")),
            enable_ipv6: network.ipam.iter().any(|range| range.subnet.contains("::")),
            ipam: Ipam { driver: "default", options: None, config: network.ipam.clone() },
            internal: network.internal,
            attachable: network.attachable,
            ingress: network.ingress,
            config_from: json!({ "Network": "" }),
            config_only: false,
            containers: None,
            options: None,
            labels: (!labels.is_empty()).then(|| labels.clone()),
        }
    }
}

/// A network as a task carries it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaskNetwork {
    #[serde(flatten)]
    meta: Meta,
    spec: TaskNetworkSpec,
    driver_state: Value,
    #[serde(rename = "IPAMOptions")]
    ipam_options: Value,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaskNetworkSpec {
    name: String,
    labels: StringMap,
    driver_configuration: Value,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ingress: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    attachable: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    internal: bool,
    #[serde(rename = "IPAMOptions")]
    ipam_options: Value,
    scope: &'static str,
}

impl From<&skep_state::Network> for TaskNetwork {
    fn from(network: &skep_state::Network) -> Self {
        let ipam = json!({ "Driver": { "Name": "default" }, "Configs": network.ipam });
        Self {
            meta: network.meta.clone(),
            spec: TaskNetworkSpec {
                name: network.name.clone(),
                labels: network.labels.clone(),
                driver_configuration: json!({}),
                ingress: network.ingress,
                attachable: network.attachable,
                internal: network.internal,
                ipam_options: json!({ "Driver": {} }),
                scope: "swarm",
            },
            driver_state: json!({ "Name": network.driver }),
            ipam_options: ipam,
        }
    }
}
