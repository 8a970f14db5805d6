//! `skep node`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{CliError, Client, escape, filters};
use super::table::{Column, Table};
use super::{ListFlags, for_each, print, print_inspected, service, text};

/// Manage nodes of the swarm.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Show everything about nodes
    Inspect(Inspect),
    /// List the tasks of nodes (of this one by default)
    Ps(service::Ps),
    /// Change labels, availability or role of a node
    Update(Update),
    /// Remove nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// `json` or a template
    #[arg(short, long)]
    format: Option<String>,
    /// Nodes: ID, host name or `self`
    #[arg(required = true)]
    nodes: Vec<String>,
}

/// Flags of `update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// active, pause or drain
    #[arg(long, value_parser = ["active", "pause", "drain"])]
    availability: Option<String>,
    /// Labels to set, KEY=VALUE
    #[arg(long)]
    label_add: Vec<String>,
    /// Labels to remove
    #[arg(long)]
    label_rm: Vec<String>,
    /// worker or manager
    #[arg(long, value_parser = ["worker", "manager"])]
    role: Option<String>,
    /// Node: ID, host name or `self`
    node: String,
}

/// Flags of `rm`.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Remove a node that is not down
    #[arg(short, long)]
    force: bool,
    /// Nodes
    #[arg(required = true)]
    nodes: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("ID", "ID"),
    ("Hostname", "HOSTNAME"),
    ("Status", "STATUS"),
    ("Availability", "AVAILABILITY"),
    ("ManagerStatus", "MANAGER STATUS"),
    ("EngineVersion", "ENGINE VERSION"),
];

/// Runs `skep node …`.
pub(crate) async fn run(command: Command, client: &Client) -> Result<(), CliError> {
    match command {
        Command::Ls(flags) => list(flags, client).await,
        Command::Inspect(flags) => {
            let mut nodes = Vec::new();
            for node in &flags.nodes {
                nodes.push(client.get(&format!("/nodes/{}", resolve(node, client).await?)).await?);
            }
            print_inspected(&nodes, flags.format.as_deref())
        }
        Command::Ps(mut flags) => {
            let names =
                if flags.targets.is_empty() { vec!["self".to_owned()] } else { flags.targets.clone() };
            flags.targets.clear();
            for name in names {
                let node: Value = client.get(&format!("/nodes/{}", resolve(&name, client).await?)).await?;
                flags.targets.push(text(&node, "/ID"));
            }
            service::list_tasks(&flags, "node", client).await
        }
        Command::Update(flags) => update(flags, client).await,
        Command::Rm(flags) => {
            for_each(&flags.nodes, async |node: String| {
                client.delete(&format!("/nodes/{}?force={}", escape(&node), flags.force)).await?;
                print(&format!("{node}\n"))
            })
            .await
        }
    }
}

/// `self` stands for the node that answers.
async fn resolve(node: &str, client: &Client) -> Result<String, CliError> {
    if node != "self" {
        return Ok(escape(node));
    }
    let info: Value = client.get("/info").await?;
    Ok(text(&info, "/Swarm/NodeID"))
}

async fn list(flags: ListFlags, client: &Client) -> Result<(), CliError> {
    let mut nodes: Vec<Value> = client.get(&format!("/nodes?{}", filters(&flags.filter))).await?;
    let info: Value = client.get("/info").await?;
    let own = text(&info, "/Swarm/NodeID");
    nodes.sort_by_key(|node| text(node, "/Description/Hostname"));
    let mut table = Table::new(COLUMNS);
    for node in &nodes {
        let id = text(node, "/ID");
        let manager = match node.get("ManagerStatus") {
            Some(status) if status["Leader"].as_bool() == Some(true) => "Leader".to_owned(),
            Some(status) => capitalised(&text(status, "/Reachability")),
            None => String::new(),
        };
        table.row(vec![
            if id == own { format!("{id} *") } else { id },
            text(node, "/Description/Hostname"),
            capitalised(&text(node, "/Status/State")),
            capitalised(&text(node, "/Spec/Availability")),
            manager,
            text(node, "/Description/Engine/EngineVersion"),
        ]);
    }
    print(&table.render(flags.format.as_deref(), flags.quiet)?)
}

async fn update(flags: Update, client: &Client) -> Result<(), CliError> {
    let node: Value = client.get(&format!("/nodes/{}", resolve(&flags.node, client).await?)).await?;
    let mut spec = node["Spec"].clone();
    if let Some(availability) = flags.availability {
        spec["Availability"] = json!(availability);
    }
    if let Some(role) = flags.role {
        spec["Role"] = json!(role);
    }
    let mut labels: BTreeMap<String, String> =
        serde_json::from_value(spec["Labels"].clone()).unwrap_or_default();
    for label in &flags.label_rm {
        labels.remove(label);
    }
    for label in &flags.label_add {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        labels.insert(key.to_owned(), value.to_owned());
    }
    spec["Labels"] = json!(labels);
    let path = format!("/nodes/{}/update?version={}", text(&node, "/ID"), text(&node, "/Version/Index"));
    client.post(&path, &spec).await?;
    print(&format!("{}\n", flags.node))
}

/// The word with its first letter in upper case.
pub(super) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
