//! Why a request to the node failed, in classes that the API maps to HTTP status codes.

use skep_control::request::Refusal;
use skep_state::Conflict;

/// Why a request to the node failed. The texts go to users as they are.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// 503: the node is in no swarm.
    #[error(
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again."
    )]
    NotInSwarm,
    /// 503: the node is a worker.
    #[error(
        "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager."
    )]
    NotManager,
    /// 503: `init` or `join` on a node that is in a swarm.
    #[error(
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one."
    )]
    AlreadyInSwarm,
    /// 503: `leave` and the like on a node that is in no swarm.
    #[error("This node is not part of a swarm")]
    NotPartOfSwarm,
    /// 503: this manager was restarted and waits for the unlock key.
    #[error(
        "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it."
    )]
    Locked,
    /// 409: `unlock` on a manager that does not wait for a key.
    #[error("swarm is not locked")]
    NotLocked,
    /// 401: another key locked this manager.
    #[error("swarm could not be unlocked: invalid key provided")]
    WrongUnlockKey,
    /// 500: more than half of the managers are away.
    #[error(
        "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online."
    )]
    NoLeader,
    /// 500: a version conflict ("update out of sequence"); 409 for names and ports.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Status by its kind: what was asked may not be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// 400: the request cannot be fulfilled as it stands.
    #[error("{0}")]
    Invalid(String),
    /// 404: no such object.
    #[error("{0}")]
    NotFound(String),
    /// 503: not now, or not by this node.
    #[error("{0}")]
    Unavailable(String),
    /// 409: the object's state forbids it.
    #[error("{0}")]
    InUse(String),
    /// 500: something below failed.
    #[error("{context}: {source}")]
    Internal {
        /// What was being done.
        context: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl NodeError {
    /// For `map_err`: names the step that failed and keeps its error.
    pub(crate) fn internal<E>(context: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let context = context.into();
        move |source| Self::Internal { context, source: source.into() }
    }
}
