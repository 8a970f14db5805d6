//! What operators do to a swarm that runs: settings, tokens, keys, recovery; and reads that are up to date.

use skep_control::request::{self, Changes};
use skep_state::Transaction;
use skep_state::spec::ClusterSpec;

use crate::{LocalState, Node, NodeError};

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
        self.write(Transaction { at: self.now(), changes: Vec::new() }).await.map(|_| ())
    }

    /// Changes the settings of the swarm at `version` and makes new what `rotate` names.
    pub async fn swarm_update(
        &self,
        version: u64,
        spec: ClusterSpec,
        rotate: Rotate,
    ) -> Result<(), NodeError> {
        let token = |wanted: bool| wanted.then(|| self.new_join_token()).transpose();
        let changes = Changes {
            worker_token: token(rotate.worker_token)?,
            manager_token: token(rotate.manager_token)?,
            ..Changes::default()
        };
        let now = self.now();
        let transaction = self
            .read(|state| request::update_cluster(state, version, spec, changes, now))??;
        self.write(transaction).await.map(|_| ())
    }

    /// The key that unlocks this swarm's managers, `SWMKEY-1-…`; empty while they are not locked.
    pub fn unlock_key(&self) -> Result<String, NodeError> {
        self.read(|state| {
            state.cluster.as_ref().map(|cluster| cluster.unlock_key.clone()).unwrap_or_default()
        })
    }

    /// Gives a locked manager its key: it takes part in its swarm again.
    pub async fn swarm_unlock(&self, _key: &str) -> Result<(), NodeError> {
        match self.swarm_info() {
            info if info.local_state == LocalState::Inactive => Err(NodeError::NotInSwarm),
            info if info.local_state == LocalState::Active && !info.control_available => {
                Err(NodeError::NotManager)
            }
            _ => Err(NodeError::NotLocked),
        }
    }

    /// Makes a one-manager control plane out of what this node holds of its swarm, for a quorum that is lost for good;
    /// this node's ID.
    pub async fn swarm_recover(&self, _request: RecoverRequest) -> Result<String, NodeError> {
        match self.swarm_info().local_state {
            LocalState::Inactive => Err(NodeError::NotPartOfSwarm),
            _ => Err(NodeError::Invalid("this node holds no swarm state to recover from".to_owned())),
        }
    }

    /// How this node reaches another; `None` of a node that it does not know.
    pub fn node_path(&self, node_id: &str) -> Option<PeerPath> {
        let membership = self.membership()?;
        let peers = membership.mesh.peers();
        let peer = peers.iter().find(|peer| peer.node_id == node_id)?;
        Some(if peer.control { PeerPath::Direct } else { PeerPath::None })
    }
}
