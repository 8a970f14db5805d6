//! A node's running membership of a swarm: mesh, manager part (while it is a manager), agent, data plane, started in
//! the order in which they need each other and stopped in the reverse one.

use std::sync::Arc;
use std::time::Duration;

use skep_image::Store;
use skep_mesh::{Identity, Mesh, MeshConfig, Role, SwarmClock};
use skep_netns::{HostNetwork, HostNetworkConfig, NamespacePool, Subnet};
use skep_raft::RaftNode;
use skep_seal::Vault;
use skep_state::spec::NodeRole;
use skep_state::{NodeDescription, NodeState, Transaction};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Directory, Told};
use crate::agent::{Agent, AgentContext, Exits, MTU, SessionLoop, Statuses};
use crate::certificates::Certificates;
use crate::dataplane::DataPlane;
use crate::images::Images;
use crate::keeper::Keeper;
use crate::manager::{ManagerSlot, peer_config};
use crate::member::{Folders, Member, Record};
use crate::mesh_handler::{Datagrams, MeshHandler, Parts};
use crate::role::RoleFollower;
use crate::{NodeConfig, NodeError, own_address, peers};

/// Network namespaces kept ready for containers.
const NAMESPACES: usize = 4;

/// How long a joining node may take to be served: Docker's join timeout.
pub(crate) const JOIN_WAIT: Duration = Duration::from_secs(20);

/// How often a joining node looks whether it is served.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// How the mesh says that a node is not listed.
const REFUSALS: [&str; 2] = ["not authorised", "was removed from the swarm"];

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
    /// The time that certificates are judged by.
    pub clock: SwarmClock,
}

/// A running membership.
pub(crate) struct Membership {
    pub mesh: Mesh,
    /// The manager part, while this node has one.
    pub manager: Arc<ManagerSlot>,
    /// What is remembered on disk.
    pub record: Arc<Record>,
    pub agent: Arc<Agent>,
    pub images: Arc<Images>,
    /// The keys with which what is on disk is sealed.
    pub vault: Vault,
    /// The time that certificates are judged by.
    pub clock: SwarmClock,
    handler: Arc<MeshHandler>,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

impl Membership {
    /// Starts as a member. With `first` the node makes a new swarm of which that is the first transaction. A node whose
    /// certificate says manager starts its manager part.
    pub(crate) async fn start(
        local: &Local,
        identity: Identity,
        record: Arc<Record>,
        vault: Vault,
        first: Option<Transaction>,
    ) -> Result<Self, NodeError> {
        let (member, folders) = (record.get(), Folders::new(&local.config.root));
        let network_config = network_config(&member)?;
        let subnets = network_config.subnets.clone();
        let handler = Arc::new(MeshHandler::default());
        let mesh_config = MeshConfig {
            listen: member.listen,
            clock: local.clock.clone(),
            epoch: member.epoch(),
            ..MeshConfig::new(identity.clone())
        };
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
        let manager = ManagerSlot::new(folders.raft(), mesh.clone(), vault.clone());
        // The record says worker where the certificate does not yet: on a manager of an epoch that is over.
        if identity.role() == Role::Manager && member.role == NodeRole::Manager {
            manager.start(first).await?;
        }
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
            vault: vault.clone(),
            images_used: parking_lot::Mutex::new(std::collections::HashMap::new()),
        };
        let agent = Agent::start(context, Arc::clone(&data)).await;
        let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
        let spawn = Spawner { cancel: &cancel, tracker: &tracker };
        let directory = Arc::new(Directory::new(Arc::clone(&agent) as Arc<dyn Told>, Arc::clone(&manager)));
        handler.set(Parts {
            directory: Arc::clone(&directory),
            manager: Arc::clone(&manager),
            images: Arc::clone(&images),
            data: Arc::clone(&data) as Arc<dyn Datagrams>,
            clock: local.clock.clone(),
            identity: {
                let mesh = mesh.clone();
                Box::new(move || mesh.identity())
            },
            record: Arc::clone(&record),
            backup: folders.backup(),
        });
        let session = SessionLoop {
            agent: Arc::clone(&agent),
            mesh: mesh.clone(),
            manager: Arc::clone(&manager),
            record: Arc::clone(&record),
            description: local.description.clone(),
        };
        let certificates = Certificates::new(
            mesh.clone(),
            local.clock.clone(),
            Arc::clone(&agent),
            Arc::clone(&manager),
            folders,
            vault.clone(),
            Arc::clone(&record),
        );
        spawn.run(Arc::clone(&certificates).keep());
        let role = RoleFollower {
            agent: Arc::clone(&agent),
            mesh: mesh.clone(),
            manager: Arc::clone(&manager),
            record: Arc::clone(&record),
            certificates,
        };
        spawn.run(role.run());
        let fence = Arc::clone(handler.fence());
        spawn.run(fence.run(mesh.clone(), Arc::clone(&record), Arc::clone(&manager)));
        spawn.run(Arc::clone(&agent).keep_saved());
        spawn.run(data.run(mesh.clone()));
        spawn.run(session.run());
        spawn.run(peers::follow(directory, mesh.clone(), Arc::clone(&record)));
        spawn.run(own_address::follow(mesh.clone(), Arc::clone(&record)));
        tracker.close();
        let clock = local.clock.clone();
        Ok(Self { mesh, manager, record, agent, images, vault, clock, handler, cancel, tracker })
    }

    /// This node's ID.
    pub(crate) fn node_id(&self) -> &str {
        self.mesh.node_id()
    }

    /// This node's identity as it is now: certificates come and go.
    pub(crate) fn identity(&self) -> Identity {
        self.mesh.identity()
    }

    /// Raft, while this node is a manager.
    pub(crate) fn raft(&self) -> Option<RaftNode> {
        self.manager.raft()
    }

    /// Whether no node talks to this one, and those that answer say that it is none of theirs.
    pub(crate) fn is_refused(&self) -> bool {
        let peers = self.mesh.peers();
        let says_no = |error: &str| REFUSALS.iter().any(|refusal| error.contains(refusal));
        peers.iter().all(|peer| !peer.control)
            && peers.iter().any(|peer| peer.last_error.as_deref().is_some_and(says_no))
    }

    /// Waits until this node is served: a manager has its vote and knows the leader, a worker has its assignments.
    pub(crate) async fn wait_until_served(&self) -> Result<(), NodeError> {
        let own = self.node_id();
        let served = || match self.raft() {
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
        self.manager.stop_loops().await;
    }

    /// Stops taking part, after [`Self::stop_loops`]; containers go on running.
    pub(crate) async fn stop(&self) {
        self.manager.stop().await;
        self.mesh.close().await;
        self.handler.clear();
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

fn network_config(member: &Member) -> Result<HostNetworkConfig, NodeError> {
    let subnets: Result<Vec<Subnet>, _> = member.subnets.iter().map(|subnet| subnet.parse()).collect();
    Ok(HostNetworkConfig {
        subnets: subnets.map_err(NodeError::internal("the swarm's network"))?,
        mtu: MTU,
        host_prefix: HOST_PREFIX.to_owned(),
        ..HostNetworkConfig::default()
    })
}
