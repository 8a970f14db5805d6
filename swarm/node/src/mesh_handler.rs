//! What this node does with what other nodes send: a table from kinds of messages to parts of the node, and who may
//! send which.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use skep_mesh::{
    Class, EpochProof, Handler, Identity, JoinReply, JoinRequest, PeerIdentity, RecvStream, RemoteError,
    SendStream, SwarmClock,
};
use skep_state::{NodeState, Transaction};
use tokio::sync::mpsc;

use crate::access::{Directory, Message, Refused};
use crate::images::Images;
use crate::manager::{self, Issued, ManagerPart, ManagerSlot};
use crate::member::Record;
use crate::recover::Fence;
use crate::rpc::{self, CertificateRequest, FromLeader, Hello, ImageQuery, SESSION_QUEUE};
use crate::{backup, clock};

/// Codes of refusals.
pub(crate) const NOT_ALLOWED: u16 = 10;
const FAILED: u16 = 11;

/// Packets that are refused are spoken of at most this often.
const COMPLAINT: Duration = Duration::from_secs(1);

/// What takes the overlay's packets.
pub(crate) trait Datagrams: Send + Sync {
    /// Takes datagrams that came from a peer. Quick; takes all out of the batch. False when there is no such node: then
    /// they are dropped.
    fn inbound(&self, node_id: &str, batch: &mut Vec<Bytes>) -> bool;

    /// The connection to a peer was made anew.
    fn reset_peer(&self, node_id: &str);
}

/// The parts of the node, once they are there: the mesh must start before them.
pub(crate) struct Parts {
    /// Who may send what.
    pub directory: Arc<Directory>,
    /// The manager part, while there is one.
    pub manager: Arc<ManagerSlot>,
    pub images: Arc<Images>,
    pub data: Arc<dyn Datagrams>,
    /// The time that certificates are judged by.
    pub clock: SwarmClock,
    /// This node's identity as it is now.
    pub identity: Box<dyn Fn() -> Identity + Send + Sync>,
    /// What this node remembers of its membership.
    pub record: Arc<Record>,
    /// Where a worker keeps its copy of the swarm's state.
    pub backup: PathBuf,
}

/// Hands what arrives to the parts of the node.
///
/// The mesh holds the handler and some parts hold the mesh, so the parts must be let go when the membership stops: only
/// then the mesh's port is free again.
#[derive(Default)]
pub(crate) struct MeshHandler {
    fence: Arc<Fence>,
    parts: RwLock<Option<Arc<Parts>>>,
    complained: Mutex<Option<Instant>>,
}

impl MeshHandler {
    /// What is told of later epochs; from the first connection on.
    pub(crate) fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }

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

    fn manager(&self) -> Result<Arc<ManagerPart>, RemoteError> {
        let manager = self.parts()?.manager.get();
        manager.ok_or_else(|| RemoteError::new(NOT_ALLOWED, "this node is not a manager"))
    }

    /// The parts of the node, if the peer may send the message.
    fn allow(&self, peer: &PeerIdentity, message: Message) -> Result<Arc<Parts>, RemoteError> {
        let parts = self.parts()?;
        match parts.directory.check(peer, message) {
            Ok(()) => Ok(parts),
            Err(Refused::Unknown) => {
                Err(RemoteError::new(RemoteError::UNSUPPORTED, Refused::Unknown.to_string()))
            }
            Err(reason) => Err(RemoteError::new(NOT_ALLOWED, reason.to_string())),
        }
    }

    async fn issue(&self, parts: &Parts, node_id: &str, csr_pem: &str) -> Result<Issued, RemoteError> {
        let part = self.manager()?;
        manager::issue(&part.raft, &(parts.identity)(), node_id, csr_pem, parts.clock.now()).await
    }

    async fn serve_session(
        &self,
        peer: &PeerIdentity,
        header: &Bytes,
        mut send: SendStream,
        mut receive: RecvStream,
    ) -> Result<(), String> {
        let part = self.manager().map_err(|error| error.to_string())?;
        let hello: Hello = rpc::decode(header)?;
        let (messages, mut messages_out) = mpsc::channel::<FromLeader>(SESSION_QUEUE);
        let (reports_in, reports) = mpsc::channel(SESSION_QUEUE);
        let served = part.dispatcher.serve(peer.node_id.clone(), hello, messages, reports);
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
        // Before the parts are there nothing is served.
        self.get().is_none_or(|parts| parts.directory.admits(peer))
    }

    async fn request(&self, peer: Arc<PeerIdentity>, kind: u16, body: Bytes) -> Result<Bytes, RemoteError> {
        let parts = self.allow(&peer, Message::Request(kind))?;
        match kind {
            rpc::RAFT => Ok(self.manager()?.raft.handle_rpc(&peer.node_id, body).await),
            rpc::CERTIFICATE => {
                let request: CertificateRequest =
                    rpc::decode(&body).map_err(|error| RemoteError::new(RemoteError::MALFORMED, error))?;
                let issued = self.issue(&parts, &peer.node_id, &request.csr_pem).await?;
                Ok(rpc::encode(&issued))
            }
            rpc::BACKUP => {
                let path = parts.backup.clone();
                let stored = tokio::task::spawn_blocking(move || backup::store(&path, &body)).await;
                match stored.map_err(|error| error.to_string()) {
                    Ok(Ok(())) => Ok(Bytes::new()),
                    Ok(Err(error)) => Err(RemoteError::new(FAILED, error.to_string())),
                    Err(error) => Err(RemoteError::new(FAILED, error)),
                }
            }
            rpc::IMAGE => {
                let query: ImageQuery =
                    rpc::decode(&body).map_err(|error| RemoteError::new(RemoteError::MALFORMED, error))?;
                Ok(rpc::encode(&parts.images.answer(&query).await))
            }
            rpc::LEAVE => {
                let raft = self.manager()?.raft.clone();
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
        let Ok(parts) = self.allow(&peer, Message::Stream(class, kind)) else { return };
        let served = match (class, kind) {
            (Class::Control, rpc::SESSION) => self.serve_session(&peer, &header, send, receive).await,
            (Class::Bulk, rpc::BLOB) => match std::str::from_utf8(&header) {
                Ok(digest) => parts.images.send_blob(digest, send).await,
                Err(error) => Err(error.to_string()),
            },
            _ => Err(format!("unknown stream {kind}")),
        };
        if let Err(error) = served {
            tracing::debug!(node = %peer.node_id, kind, %error, "a stream ended");
        }
    }

    fn datagrams(&self, peer: &PeerIdentity, batch: &mut Vec<Bytes>) {
        // The data plane has the list of nodes at hand by itself: this is the path of every packet.
        let taken = self.get().map(|parts| parts.data.inbound(&peer.node_id, batch));
        if taken == Some(false) {
            let mut complained = self.complained.lock();
            if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
                *complained = Some(Instant::now());
                let reason = Refused::NotListed;
                tracing::warn!(node = %peer.node_id, kind = "datagram", %reason, "refused packets");
            }
        }
        batch.clear();
    }

    fn peer_changed(&self, peer: &PeerIdentity, connected: bool) {
        tracing::debug!(node = %peer.node_id, connected, "control connection");
        if let Some(parts) = self.get()
            && connected
        {
            parts.data.reset_peer(&peer.node_id);
        }
    }

    fn may_relay(&self, from: &PeerIdentity, to: &str) -> bool {
        self.get().is_some_and(|parts| parts.directory.may_relay(from, to))
    }

    async fn join(&self, remote: SocketAddr, request: JoinRequest) -> Result<JoinReply, RemoteError> {
        let (parts, part) = (self.parts()?, self.manager()?);
        let epoch = parts.record.get().epoch;
        manager::admit(&part.raft, &(parts.identity)(), remote, request, parts.clock.now(), epoch).await
    }

    async fn reenrol(
        &self,
        remote: SocketAddr,
        peer: PeerIdentity,
        _key_digest: String,
        csr_pem: String,
    ) -> Result<JoinReply, RemoteError> {
        tracing::info!(%remote, node = %peer.node_id, "a node wants to re-enrol");
        let issued = self.issue(&*self.parts()?, &peer.node_id, &csr_pem).await?;
        Ok(JoinReply { chain_pem: issued.chain_pem, ca_pem: issued.trust_pem, extra: Bytes::new() })
    }

    fn superseded(&self, proof: EpochProof) {
        self.fence.superseded(proof);
    }
}

#[cfg(test)]
#[path = "mesh_handler_test.rs"]
mod tests;
