//! A node's running membership of a swarm: mesh, Raft, dispatcher, leader's loop, agent, data plane, started in the
//! order in which they need each other and stopped in the reverse one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use skep_image::Store;
use skep_mesh::{Identity, Mesh, MeshConfig, PeerConfig};
use skep_netns::{HostNetwork, HostNetworkConfig, NamespacePool, Subnet};
use skep_raft::{RaftNode, RaftOptions, Transport};
use skep_state::spec::NodeRole;
use skep_state::{NodeDescription, NodeState, Transaction};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Agent, AgentContext, Exits, MTU, SessionLoop, Statuses};
use crate::dataplane::DataPlane;
use crate::durable;
use crate::images::Images;
use crate::keeper::Keeper;
use crate::manager::{Dispatcher, Leader, MeshTransport};
use crate::member::{Folders, Member};
use crate::mesh_handler::{MeshHandler, Parts};
use crate::rpc::Hello;
use crate::view::NodeRoute;
use crate::{NodeConfig, NodeError};

/// Network namespaces kept ready for containers.
const NAMESPACES: usize = 4;

/// How long a joining node may take to be served: Docker's join timeout.
pub(crate) const JOIN_WAIT: Duration = Duration::from_secs(20);

/// How often a joining node looks whether it is served.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// How the names of containers' links start.
const HOST_PREFIX: &str = "skv";

/// What outlives a membership.
#[derive(Clone)]
pub(crate) struct Local {
    pub config: NodeConfig,
    pub store: Store,
    pub keeper: Arc<Keeper>,
    pub exits: Arc<Exits>,
    pub description: NodeDescription,
}

/// A running membership.
pub(crate) struct Membership {
    pub identity: Identity,
    pub member: Member,
    pub mesh: Mesh,
    /// Set on a manager.
    pub raft: Option<RaftNode>,
    pub agent: Arc<Agent>,
    pub images: Arc<Images>,
    handler: Arc<MeshHandler>,
    transport: Arc<MeshTransport>,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

impl Membership {
    /// Starts as a member. With `first` the node makes a new swarm of which that is the first transaction.
    pub(crate) async fn start(
        local: &Local,
        identity: Identity,
        member: Member,
        first: Option<Transaction>,
    ) -> Result<Self, NodeError> {
        let network_config = network_config(&member)?;
        let subnets = network_config.subnets.clone();
        let handler = Arc::new(MeshHandler::default());
        let mesh_config = MeshConfig { listen: member.listen, ..MeshConfig::new(identity.clone()) };
        let mesh = Mesh::start(mesh_config, Arc::clone(&handler) as Arc<dyn skep_mesh::Handler>)
            .await
            .map_err(NodeError::internal(format!("cannot listen on {} (UDP)", member.listen)))?;
        // After the mesh: an address that cannot be listened on must not change the host.
        let (network, tun) = tokio::task::spawn_blocking(move || HostNetwork::set_up(network_config))
            .await
            .map_err(NodeError::internal("set up the host's network"))?
            .map_err(NodeError::internal("cannot set up the host's network"))?;
        let network = Arc::new(network);
        for (id, addresses) in &member.managers {
            mesh.set_peer(id, peer_config(addresses, true));
        }
        let transport = Arc::new(MeshTransport::new(mesh.clone()));
        let raft = match member.role {
            NodeRole::Manager => Some(start_raft(local, &identity, &mesh, &transport, first).await?),
            NodeRole::Worker => None,
        };
        let images = Images::new(local.store.clone(), mesh.clone());
        let tun = tun.into_async().map_err(NodeError::internal("cannot use the TUN device"))?;
        let data = DataPlane::new(tun, Arc::clone(&network), &subnets);
        let context = AgentContext {
            node_id: identity.node_id().to_owned(),
            hostname: local.config.hostname.clone(),
            root: local.config.root.clone(),
            host_prefix: HOST_PREFIX.to_owned(),
            keeper: Arc::clone(&local.keeper),
            images: Arc::clone(&images),
            network: Arc::clone(&network),
            namespaces: NamespacePool::new(NAMESPACES),
            statuses: Statuses::default(),
            exits: Arc::clone(&local.exits),
            images_used: parking_lot::Mutex::new(std::collections::HashMap::new()),
        };
        let agent = Agent::start(context, Arc::clone(&data)).await;
        let manager = raft.as_ref().map(|raft| {
            let (dispatcher, inbox) = Dispatcher::new(raft.clone());
            (raft.clone(), dispatcher, inbox)
        });
        let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
        let spawn = Spawner { cancel: &cancel, tracker: &tracker };
        handler.set(Parts {
            manager: manager.as_ref().map(|(raft, dispatcher, _)| (raft.clone(), Arc::clone(dispatcher))),
            images: Arc::clone(&images),
            data: Arc::clone(&data),
        });
        let session = SessionLoop {
            agent: Arc::clone(&agent),
            mesh: mesh.clone(),
            manager: manager.as_ref().map(|(raft, dispatcher, _)| (raft.clone(), Arc::clone(dispatcher))),
            hello: hello(local, &member),
        };
        if let Some((raft, _, inbox)) = manager {
            let node_id = identity.node_id().to_owned();
            spawn.run(Leader { raft, mesh: mesh.clone(), node_id, inbox }.run());
        }
        spawn.run(Arc::clone(&agent).keep_saved());
        spawn.run(data.run(mesh.clone()));
        spawn.run(session.run());
        spawn.run(follow_peers(
            Arc::clone(&agent),
            mesh.clone(),
            raft.clone(),
            member.clone(),
            Folders::new(&local.config.root),
        ));
        tracker.close();
        Ok(Self { identity, member, mesh, raft, agent, images, handler, transport, cancel, tracker })
    }

    /// Waits until this node is served: a manager has its vote and knows the leader, a worker has its assignments.
    pub(crate) async fn wait_until_served(&self) -> Result<(), NodeError> {
        let own = self.identity.node_id();
        let served = || match &self.raft {
            Some(raft) => {
                raft.leader().is_some()
                    && raft.members().iter().any(|member| member.voter && member.node_id == own)
                    && raft.read(|state| {
                        state.nodes.get(own).is_some_and(|node| node.status.state == NodeState::Ready)
                    })
            }
            None => self.agent.view(|view| view.nodes.contains_key(own)),
        };
        let waited = async {
            while !served() {
                tokio::time::sleep(JOIN_POLL).await;
            }
        };
        tokio::time::timeout(JOIN_WAIT, waited).await.map_err(|_| {
            NodeError::Unavailable(
                "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the \"docker info\" command to see the current swarm status of your node.".to_owned(),
            )
        })
    }

    /// Stops everything that acts by itself: sessions, decisions, packets.
    pub(crate) async fn stop_loops(&self) {
        self.cancel.cancel();
        self.tracker.wait().await;
    }

    /// Stops taking part, after [`Self::stop_loops`]; containers go on running.
    pub(crate) async fn stop(&self) {
        if let Some(raft) = &self.raft {
            raft.shutdown().await;
        }
        self.mesh.close().await;
        self.handler.clear();
        self.transport.clear();
    }
}

/// Removes what a membership made of the host's network; harmless where there is nothing.
pub(crate) async fn tear_down_network(member: &Member) {
    let Ok(config) = network_config(member) else { return };
    let torn_down = tokio::task::spawn_blocking(move || {
        let namespace = skep_netns::Namespace::current().map_err(|error| error.to_string())?;
        HostNetwork::tear_down_in(&namespace, &config).map_err(|error| error.to_string())
    });
    if let Ok(Err(error)) = torn_down.await {
        tracing::warn!(%error, "cannot remove all of the swarm's network");
    }
}

/// Runs tasks until the membership stops.
struct Spawner<'a> {
    cancel: &'a CancellationToken,
    tracker: &'a TaskTracker,
}

impl Spawner<'_> {
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = work => {}
            }
        });
    }
}

async fn start_raft(
    local: &Local,
    identity: &Identity,
    mesh: &Mesh,
    transport: &Arc<MeshTransport>,
    first: Option<Transaction>,
) -> Result<RaftNode, NodeError> {
    let folders = Folders::new(&local.config.root);
    let options = RaftOptions::new(folders.raft(), identity.node_id());
    let raft = RaftNode::open(options, Arc::clone(transport) as Arc<dyn Transport>)
        .await
        .map_err(NodeError::internal("cannot open the swarm's state"))?;
    if let Some(first) = first {
        raft.initialize(first).await.map_err(NodeError::internal("cannot make the swarm"))?;
    }
    let known: Vec<(String, Vec<String>, bool)> = raft.read(|state| {
        let nodes = state.nodes.values();
        nodes
            .map(|node| (node.meta.id.clone(), node.addresses.clone(), node.role == NodeRole::Manager))
            .collect()
    });
    for (id, addresses, manager) in known {
        mesh.set_peer(&id, peer_config(&addresses, manager));
    }
    Ok(raft)
}

/// Keeps the mesh's peers, and the managers remembered on disk, as the swarm's nodes are.
async fn follow_peers(
    agent: Arc<Agent>,
    mesh: Mesh,
    raft: Option<RaftNode>,
    mut member: Member,
    folders: Folders,
) {
    let mut known: BTreeMap<String, NodeRoute> = BTreeMap::new();
    let mut updates = raft.as_ref().map(RaftNode::subscribe);
    loop {
        // A manager has the committed state itself: it must reach the others before anybody leads.
        let nodes = match &raft {
            Some(raft) => raft.read(routes),
            None => agent.view(|view| view.nodes.clone()),
        };
        if nodes != known && !nodes.is_empty() {
            for (id, node) in nodes.iter().filter(|(id, node)| known.get(*id) != Some(*node)) {
                mesh.set_peer(id, peer_config(&node.addresses, node.manager));
            }
            for id in known.keys().filter(|id| !nodes.contains_key(*id)) {
                mesh.remove_peer(id);
            }
            let managers: Vec<(String, Vec<String>)> = nodes
                .iter()
                .filter(|(id, node)| node.manager && *id != mesh.node_id())
                .map(|(id, node)| (id.clone(), node.addresses.clone()))
                .collect();
            if managers != member.managers {
                member.managers = managers;
                if let Err(error) = durable::write_json(&folders.record(), &member) {
                    tracing::warn!(%error, "cannot remember the managers");
                }
            }
            known = nodes;
        }
        match &mut updates {
            Some(updates) => {
                if updates.next().await.is_none() {
                    return;
                }
                while updates.try_next().is_some() {}
            }
            None => agent.view_changed().await,
        }
    }
}

fn routes(state: &skep_state::State) -> BTreeMap<String, NodeRoute> {
    let route = |node: &skep_state::Node| NodeRoute {
        index: node.index,
        addresses: node.addresses.clone(),
        manager: node.role == NodeRole::Manager,
        hostname: String::new(),
    };
    state.nodes.iter().map(|(id, node)| (id.clone(), route(node))).collect()
}

fn peer_config(addresses: &[String], keep: bool) -> PeerConfig {
    let unique: BTreeSet<&String> = addresses.iter().collect();
    let addresses: Vec<SocketAddr> = unique.into_iter().filter_map(|address| address.parse().ok()).collect();
    PeerConfig { addresses, keep }
}

fn network_config(member: &Member) -> Result<HostNetworkConfig, NodeError> {
    let subnets: Result<Vec<Subnet>, _> = member.subnets.iter().map(|subnet| subnet.parse()).collect();
    Ok(HostNetworkConfig {
        subnets: subnets.map_err(NodeError::internal("the swarm's network"))?,
        mtu: MTU,
        host_prefix: HOST_PREFIX.to_owned(),
        ..HostNetworkConfig::default()
    })
}

/// What this node says of itself.
pub(crate) fn hello(local: &Local, member: &Member) -> Hello {
    Hello { description: local.description.clone(), addresses: vec![member.advertise.to_string()] }
}
