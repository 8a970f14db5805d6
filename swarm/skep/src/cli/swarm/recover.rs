//! `swarm recover`.

use clap::Args;
use serde_json::{Value, json};

use super::super::client::{CliError, Client};
use super::super::{print, terminal, text};
use super::settings::read_key;

/// Flags of `recover`.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Read the swarm's unlock key (typed unseen, or from standard input): a locked manager needs it, and a worker
    #[arg(long)]
    unlock_key: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

const WARNING: &str = "\
This makes the node the only manager of its swarm. CA, join tokens, node IDs, services and running tasks stay; what the
lost managers alone had acknowledged is gone. All other managers, should they come back, become workers.
Do this only when a majority of the managers is lost for good.
";

/// Makes this node the only manager.
pub(super) async fn run(flags: Recover, client: &Client) -> Result<(), CliError> {
    let key = if flags.unlock_key { read_key("Enter unlock key: ")? } else { String::new() };
    if !flags.force && !terminal::confirm(WARNING, "Recover the swarm? [y/N] ")? {
        return Err(CliError::Usage(
            "nothing was changed: give --force to recover without being asked".to_owned(),
        ));
    }
    let id = client.post("/skep/swarm/recover", &json!({ "UnlockKey": key })).await?;
    print(&format!(
        "Swarm recovered: this node ({}) is its only manager now.\n\n",
        id.as_str().unwrap_or_default()
    ))?;
    let nodes: Vec<Value> = client.get("/nodes").await?;
    let others = nodes.iter().filter(|node| Some(text(node, "/ID").as_str()) != id.as_str()).count();
    print(&format!(
        "{others} other node(s) are known. Promote some of them with 'skep node promote' for a control plane that outlives a manager.\n"
    ))
}
