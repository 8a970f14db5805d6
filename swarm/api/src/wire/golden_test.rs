//! The wire types against traffic recorded between the real client and the real daemon.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use skep_node::{ManagerStatus, Reachability};
use skep_state::State;
use skep_state::lenient;
use skep_state::spec::{ClusterSpec, NodeSpec, ServiceSpec};

use super::{ClusterInfo, Config, Network, Node, Secret, Service, ServiceStatus, Task};
use crate::tls::TlsInfo;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn response(name: &str) -> Value {
    let path = fixtures().join("daemon-responses-1.41").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The objects of a recorded list, or the one object of a recorded inspection.
fn responses(name: &str) -> Vec<Value> {
    match response(name) {
        Value::Array(objects) => objects,
        object => vec![object],
    }
}

/// Takes out what Go's `omitempty` may or may not write, and the difference between 0 and 0.0.
fn significant(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().map(|(name, member)| (name.clone(), significant(member)));
            Value::Object(members.filter(|(_, member)| !is_zero(member)).collect())
        }
        Value::Array(elements) => Value::Array(elements.iter().map(significant).collect()),
        other => other.clone(),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// Names of the members of an object and of the objects in it.
fn names(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = format!("{path}/{name}");
                into.push(path.clone());
                names(member, &path, into);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| names(element, path, into)),
        _ => {}
    }
}

/// Ours must have the daemon's members with the daemon's values, and no others, but for `but`.
#[track_caller]
fn assert_same(ours: impl Serialize, daemon: &Value, but: &[&str]) {
    let mut ours = serde_json::to_value(ours).unwrap();
    let mut daemon = daemon.clone();
    for value in [&mut ours, &mut daemon] {
        for path in but {
            let (parent, name) = path.rsplit_once('/').unwrap();
            if let Some(Value::Object(members)) = value.pointer_mut(parent) {
                members.remove(name);
            }
        }
    }
    assert_eq!(significant(&ours), significant(&daemon));
    let (mut our_names, mut daemon_names) = (Vec::new(), Vec::new());
    names(&ours, "", &mut our_names);
    names(&daemon, "", &mut daemon_names);
    our_names.sort();
    daemon_names.sort();
    assert_eq!(our_names, daemon_names, "also members that are zero must be there, or not be there");
}

fn decode<T: DeserializeOwned>(value: &Value) -> T {
    lenient::from_value(value.clone()).unwrap()
}

#[test]
fn requests_go_through_unchanged() {
    fn check<T: DeserializeOwned + Serialize>(name: &str, body: &[u8]) {
        let decoded: T = lenient::from_slice(body).unwrap_or_else(|error| panic!("{name}: {error}"));
        let sent: Value = serde_json::from_slice(body).unwrap();
        let kept = serde_json::to_value(decoded).unwrap();
        assert_eq!(significant(&kept), significant_but_defaults(&sent), "{name}");
    }
    let mut seen = 0;
    for folder in ["cli-requests-1.41", "cli-requests-1.50"] {
        for entry in fs::read_dir(fixtures().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let body = fs::read(&path).unwrap();
            match name.rsplit_once("--").unwrap().1 {
                "services-create.json" | "services-update.json" => check::<ServiceSpec>(&name, &body),
                "swarm-update.json" => check::<ClusterSpec>(&name, &body),
                "nodes-update.json" => check::<NodeSpec>(&name, &body),
                // Decoded by a test of their own, beside their types.
                "swarm-init.json" | "swarm-join.json" => {}
                other => panic!("nothing decodes {other}"),
            }
            seen += 1;
        }
    }
    assert!(seen >= 15, "only {seen} recorded requests are left");
}

/// `pause` is the default of what to do on failure, and is not stored.
fn significant_but_defaults(sent: &Value) -> Value {
    let mut sent = significant(sent);
    for config in ["UpdateConfig", "RollbackConfig"] {
        if let Some(Value::Object(members)) = sent.get_mut(config)
            && members.get("FailureAction").is_some_and(|action| action == "pause")
        {
            members.remove("FailureAction");
        }
    }
    sent
}

fn service(daemon: &Value) -> skep_state::Service {
    let mut service: skep_state::Service = decode(daemon);
    service.spec_version = 7;
    service.ports =
        decode::<Vec<_>>(&daemon["Endpoint"].get("Ports").cloned().unwrap_or_else(|| Value::Array(vec![])));
    // As a request stores it.
    for spec in [Some(&mut service.spec), service.previous_spec.as_mut()].into_iter().flatten() {
        spec.task_template.container_spec.isolation.clear();
        spec.task_template.runtime.clear();
    }
    service
}

#[test]
fn services() {
    for name in [
        "svc-create--services.json",
        "svc-ls--services.json",
        "svc-update--services.json",
        "svc-ps--services.json",
    ] {
        for daemon in responses(name) {
            let status = daemon.get("ServiceStatus").map(|shown| ServiceStatus {
                running_tasks: shown["RunningTasks"].as_u64().unwrap(),
                desired_tasks: shown["DesiredTasks"].as_u64().unwrap(),
                completed_tasks: shown["CompletedTasks"].as_u64().unwrap(),
            });
            // Published ports are forwarded on every node here, without an address of the service's own.
            assert_same(Service::new(&service(&daemon), false, status), &daemon, &["/Endpoint/VirtualIPs"]);
        }
    }
}

#[test]
fn defaults_appear_when_they_are_asked_for() {
    let plain = response("svc-create--services.json");
    let with_defaults = response("svc-inspect--services.json");
    assert_eq!(plain["ID"], with_defaults["ID"], "both fixtures show the same service");
    assert_same(Service::new(&service(&plain), true, None), &with_defaults, &[]);
}

#[test]
fn a_job_has_its_status() {
    let daemon = response("svc-job--services.json");
    let ours = serde_json::to_value(Service::new(&service(&daemon), false, None)).unwrap();
    assert_eq!(ours["JobStatus"]["JobIteration"]["Index"], 7);
    assert!(ours["JobStatus"]["LastExecution"].is_string());
    assert_same(Service::new(&service(&daemon), false, None), &daemon, &["/JobStatus"]);
}

#[test]
fn tasks() {
    let mut seen = 0;
    for name in ["svc-create--tasks.json", "svc-ps--tasks.json", "svc-update--tasks.json"] {
        for daemon in responses(name) {
            let mut task: skep_state::Task = decode(&daemon);
            task.service_name = "web".to_owned();
            task.spec_version = 7;
            task.spec.container_spec.isolation.clear();
            assert_same(Task::new(&task, &State::default()), &daemon, &[]);
            seen += 1;
        }
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn nodes() {
    for daemon in responses("node-ls--nodes.json").iter().chain(&responses("node-inspect--nodes.json")) {
        let mut node: skep_state::Node = decode(daemon);
        node.raft = Some(skep_state::Raft { id: 1 });
        node.addresses = vec!["10.77.0.1:2377".to_owned()];
        let manager = ManagerStatus {
            leader: true,
            reachability: Reachability::Reachable,
            addr: daemon["ManagerStatus"]["Addr"].as_str().unwrap().to_owned(),
        };
        let tls = TlsInfo::of(daemon["Description"]["TLSInfo"]["TrustRoot"].as_str().unwrap());
        // Docker's list of log drivers is its own.
        assert_same(Node::new(&node, Some(manager), &tls), daemon, &["/Description/Engine/Plugins"]);
        let ours = serde_json::to_value(Node::new(&node, None, &tls)).unwrap();
        assert_eq!(ours.get("ManagerStatus"), None);
        assert!(ours["Description"]["Engine"]["Plugins"].is_array());
    }
}

#[test]
fn networks_secrets_and_configs() {
    let mut seen = 0;
    for daemon in responses("net-ls--networks.json") {
        if daemon["Scope"] != "swarm" {
            continue;
        }
        let mut network: skep_state::Network = decode(&serde_json::json!({
            "ID": daemon["Id"], "CreatedAt": daemon["Created"], "Name": daemon["Name"], "Driver": daemon["Driver"],
            "Attachable": daemon["Attachable"], "Ingress": daemon["Ingress"],
        }));
        network.ipam = decode(&daemon["IPAM"]["Config"]);
        // EnableIPv4 came with 1.48; there are no VXLANs here.
        assert_same(Network::from(&network), &daemon, &["/EnableIPv4", "/Options"]);
        seen += 1;
    }
    assert_eq!(seen, 2);
    for daemon in responses("config-ls--configs.json") {
        assert_same(Config::from(&decode::<skep_state::Config>(&daemon)), &daemon, &[]);
    }
    for daemon in responses("secret-ls--secrets.json") {
        let mut secret: skep_state::Secret = decode(&daemon);
        secret.spec.data = "c2VjcmV0".to_owned();
        assert_same(Secret::from(&secret), &daemon, &[]);
    }
}

#[test]
fn the_cluster_shows_no_key() {
    let info = response("info--info.json");
    let daemon = &info["Swarm"]["Cluster"];
    let mut cluster: skep_state::Cluster = decode(daemon);
    cluster.ca_cert = daemon["TLSInfo"]["TrustRoot"].as_str().unwrap().to_owned();
    cluster.ca_key = "very secret".to_owned();
    cluster.spec.ca_config.signing_ca_key = "very secret".to_owned();
    cluster.join_tokens.worker = "very secret".to_owned();
    let ours = ClusterInfo::new(&cluster, 4789);
    assert!(!serde_json::to_string(&ours).unwrap().contains("secret"));
    assert_same(ours, daemon, &[]);
}

#[test]
fn version_and_info_have_what_the_daemon_has() {
    let missing = |ours: &Value, daemon: &Value, but: &[&str]| -> Vec<String> {
        let Value::Object(members) = daemon else { panic!("{daemon}") };
        members
            .keys()
            .filter(|name| ours.get(*name).is_none() && !but.contains(&name.as_str()))
            .cloned()
            .collect()
    };
    let daemon = response("version--version.json");
    let ours = serde_json::to_value(super::Version::new("0.1.0")).unwrap();
    assert_eq!(missing(&ours, &daemon, &[]), [""; 0]);
    let details = "/Components/0/Details";
    assert_eq!(missing(ours.pointer(details).unwrap(), daemon.pointer(details).unwrap(), &[]), [""; 0]);

    let daemon = response("info--info.json");
    let node = skep_node::NodeInfo {
        hostname: "host1".to_owned(),
        root: "/var/lib/skep".into(),
        version: "0.1.0".to_owned(),
        cgroup_version: 2,
        cpus: 2,
        memory_bytes: 1,
        containers: skep_node::ContainerCounts::default(),
    };
    let swarm = skep_node::SwarmInfo {
        node_id: "n1".to_owned(),
        node_addr: String::new(),
        local_state: skep_node::LocalState::Active,
        control_available: true,
        error: String::new(),
        remote_managers: Vec::new(),
    };
    let view = |managers| Some(super::ManagerView { nodes: 5, managers, cluster: None });
    let info = |managers| {
        super::Info::new(node.clone(), swarm.clone(), view(managers), 3, skep_state::Timestamp::default())
    };
    let warned = serde_json::to_value(info(2).with_warnings(&["of the node".to_owned()])).unwrap();
    assert_eq!(warned["Warnings"][0], "of the node");
    assert!(warned["Warnings"][1].as_str().unwrap().contains("two-manager configuration"), "{warned}");
    assert_eq!(serde_json::to_value(info(3).with_warnings(&[])).unwrap()["Warnings"], Value::Null);
    let ours = info(1);
    let ours = serde_json::to_value(ours).unwrap();
    // Gone from the API since 1.41, or about bridges that are not here.
    let gone = ["KernelMemory", "KernelMemoryTCP", "BridgeNfIptables", "BridgeNfIp6tables"];
    assert_eq!(missing(&ours, &daemon, &gone), [""; 0]);
    assert_eq!(missing(&ours["Swarm"], &daemon["Swarm"], &["Cluster"]), [""; 0]);
}
