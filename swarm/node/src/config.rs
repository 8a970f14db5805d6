//! What a node is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

/// What a node is started with. Several nodes may share a machine with different roots and network namespaces.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// What must last: identity, Raft log, images, containers.
    pub root: PathBuf,
    /// What must not: sockets, lock, keeper.
    pub run: PathBuf,
    /// Host name shown by `node ls`.
    pub hostname: String,
    /// Parent of the containers' cgroups, a path below each hierarchy's root without a leading slash.
    pub cgroup_parent: String,
    /// Where the mesh listens when the request that joins or makes a swarm does not say.
    pub listen: SocketAddr,
    /// The command with which the keeper starts a daemon that died without saying goodbye; empty: it does not.
    pub respawn: Vec<std::ffi::OsString>,
    /// Seconds to add to this host's clock where certificates are concerned, for a host whose clock cannot be set.
    pub clock_offset: i64,
    /// Version of this program.
    pub version: String,
}
