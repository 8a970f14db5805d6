//! The control plane's decisions, as pure functions over the swarm's state: no I/O, no clock, no randomness.
//!
//! - [`tick`]: what to change now, and when to look again. The leader calls it after each commit and at the wake-up
//!   that the last call asked for, and commits its changes as one transaction.
//! - [`task_status_update`], [`node_state_change`], [`next_node_index`], [`awaited_since`],
//!   [`silence_allowed`]: what the dispatcher writes for the agents.
//! - [`assignments_for`]: what an agent must know.
//! - [`service_status`], [`is_task_dirty`]: what the API shows.
//! - [`constraint`]: placement constraints, for the scheduler and for checking a request.
//! - [`certificates`]: which role a node's certificate gets, who issues it, whom nodes trust, the end of a CA's rotation.
//! - [`roles`]: what the leader must do about promoted and demoted nodes.
//! - [`request`]: requests of the API, checked and turned into transactions.
//!
//! Within: [`tick`] runs the phases over a draft of the next state, so that one transaction makes a task,
//! gives it an address and a node.

pub mod certificates;
pub mod constraint;
pub mod request;
pub mod roles;

mod agent;
mod allocator;
mod draft;
mod global;
mod job;
mod newcomers;
mod node;
mod orchestrator;
mod orphan;
mod pem;
mod ports;
mod reaper;
mod replicated;
mod restart;
mod scheduler;
mod service;
mod slot;
mod tick;
mod updater;

pub use agent::{assignments_for, task_status_update};
pub use newcomers::awaited_since;
pub use node::{next_node_index, node_down, node_state_change, silence_allowed};
pub use service::{Mode, ServiceStatus, is_task_dirty, service_status};
pub use tick::{MAX_CHANGES, Plan, RandomSource, TickInput, tick};

#[cfg(test)]
mod sim;
