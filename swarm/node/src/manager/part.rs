//! The manager part of a node: Raft, sessions of agents, the leader's loop. It comes and goes with the node's role while
//! mesh, agent, containers and data plane stay up, so everybody else looks it up in a [`ManagerSlot`] each time.
//!
//! ```text
//!              start (promoted, or was a manager before the restart)
//!   no part ────────────────────────────────────────────────────────> part
//!      ^  ^ │                                                           │ stop (demoted, or the node stops)
//!      │  │ └─ start fails: the folder is in use or damaged ─> no part  │ the files stay
//!      │  └─────────────────────────────────────────────────────────────┘
//!      └─ forget: once the node has a worker's certificate its Raft files go as well
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use skep_mesh::{Mesh, PeerConfig};
use skep_raft::{RaftNode, RaftOptions, Transport};
use skep_seal::Vault;
use skep_state::Transaction;
use skep_state::spec::NodeRole;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Dispatcher, Leader, MeshTransport, locking, settings};
use crate::{NodeError, backup};

/// A running manager part.
pub(crate) struct ManagerPart {
    /// Its Raft.
    pub raft: RaftNode,
    /// Serves agents' sessions.
    pub dispatcher: Arc<Dispatcher>,
    transport: Arc<MeshTransport>,
    cancel: CancellationToken,
    tracker: TaskTracker,
    /// Ends the loop also when the part is dropped half-started.
    _stop: DropGuard,
}

/// Where the manager part is found while there is one.
pub(crate) struct ManagerSlot {
    folder: PathBuf,
    mesh: Mesh,
    vault: Vault,
    current: watch::Sender<Option<Arc<ManagerPart>>>,
    /// One start or stop at a time.
    changing: tokio::sync::Mutex<()>,
}

impl ManagerSlot {
    /// An empty slot; Raft's files are, or will be, in `folder`, sealed with the vault's key.
    pub(crate) fn new(folder: PathBuf, mesh: Mesh, vault: Vault) -> Arc<Self> {
        let (current, changing) = (watch::Sender::new(None), tokio::sync::Mutex::new(()));
        Arc::new(Self { folder, mesh, vault, current, changing })
    }

    /// The manager part, if the node has one now.
    pub(crate) fn get(&self) -> Option<Arc<ManagerPart>> {
        self.current.borrow().clone()
    }

    /// Raft, if the node is a manager now.
    pub(crate) fn raft(&self) -> Option<RaftNode> {
        self.current.borrow().as_ref().map(|part| part.raft.clone())
    }

    /// Follows the comings and goings.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<ManagerPart>>> {
        self.current.subscribe()
    }

    /// Starts the manager part; with `first` as the first transaction of a new swarm. Nothing happens when it runs.
    pub(crate) async fn start(&self, first: Option<Transaction>) -> Result<(), NodeError> {
        let _changing = self.changing.lock().await;
        if self.get().is_some() {
            return Ok(());
        }
        let part = ManagerPart::start(&self.folder, &self.mesh, &self.vault, first).await?;
        self.current.send_replace(Some(Arc::new(part)));
        Ok(())
    }

    /// Ends sessions and decisions; Raft goes on voting.
    pub(crate) async fn stop_loops(&self) {
        if let Some(part) = self.get() {
            part.stop_loops().await;
        }
    }

    /// Stops the manager part; its files stay.
    pub(crate) async fn stop(&self) {
        let _changing = self.changing.lock().await;
        // First out of the slot: whoever looks it up from now on is told that this node is no manager.
        if let Some(part) = self.current.send_replace(None) {
            part.stop_loops().await;
            part.raft.shutdown().await;
            part.transport.clear();
        }
    }

    /// Whether there are files of a manager part, running or not.
    pub(crate) fn has_files(&self) -> bool {
        self.folder.exists()
    }

    /// Removes Raft's files, unless the part runs. Only for a node that has been told since it stopped that it is a
    /// worker: a manager without its log could vote twice.
    pub(crate) async fn forget(&self) -> Result<(), NodeError> {
        let _changing = self.changing.lock().await;
        if self.get().is_some() {
            return Ok(());
        }
        // Under another name first: a folder removed by half must not be taken for a log.
        let doomed = self.folder.with_extension("gone");
        let folder = self.folder.clone();
        let removed = tokio::task::spawn_blocking(move || {
            let absent_is_fine = |error: std::io::Error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            };
            std::fs::remove_dir_all(&doomed).or_else(absent_is_fine)?;
            std::fs::rename(&folder, &doomed).or_else(absent_is_fine)?;
            std::fs::remove_dir_all(&doomed).or_else(absent_is_fine)
        });
        removed
            .await
            .map_err(NodeError::internal("remove the swarm's state"))?
            .map_err(NodeError::internal("cannot remove this former manager's copy of the swarm's state"))
    }
}

impl ManagerPart {
    async fn start(
        folder: &std::path::Path,
        mesh: &Mesh,
        vault: &Vault,
        first: Option<Transaction>,
    ) -> Result<Self, NodeError> {
        let transport = Arc::new(MeshTransport::new(mesh.clone()));
        let options = RaftOptions::new(folder, mesh.node_id(), vault.key());
        let raft = RaftNode::open(options, Arc::clone(&transport) as Arc<dyn Transport>)
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
        let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
        let (dispatcher, inbox) = Dispatcher::new(raft.clone(), cancel.clone());
        let node_id = mesh.node_id().to_owned();
        let silence = raft.read(skep_control::silence_allowed);
        let leader = Leader { raft: raft.clone(), mesh: mesh.clone(), node_id, inbox, silence };
        let run = |work: futures_util::future::BoxFuture<'static, ()>| {
            let stopped = cancel.clone();
            tracker.spawn(async move {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = work => {}
                }
            });
        };
        run(Box::pin(leader.run()));
        run(Box::pin(locking::follow(raft.clone(), vault.clone())));
        run(Box::pin(settings::finish_rotations(raft.clone())));
        run(Box::pin(backup::spread(raft.clone(), mesh.clone())));
        tracker.close();
        let stop = cancel.clone().drop_guard();
        Ok(Self { raft, dispatcher, transport, cancel, tracker, _stop: stop })
    }

    /// Waits for what needs this manager part, but not beyond its end: a manager that was taken out of Raft never hears
    /// what became of its last requests.
    pub(crate) async fn while_it_runs<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased; // what is done is done
            done = work => Some(done),
            () = self.cancel.cancelled() => None,
        }
    }

    async fn stop_loops(&self) {
        self.cancel.cancel();
        self.tracker.wait().await;
    }
}

/// A node's addresses as the mesh takes them; `keep` for managers, to which connections are kept up.
pub(crate) fn peer_config(addresses: &[String], keep: bool) -> PeerConfig {
    let unique: BTreeSet<&String> = addresses.iter().collect();
    let addresses: Vec<SocketAddr> = unique.into_iter().filter_map(|address| address.parse().ok()).collect();
    PeerConfig { addresses, keep }
}
