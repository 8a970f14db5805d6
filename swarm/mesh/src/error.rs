//! What can go wrong on the mesh, as its callers see it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::class::Class;
use crate::handler::RemoteError;

/// Why a mesh does not start, or does not take a new identity.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The UDP socket could not be had.
    #[error("listen on UDP {addr}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The QUIC endpoint could not be made.
    #[error("start the QUIC endpoint")]
    Endpoint(#[source] io::Error),
    /// The identity does not make a TLS configuration.
    #[error("set up TLS: {0}")]
    Tls(String),
    /// A new identity must be of the same node and the same CA.
    #[error("the new identity is of node {new}, this mesh is node {own}")]
    OtherNode {
        /// This mesh's node.
        own: String,
        /// The identity's node.
        new: String,
    },
}

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No such peer was set, and it has not connected either.
    #[error("node {0} is not known to the mesh")]
    UnknownPeer(String),
    /// No connection came up in time. The request was not sent.
    #[error("no connection to node {node_id} within {waited:?}{}", why(.last_error))]
    NotConnected {
        /// The peer.
        node_id: String,
        /// How long it was waited for.
        waited: Duration,
        /// Why the last attempt failed, if one did.
        last_error: Option<String>,
    },
    /// The peer did not answer in time. It may or may not have acted.
    #[error("node {node_id} did not answer request {kind} within {timeout:?}")]
    Timeout {
        /// The peer.
        node_id: String,
        /// The request's kind.
        kind: u16,
        /// The time it had.
        timeout: Duration,
    },
    /// The connection broke after the request was (perhaps) sent. The peer may or may not have acted.
    #[error("the connection to node {node_id} broke during request {kind}: {reason}")]
    ConnectionLost {
        /// The peer.
        node_id: String,
        /// The request's kind.
        kind: u16,
        /// What broke.
        reason: String,
    },
    /// The body is too big to send.
    #[error("request {kind} has {len} bytes, more than {max}")]
    TooLarge {
        /// The request's kind.
        kind: u16,
        /// Its size, bytes.
        len: usize,
        /// The bound, bytes.
        max: usize,
    },
    /// The peer's handler refused.
    #[error("node {node_id}: {error}")]
    Remote {
        /// The peer.
        node_id: String,
        /// What it said.
        #[source]
        error: RemoteError,
    },
    /// This mesh is closed.
    #[error("the mesh is closed")]
    Closed,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The class carries no streams.
    #[error("class {0:?} carries no streams")]
    NoStreams(Class),
    /// Otherwise as a request.
    #[error(transparent)]
    Open(#[from] RequestError),
}

/// Why a datagram was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// No such peer.
    #[error("unknown peer")]
    UnknownPeer,
    /// No connection yet, and as many datagrams as are held meanwhile are held.
    #[error("no connection, and the queue for it is full")]
    QueueFull,
    /// Bigger than the path takes (see `max_datagram`).
    #[error("the datagram is too large for the path")]
    TooLarge,
    /// This mesh is closed.
    #[error("the mesh is closed")]
    Closed,
}

fn why(last_error: &Option<String>) -> String {
    last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"))
}
