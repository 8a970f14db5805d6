//! `swarm init`, `join` and `leave`: from no membership to one and back.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use skep_mesh::{CertificateAuthority, Identity, JoinOptions, JoinToken, NewKey, Role, join, random_id};
use skep_raft::{ProposeError, RaftNode, raft_id};
use skep_runtime::keeper::ClientError;
use skep_seal::{UnlockKey, Vault, VaultError};
use skep_state::object::{IpamConfig, Raft};
use skep_state::spec::{Availability, ClusterSpec, NodeRole, NodeSpec};
use skep_state::{Change, Cluster, Conflict, JoinTokens, Network, Node, NodeState, NodeStatus, Transaction};

use crate::address::{self, LocalAddress, Origin};
use crate::handle::{InitRequest, JoinRequest};
use crate::manager::{new_token, sign};
use crate::member::{Folders, Member, Record};
use crate::membership::{JOIN_WAIT, Local, Membership, tear_down_network};
use crate::rpc::{self, Hello, JoinExtra, JoinedExtra};
use crate::{NodeError, clock, durable};

/// Docker's defaults, in nanoseconds and counts.
const CERT_EXPIRY: u64 = 90 * 24 * 3600 * 1_000_000_000;
const HEARTBEAT_PERIOD: u64 = 5_000_000_000;
const SNAPSHOT_INTERVAL: u64 = 10_000;
const SLOW_FOLLOWER_ENTRIES: u64 = 500;
const TASK_HISTORY: i64 = 5;
const DEFAULT_POOL: &str = "10.0.0.0/8";
const DEFAULT_SUBNET_SIZE: u32 = 24;

/// How often a leaving manager looks whether it is out of Raft.
const GOODBYE_POLL: Duration = Duration::from_millis(20);

/// How long a leaving node tries to say goodbye: a leader is replaced within it.
const GOODBYE: Duration = Duration::from_secs(5);

/// Makes a swarm of which this node is the first manager.
pub(crate) async fn init(local: &Local, request: InitRequest) -> Result<Membership, NodeError> {
    let (listen, advertise, origin) = addresses(local, &request.listen_addr, &request.advertise_addr)?;
    address::check_data_path(&request.data_path_addr, &address::local_addresses()?)?;
    let subnet_size = if request.subnet_size == 0 { DEFAULT_SUBNET_SIZE } else { request.subnet_size };
    let range = skep_control::request::ingress_range(&request.default_addr_pool, subnet_size)
        .map_err(NodeError::Refused)?;
    let now = local.clock.now();
    let (node_id, cluster_id) = (clock::new_id(), random_id(rand::random()));
    let mut spec = with_defaults(request.spec);
    let (ca_cert, ca_key) = first_authority(&spec, now)?;
    skep_control::request::pin_external_cas(&mut spec, &ca_cert);
    let key = NewKey::generate().map_err(NodeError::internal("cannot make this node's key"))?;
    let member = Member {
        listen,
        advertise,
        origin,
        interface: String::new(),
        role: NodeRole::Manager,
        managers: Vec::new(),
        subnets: vec![range.subnet.clone()],
        epoch: Vec::new(),
    };
    let unlock_key = spec.encryption_config.auto_lock_managers.then(UnlockKey::random);
    let tokens = JoinTokens { worker: new_token(&ca_cert)?, manager: new_token(&ca_cert)? };
    let mut cluster = Cluster {
        spec,
        ca_cert,
        ca_key,
        join_tokens: tokens,
        default_addr_pool: if request.default_addr_pool.is_empty() {
            vec![DEFAULT_POOL.to_owned()]
        } else {
            request.default_addr_pool
        },
        subnet_size,
        data_path_port: request.data_path_port,
        unlock_key: unlock_key.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..Cluster::default()
    };
    cluster.meta.id = cluster_id;
    let signed = sign(&cluster, None, key.csr_pem(), &node_id, NodeRole::Manager, now)
        .await
        .map_err(|error| NodeError::Unavailable(format!("cannot certify this node: {error}")))?;
    let identity = Identity::from_pem(key.key_pem(), &signed.chain_pem, &cluster.ca_cert)
        .map_err(NodeError::internal("this node's certificate"))?;
    let mut node = first_node(local, &node_id, &member, request.availability);
    node.certificate = signed.certificate;
    let changes = vec![
        Change::PutCluster(Box::new(cluster)),
        Change::PutNode(Box::new(node)),
        Change::PutNetwork(Box::new(ingress(range))),
    ];
    let first = Transaction { at: clock::now(), changes };
    begin(local, identity, member, unlock_key.as_ref(), Some(first)).await
}

/// Certificate and key of a new swarm's CA; the key is empty where an external CA holds it.
fn first_authority(spec: &ClusterSpec, now: SystemTime) -> Result<(String, String), NodeError> {
    let external = &spec.ca_config.external_cas;
    if external.is_empty() {
        let authority =
            CertificateAuthority::generate(now).map_err(NodeError::internal("cannot make the swarm's CA"))?;
        return Ok((authority.certificate_pem().to_owned(), authority.key_pem()));
    }
    let certificate = external.iter().map(|external| &external.ca_cert).find(|cert| !cert.trim().is_empty());
    let certificate = certificate.ok_or_else(|| {
        NodeError::Invalid(
            "a swarm with an external CA needs that CA's certificate: give cacert=FILE with --external-ca"
                .to_owned(),
        )
    })?;
    CertificateAuthority::check_root(certificate, now, Duration::ZERO)
        .map_err(|error| NodeError::Invalid(error.to_string()))?;
    Ok((certificate.clone(), String::new()))
}

/// Joins a swarm.
pub(crate) async fn join_swarm(local: &Local, request: JoinRequest) -> Result<Membership, NodeError> {
    let (listen, advertise, origin) = addresses(local, &request.listen_addr, &request.advertise_addr)?;
    address::check_data_path(&request.data_path_addr, &address::local_addresses()?)?;
    let token: JoinToken =
        request.join_token.trim().parse().map_err(|error| NodeError::Invalid(format!("{error}")))?;
    let mut remotes = Vec::new();
    for remote in &request.remote_addrs {
        let remote = remote.clone();
        let found = tokio::task::spawn_blocking(move || address::remote_addresses(&remote)).await;
        remotes.extend(found.map_err(NodeError::internal("look the managers' addresses up"))??);
    }
    if remotes.is_empty() {
        return Err(NodeError::Invalid("at least one manager's address is needed to join".to_owned()));
    }
    // Before anybody is asked: a node that could not listen must not be admitted.
    std::net::UdpSocket::bind(listen)
        .map_err(NodeError::internal(format!("cannot listen on {listen} (UDP)")))?;
    let key = NewKey::generate().map_err(NodeError::internal("cannot make this node's key"))?;
    let hello = Hello { description: local.description.clone(), addresses: vec![advertise.to_string()] };
    let extra = rpc::encode(&JoinExtra { hello, availability: request.availability });
    let options = JoinOptions {
        remotes,
        request: skep_mesh::JoinRequest { token, csr_pem: key.csr_pem().to_owned(), extra },
        bind: None,
        timeout: JOIN_WAIT,
    };
    let reply = join(options).await.map_err(|error| NodeError::Unavailable(error.to_string()))?;
    let told: JoinedExtra = rpc::decode(&reply.extra).map_err(|error| {
        NodeError::Unavailable(format!("the manager's answer is not understood: {error}"))
    })?;
    let identity = Identity::from_pem(key.key_pem(), &reply.chain_pem, &reply.ca_pem)
        .map_err(NodeError::internal("this node's certificate"))?;
    let role = match identity.role() {
        Role::Manager => NodeRole::Manager,
        Role::Worker => NodeRole::Worker,
    };
    let member = Member {
        listen,
        advertise,
        origin,
        interface: String::new(),
        role,
        managers: told.managers,
        subnets: told.subnets,
        epoch: told.epoch,
    };
    begin(local, identity, member, None, None).await
}

/// Goes on with a membership from before the last stop; `None` when there is none.
pub(crate) async fn resume(
    local: &Local,
    unlock_key: Option<&UnlockKey>,
) -> Result<Option<Membership>, NodeError> {
    let folders = Folders::new(&local.config.root);
    let record = durable::read_json::<Member>(&folders.record())
        .map_err(NodeError::internal("cannot read this node's membership"))?;
    let Some(member) = record else { return Ok(None) };
    let vault = Vault::open(&folders.vault(), unlock_key).map_err(|error| match error {
        VaultError::Locked { .. } => NodeError::Locked,
        VaultError::WrongKey { .. } => NodeError::WrongUnlockKey,
        error => NodeError::internal("cannot open this node's keys")(error),
    })?;
    let identity = Identity::load(&folders.identity(), &vault)
        .map_err(NodeError::internal("cannot read this node's identity"))?;
    let record = Record::new(&folders, member, true);
    Membership::start(local, identity, record, vault, None).await.map(Some)
}

/// Starts a new membership and makes it last; undone when it cannot start.
async fn begin(
    local: &Local,
    identity: Identity,
    member: Member,
    unlock_key: Option<&UnlockKey>,
    first: Option<Transaction>,
) -> Result<Membership, NodeError> {
    let folders = Folders::new(&local.config.root);
    // What a half-finished join or a torn-down membership may have left.
    forget(local);
    let made = async {
        let vault = Vault::create(&folders.vault(), unlock_key)
            .map_err(NodeError::internal("cannot make this node's keys"))?;
        identity
            .save(&folders.identity(), &vault)
            .map_err(NodeError::internal("cannot save this node's identity"))?;
        let record = Record::new(&folders, member.clone(), false);
        let membership = Membership::start(local, identity, record, vault, first).await?;
        membership.record.keep().map_err(NodeError::internal("cannot save this node's membership"))?;
        Ok(membership)
    };
    let made = made.await;
    if made.is_err() {
        tear_down_network(&member).await;
        forget(local);
    }
    made
}

/// Ends a membership: tasks, identity, state and network are gone afterwards.
pub(crate) async fn leave(local: &Local, membership: &Membership) {
    say_goodbye(membership).await;
    // Sessions first: what a leader says from now on must start nothing.
    membership.stop_loops().await;
    membership.agent.stop_all().await;
    membership.stop().await;
    tear_down_network(&membership.record.get()).await;
    forget(local);
}

/// Says to the managers that this node is down for good; a manager gives its role back first. Best effort: a node may
/// leave because its swarm is gone.
async fn say_goodbye(membership: &Membership) {
    let goodbye = async {
        if let Some(raft) = membership.raft() {
            if raft.members().len() < 2 {
                return;
            }
            give_role_back(membership, &raft).await;
        }
        let peers = membership.mesh.peers();
        for peer in peers.iter().filter(|peer| peer.control && peer.role == Some(Role::Manager)) {
            let left = membership.mesh.request(&peer.node_id, rpc::LEAVE, bytes::Bytes::new(), GOODBYE);
            if left.await.is_ok() {
                return;
            }
        }
    };
    if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
        tracing::warn!("the other nodes did not take notice of the leave in time");
    }
}

/// Waits until this manager is out of Raft: as long as it is in, its vote counts and the others must go on listening to
/// it, so the leader takes it out before its role ends. Its own Raft may never hear of that; its agent does, and stops
/// the manager part.
async fn give_role_back(membership: &Membership, raft: &RaftNode) {
    let own = membership.node_id();
    while let Some(mut node) = raft.read(|state| state.nodes.get(own).cloned()) {
        node.spec.role = NodeRole::Worker;
        let transaction = Transaction { at: clock::now(), changes: vec![Change::PutNode(Box::new(node))] };
        match raft.propose_within(transaction, GOODBYE).await {
            Ok(_) => break,
            // Somebody else has changed the node at the same time.
            Err(ProposeError::Conflict(Conflict::OutOfSequence { .. })) => {
                tokio::time::sleep(GOODBYE_POLL).await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot tell the other managers that this node leaves");
                return;
            }
        }
    }
    while membership.raft().is_some() {
        tokio::time::sleep(GOODBYE_POLL).await;
    }
}

/// Forgets a membership that could not be taken up again: its containers and its network are still there.
pub(crate) async fn forget_all(local: &Local) {
    let keeper = std::sync::Arc::clone(&local.keeper);
    let removed = tokio::task::spawn_blocking(move || {
        for container in keeper.list()? {
            keeper.delete(&container.id)?;
        }
        Ok::<(), ClientError>(())
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(%error, "cannot remove all containers of the old membership");
    }
    if let Ok(Some(member)) = durable::read_json::<Member>(&Folders::new(&local.config.root).record()) {
        tear_down_network(&member).await;
    }
    forget(local);
}

/// Removes everything about a membership from the disk, the record first; volumes stay, as Docker's do.
fn forget(local: &Local) {
    let (folders, root) = (Folders::new(&local.config.root), &local.config.root);
    let removed = [
        std::fs::remove_file(folders.record()),
        std::fs::remove_dir_all(folders.all()),
        std::fs::remove_dir_all(root.join("agent")),
        std::fs::remove_dir_all(root.join("containers")),
    ];
    for error in removed.into_iter().filter_map(Result::err) {
        if error.kind() != std::io::ErrorKind::NotFound {
            tracing::warn!(%error, root = %root.display(), "cannot remove all of the old membership");
        }
    }
}

fn addresses(
    local: &Local,
    listen: &str,
    advertise: &str,
) -> Result<(SocketAddr, SocketAddr, Origin), NodeError> {
    let interfaces: Vec<LocalAddress> = address::local_addresses()?;
    // Clients fill Docker's default in; it means "not said" here as well.
    let listen = if listen == "0.0.0.0:2377" { "" } else { listen };
    let listen = address::listen_address(listen, local.config.listen, &interfaces)?;
    let told = address::advertise_address(advertise, listen, &interfaces)?;
    Ok((listen, told, Origin::of(advertise, told.ip(), &interfaces)))
}

fn first_node(local: &Local, node_id: &str, member: &Member, availability: Availability) -> Node {
    let mut node = Node {
        spec: NodeSpec { role: NodeRole::Manager, availability, ..NodeSpec::default() },
        description: local.description.clone(),
        status: NodeStatus {
            state: NodeState::Ready,
            message: String::new(),
            addr: member.advertise.ip().to_string(),
        },
        role: NodeRole::Manager,
        raft: Some(Raft { id: raft_id(node_id) }),
        addresses: vec![member.advertise.to_string()],
        index: 1,
        ..Node::default()
    };
    node_id.clone_into(&mut node.meta.id);
    node
}

/// The network of published ports. No container uses its gateway, which `inspect` shows.
fn ingress(range: IpamConfig) -> Network {
    let mut network = Network {
        name: "ingress".to_owned(),
        driver: "overlay".to_owned(),
        ipam: vec![range],
        ingress: true,
        ..Network::default()
    };
    network.meta.id = clock::new_id();
    network
}

/// A swarm's settings with Docker's defaults in the places that were left out.
fn with_defaults(mut spec: ClusterSpec) -> ClusterSpec {
    "default".clone_into(&mut spec.name);
    let default = |value: &mut u64, default: u64| {
        if *value == 0 {
            *value = default;
        }
    };
    default(&mut spec.raft.snapshot_interval, SNAPSHOT_INTERVAL);
    default(&mut spec.raft.log_entries_for_slow_followers, SLOW_FOLLOWER_ENTRIES);
    default(&mut spec.dispatcher.heartbeat_period, HEARTBEAT_PERIOD);
    default(&mut spec.ca_config.node_cert_expiry, CERT_EXPIRY);
    spec.raft.keep_old_snapshots.get_or_insert(0);
    if spec.raft.election_tick == 0 {
        spec.raft.election_tick = 10;
    }
    if spec.raft.heartbeat_tick == 0 {
        spec.raft.heartbeat_tick = 1;
    }
    spec.orchestration.task_history_retention_limit.get_or_insert(TASK_HISTORY);
    if spec.task_defaults.is_null() {
        spec.task_defaults = serde_json::json!({});
    }
    spec
}
