//! What the mesh gives to Raft.

use async_trait::async_trait;
use bytes::Bytes;

/// Carries one opaque request to another manager and brings its answer back. Whoever implements it bounds its own
/// connect and answer times; Raft puts a deadline of its own on every call and drops the future when that passes.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `rpc` to the manager with this node ID (25 characters); its side hands it to
    /// [`crate::RaftNode::handle_rpc`] and returns what that returns. Must not queue for a peer that is not there:
    /// answer [`TransportError::Unreachable`] at once.
    async fn send(&self, target_node_id: &str, rpc: Bytes) -> Result<Bytes, TransportError>;
}

/// Why a request was not answered. The difference matters: a forwarded proposal is sent again only after the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The request certainly did not reach the peer.
    #[error("manager {node_id} cannot be reached: {reason}")]
    Unreachable {
        /// The peer.
        node_id: String,
        /// What the transport saw.
        reason: String,
    },
    /// The request may have reached the peer; its answer did not come back.
    #[error("the answer of manager {node_id} was lost: {reason}")]
    Lost {
        /// The peer.
        node_id: String,
        /// What the transport saw.
        reason: String,
    },
}
