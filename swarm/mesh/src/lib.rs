//! The mesh: who a node is, and how nodes talk.
//!
//! One UDP socket per node carries everything over QUIC. A peer **is** its certificate (node id, role, cluster);
//! addresses are hints. Three protocols share the port: `skep-mesh/1` (mutual TLS), `skep-join/1` (the server is proven
//! by the CA digest in the join token, the client is unproven) and `skep-renew/1` (a member whose certificate is of no
//! use any more; proven by its key). Traffic classes ([`Class`]) are connections
//! of their own, so that bulk data never delays control messages.
//!
//! | module | what |
//! |---|---|
//! | [`ca`], [`identity`], [`token`] | the certificate authority, a node's key and certificate, join tokens |
//! | [`clock`], [`epoch`] | the time that certificates are judged by; proofs that a swarm was recovered |
//! | [`cfssl`] | certificates from an external authority |
//! | [`handler`] | what a node does with what its peers send |
//! | [`mesh`] | the endpoint: requests, streams, datagrams, peers |
//! | [`join`](mod@join), [`renew`] | asking a manager for the first certificate; for another one when stranded |
//! | [`frame`] | length-prefixed, bounded frames on streams |
#![forbid(unsafe_code)]

pub mod ca;
pub mod cfssl;
pub mod clock;
pub mod epoch;
pub mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod handler;
pub mod identity;
pub mod join;
pub mod mesh;
pub mod renew;
pub mod token;
pub mod wire_limits {
    //! Bounds that callers meet.
    pub use crate::wire::MAX_BODY;
}

mod accept;
mod backoff;
mod base36;
mod ca_pem;
mod certificate;
mod chain;
mod changes;
mod class;
mod congestion;
mod credentials;
mod data_path;
mod der;
mod dial;
mod error;
mod identity_files;
mod incarnations;
mod inner;
mod join_limit;
mod link;
mod liveness;
mod moving;
mod open;
mod peer;
mod relay;
mod root;
mod serve;
mod socket;
mod status;
mod stream;
mod ticker;
mod tls;
mod transport;
mod visit;
mod wire;

#[cfg(test)]
mod tests;

pub use base36::random_id;
pub use ca::{CaError, CertificateAuthority};
pub use certificate::{ca_digest, csr_key_digest, not_after, root_digest};
pub use cfssl::{ExternalCa, ExternalCaError, cfssl_sign};
pub use class::Class;
pub use clock::SwarmClock;
pub use data_path::DataPath;
pub use epoch::EpochProof;
pub use error::{DatagramError, MeshError, RequestError, StreamError};
pub use frame::{FrameError, read_frame, write_frame};
pub use handler::{Handler, RemoteError};
pub use identity::{Identity, IdentityError, NewKey, PeerIdentity, Role};
pub use join::{JoinError, JoinOptions, JoinReply, JoinRequest, join};
pub use mesh::{Mesh, MeshConfig, PeerConfig};
pub use renew::{ReenrolOptions, ReenrolReply, reenrol};
pub use status::PeerStatus;
pub use stream::{RecvStream, SendStream};
pub use token::{CaDigest, JoinToken, TokenError};
