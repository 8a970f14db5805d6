//! What a node does with what its peers send it.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::class::Class;
use crate::epoch::EpochProof;
use crate::identity::PeerIdentity;
use crate::join::{JoinReply, JoinRequest};
use crate::stream::{RecvStream, SendStream};

/// A refusal that travels back to the asker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteError {
    /// For programs: the handler's own codes. Those from [`RemoteError::RESERVED`] on are the mesh's.
    pub code: u16,
    /// For people. Cut at 4 KiB on the wire.
    pub message: String,
}

/// The receiving side of a node. Methods run concurrently, each stream in a task of its own.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Whether a peer with a good certificate may connect (asked at each new connection, both ways). Must be cheap.
    fn authorize(&self, _peer: &PeerIdentity) -> bool {
        true
    }

    /// Answers one request. Runs to its end even if the asker has given up.
    async fn request(&self, peer: Arc<PeerIdentity>, kind: u16, body: Bytes) -> Result<Bytes, RemoteError>;

    /// Serves one stream. A dropped `send` is finished; `reset()` says that something went wrong.
    async fn stream(
        &self,
        peer: Arc<PeerIdentity>,
        class: Class,
        kind: u16,
        header: Bytes,
        send: SendStream,
        recv: RecvStream,
    ) {
        let _ = (peer, class, kind, header, send, recv);
    }

    /// Takes the datagrams that have come in; whatever is left in `batch` is thrown away. Runs on the receiving task:
    /// must not block and be quick.
    fn datagrams(&self, peer: &PeerIdentity, batch: &mut Vec<Bytes>) {
        let _ = peer;
        batch.clear();
    }

    /// Whether two other nodes may talk through this one. Asked about once a second while they do; must be cheap.
    fn may_relay(&self, from: &PeerIdentity, to: &str) -> bool {
        let _ = (from, to);
        false
    }

    /// A peer's control connection came up or went away. Must be cheap; the state may have changed again since.
    fn peer_changed(&self, peer: &PeerIdentity, connected: bool) {
        let _ = (peer, connected);
    }

    /// A peer has proven that the swarm was recovered: it is in a later epoch than this node knew. The mesh is in it
    /// already; a manager of the former one must stop being one. Must be cheap.
    fn superseded(&self, proof: EpochProof) {
        let _ = proof;
    }

    /// Decides on a member that wants a new certificate because the one it has is of no use any more (or its clock is
    /// wrong). It has proven that it holds the key of `peer`'s certificate, which a CA that is trusted now has signed,
    /// **however long ago**: whether it is listed, with that key, and in which role, is the handler's to judge.
    /// The answer's `extra` is not sent. `key_digest` is [`Identity::key_digest`](crate::Identity::key_digest) of that key, and `csr_pem` is for it.
    async fn reenrol(
        &self,
        remote: SocketAddr,
        peer: PeerIdentity,
        key_digest: String,
        csr_pem: String,
    ) -> Result<JoinReply, RemoteError> {
        let _ = (remote, peer, key_digest, csr_pem);
        Err(RemoteError::new(RemoteError::UNSUPPORTED, "this node does not issue certificates"))
    }

    /// Decides on a node that wants to join. Must itself check the request's token against the swarm's.
    async fn join(&self, remote: SocketAddr, request: JoinRequest) -> Result<JoinReply, RemoteError> {
        let _ = (remote, request);
        Err(RemoteError::new(RemoteError::UNSUPPORTED, "this node does not take joins"))
    }
}

impl RemoteError {
    /// Codes from here on are the mesh's own.
    pub const RESERVED: u16 = 0xff00;
    /// Too much is being asked at once; ask again later.
    pub const BUSY: u16 = 0xff01;
    /// The node does not do this.
    pub const UNSUPPORTED: u16 = 0xff02;
    /// The message was not understood.
    pub const MALFORMED: u16 = 0xff03;
    /// The answer is too big to send.
    pub const ANSWER_TOO_LARGE: u16 = 0xff04;

    /// The caller is not who it must be for this.
    pub const REFUSED: u16 = 0xff05;

    /// A refusal.
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
