//! What users may ask of the swarm: requests are checked here and become transactions, or are refused.
//!
//! Pure, as all of this crate: the state that a manager has, what the user sent, and the identifiers and times that the
//! caller brings go in; a [`Transaction`](skep_state::Transaction) or a [`Refusal`] comes out. The checks and their
//! words are swarmkit's (`manager/controlapi`), because scripts look for them. Two managers may check against the same
//! state at once: what must be unique is checked again by [`State::apply`](skep_state::State::apply).
//!
//! - [`create_service`], [`update_service`], [`remove_service`]
//! - [`update_node`], [`remove_node`], [`demotion_pending`]
//! - [`update_cluster`], with [`rotation_wanted`] and [`needs_unlock_key`] for what the caller must bring; [`redacted_spec`]
//! - [`find`]: from what a user typed to the object
//! - [`Refusal`]: why not

mod cluster;
mod container;
pub mod find;
mod node;
mod pools;
mod ports;
mod refusal;
mod rotation;
mod service;
mod spec;

pub use cluster::{
    Changes, check_cluster_spec, needs_unlock_key, pin_external_cas, redacted_spec, update_cluster,
};
pub(crate) use node::node_removal;
pub use node::{demotion_pending, remove_node, update_node};
pub use pools::ingress_range;
pub use ports::{DYNAMIC_PORT_FIRST, DYNAMIC_PORT_LAST, allocate_ports};
pub use refusal::{Refusal, RefusalKind};
pub use rotation::{RotationWanted, rotation_wanted};
pub use service::{Rollback, create_service, remove_service, update_service};
