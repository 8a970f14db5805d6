//! The replicated store of the managers: [`skep_state::State`] kept the same on all of them by Raft (openraft 0.9).
//!
//! Everything that knows openraft is behind [`RaftNode`]; no other crate names it.
//!
//! - [`RaftNode`]: open, initialise, propose, read, watch, add and remove managers.
//! - [`Transport`]: what the mesh gives us: one request, one answer, to one node.
//! - [`RaftOptions`], the error enums, [`Subscription`]: the rest of the public face.
//! - `log`: the durable log, an append-only journal of checked records in segments.
//! - `machine`: the state in memory, and its snapshots on disk.
//! - `elect`: when to stand for election (a pre-vote round of our own), and who leads.
//! - `retention`: how much of the past stays on the disk.
//! - `propose`: many proposals into one log entry, forwarding to the leader.
//! - `offline`: a swarm of one manager out of what is left of a larger one.
//! - `rpc`, `network`: what goes over the transport.
//!
//! ```text
//! propose ─▶ batcher ─▶ openraft ─▶ log (fdatasync) ─▶ followers' logs ─▶ committed ─▶ machine ─▶ watchers
//!    │ follower: forwarded to the leader, then waits until its own machine has applied the index
//! ```

mod elect;
mod error;
mod files;
mod log;
mod machine;
mod membership;
mod network;
mod node;
mod offline;
mod options;
mod propose;
mod retention;
mod rpc;
mod subscription;
mod transport;
mod types;

pub use error::{MembershipError, OpenError, ProposeError, RaftError, StoreError};
pub use node::RaftNode;
pub use offline::{make_single, seed};
pub use options::RaftOptions;
pub use subscription::{Subscription, Update};
pub use transport::{Transport, TransportError};
pub use types::{Leadership, Manager, raft_id};
