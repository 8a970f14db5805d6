//! What a node must remember of its membership between two runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_state::spec::NodeRole;

/// A node's membership of a swarm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Where the mesh listens.
    pub listen: SocketAddr,
    /// The address told to others.
    pub advertise: SocketAddr,
    /// The role that the node was admitted with.
    pub role: NodeRole,
    /// The managers that were known last: node ID and addresses.
    pub managers: Vec<(String, Vec<String>)>,
    /// Subnets that go over the mesh.
    pub subnets: Vec<String>,
}

/// Where membership is kept below `--root`.
#[derive(Debug, Clone)]
pub(crate) struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Below a root.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.join("swarm") }
    }

    /// Everything about the membership.
    pub(crate) fn all(&self) -> &Path {
        &self.root
    }

    /// Key and certificates.
    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// Raft's log and snapshots.
    pub(crate) fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// The [`Member`] record: the last file written when a node joins, so that a half-finished join is none.
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("member.json")
    }
}
