//! What nodes say to each other over the mesh: kinds of requests and streams, and their messages (JSON, so that fields
//! can be added and old nodes ignore them).

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_mesh::{RecvStream, SendStream, read_frame, write_frame};
use skep_state::spec::Availability;
use skep_state::{NodeDescription, TaskStatus};

use crate::view::Assignments;

/// Request: one Raft message, opaque here. Managers only.
pub(crate) const RAFT: u16 = 1;
/// Request: do you have this image? [`ImageQuery`], answered by [`ImageAnswer`].
pub(crate) const IMAGE: u16 = 2;
/// Request: the asking node leaves. Nothing in it, and nothing in the answer.
pub(crate) const LEAVE: u16 = 3;
/// Request: a certificate for the asking node. [`CertificateRequest`]; answered with what was issued.
pub(crate) const CERTIFICATE: u16 = 4;
/// Request: keep this copy of the swarm's state, sealed; an empty one takes the old one away. Answered by nothing.
pub(crate) const BACKUP: u16 = 5;
/// Stream on the control connection: an agent's session with the leader. Header: [`Hello`]; then frames of
/// [`FromLeader`] one way and [`Report`] the other.
pub(crate) const SESSION: u16 = 1;
/// Stream on the bulk connection: a blob. Header: its digest; then its bytes.
pub(crate) const BLOB: u16 = 2;

/// Longest message of a session: the whole view of a node with thousands of tasks.
const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Messages of a session on their way on one node: an agent and a leader wait for each other beyond it.
pub(crate) const SESSION_QUEUE: usize = 16;

/// Why a node is down that said goodbye.
pub(crate) const LEFT: &str = "node left the swarm";

/// An agent introduces itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Hello {
    /// What the node says of itself.
    pub description: NodeDescription,
    /// Where its mesh port may be reached, best first.
    pub addresses: Vec<String>,
}

/// What a manager sends in a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FromLeader {
    /// This manager does not lead; that one may. And where the managers are now, for an asker that has been away or
    /// moved while they did.
    NotLeader {
        /// Node ID of the leader.
        leader: Option<String>,
        /// Node IDs and addresses.
        managers: Vec<(String, Vec<String>)>,
    },
    /// Assignments, whole or as a difference.
    Assignments(Box<Assignments>),
    /// No session now.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What an agent reports.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    /// Task IDs and what they are doing.
    pub statuses: Vec<(String, TaskStatus)>,
    /// Where the node's mesh port may be reached from now on, when that has changed.
    pub addresses: Option<Vec<String>>,
}

/// Asks for an image by name or ID.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageQuery {
    /// As the user wrote it.
    pub reference: String,
}

/// An image that the asked node has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageAnswer {
    /// Digest of its manifest, `sha256:…`.
    pub manifest: String,
    /// Digest and size of everything that it is made of.
    pub blobs: Vec<(String, u64)>,
}

/// A node asks for its next certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CertificateRequest {
    /// A signing request for the node's own key.
    pub csr_pem: String,
}

/// What a joining node adds to its certificate request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinExtra {
    /// The node introduces itself.
    pub hello: Hello,
    /// Availability asked for.
    pub availability: Availability,
}

/// What a joining node is told besides its certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JoinedExtra {
    /// The managers: node ID and addresses.
    pub managers: Vec<(String, Vec<String>)>,
    /// Subnets that go over the mesh.
    pub subnets: Vec<String>,
    /// The proof of the swarm's epoch, empty if it was never recovered.
    #[serde(default)]
    pub epoch: Vec<u8>,
}

/// Encodes a message. Messages are plain data: encoding them cannot fail.
pub(crate) fn encode<T: Serialize>(message: &T) -> Bytes {
    serde_json::to_vec(message).map(Bytes::from).unwrap_or_default()
}

/// Decodes a message; the error is for the log and for the peer.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("cannot decode the message: {error}"))
}

/// Sends one message on a stream.
pub(crate) async fn send<T: Serialize>(stream: &mut SendStream, message: &T) -> Result<(), String> {
    write_frame(stream, encode(message)).await.map_err(|error| error.to_string())
}

/// The next message on a stream; `None` at its end.
pub(crate) async fn receive<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<Option<T>, String> {
    match read_frame(stream, MAX_FRAME).await {
        Ok(Some(frame)) => decode(&frame).map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
