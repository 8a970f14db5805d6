//! `skep node`.

mod pretty;

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
    /// Make nodes managers
    Promote(Nodes),
    /// Make managers workers
    Demote(Nodes),
    /// Remove nodes from the swarm
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

/// Flags of `promote` and `demote`.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// Nodes: ID, host name or `self`
    #[arg(required = true)]
    nodes: Vec<String>,
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// `json` or a template
    #[arg(short, long, conflicts_with = "pretty")]
    format: Option<String>,
    /// For people
    #[arg(long)]
    pretty: bool,
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
    ("Path", "PATH"),
    ("TLSStatus", "TLS STATUS"),
    ("Self", "SELF"),
];

/// Columns of [`COLUMNS`] that people see; templates know all.
const SHOWN: usize = 7;

/// Runs `skep node …`.
pub(crate) async fn run(command: Command, client: &Client) -> Result<(), CliError> {
    match command {
        Command::Ls(flags) => list(flags, client).await,
        Command::Inspect(flags) => {
            let mut nodes = Vec::new();
            for node in &flags.nodes {
                nodes.push(client.get(&format!("/nodes/{}", resolve(node, client).await?)).await?);
            }
            if flags.pretty {
                let shown: Vec<String> = nodes.iter().map(pretty::node).collect();
                return print(&shown.join("\n"));
            }
            print_inspected(&nodes, flags.format.as_deref())
        }
        Command::Promote(flags) => {
            for_each(&flags.nodes, async |node: String| set_role(&node, "manager", client).await).await
        }
        Command::Demote(flags) => {
            for_each(&flags.nodes, async |node: String| set_role(&node, "worker", client).await).await
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
    // A daemon of an earlier version does not know it.
    let paths: Value = client.get("/skep/paths").await.unwrap_or_default();
    let swarm: Value = client.get("/swarm").await?;
    let mut table = Table::with_hidden(COLUMNS, SHOWN);
    for node in &nodes {
        let id = text(node, "/ID");
        let issued = |part: &str| {
            text(node, &format!("/Description/TLSInfo/{part}")) == text(&swarm, &format!("/TLSInfo/{part}"))
        };
        let current = ["CertIssuerSubject", "CertIssuerPublicKey", "TrustRoot"].into_iter().all(issued);
        let manager = match node.get("ManagerStatus") {
            Some(status) if status["Leader"].as_bool() == Some(true) => "Leader".to_owned(),
            Some(status) => capitalised(&text(status, "/Reachability")),
            None => String::new(),
        };
        let path = if id == own { "-".to_owned() } else { shown_path(&paths[&id], &nodes) };
        let own = (id == own).to_string();
        table.row(vec![
            if own == "true" { format!("{id} *") } else { id },
            text(node, "/Description/Hostname"),
            capitalised(&text(node, "/Status/State")),
            capitalised(&text(node, "/Spec/Availability")),
            manager,
            text(node, "/Description/Engine/EngineVersion"),
            path,
            if current { "Ready" } else { "Needs Rotation" }.to_owned(),
            own,
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

/// How a node is reached: itself, or through another one.
fn shown_path(path: &Value, nodes: &[Value]) -> String {
    let host = |id: &str| {
        let node = nodes.iter().find(|node| text(node, "/ID") == id);
        node.map_or_else(|| id.to_owned(), |node| text(node, "/Description/Hostname"))
    };
    match text(path, "/Path").as_str() {
        "relayed" => format!("relayed via {}", host(&text(path, "/Via"))),
        "direct" => "direct".to_owned(),
        _ => "-".to_owned(),
    }
}

/// Gives a node a role, in the words of docker/cli `cli/command/node/{promote,demote}.go`.
async fn set_role(name: &str, role: &str, client: &Client) -> Result<(), CliError> {
    let node: Value = client.get(&format!("/nodes/{}", resolve(name, client).await?)).await?;
    let mut spec = node["Spec"].clone();
    if text(&spec, "/Role") == role {
        return print(&format!("Node {name} is already a {role}.\n"));
    }
    spec["Role"] = json!(role);
    let path = format!("/nodes/{}/update?version={}", text(&node, "/ID"), text(&node, "/Version/Index"));
    client.post(&path, &spec).await?;
    match role {
        "manager" => print(&format!("Node {name} promoted to a manager in the swarm.\n")),
        _ => print(&format!("Manager {name} demoted in the swarm.\n")),
    }
}

/// The word with its first letter in upper case.
pub(super) fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
