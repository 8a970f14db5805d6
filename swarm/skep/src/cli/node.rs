//! `skep node`.

mod list;
mod pretty;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{CliError, Client, escape};
use super::{ListFlags, fetch_each, for_each, print, print_inspected, several, task, text};

/// How often a change is made anew: a promotion changes a node three times in a second, and nothing changes it for ever.
const CONFLICTS_MAX: u32 = 5;

/// Manage nodes of the swarm.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(ListFlags),
    /// Show everything about nodes
    Inspect(Inspect),
    /// List the tasks of nodes (of this one by default)
    Ps(task::Ps),
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

/// Runs `skep node …`.
pub(crate) async fn run(command: Command, client: &Client) -> Result<(), CliError> {
    match command {
        Command::Ls(flags) => list::run(flags, client).await,
        Command::Inspect(flags) => {
            let (nodes, failures) = find_each(&flags.nodes, client).await;
            if flags.pretty {
                let shown: Vec<String> = nodes.iter().map(pretty::node).collect();
                print(&shown.join("\n"))?;
            } else {
                print_inspected(&nodes, flags.format.as_deref())?;
            }
            several(failures)
        }
        Command::Promote(flags) => {
            for_each(&flags.nodes, async |node: String| set_role(&node, "manager", client).await).await
        }
        Command::Demote(flags) => {
            for_each(&flags.nodes, async |node: String| set_role(&node, "worker", client).await).await
        }
        Command::Ps(mut flags) => {
            if flags.targets.is_empty() {
                flags.targets.push("self".to_owned());
            }
            let (nodes, failures) = find_each(&flags.targets, client).await;
            task::list(&flags, "node", &nodes, failures, client).await
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

/// The nodes of these names, and why others were not found.
async fn find_each(names: &[String], client: &Client) -> (Vec<Value>, Vec<String>) {
    fetch_each(names, async |name: String| {
        client.get(&format!("/nodes/{}", resolve(&name, client).await?)).await
    })
    .await
}

/// `self` stands for the node that answers.
pub(super) async fn resolve(node: &str, client: &Client) -> Result<String, CliError> {
    if node != "self" {
        return Ok(escape(node));
    }
    let info: Value = client.get("/info").await?;
    Ok(text(&info, "/Swarm/NodeID"))
}

async fn update(flags: Update, client: &Client) -> Result<(), CliError> {
    change(&flags.node, client, |spec| {
        if let Some(availability) = &flags.availability {
            spec["Availability"] = json!(availability);
        }
        if let Some(role) = &flags.role {
            spec["Role"] = json!(role);
        }
        spec["Labels"] = json!(labels(&spec["Labels"], &flags.label_add, &flags.label_rm)?);
        Ok(true)
    })
    .await?;
    print(&format!("{}\n", flags.node))
}

/// Changes a node's specification. When somebody else (a manager that follows the node's role, say) was quicker, the
/// change is made to what that left, where docker gives up with "update out of sequence".
///
/// `false`: `edit` found nothing to change.
async fn change(
    name: &str,
    client: &Client,
    edit: impl Fn(&mut Value) -> Result<bool, CliError>,
) -> Result<bool, CliError> {
    let mut conflicts = 0;
    loop {
        let node: Value = client.get(&format!("/nodes/{}", resolve(name, client).await?)).await?;
        let mut spec = node["Spec"].clone();
        if !edit(&mut spec)? {
            return Ok(false);
        }
        let path = format!("/nodes/{}/update?version={}", text(&node, "/ID"), text(&node, "/Version/Index"));
        match client.post(&path, &spec).await {
            Err(error) if error.is_conflict() && conflicts < CONFLICTS_MAX => conflicts += 1,
            answer => return answer.map(|_| true),
        }
    }
}

/// A node's labels after a change: first what is added, then what goes, as docker/cli does.
fn labels(old: &Value, add: &[String], remove: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut labels: BTreeMap<String, String> = serde_json::from_value(old.clone()).unwrap_or_default();
    for label in add {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        labels.insert(key.to_owned(), value.to_owned());
    }
    for key in remove {
        if labels.remove(key).is_none() {
            return Err(CliError::Usage(format!("key {key} doesn't exist in node's labels")));
        }
    }
    Ok(labels)
}

/// Gives a node a role, in the words of docker/cli `cli/command/node/{promote,demote}.go`.
async fn set_role(name: &str, role: &str, client: &Client) -> Result<(), CliError> {
    let changed = change(name, client, |spec| {
        let other = text(spec, "/Role") != role;
        spec["Role"] = json!(role);
        Ok(other)
    });
    if !changed.await? {
        return print(&format!("Node {name} is already a {role}.\n"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_added_before_they_are_removed() {
        let list = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        let old = json!({ "a": "1", "b": "2" });
        let change = |add: &[&str], remove: &[&str]| labels(&old, &list(add), &list(remove));
        assert_eq!(
            json!(change(&["c=x=y", "a=3", "d"], &["b"]).unwrap()),
            json!({ "a": "3", "c": "x=y", "d": "" })
        );
        assert_eq!(json!(change(&["c=1"], &["c"]).unwrap()), old, "what was added can be removed at once");
        assert_eq!(
            change(&[], &["zone"]).unwrap_err().to_string(),
            "key zone doesn't exist in node's labels"
        );
        assert_eq!(json!(labels(&Value::Null, &list(&["a=1"]), &[]).unwrap()), json!({ "a": "1" }));
    }
}
