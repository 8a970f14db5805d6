//! The node process: Raft over the mesh, dispatcher, agent, and an executor over runtime and netns.
//!
//! [`Node`] is the handle that the API layer works with: one per process, cheap to clone. Everything else in here is
//! behind it.
//!
//! ```text
//! handle ── swarm_ops ── membership ─┬─ manager: admission, dispatcher, leader's loop ── skep-control
//!                                    ├─ agent: session, runners, bundles ── skep-runtime (keeper), skep-image
//!                                    ├─ dataplane ── skep-forward, skep-netns
//!                                    ├─ mesh_handler, access, rpc, peers ── skep-mesh
//!                                    └─ certificates, role, own_address: who, what and where this node is
//! ```

mod access;
mod address;
mod address_monitor;
mod agent;
mod backup;
mod certificates;
mod clock;
mod config;
mod dataplane;
mod durable;
mod error;
mod handle;
mod host;
mod images;
mod keeper;
mod manager;
mod member;
mod membership;
mod mesh_handler;
mod own_address;
mod peers;
mod recover;
mod role;
mod rpc;
mod swarm_admin;
mod swarm_ops;
mod view;

pub use address::DEFAULT_PORT;
pub use config::NodeConfig;
pub use error::NodeError;
pub use handle::{
    ContainerCounts, InitRequest, JoinRequest, LocalState, ManagerStatus, Node, NodeInfo, Reachability,
    SwarmInfo,
};
pub use images::BUILT_IN;
pub use swarm_admin::{PeerPath, RecoverRequest, Rotate};
