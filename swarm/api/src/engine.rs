//! What the API needs of the node under it.

use std::net::SocketAddr;

use async_trait::async_trait;
use skep_image::Store;
use skep_node::{
    InitRequest, JoinRequest, ManagerStatus, Node, NodeError, NodeInfo, PeerPath, RecoverRequest, Rotate,
    SwarmInfo,
};
use skep_state::spec::ClusterSpec;
use skep_state::{State, Timestamp, Transaction};

/// What the API needs of the node under it; [`Node`] in earnest. The methods are [`Node`]'s, see there.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The image store of this node. Its calls block.
    fn images(&self) -> &Store;
    /// The version of the program, for a header of every reply; unlike [`Engine::info`] it costs nothing.
    fn version(&self) -> &str;
    /// What `info` shows of the node itself.
    async fn info(&self) -> NodeInfo;
    /// What `info` shows of the swarm.
    fn swarm_info(&self) -> SwarmInfo;
    /// Makes a swarm; this node's ID in it.
    async fn swarm_init(&self, request: InitRequest) -> Result<String, NodeError>;
    /// Joins a swarm.
    async fn swarm_join(&self, request: JoinRequest) -> Result<(), NodeError>;
    /// Leaves the swarm.
    async fn swarm_leave(&self, force: bool) -> Result<(), NodeError>;
    /// Changes the swarm's settings, tokens, keys and authority.
    async fn swarm_update(&self, version: u64, spec: ClusterSpec, rotate: Rotate) -> Result<(), NodeError>;
    /// Gives a locked manager its key.
    async fn swarm_unlock(&self, key: &str) -> Result<(), NodeError>;
    /// The key that unlocks managers; empty while they are not locked.
    fn unlock_key(&self) -> Result<String, NodeError>;
    /// Makes a one-manager control plane of what this node holds; this node's ID.
    async fn swarm_recover(&self, request: RecoverRequest) -> Result<String, NodeError>;
    /// Where this node listens, and which address it tells the others.
    fn addresses(&self) -> Result<(SocketAddr, SocketAddr), NodeError>;
    /// Changes both while the node runs; empty means as it is.
    async fn swarm_address(&self, listen: &str, advertise: &str) -> Result<(), NodeError>;
    /// Waits until [`Engine::look`] shows all that was acknowledged before this call.
    async fn read_barrier(&self) -> Result<(), NodeError>;
    /// How this node reaches another.
    fn node_path(&self, node_id: &str) -> Option<PeerPath>;
    /// Shows the replicated state of this manager to `look`, once. Fails, without a call, on any other node.
    fn look(&self, look: &mut dyn FnMut(&State)) -> Result<(), NodeError>;
    /// Commits a transaction; `look` sees it afterwards.
    async fn write(&self, transaction: Transaction) -> Result<u64, NodeError>;
    /// The place in Raft of a node, if it is a manager.
    fn manager_status(&self, node_id: &str) -> Option<ManagerStatus>;
    /// Whether tasks of the swarm can run an image.
    async fn image_available(&self, reference: &str) -> bool;
    /// A container of this node that uses an image.
    fn image_in_use(&self, image_id: &str) -> Option<String>;
    /// This moment.
    fn now(&self) -> Timestamp;
    /// A new random object ID.
    fn new_id(&self) -> String;
    /// The port of the mesh.
    fn mesh_port(&self) -> u16;
}

impl dyn Engine {
    /// What `look` finds in the replicated state of this manager.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&State) -> R) -> Result<R, NodeError> {
        let mut look = Some(look);
        let mut found = None;
        self.look(&mut |state| found = look.take().map(|look| look(state)))?;
        // An engine that neither fails nor calls breaks its contract; to the user that is a manager that cannot serve.
        found.ok_or(NodeError::NotManager)
    }
}

#[async_trait]
impl Engine for Node {
    fn images(&self) -> &Store {
        Self::images(self)
    }

    fn version(&self) -> &str {
        &self.config().version
    }

    async fn info(&self) -> NodeInfo {
        Self::info(self).await
    }

    fn swarm_info(&self) -> SwarmInfo {
        Self::swarm_info(self)
    }

    async fn swarm_init(&self, request: InitRequest) -> Result<String, NodeError> {
        Self::swarm_init(self, request).await
    }

    async fn swarm_join(&self, request: JoinRequest) -> Result<(), NodeError> {
        Self::swarm_join(self, request).await
    }

    async fn swarm_leave(&self, force: bool) -> Result<(), NodeError> {
        Self::swarm_leave(self, force).await
    }

    async fn swarm_update(&self, version: u64, spec: ClusterSpec, rotate: Rotate) -> Result<(), NodeError> {
        Self::swarm_update(self, version, spec, rotate).await
    }

    async fn swarm_unlock(&self, key: &str) -> Result<(), NodeError> {
        Self::swarm_unlock(self, key).await
    }

    fn unlock_key(&self) -> Result<String, NodeError> {
        Self::unlock_key(self)
    }

    async fn swarm_recover(&self, request: RecoverRequest) -> Result<String, NodeError> {
        Self::swarm_recover(self, request).await
    }

    fn addresses(&self) -> Result<(SocketAddr, SocketAddr), NodeError> {
        Self::addresses(self)
    }

    async fn swarm_address(&self, listen: &str, advertise: &str) -> Result<(), NodeError> {
        Self::swarm_address(self, listen, advertise).await
    }

    async fn read_barrier(&self) -> Result<(), NodeError> {
        Self::read_barrier(self).await
    }

    fn node_path(&self, node_id: &str) -> Option<PeerPath> {
        Self::node_path(self, node_id)
    }

    fn look(&self, look: &mut dyn FnMut(&State)) -> Result<(), NodeError> {
        self.read(look)
    }

    async fn write(&self, transaction: Transaction) -> Result<u64, NodeError> {
        Self::write(self, transaction).await
    }

    fn manager_status(&self, node_id: &str) -> Option<ManagerStatus> {
        Self::manager_status(self, node_id)
    }

    async fn image_available(&self, reference: &str) -> bool {
        Self::image_available(self, reference).await
    }

    fn image_in_use(&self, image_id: &str) -> Option<String> {
        Self::image_in_use(self, image_id)
    }

    fn now(&self) -> Timestamp {
        Self::now(self)
    }

    fn new_id(&self) -> String {
        Self::new_id(self)
    }

    fn mesh_port(&self) -> u16 {
        self.config().listen.port()
    }
}
