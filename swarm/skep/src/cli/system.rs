//! `skep version` and `skep info`.

use clap::Args;
use serde_json::{Value, json};

use super::client::{CliError, Client};
use super::{print, template, text};

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
        ("Total Memory", "/MemTotal"),
        ("Root Dir", "/DockerRootDir"),
        ("Swarm", "/Swarm/LocalNodeState"),
    ] {
        line(0, name, pointer);
    }
    for (name, pointer) in [
        ("NodeID", "/Swarm/NodeID"),
        ("Is Manager", "/Swarm/ControlAvailable"),
        ("Error", "/Swarm/Error"),
        ("ClusterID", "/Swarm/Cluster/ID"),
        ("Managers", "/Swarm/Managers"),
        ("Nodes", "/Swarm/Nodes"),
        ("Node Address", "/Swarm/NodeAddr"),
    ] {
        if text(&info, "/Swarm/LocalNodeState") != "inactive" {
            line(1, name, pointer);
        }
    }
    print(&lines.concat())
}
