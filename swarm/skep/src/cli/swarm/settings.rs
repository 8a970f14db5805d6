//! `swarm update`, `unlock` and `unlock-key`.

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use serde_json::{Value, json};

use super::super::client::{CliError, Client};
use super::super::time::parse_duration;
use super::super::{print, terminal, text};
use super::ca;

/// Flags of `update`: what is not given stays.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Have managers wait for an unlock key after a restart (true or false)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    autolock: Option<bool>,
    /// Life of the nodes' certificates
    #[arg(long, value_parser = parse_duration)]
    cert_expiry: Option<u64>,
    /// Heartbeat period: a node is down after 1.3 s of silence at Docker's 5s, and in proportion otherwise
    #[arg(long, value_parser = parse_duration)]
    dispatcher_heartbeat: Option<u64>,
    /// Outside CAs that sign the nodes' certificates for the swarm's present root CA: protocol=cfssl,url=https://…
    #[arg(long, value_parser = ca::parse_external)]
    external_ca: Vec<Value>,
    /// Older Raft snapshots to keep
    #[arg(long)]
    max_snapshots: Option<u64>,
    /// Log entries between Raft snapshots
    #[arg(long)]
    snapshot_interval: Option<u64>,
    /// Ended tasks to keep for each slot
    #[arg(long, allow_negative_numbers = true)]
    task_history_limit: Option<i64>,
}

/// Flags of `unlock-key`.
#[derive(Debug, Args)]
pub(crate) struct UnlockKey {
    /// Make a new key; the old one opens nothing any more
    #[arg(long)]
    rotate: bool,
    /// Show the key only
    #[arg(short, long)]
    quiet: bool,
}

/// Changes what was named, as Docker does: read, change, write back at the version that was read.
pub(super) async fn update(flags: Update, client: &Client) -> Result<(), CliError> {
    let swarm: Value = client.get("/swarm").await?;
    let mut spec = swarm["Spec"].clone();
    let was_locked = spec["EncryptionConfig"]["AutoLockManagers"].as_bool() == Some(true);
    let mut nothing = true;
    let mut set = |group: &str, name: &str, value: Option<Value>| {
        if let Some(value) = value {
            spec[group][name] = value;
            nothing = false;
        }
    };
    set("EncryptionConfig", "AutoLockManagers", flags.autolock.map(Value::from));
    set("CAConfig", "NodeCertExpiry", flags.cert_expiry.map(Value::from));
    let external = (!flags.external_ca.is_empty())
        .then(|| ca::pinned(flags.external_ca, &text(&swarm, "/TLSInfo/TrustRoot")));
    set("CAConfig", "ExternalCAs", external);
    set("Dispatcher", "HeartbeatPeriod", flags.dispatcher_heartbeat.map(Value::from));
    set("Raft", "KeepOldSnapshots", flags.max_snapshots.map(Value::from));
    set("Raft", "SnapshotInterval", flags.snapshot_interval.map(Value::from));
    set("Orchestration", "TaskHistoryRetentionLimit", flags.task_history_limit.map(Value::from));
    if nothing {
        return Err(CliError::Usage(
            "nothing to change: give at least one flag (see `skep swarm update --help`)".to_owned(),
        ));
    }
    client.post(&format!("/swarm/update?version={}", text(&swarm, "/Version/Index")), &spec).await?;
    print("Swarm updated.\n")?;
    if flags.autolock == Some(true) && !was_locked { print_unlock_key(client).await } else { Ok(()) }
}

/// Gives this manager its key: typed unseen, or from standard input.
pub(super) async fn unlock(client: &Client) -> Result<(), CliError> {
    let info: Value = client.get("/info").await?;
    match text(&info, "/Swarm/LocalNodeState").as_str() {
        "inactive" => return Err(CliError::Usage("Error: This node is not part of a swarm".to_owned())),
        "locked" => {}
        _ => return Err(CliError::Usage("Error: swarm is not locked".to_owned())),
    }
    let key = read_key("Enter unlock key: ")?;
    client.post("/swarm/unlock", &json!({ "UnlockKey": key })).await.map(drop)
}

/// A key, typed unseen or from standard input.
pub(super) fn read_key(prompt: &str) -> Result<String, CliError> {
    let failed = |source| CliError::Io { what: "cannot read the unlock key".to_owned(), source };
    let stdin = std::io::stdin();
    let mut line = String::new();
    if stdin.is_terminal() {
        line = terminal::read_unseen(prompt).map_err(failed)?;
    } else {
        stdin.lock().read_line(&mut line).map_err(failed)?;
    }
    Ok(line.trim().to_owned())
}

/// Shows the key, or makes a new one first.
pub(super) async fn unlock_key(flags: UnlockKey, client: &Client) -> Result<(), CliError> {
    if flags.rotate {
        let swarm: Value = client.get("/swarm").await?;
        if swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"].as_bool() != Some(true) {
            return Err(CliError::Usage("cannot rotate because autolock is not turned on".to_owned()));
        }
        let path =
            format!("/swarm/update?version={}&rotateManagerUnlockKey=true", text(&swarm, "/Version/Index"));
        client.post(&path, &swarm["Spec"]).await?;
        if !flags.quiet {
            print("Successfully rotated manager unlock key.\n\n")?;
        }
    }
    let key = get_unlock_key(client).await?;
    if key.is_empty() {
        return Err(CliError::Usage("no unlock key is set".to_owned()));
    }
    if flags.quiet { print(&format!("{key}\n")) } else { print(&instructions(&key)) }
}

/// The key with Docker's advice about it.
pub(super) async fn print_unlock_key(client: &Client) -> Result<(), CliError> {
    print(&instructions(&get_unlock_key(client).await?))
}

async fn get_unlock_key(client: &Client) -> Result<String, CliError> {
    let answer: Value = client.get("/swarm/unlockkey").await?;
    Ok(text(&answer, "/UnlockKey"))
}

fn instructions(key: &str) -> String {
    format!(
        "To unlock a swarm manager after it restarts, run the `skep swarm unlock`\ncommand and provide the following key:\n\n    {key}\n\nRemember to store this key in a password manager, since without it you\nwill not be able to restart the manager.\n"
    )
}
