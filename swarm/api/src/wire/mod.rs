//! The JSON of the API's objects, one file an object.
//!
//! Each is written as dockerd writes it: what Go leaves out when it is zero is left out, lists at the top are never
//! null, and nothing that only skep knows gets out.

mod config;
mod image;
mod info;
mod network;
mod node;
mod service;
mod swarm;
mod task;
mod version;

pub(crate) use config::{Config, Secret};
pub(crate) use image::{Image, ImageSummary, history};
pub(crate) use info::{Info, ManagerView, local_state};
pub(crate) use network::Network;
pub(crate) use node::{Node, Path};
pub(crate) use service::{Service, ServiceStatus};
pub(crate) use swarm::{
    Addresses, ClusterInfo, InitRequest, JoinRequest, RecoverRequest, Swarm, UnlockRequest, availability,
    with_defaults,
};
pub(crate) use task::Task;
pub(crate) use version::Version;

use serde::Serialize;

/// The answer to whatever makes an object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Created {
    /// Its ID.
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// Remarks for the user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

#[cfg(test)]
mod golden_test;
