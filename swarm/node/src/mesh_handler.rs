//! What this node does with what other nodes send: a table from kinds of messages to parts of the node, and who may
//! send which.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use skep_mesh::{
    Class, Handler, JoinReply, JoinRequest, PeerIdentity, RecvStream, RemoteError, Role, SendStream,
};
use skep_raft::RaftNode;
use skep_state::spec::NodeRole;
use skep_state::{NodeState, Transaction};
use tokio::sync::mpsc;

use crate::clock;
use crate::dataplane::DataPlane;
use crate::images::Images;
use crate::manager::{self, Dispatcher};
use crate::rpc::{self, FromLeader, Hello, ImageQuery};

/// Codes of refusals.
const NOT_ALLOWED: u16 = 10;
const FAILED: u16 = 11;

/// Messages on their way in a session.
const QUEUE: usize = 16;

/// The parts of the node, once they are there: the mesh must start before them.
pub(crate) struct Parts {
    /// Set on a manager.
    pub manager: Option<(RaftNode, Arc<Dispatcher>)>,
    pub images: Arc<Images>,
    pub data: Arc<DataPlane>,
}

/// Hands what arrives to the parts of the node.
///
/// The mesh holds the handler and some parts hold the mesh, so the parts must be let go when the membership stops: only
/// then the mesh's port is free again.
#[derive(Default)]
pub(crate) struct MeshHandler {
    parts: RwLock<Option<Arc<Parts>>>,
}

impl MeshHandler {
    /// From now on messages are served.
    pub(crate) fn set(&self, parts: Parts) {
        *self.parts.write() = Some(Arc::new(parts));
    }

    /// From now on nothing is served.
    pub(crate) fn clear(&self) {
        *self.parts.write() = None;
    }

    fn get(&self) -> Option<Arc<Parts>> {
        self.parts.read().clone()
    }

    fn parts(&self) -> Result<Arc<Parts>, RemoteError> {
        self.get().ok_or_else(|| RemoteError::new(RemoteError::BUSY, "this node is starting or stopping"))
    }

    fn manager(&self) -> Result<(RaftNode, Arc<Dispatcher>), RemoteError> {
        let manager = self.parts()?.manager.clone();
        manager.ok_or_else(|| RemoteError::new(NOT_ALLOWED, "this node is not a manager"))
    }

    async fn serve_session(
        &self,
        peer: &PeerIdentity,
        header: &Bytes,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> Result<(), String> {
        let (_, dispatcher) = self.manager().map_err(|error| error.to_string())?;
        let hello: Hello = rpc::decode(header)?;
        let (messages, mut messages_out) = mpsc::channel::<FromLeader>(QUEUE);
        let (reports_in, reports) = mpsc::channel(QUEUE);
        let served = dispatcher.serve(peer.node_id.clone(), hello, messages, reports);
        let inwards = async {
            while let Some(report) = rpc::receive(&mut receive).await? {
                if reports_in.send(report).await.is_err() {
                    break;
                }
            }
            Ok::<(), String>(())
        };
        let outwards = async {
            while let Some(message) = messages_out.recv().await {
                rpc::send(&mut send, &message).await?;
            }
            Ok::<(), String>(())
        };
        tokio::pin!(inwards);
        let written = async { tokio::join!(served, outwards).1 };
        // The last words ("not leader") must go out, so the writer is waited for; a broken reader ends it all.
        tokio::select! {
            written = written => written,
            read = &mut inwards => read,
        }
    }
}

#[async_trait]
impl Handler for MeshHandler {
    fn authorize(&self, peer: &PeerIdentity) -> bool {
        let Some(parts) = self.get() else { return true };
        match &parts.manager {
            // A manager that has no state yet cannot tell; its leader sends it the state over this very connection.
            Some((raft, _)) => {
                raft.read(|state| state.cluster.is_none() || state.nodes.contains_key(&peer.node_id))
            }
            // A worker may not have been told of a new node yet; the managers have the last word.
            None => true,
        }
    }

    async fn request(&self, peer: Arc<PeerIdentity>, kind: u16, body: Bytes) -> Result<Bytes, RemoteError> {
        match kind {
            rpc::RAFT => {
                if peer.role != Role::Manager {
                    tracing::warn!(node = %peer.node_id, "refused a Raft message from a worker");
                    return Err(RemoteError::new(NOT_ALLOWED, "only managers take part in Raft"));
                }
                let (raft, _) = self.manager()?;
                // The certificate says what the node was when it was made; the state says what it is.
                let manager = raft.read(|state| {
                    let node = state.nodes.get(&peer.node_id);
                    state.cluster.is_none() || node.is_some_and(|node| node.role == NodeRole::Manager)
                });
                if !manager {
                    return Err(RemoteError::new(NOT_ALLOWED, "this node is not a manager of the swarm"));
                }
                Ok(raft.handle_rpc(&peer.node_id, body).await)
            }
            rpc::IMAGE => {
                let query: ImageQuery =
                    rpc::decode(&body).map_err(|error| RemoteError::new(RemoteError::MALFORMED, error))?;
                Ok(rpc::encode(&self.parts()?.images.answer(&query).await))
            }
            rpc::LEAVE => {
                let (raft, _) = self.manager()?;
                let change = raft.read(|state| {
                    skep_control::node_state_change(state, &peer.node_id, NodeState::Down, rpc::LEFT)
                });
                let changes = change.into_iter().collect();
                raft.propose(Transaction { at: clock::now(), changes })
                    .await
                    .map_err(|error| RemoteError::new(FAILED, error.to_string()))?;
                Ok(Bytes::new())
            }
            other => Err(RemoteError::new(RemoteError::UNSUPPORTED, format!("unknown request {other}"))),
        }
    }

    async fn stream(
        &self,
        peer: Arc<PeerIdentity>,
        class: Class,
        kind: u16,
        header: Bytes,
        send: SendStream,
        receive: RecvStream,
    ) {
        let served = match (class, kind) {
            (Class::Control, rpc::SESSION) => self.serve_session(&peer, &header, send, receive).await,
            (Class::Bulk, rpc::BLOB) => match (self.parts(), std::str::from_utf8(&header)) {
                (Ok(parts), Ok(digest)) => parts.images.send_blob(digest, send).await,
                (Err(error), _) => Err(error.to_string()),
                (_, Err(error)) => Err(error.to_string()),
            },
            _ => Err(format!("unknown stream {kind}")),
        };
        if let Err(error) = served {
            tracing::debug!(node = %peer.node_id, kind, %error, "a stream ended");
        }
    }

    fn datagrams(&self, peer: &PeerIdentity, batch: &mut Vec<Bytes>) {
        match self.get() {
            Some(parts) => parts.data.inbound(&peer.node_id, batch),
            None => batch.clear(),
        }
    }

    fn peer_changed(&self, peer: &PeerIdentity, connected: bool) {
        tracing::debug!(node = %peer.node_id, connected, "control connection");
        if let Some(parts) = self.get()
            && connected
        {
            parts.data.reset_peer(&peer.node_id);
        }
    }

    async fn join(&self, remote: SocketAddr, request: JoinRequest) -> Result<JoinReply, RemoteError> {
        let (raft, _) = self.manager()?;
        manager::admit(&raft, remote, request).await
    }
}
