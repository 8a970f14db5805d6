//! The swarm's objects and the replicated store that holds them.
//!
//! Pure: no I/O, no clock, no randomness. A [`State`] changes only by [`State::apply`], which is given a
//! [`Transaction`] and the Raft index at which it was committed; the same transactions at the same indexes make the
//! same state on every manager. Times and identifiers are inputs.
//!
//! - [`spec`]: what users ask for, with Docker's field names (the wire form is the stored form).
//! - [`object`]: what the swarm keeps: nodes, services, tasks, networks, secrets, configs, the cluster.
//! - [`Transaction`], [`Change`], [`Conflict`]: how state changes, and why a change is refused.
//! - [`lenient`]: decoding as Go does it (null is absent).

pub mod id;
pub mod lenient;
pub mod object;
pub mod spec;

mod change;
mod state;
mod timestamp;

pub use change::{Change, Conflict, Event, Kind, Transaction};
pub use object::{
    Certificate, Cluster, Config, JoinTokens, Meta, Network, NetworkAttachment, Node, NodeDescription,
    NodeState, NodeStatus, Raft, RootRotation, Secret, Service, Task, TaskState, TaskStatus, Version,
};
pub use state::State;
pub use timestamp::Timestamp;
