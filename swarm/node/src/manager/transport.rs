//! Raft's messages over the mesh's control connections.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use skep_mesh::{Mesh, RequestError};
use skep_raft::{Transport, TransportError};

use crate::rpc;

/// Longer than anything that Raft waits for; it puts its own, shorter deadline on every call.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Raft's messages over the mesh. Raft's tasks may outlive the membership a little, so the mesh can be taken away: its
/// port is free only when nobody holds it.
pub(crate) struct MeshTransport {
    mesh: RwLock<Option<Mesh>>,
}

impl MeshTransport {
    /// Over a mesh.
    pub(crate) fn new(mesh: Mesh) -> Self {
        Self { mesh: RwLock::new(Some(mesh)) }
    }

    /// From now on nobody is reachable.
    pub(crate) fn clear(&self) {
        *self.mesh.write() = None;
    }
}

#[async_trait]
impl Transport for MeshTransport {
    async fn send(&self, target_node_id: &str, rpc: Bytes) -> Result<Bytes, TransportError> {
        let unreachable =
            |reason: String| TransportError::Unreachable { node_id: target_node_id.to_owned(), reason };
        let mesh = self.mesh.read().clone().filter(|mesh| mesh.is_connected(target_node_id));
        let Some(mesh) = mesh else { return Err(unreachable("no control connection".to_owned())) };
        mesh.request(target_node_id, rpc::RAFT, rpc, TIMEOUT).await.map_err(|error| match error {
            // The mesh promises that of these nothing reached the peer.
            RequestError::UnknownPeer(_)
            | RequestError::NotConnected { .. }
            | RequestError::TooLarge { .. }
            | RequestError::Closed => unreachable(error.to_string()),
            _ => TransportError::Lost { node_id: target_node_id.to_owned(), reason: error.to_string() },
        })
    }
}
