//! What operators do to a swarm that runs: settings, tokens, keys, recovery; and reads that are up to date.

use skep_state::spec::ClusterSpec;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use skep_seal::UnlockKey;

use crate::handle::{refused, to_the_end};
use crate::{LocalState, Node, NodeError, manager, recover, swarm_ops};

/// What `swarm update` shall make anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotate {
    /// The token that admits workers.
    pub worker_token: bool,
    /// The token that admits managers.
    pub manager_token: bool,
    /// The key that unlocks managers.
    pub unlock_key: bool,
}

/// `swarm recover`.
#[derive(Debug, Clone, Default)]
pub struct RecoverRequest {
    /// The swarm's unlock key, where its managers are locked.
    pub unlock_key: Option<String>,
    /// Where the mesh listens from now on; empty means as before.
    pub listen_addr: String,
    /// The address told to others from now on; empty means as before.
    pub advertise_addr: String,
}

/// How this node reaches another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerPath {
    /// By a connection between the two.
    Direct,
    /// Through another node.
    Relayed {
        /// Node ID of the one between.
        via: String,
    },
    /// Not at all.
    None,
}

impl Node {
    /// Returns once this manager has applied everything that was acknowledged before the call, so that a read after it
    /// is up to date whichever manager it asks. Fails where the swarm has no leader.
    pub async fn read_barrier(&self) -> Result<(), NodeError> {
        let part = self.manager()?;
        let passed = part.while_it_runs(part.raft.read_barrier()).await;
        passed.ok_or(NodeError::NotManager)?.map_err(refused)
    }

    /// Changes the settings of the swarm at `version` and makes new what `rotate` names.
    pub async fn swarm_update(
        &self,
        version: u64,
        spec: ClusterSpec,
        rotate: Rotate,
    ) -> Result<(), NodeError> {
        let membership = self.membership().ok_or_else(|| self.why_not_in_swarm())?;
        let raft = membership.raft().ok_or(NodeError::NotManager)?;
        let now = membership.clock.now();
        let transaction = manager::update(&raft, &membership.identity(), version, spec, rotate, now).await?;
        self.write(transaction).await.map(|_| ())
    }

    /// The key that unlocks this swarm's managers, `SWMKEY-1-…`; empty while they are not locked.
    pub fn unlock_key(&self) -> Result<String, NodeError> {
        self.read(|state| {
            state.cluster.as_ref().map(|cluster| cluster.unlock_key.clone()).unwrap_or_default()
        })
    }

    /// Gives a locked manager its key: it takes part in its swarm again.
    pub async fn swarm_unlock(&self, key: &str) -> Result<(), NodeError> {
        let key = key.trim().to_owned();
        let node = self.clone();
        to_the_end(async move { node.unlock(&key).await }).await
    }

    /// Makes a one-manager control plane out of what this node holds of its swarm, for a quorum that is lost for good;
    /// this node's ID.
    pub async fn swarm_recover(&self, request: RecoverRequest) -> Result<String, NodeError> {
        let node = self.clone();
        to_the_end(async move { node.recover(request).await }).await
    }

    async fn unlock(&self, key: &str) -> Result<(), NodeError> {
        let inner = &self.inner;
        let _changing = inner.changing.lock().await;
        if !self.is_locked() {
            return Err(match self.swarm_info() {
                info if info.local_state == LocalState::Inactive => NodeError::NotInSwarm,
                info if info.local_state == LocalState::Active && !info.control_available => {
                    NodeError::NotManager
                }
                _ => NodeError::NotLocked,
            });
        }
        let key: UnlockKey = key.parse().map_err(|_| NodeError::WrongUnlockKey)?;
        let membership = swarm_ops::resume(&inner.local, Some(&key)).await?;
        *inner.membership.write() = membership.map(Arc::new);
        inner.locked.store(false, Ordering::Release);
        Ok(())
    }

    /// `swarm recover`, and `swarm init --force-new-cluster` on a member.
    pub(crate) async fn recover(&self, request: RecoverRequest) -> Result<String, NodeError> {
        let key = request.unlock_key.as_deref().map(str::trim).filter(|key| !key.is_empty());
        let key: Option<UnlockKey> =
            key.map(|key| key.parse().map_err(|_| NodeError::WrongUnlockKey)).transpose()?;
        if self.is_locked() {
            let key = key.as_ref().ok_or(NodeError::Locked)?;
            self.unlock(&key.to_string()).await?;
        }
        let _changing = self.inner.changing.lock().await;
        let membership = self.membership().ok_or(NodeError::NotPartOfSwarm)?;
        // Clients fill Docker's default in; it means "not said" here as well.
        let listen = if request.listen_addr == "0.0.0.0:2377" { "" } else { request.listen_addr.trim() };
        if !listen.is_empty() || !request.advertise_addr.is_empty() {
            self.set_address(listen, &request.advertise_addr).await?;
        }
        recover::recover(&self.inner.local, &membership, key.as_ref()).await?;
        membership.wait_until_served().await?;
        Ok(membership.node_id().to_owned())
    }

    /// How this node reaches another; `None` of a node that it does not know.
    pub fn node_path(&self, node_id: &str) -> Option<PeerPath> {
        let membership = self.membership()?;
        let peers = membership.mesh.peers();
        let peer = peers.iter().find(|peer| peer.node_id == node_id)?;
        Some(match &peer.via {
            Some(via) => PeerPath::Relayed { via: via.clone() },
            None if peer.control => PeerPath::Direct,
            None => PeerPath::None,
        })
    }
}
