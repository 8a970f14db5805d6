//! `skep swarm`.

mod address;
mod ca;
mod recover;
mod rotation;
mod settings;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{CliError, Client};
use super::time::parse_duration;
use super::{print, text};

/// Manage the swarm.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a swarm of which this node is the first manager
    Init(Init),
    /// Join a swarm as a node and/or manager
    Join(Join),
    /// Show or rotate join tokens
    JoinToken(JoinToken),
    /// Leave the swarm
    Leave(Leave),
    /// Change the swarm's settings
    Update(settings::Update),
    /// Show or rotate the root CA
    Ca(ca::Ca),
    /// Unlock this manager
    Unlock,
    /// Show or rotate the unlock key
    UnlockKey(settings::UnlockKey),
    /// Show or change this node's own address while it runs
    Address(address::Address),
    /// Make a new control plane of this node, when the managers needed for a majority are lost for good
    Recover(recover::Recover),
}

/// Flags of `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Address told to other nodes: <ip|interface>[:port]
    #[arg(long, default_value = "")]
    advertise_addr: String,
    /// Have managers wait for an unlock key after a restart
    #[arg(long)]
    autolock: bool,
    /// No effect, taken for Docker's sake: checked, but one port of the advertised address carries everything
    #[arg(long, default_value = "")]
    data_path_addr: String,
    /// No effect, taken for Docker's sake (1024 to 49151): `info` shows it, but one port carries everything
    #[arg(long, default_value_t = 0)]
    data_path_port: u32,
    /// An outside CA that signs the nodes' certificates: protocol=cfssl,url=https://…[,cacert=FILE]
    #[arg(long, value_parser = ca::parse_external)]
    external_ca: Vec<Value>,
    /// Address to listen on: <ip|interface>[:port]
    #[arg(long, default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Availability of this node: active, pause or drain
    #[arg(long, default_value = "active", value_parser = ["active", "pause", "drain"])]
    availability: String,
    /// Life of the nodes' certificates
    #[arg(long, default_value = "2160h0m0s", value_parser = parse_duration)]
    cert_expiry: u64,
    /// Heartbeat period: a node is down after 1.3 s of silence at Docker's 5s, and in proportion otherwise
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    dispatcher_heartbeat: u64,
    /// IPv4 pools from which networks take their subnets; the ingress network is 10.255.0.0/16 without one
    #[arg(long)]
    default_addr_pool: Vec<String>,
    /// Prefix length of subnets taken from the pools
    #[arg(long, default_value_t = 24)]
    default_addr_pool_mask_length: u32,
    /// Make a new one-manager swarm of this node's state
    #[arg(long)]
    force_new_cluster: bool,
    /// Older Raft snapshots to keep
    #[arg(long, default_value_t = 0)]
    max_snapshots: u64,
    /// Log entries between Raft snapshots
    #[arg(long, default_value_t = 10_000)]
    snapshot_interval: u64,
    /// Ended tasks to keep for each slot
    #[arg(long, default_value_t = 5, allow_negative_numbers = true)]
    task_history_limit: i64,
}

/// Flags of `join`.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Token that admits this node
    #[arg(long)]
    token: String,
    /// Address told to other nodes: <ip|interface>[:port]
    #[arg(long, default_value = "")]
    advertise_addr: String,
    /// No effect, taken for Docker's sake: checked, but one port of the advertised address carries everything
    #[arg(long, default_value = "")]
    data_path_addr: String,
    /// Address to listen on: <ip|interface>[:port]
    #[arg(long, default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Availability of this node: active, pause or drain
    #[arg(long, default_value = "active", value_parser = ["active", "pause", "drain"])]
    availability: String,
    /// Managers to ask, HOST:PORT
    #[arg(required = true, value_name = "HOST:PORT")]
    remote: Vec<String>,
}

/// Flags of `join-token`.
#[derive(Debug, Args)]
pub(crate) struct JoinToken {
    /// Whose token
    #[arg(value_parser = ["worker", "manager"])]
    role: String,
    /// Make a new token; the old one admits nobody any more
    #[arg(long)]
    rotate: bool,
    /// Show the token only
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `leave`.
#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// Leave even as a manager
    #[arg(short, long)]
    force: bool,
}

/// Runs `skep swarm …`.
pub(crate) async fn run(command: Command, client: &Client) -> Result<(), CliError> {
    match command {
        Command::Init(flags) => init(flags, client).await,
        Command::Join(flags) => join(flags, client).await,
        Command::JoinToken(flags) => join_token(flags, client).await,
        Command::Leave(flags) => {
            client.post(&format!("/swarm/leave?force={}", flags.force), &json!({})).await?;
            print("Node left the swarm.\n")
        }
        Command::Update(flags) => settings::update(flags, client).await,
        Command::Ca(flags) => ca::run(flags, client).await,
        Command::Unlock => settings::unlock(client).await,
        Command::UnlockKey(flags) => settings::unlock_key(flags, client).await,
        Command::Address(flags) => address::run(flags, client).await,
        Command::Recover(flags) => recover::run(flags, client).await,
    }
}

async fn init(flags: Init, client: &Client) -> Result<(), CliError> {
    let body = json!({
        "ListenAddr": flags.listen_addr,
        "AdvertiseAddr": flags.advertise_addr,
        "DataPathAddr": flags.data_path_addr,
        "DataPathPort": flags.data_path_port,
        "ForceNewCluster": flags.force_new_cluster,
        "AutoLockManagers": flags.autolock,
        "Availability": flags.availability,
        "DefaultAddrPool": flags.default_addr_pool,
        "SubnetSize": flags.default_addr_pool_mask_length,
        "Spec": {
            "Orchestration": { "TaskHistoryRetentionLimit": flags.task_history_limit },
            "Raft": { "SnapshotInterval": flags.snapshot_interval, "KeepOldSnapshots": flags.max_snapshots },
            "Dispatcher": { "HeartbeatPeriod": flags.dispatcher_heartbeat },
            "CAConfig": { "NodeCertExpiry": flags.cert_expiry, "ExternalCAs": flags.external_ca },
            "EncryptionConfig": { "AutoLockManagers": flags.autolock },
        },
    });
    let id = client.post("/swarm/init", &body).await?;
    let id = id.as_str().unwrap_or_default();
    print(&format!("Swarm initialized: current node ({id}) is now a manager.\n\n"))?;
    let swarm: Value = client.get("/swarm").await?;
    print_join_command(client, "worker", &text(&swarm, "/JoinTokens/Worker")).await?;
    print(
        "To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.\n",
    )?;
    if flags.autolock { settings::print_unlock_key(client).await } else { Ok(()) }
}

async fn join(flags: Join, client: &Client) -> Result<(), CliError> {
    let body = json!({
        "ListenAddr": flags.listen_addr,
        "AdvertiseAddr": flags.advertise_addr,
        "DataPathAddr": flags.data_path_addr,
        "Availability": flags.availability,
        "RemoteAddrs": flags.remote,
        "JoinToken": flags.token,
    });
    client.post("/swarm/join", &body).await?;
    let info: Value = client.get("/info").await?;
    let role = if info["Swarm"]["ControlAvailable"].as_bool() == Some(true) { "manager" } else { "worker" };
    print(&format!("This node joined a swarm as a {role}.\n"))
}

async fn join_token(flags: JoinToken, client: &Client) -> Result<(), CliError> {
    let mut swarm: Value = client.get("/swarm").await?;
    let role = flags.role.as_str();
    if flags.rotate {
        let version = text(&swarm, "/Version/Index");
        let path = format!(
            "/swarm/update?version={version}&rotateManagerToken={}&rotateWorkerToken={}",
            role == "manager",
            role == "worker"
        );
        client.post(&path, &swarm["Spec"]).await?;
        if !flags.quiet {
            print(&format!("Successfully rotated {role} join token.\n\n"))?;
        }
        swarm = client.get("/swarm").await?;
    }
    let token = text(&swarm, if role == "manager" { "/JoinTokens/Manager" } else { "/JoinTokens/Worker" });
    if flags.quiet { print(&format!("{token}\n")) } else { print_join_command(client, role, &token).await }
}

async fn print_join_command(client: &Client, role: &str, token: &str) -> Result<(), CliError> {
    let info: Value = client.get("/info").await?;
    let own = text(&info, "/Swarm/NodeID");
    let managers = info["Swarm"]["RemoteManagers"].as_array().cloned().unwrap_or_default();
    let address = managers
        .iter()
        .find(|manager| text(manager, "/NodeID") == own)
        .map_or_else(|| text(&info, "/Swarm/NodeAddr"), |manager| text(manager, "/Addr"));
    print(&format!(
        "To add a {role} to this swarm, run the following command:\n\n    skep swarm join --token {token} {address}\n\n"
    ))
}
