//! How state changes: transactions of changes, committed whole or refused whole.

use serde::{Deserialize, Serialize};

use crate::{Cluster, Config, Network, Node, Secret, Service, Task, Timestamp};

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The swarm itself.
    Cluster,
    /// A node.
    Node,
    /// A service.
    Service,
    /// A task.
    Task,
    /// A network.
    Network,
    /// A secret.
    Secret,
    /// A config.
    Config,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Cluster => "swarm",
            Self::Node => "node",
            Self::Service => "service",
            Self::Task => "task",
            Self::Network => "network",
            Self::Secret => "secret",
            Self::Config => "config",
        })
    }
}

/// One change to one object.
///
/// A `Put*` is optimistic: the object's `meta.version` is the version that the author saw (0: it must not exist yet).
/// [`crate::State::apply`] refuses the transaction when the stored version differs, and sets the new version itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Makes or replaces the cluster object.
    PutCluster(Box<Cluster>),
    /// Makes or replaces a node.
    PutNode(Box<Node>),
    /// Makes or replaces a service.
    PutService(Box<Service>),
    /// Makes or replaces a task.
    PutTask(Box<Task>),
    /// Makes or replaces a network.
    PutNetwork(Box<Network>),
    /// Makes or replaces a secret.
    PutSecret(Box<Secret>),
    /// Makes or replaces a config.
    PutConfig(Box<Config>),
    /// Removes an object; one that is already gone is no conflict. Removing a service removes no task: the
    /// orchestrator shuts them down.
    Remove(Kind, String),
}

/// Changes that are committed together, at one Raft index.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Transaction {
    /// The author's clock: fills the times of the objects.
    pub at: Timestamp,
    /// In order.
    pub changes: Vec<Change>,
}

/// Why a transaction was refused. Nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Conflict {
    /// Somebody else changed the object first (the words that Docker's clients look for).
    #[error("update out of sequence: {kind} {id} is at version {stored}, not {given}")]
    OutOfSequence {
        /// Kind of the object.
        kind: Kind,
        /// Its ID.
        id: String,
        /// The version in the store; 0 when there is none.
        stored: u64,
        /// The version that the author saw.
        given: u64,
    },
    /// Another object of the kind has the name.
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    NameInUse {
        /// Kind of the object.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// Another service publishes the port.
    #[error("port '{port}' is already in use by service '{service}'")]
    PortInUse {
        /// Published port.
        port: u16,
        /// Name of the service that has it.
        service: String,
    },
    /// No node would be meant to be a manager any more.
    #[error("attempting to demote the last manager of the swarm")]
    LastManager {
        /// ID of the manager.
        node: String,
    },
}

/// That an object changed, for watchers: look the object up for what it is now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// Kind of the object.
    pub kind: Kind,
    /// Its ID.
    pub id: String,
    /// Whether it is gone.
    pub removed: bool,
}
