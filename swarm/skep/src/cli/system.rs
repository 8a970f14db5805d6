//! `skep version` and `skep info`.

use clap::Args;
use serde_json::{Value, json};

use super::client::{CliError, Client};
use super::time::{ago, memory_size};
use super::{print, template, text};
use skep_state::Timestamp;

/// Flags of `version`.
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// `json` or a template
    #[arg(short, long)]
    format: Option<String>,
}

/// Flags of `info`.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// `json` or a template
    #[arg(short, long)]
    format: Option<String>,
}

/// Shows the client's version, then the daemon's.
pub(crate) async fn version(flags: Version, client: &Client) -> Result<(), CliError> {
    let own = env!("CARGO_PKG_VERSION");
    let server = client.get::<Value>("/version").await;
    if let Some(format) = flags.format.as_deref() {
        let both = json!({ "Client": { "Version": own }, "Server": server? });
        let template = if format == "json" { "{{json .}}" } else { format };
        return print(&(template::fill(template, &both)? + "\n"));
    }
    print(&format!(
        "Client: skep\n Version:           {own}\n OS/Arch:           linux/{}\n",
        std::env::consts::ARCH
    ))?;
    let server = server?;
    print(&format!(
        "\nServer: skep\n Version:           {}\n API version:       {} (minimum version {})\n OS/Arch:           {}/{}\n Kernel:            {}\n",
        text(&server, "/Version"),
        text(&server, "/ApiVersion"),
        text(&server, "/MinAPIVersion"),
        text(&server, "/Os"),
        text(&server, "/Arch"),
        text(&server, "/KernelVersion"),
    ))
}

/// Shows what the daemon knows of itself and its swarm.
pub(crate) async fn info(flags: Info, client: &Client) -> Result<(), CliError> {
    let info: Value = client.get("/info").await?;
    if let Some(format) = flags.format.as_deref() {
        let template = if format == "json" { "{{json .}}" } else { format };
        return print(&(template::fill(template, &info)? + "\n"));
    }
    let mut lines = Vec::new();
    let mut line = |depth: usize, name: &str, pointer: &str| {
        let value = text(&info, pointer);
        if !value.is_empty() {
            lines.push(format!("{}{name}: {value}\n", " ".repeat(depth)));
        }
    };
    for (name, pointer) in [
        ("Name", "/Name"),
        ("Server Version", "/ServerVersion"),
        ("Containers", "/Containers"),
        ("Images", "/Images"),
        ("Storage Driver", "/Driver"),
        ("Cgroup Version", "/CgroupVersion"),
        ("Kernel Version", "/KernelVersion"),
        ("Operating System", "/OperatingSystem"),
        ("Architecture", "/Architecture"),
        ("CPUs", "/NCPU"),
        ("Root Dir", "/DockerRootDir"),
    ] {
        line(0, name, pointer);
    }
    lines.push(format!("Total Memory: {}\n", memory_size(info["MemTotal"].as_i64().unwrap_or(0))));
    lines.push(swarm_block(&info["Swarm"]));
    print(&lines.concat())?;
    // Apart from the rest, so that they are seen where the rest is piped away.
    for warning in info["Warnings"].as_array().into_iter().flatten() {
        eprintln!("{}", warning.as_str().unwrap_or_default());
    }
    Ok(())
}

/// The swarm as `docker info` shows it (docker/cli `cli/command/system/info.go`, `printSwarmInfo`).
fn swarm_block(swarm: &Value) -> String {
    let state = text(swarm, "/LocalNodeState");
    let mut lines = vec![format!("Swarm: {state}\n")];
    if state == "inactive" || state == "locked" {
        return lines.concat();
    }
    let mut line = |depth: usize, name: &str, value: String| {
        let value = if value.is_empty() { value } else { format!(" {value}") };
        lines.push(format!("{}{name}:{value}\n", " ".repeat(depth)));
    };
    line(1, "NodeID", text(swarm, "/NodeID"));
    if !text(swarm, "/Error").is_empty() {
        line(1, "Error", text(swarm, "/Error"));
    }
    let manager = swarm["ControlAvailable"].as_bool() == Some(true);
    line(1, "Is Manager", manager.to_string());
    let known = swarm["Cluster"].is_object() && text(swarm, "/Error").is_empty();
    if manager && known && state != "error" {
        let at = |pointer: &str| text(swarm, &format!("/Cluster{pointer}"));
        let spec = |pointer: &str| text(swarm, &format!("/Cluster/Spec{pointer}"));
        let span = |nanos: String| span(nanos.parse().unwrap_or(0));
        line(1, "ClusterID", at("/ID"));
        line(1, "Managers", text(swarm, "/Managers"));
        line(1, "Nodes", text(swarm, "/Nodes"));
        let pools = swarm["Cluster"]["DefaultAddrPool"].as_array().cloned().unwrap_or_default();
        let pools: Vec<&str> = pools.iter().filter_map(Value::as_str).collect();
        line(1, "Default Address Pool", pools.join("  "));
        line(1, "SubnetSize", at("/SubnetSize"));
        if !matches!(at("/DataPathPort").as_str(), "" | "0") {
            line(1, "Data Path Port", at("/DataPathPort"));
        }
        line(1, "Orchestration", String::new());
        line(2, "Task History Retention Limit", spec("/Orchestration/TaskHistoryRetentionLimit"));
        line(1, "Raft", String::new());
        line(2, "Snapshot Interval", spec("/Raft/SnapshotInterval"));
        if !spec("/Raft/KeepOldSnapshots").is_empty() {
            line(2, "Number of Old Snapshots to Retain", spec("/Raft/KeepOldSnapshots"));
        }
        line(2, "Heartbeat Tick", spec("/Raft/HeartbeatTick"));
        line(2, "Election Tick", spec("/Raft/ElectionTick"));
        line(1, "Dispatcher", String::new());
        line(2, "Heartbeat Period", span(spec("/Dispatcher/HeartbeatPeriod")));
        line(1, "CA Configuration", String::new());
        line(2, "Expiry Duration", span(spec("/CAConfig/NodeCertExpiry")));
        let rotations = spec("/CAConfig/ForceRotate");
        line(2, "Force Rotate", if rotations.is_empty() { "0".to_owned() } else { rotations });
        let external =
            swarm["Cluster"]["Spec"]["CAConfig"]["ExternalCAs"].as_array().cloned().unwrap_or_default();
        if !external.is_empty() {
            line(2, "External CAs", String::new());
            for external in &external {
                line(3, &text(external, "/Protocol"), text(external, "/URL"));
            }
        }
        line(1, "Autolock Managers", spec("/EncryptionConfig/AutoLockManagers"));
        line(1, "Root Rotation In Progress", at("/RootRotationInProgress"));
    }
    line(1, "Node Address", text(swarm, "/NodeAddr"));
    let mut managers: Vec<String> = swarm["RemoteManagers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|manager| text(manager, "/Addr"))
        .collect();
    managers.sort();
    if !managers.is_empty() {
        line(1, "Manager Addresses", String::new());
        for address in managers {
            lines.push(format!("  {address}\n"));
        }
    }
    lines.concat()
}

/// A time span in nanoseconds as Docker words it: `5 seconds`, `3 months`.
fn span(nanos: i64) -> String {
    let words = ago(Timestamp::from_nanos(0), Timestamp::from_nanos(nanos)).to_lowercase();
    words.trim_end_matches(" ago").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_shows_the_swarm_as_docker_does() {
        let swarm = json!({
            "NodeID": "n1", "NodeAddr": "10.0.0.1", "LocalNodeState": "active", "ControlAvailable": true,
            "Error": "", "Managers": 1, "Nodes": 2,
            "RemoteManagers": [
                { "NodeID": "n2", "Addr": "10.0.0.2:2377" }, { "NodeID": "n1", "Addr": "10.0.0.1:2377" },
            ],
            "Cluster": {
                "ID": "c1", "DefaultAddrPool": ["10.0.0.0/8"], "SubnetSize": 24, "DataPathPort": 4789,
                "RootRotationInProgress": false,
                "Spec": {
                    "Orchestration": { "TaskHistoryRetentionLimit": 5 },
                    "Raft": { "SnapshotInterval": 10_000, "KeepOldSnapshots": 0, "HeartbeatTick": 1, "ElectionTick": 10 },
                    "Dispatcher": { "HeartbeatPeriod": 5_000_000_000_i64 },
                    "CAConfig": { "NodeCertExpiry": 7_776_000_000_000_000_i64,
                        "ExternalCAs": [{ "Protocol": "cfssl", "URL": "https://ca" }] },
                    "EncryptionConfig": { "AutoLockManagers": false },
                },
            },
        });
        let expected = "Swarm: active
 NodeID: n1
 Is Manager: true
 ClusterID: c1
 Managers: 1
 Nodes: 2
 Default Address Pool: 10.0.0.0/8
 SubnetSize: 24
 Data Path Port: 4789
 Orchestration:
  Task History Retention Limit: 5
 Raft:
  Snapshot Interval: 10000
  Number of Old Snapshots to Retain: 0
  Heartbeat Tick: 1
  Election Tick: 10
 Dispatcher:
  Heartbeat Period: 5 seconds
 CA Configuration:
  Expiry Duration: 3 months
  Force Rotate: 0
  External CAs:
   cfssl: https://ca
 Autolock Managers: false
 Root Rotation In Progress: false
 Node Address: 10.0.0.1
 Manager Addresses:
  10.0.0.1:2377
  10.0.0.2:2377
";
        assert_eq!(swarm_block(&swarm), expected);
    }

    #[test]
    fn others_show_what_they_know() {
        let block = |state: &str, error: &str, manager: bool| {
            swarm_block(&json!({
                "NodeID": "n1", "NodeAddr": "10.0.0.1", "LocalNodeState": state, "ControlAvailable": manager,
                "Error": error, "RemoteManagers": [{ "NodeID": "n2", "Addr": "10.0.0.2:2377" }],
            }))
        };
        let rest = " Node Address: 10.0.0.1\n Manager Addresses:\n  10.0.0.2:2377\n";
        assert_eq!(
            block("active", "", false),
            format!("Swarm: active\n NodeID: n1\n Is Manager: false\n{rest}")
        );
        assert_eq!(
            block("active", "", true),
            format!("Swarm: active\n NodeID: n1\n Is Manager: true\n{rest}")
        );
        assert_eq!(
            block("pending", "", false),
            format!("Swarm: pending\n NodeID: n1\n Is Manager: false\n{rest}")
        );
        assert_eq!(
            block("error", "no address", true),
            format!("Swarm: error\n NodeID: n1\n Error: no address\n Is Manager: true\n{rest}")
        );
        assert_eq!(block("locked", "encrypted", false), "Swarm: locked\n");
        assert_eq!(block("inactive", "", false), "Swarm: inactive\n");
    }
}
